"""``xent compare``: what got worse between two runs, or between the nights before and the recent ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.comparisons import print_comparison
from harness.cli.exits import NOTHING_MEASURED, WORSE, Refused, command
from harness.cli.targets import must_be_writable, write
from harness.compare import Comparison, Limits, compare, markdown
from harness.compare.sections import headline
from harness.history import History, LeftOut, Night, NightFileError
from harness.run import Run, RunFileError

__all__ = ["register"]

EPILOG = """\b
Examples:
  xent compare old.json new.json       two runs, as --json writes them
  xent compare nightly tonight.json    the nights of a folder, and a run
  xent compare nightly nightly         its last 3 nights, and those before
  xent compare old.json new.json --markdown comment.md --json all.json

\b
Exit status: 0 nothing got worse; 1 something did; 2 it cannot be done as
asked; 3 nothing comparable was measured (or a fault of ours, which says so).
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("compare", epilog=EPILOG, short_help="Say what got worse: accuracy exactly, speed by statistics.")(
        command("compare", compare_command)
    )


def compare_command(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A run file, a night's file, or a folder of nights.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The same, of what is in question.")],
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write the comparison as Markdown.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the comparison as JSON.")
    ] = None,
    ulp_factor: Annotated[
        float, typer.Option(metavar="X", min=1.0, help="An error is worse from X times the old one on.")
    ] = Limits.ulp_factor,
    slowdown: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT",
            min=0.0,
            help="The least slow-down that counts: 5 between nights and 20 between two runs, if left out.",
        ),
    ] = None,
) -> int:
    """Compare what was measured before with what was measured now.

    Accuracy exactly: a worse grade, a new NaN or infinity, a larger error, something lost. Speed by statistics: the
    ratios to the baseline of the same rounds, beyond the noise.
    """
    for path in filter(None, (markdown_file, json_file)):
        must_be_writable(path)
    limits = Limits(ulp_factor=ulp_factor)
    if slowdown is not None:
        limits = replace(limits, slowdown=slowdown / 100, slowdown_of_runs=slowdown / 100)
    found = _compared(old, new, limits)
    if markdown_file is not None:
        write(markdown_file, markdown(found).encode())
    if json_file is not None:
        write(json_file, (json.dumps(found.to_json(), indent=1, allow_nan=False) + "\n").encode())
    with suppress(BrokenPipeError):
        print_comparison(found)
    if not found.anything or found.worse:
        print(f"xent compare: {headline(found)}", file=sys.stderr)
    return WORSE if found.worse and found.anything else 0 if found.anything else NOTHING_MEASURED


def _compared(old: Path, new: Path, limits: Limits) -> Comparison:
    before, now = _side(old), _side(new)
    earlier, nights = _apart(before.nights, now.nights, limits.recent) if old.is_dir() else (before.nights, now.nights)
    nights = nights[-limits.recent :]
    out = tuple(dict.fromkeys([*before.left_out, *now.left_out]))
    if not earlier or not nights:
        empty = new if not nights else old
        return Comparison((), (), left_out=(*out, LeftOut(str(empty), "there is no night in it")), limits=limits)
    try:
        found = compare(earlier, nights, limits)
    except NightFileError as error:
        raise Refused(error) from error
    return replace(found, left_out=(*out, *found.left_out))


def _apart(before: Sequence[Night], now: Sequence[Night], recent: int) -> tuple[Sequence[Night], Sequence[Night]]:
    """The nights before and the recent ones; a folder may be compared with itself, and a night is on one side only."""
    for number in (recent, 1):
        nights = list(now[-number:])
        mine = {(night.started, night.identity) for night in nights}
        earlier = [night for night in before if (night.started, night.identity) not in mine]
        if earlier:
            break
    return earlier, nights


def _side(path: Path) -> History:
    """The nights that a path stands for."""
    try:
        if path.is_dir():
            return History.load(path)
        night = Night.load(path) if _is_night(path) else Night.of_run(Run.load(path), name=str(path))
    except (NightFileError, RunFileError) as error:
        raise Refused(error) from error
    return History((night,))


def _is_night(path: Path) -> bool:
    """Whether a file says of itself that it is a night, and not a run."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and data.get("kind") == "night"
