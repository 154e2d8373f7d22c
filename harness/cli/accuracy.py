"""``xent accuracy``: judge the implementations against certified truth."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.exits import INTERRUPTED, Refused, command
from harness.accuracy import NothingToDo, Request, run_accuracy
from harness.cli.progress import shown_progress
from harness.cli.tables import print_run, verdict
from harness.discovery import DiscoveryError
from harness.families import UnknownFamily
from harness.formats import FormatUnavailable
from harness.logits_file import LogitsFileError
from harness.run import Run

__all__ = ["register"]

EPILOG = """
[bold]Examples[/bold]

  xent accuracy                                  everything installed

  xent accuracy --quick                          a first look

  xent accuracy --only 'numpy_*' --dtype float32

  xent accuracy --family ties --family 'recorded/*'

  xent accuracy --logits mine.npz --json run.json

Exit status: 0 all as claimed; 1 something is not; 2 it cannot be done as asked; 3 a fault of ours; 130 interrupted.
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(epilog=EPILOG)(command("accuracy", accuracy))


def accuracy(
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Implementations: names or patterns.")] = None,
    family: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Families: names or patterns.")] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(metavar="DTYPE", help="float64, float32, bfloat16, float16.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="What the families draw from: the same seed, the same result.")] = 0,
    jobs: Annotated[int, typer.Option(min=0, help="Processes that solve truth; 0 is one per core.")] = 0,
    logits: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Your own logits and labels: .npz, .npy pair or .safetensors."),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the run to a file.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out slow implementations and large batches.")] = False,
    speed: Annotated[bool, typer.Option("--speed", help="Measure times too, relative to torch's.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that one call may take.")] = 300.0,
) -> int:
    """Judge the implementations, loss and gradient apart, against certified truth on adversarial and recorded logits."""
    if json_file is not None:
        _must_be_writable(json_file)
    request = Request(
        only=tuple(only or ()),
        families=tuple(family or ()),
        dtypes=tuple(dtype or ()),
        seed=seed,
        jobs=jobs,
        logits=tuple(logits or ()),
        quick=quick,
        speed=speed,
        timeout=timeout,
    )
    try:
        with shown_progress() as show:
            run = run_accuracy(request, show)
    except (NothingToDo, DiscoveryError, UnknownFamily, LogitsFileError, FormatUnavailable) as error:
        raise Refused(error) from error
    if json_file is not None:
        _save(run, json_file)
    print_run(run)
    if not run.complete:
        print("xent accuracy: interrupted; what was finished is above", file=sys.stderr)
        return INTERRUPTED
    return verdict(run)


def _must_be_writable(path: Path) -> None:
    """Refuse now what would fail after minutes of work."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        reason = "it is a folder" if path.is_dir() else f"there is no folder {path.absolute().parent}"
        raise Refused(f"cannot write {path}: {reason}")


def _save(run: Run, path: Path) -> None:
    try:
        run.save(path)
    except OSError as error:
        print(f"xent accuracy: cannot write {path} ({error}); the run goes to standard output instead", file=sys.stderr)
        print(json.dumps(run.to_json(), allow_nan=False))
