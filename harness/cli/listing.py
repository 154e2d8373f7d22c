"""``xent list``: implementations, families and losses, and what is missing with the command that installs it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from harness.cli.exits import Refused, command
from harness.cli.layout import wide_console
from harness.cli.targets import write
from harness.discovery import DiscoveryError, Found, discover
from harness.families import FAMILIES
from harness.losses import LOSSES

__all__ = ["register"]

EPILOG = """\b
Examples:
  xent list                      everything
  xent list implementations      what is here, and what is missing
  xent list --json list.json
"""

WHAT = ("implementations", "families", "losses")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    short_help = "List implementations, families and losses."
    app.command("list", epilog=EPILOG, short_help=short_help)(command("list", listing))


def listing(
    what: Annotated[
        str | None, typer.Argument(metavar="WHAT", help="implementations, families or losses; all if left out.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the list to a file.")] = None,
) -> int:
    """List the implementations, families and losses, and what is missing with the command that installs it."""
    if what is not None and what not in WHAT:
        raise Refused(f"{what!r} is none of {', '.join(WHAT)}")
    parts = (what,) if what else WHAT
    try:
        found = discover() if "implementations" in parts else []
    except DiscoveryError as error:
        raise Refused(error) from error
    if json_file is not None:
        write(json_file, (json.dumps(_as_json(parts, found), indent=1) + "\n").encode())
        return 0
    console = wide_console()
    if "implementations" in parts:
        console.print(_implementations(found))
        _print_missing(console, found)
    if "families" in parts:
        console.print(_table("Families", {name: _lines(f.breaks, f.source) for name, f in FAMILIES.items()}))
    if "losses" in parts:
        about = {name: _lines(loss.formula, f"options: {', '.join(loss.options)}") for name, loss in LOSSES.items()}
        console.print(_table("Losses, per row or element", about))
    return 0


def _implementations(found: list[Found]) -> Group:
    tables = []
    for loss in sorted({f.loss for f in found}):
        about = {f.name: _about(f) for f in found if f.loss == loss}
        tables.append(_table(f"Implementations of {loss or 'an unknown loss'}", about))
    return Group(*tables)


def _about(found: Found) -> list[Text]:
    if not found.available:
        return [Text(found.framework), Text(found.reason, style="yellow")]
    assert found.declaration is not None
    grades = found.declaration.grades
    claims = [
        f"{grade} in {', '.join(dtype for dtype in grades if grades[dtype] == grade)}"
        for grade in dict.fromkeys(grades.values())
    ]
    options = ", ".join(found.declaration.options)
    return _lines(f"{found.framework}; claims {'; '.join(claims)}", f"options: {options}" if options else "")


def _print_missing(console: Console, found: list[Found]) -> None:
    missing: dict[str, int] = Counter(f.reason for f in found if not f.available)
    for reason, count in missing.items():
        console.print(Text(f"{count} not available: {reason}", style="yellow"))
    if missing:
        console.print()


def _table(title: str, about: Mapping[str, Sequence[Text]]) -> Group:
    """Names, each in one piece, beside some lines about them that are wrapped to what room there is."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, lines in about.items():
        table.add_row(f"  {name}", Text("\n").join(lines))
    return Group(Text(title, style="bold"), table, Text())


def _lines(main: str, minor: str) -> list[Text]:
    return [Text(main), *([Text(minor, style="dim")] if minor else [])]


def _as_json(parts: tuple[str, ...], found: list[Found]) -> dict[str, Any]:
    data: dict[str, Any] = {"schema": 1}
    if "implementations" in parts:
        data["implementations"] = [
            (f.declaration.to_json() if f.declaration else {})
            | {"name": f.name, "framework": f.framework, "loss": f.loss, "available": f.available, "reason": f.reason}
            for f in found
        ]
    if "families" in parts:
        data["families"] = {
            name: {"breaks": f.breaks, "source": f.source, "losses": list(f.losses), "dtypes": list(f.dtypes)}
            for name, f in FAMILIES.items()
        }
    if "losses" in parts:
        data["losses"] = {name: {"formula": x.formula, "options": list(x.options)} for name, x in LOSSES.items()}
    return data
