"""``xent report``: a run as one self-contained page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.exits import Refused, command
from harness.cli.targets import write
from harness.compiled import Compilation, CompilationFileError
from harness.history import History, Night, NightFileError, lines
from harness.merging import Unlike, together
from harness.run import Run, RunFileError

__all__ = ["register"]

EPILOG = """\b
Examples:
  xent accuracy --json run.json
  xent report run.json -o report.html
  xent report run.json gpu.json              with what a GPU machine sent
  xent report run.json --history nightly/    with the nights before
  xent report run.json --compiled FILE       with the table of `xent compile`
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(epilog=EPILOG, short_help="Make a self-contained page of a run.")(command("report", report))


def report(
    run_files: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN",
            help="Run files, as `xent accuracy --json` or `xent speed --json` write them: several of one seed, of one "
            "machine or from several, make one page.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The page.")] = Path("report.html"),
    history: Annotated[
        Path | None, typer.Option("--history", metavar="FOLDER", help="The folder of `xent nightly`: adds its lines.")
    ] = None,
    compiled: Annotated[
        Path | None, typer.Option("--compiled", metavar="FILE", help="A file of `xent compile --json`: adds its table.")
    ] = None,
) -> int:
    """Make one self-contained page of a run, or of several, to be opened in a browser without a network."""
    import reports

    try:
        run = together([Run.load(path) for path in run_files], [str(path) for path in run_files])
        code = Compilation.load(compiled).to_json() if compiled is not None else None
        page = reports.render(run, _series(run, history), code).encode()
    except (Unlike, RunFileError, NightFileError, CompilationFileError) as error:
        raise Refused(error) from error
    write(output, page)
    state = "" if run.complete else " of a run that was interrupted"
    print(f"{output}: {len(page) / 1024:.0f} KiB, {len(run.results)} results{state}")
    return 0


def _series(run: Run, folder: Path | None) -> dict[str, list[tuple[str, float]]]:
    """The ratios of a history by series, oldest first: of nights that are like the run; the others are told."""
    if folder is None:
        return {}
    history = History.load(folder).like(Night.of_run(run).identity)
    for left in history.left_out[:5]:
        print(f"xent report: left out of the history: {left.name}: {left.reason}", file=sys.stderr)
    if len(history.left_out) > 5:
        print(f"xent report: and {len(history.left_out) - 5} more nights are left out", file=sys.stderr)
    return lines(history.nights)
