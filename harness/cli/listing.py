"""``xent list``: implementations, families and losses, and what is missing with the command that installs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from harness.cli.exits import Refused, command
from harness.cli.tables import wide_console
from harness.discovery import DiscoveryError, Found, discover
from harness.families import FAMILIES
from harness.files import write_atomically
from harness.losses import LOSSES

__all__ = ["register"]

EPILOG = """
[bold]Examples[/bold]

  xent list                      everything

  xent list implementations      what is here, what is missing

  xent list --json list.json
"""

WHAT = ("implementations", "families", "losses")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("list", epilog=EPILOG)(command("list", listing))


def listing(
    what: Annotated[str | None, typer.Argument(help="implementations, families or losses; all if left out.")] = None,
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
        content = (json.dumps(_as_json(parts, found), indent=1) + "\n").encode()
        try:
            write_atomically(json_file, content)
        except OSError as error:
            raise Refused(f"cannot write {json_file}: {error}") from error
        return 0
    console = wide_console()
    if "implementations" in parts:
        console.print(_implementations(found))
    if "families" in parts:
        console.print(_families())
    if "losses" in parts:
        console.print(_losses())
    return 0


def _implementations(found: list[Found]) -> Table:
    table = Table(title="Implementations", title_justify="left", pad_edge=False)
    table.add_column("name", no_wrap=True)
    for name in ("framework", "claims", "options", "available"):
        table.add_column(name, overflow="fold")
    for loss in sorted({f.loss for f in found}):
        table.add_section()
        table.add_row(Text(loss or "(unknown)", style="bold"))
        for f in (f for f in found if f.loss == loss):
            state = Text("yes", style="green") if f.available else Text(f.reason, style="yellow")
            options = ", ".join(f.declaration.options) if f.declaration else ""
            table.add_row(f"  {f.name}", f.framework, _claims(f), options, state)
    return table


def _claims(found: Found) -> str:
    """Grades with the dtypes that they are claimed for."""
    if found.declaration is None:
        return ""
    grades = found.declaration.grades
    by_grade = {grade: [dtype for dtype in grades if grades[dtype] == grade] for grade in dict.fromkeys(grades.values())}
    return "; ".join(f"{grade}: {', '.join(dtypes)}" for grade, dtypes in by_grade.items())


def _families() -> Table:
    table = Table(title="Families", title_justify="left", pad_edge=False)
    table.add_column("name", no_wrap=True)
    for name in ("breaks", "source"):
        table.add_column(name, overflow="fold")
    for name, family in FAMILIES.items():
        table.add_row(name, family.breaks, family.source)
    return table


def _losses() -> Table:
    table = Table(title="Losses", title_justify="left", pad_edge=False)
    table.add_column("name", no_wrap=True)
    for name in ("per row or element", "options"):
        table.add_column(name, overflow="fold")
    for name, loss in LOSSES.items():
        table.add_row(name, loss.formula, ", ".join(loss.options))
    return table


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
