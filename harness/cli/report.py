"""``xent report``: a run as one self-contained page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.exits import Refused, command
from harness.cli.targets import write
from harness.run import Run, RunFileError

__all__ = ["register"]

EPILOG = """\b
Examples:
  xent accuracy --json run.json
  xent report run.json -o report.html
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(epilog=EPILOG, short_help="Make a self-contained page of a run.")(command("report", report))


def report(
    run_file: Annotated[Path, typer.Argument(metavar="RUN", help="A run file, as `xent accuracy --json` writes it.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The page.")] = Path("report.html"),
) -> int:
    """Make one self-contained page of a run, to be opened in a browser without a network."""
    import reports

    try:
        run = Run.load(run_file)
        page = reports.render(run).encode()
    except RunFileError as error:
        raise Refused(error) from error
    write(output, page)
    state = "" if run.complete else " of a run that was interrupted"
    print(f"{output}: {len(page) / 1024:.0f} KiB, {len(run.results)} results{state}")
    return 0
