"""``xent accuracy``: judge the implementations against certified truth."""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from harness.accuracy import NothingToDo, Request, run_accuracy
from harness.cli.exits import INTERRUPTED, NOT_AS_CLAIMED, REFUSED, Refused, command
from harness.cli.progress import shown_progress
from harness.cli.tables import failed_implementations, print_run
from harness.cli.targets import must_be_writable
from harness.crew import UnlikeHere
from harness.discovery import DiscoveryError
from harness.executors import ExecutorUnavailable
from harness.families import UnknownFamily
from harness.formats import FormatUnavailable
from harness.logits_file import LogitsFileError
from harness.run import Run
from harness.worst_case import WorstCaseError

__all__ = ["register"]

REFUSALS = (
    *(NothingToDo, DiscoveryError, UnknownFamily, LogitsFileError, FormatUnavailable, WorstCaseError),
    *(ExecutorUnavailable, UnlikeHere),
)

EPILOG = """\b
Examples:
  xent accuracy                                     everything installed
  xent accuracy --quick                             a first look
  xent accuracy --only 'numpy_*' --dtype float32
  xent accuracy --family ties --family 'recorded/*'
  xent accuracy --logits mine.npz --json run.json   your own logits
  xent accuracy --executor tcp://host:8786          on a Dask cluster
  xent accuracy --device cuda --json gpu.json       what runs on a GPU

\b
Exit status: 0 all as claimed; 1 something is not; 2 it cannot be done as
asked; 3 a fault of ours; 130 interrupted (what was finished is kept).
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(epilog=EPILOG, short_help="Judge implementations against certified truth.")(
        command("accuracy", accuracy)
    )


def accuracy(
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Implementations: a name or pattern; repeatable.")
    ] = None,
    family: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Families: a name or pattern; repeatable.")
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(metavar="DTYPE", help="float64, float32, bfloat16 or float16; repeatable. All if left out."),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="S", min=0, help="What the families draw from: same seed, same result.")
    ] = 0,
    jobs: Annotated[int, typer.Option(metavar="J", min=0, help="Processes that do the work; 0: one per core.")] = 0,
    executor: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="A Dask scheduler (tcp://host:port) whose workers do it, in place of --jobs."
        ),
    ] = "",
    logits: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Your own logits and labels (.npz, .safetensors, or .npy with its labels beside it), in place of the "
            "families, and in every dtype that holds them exactly; repeatable.",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write every result to a run file.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out slow implementations and large batches.")] = False,
    speed: Annotated[bool, typer.Option("--speed", help="Measure times too, relative to torch's.")] = False,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="What one call of an implementation may take.")
    ] = 120.0,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="cpu, or cuda for the implementations that can.")
    ] = "cpu",
) -> int:
    """Judge implementations against certified truth, loss and gradient apart, on adversarial and on recorded logits."""
    if json_file is not None:
        must_be_writable(json_file)
    if jobs and executor:
        raise Refused("--jobs and --executor exclude each other: a scheduler's workers are as many as they are")
    request = Request(
        only=tuple(only or ()),
        families=tuple(family or ()),
        dtypes=tuple(dtype or ()),
        seed=seed,
        jobs=jobs,
        executor=executor,
        logits=tuple(logits or ()),
        quick=quick,
        speed=speed,
        timeout=timeout,
        device=device,
    )
    try:
        with shown_progress() as show:
            run = run_accuracy(request, show)
    except REFUSALS as error:
        raise Refused(error) from error
    saved = None if json_file is None else _save(run, json_file)
    with suppress(BrokenPipeError):
        print_run(run, saved)
    return _status(run, json_file, saved)


def _status(run: Run, wanted: Path | None, saved: Path | None) -> int:
    """The exit status, and the line on standard error that goes with it."""
    if not run.complete:
        print(f"xent accuracy: interrupted after {len(run.results)} results", file=sys.stderr)
        return INTERRUPTED
    if wanted != saved:
        return REFUSED  # has been said
    names = failed_implementations(run)
    if names:
        told = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        print(f"xent accuracy: not as claimed: {told}", file=sys.stderr)
        return NOT_AS_CLAIMED
    return 0


def _save(run: Run, path: Path) -> Path | None:
    """Write the run; where that fails after all, elsewhere, so that the work is not lost. None: to standard output."""
    try:
        run.save(path)
        return path
    except OSError as error:
        reason = error.strerror or error
    refuge = Path(tempfile.gettempdir()) / f"xent-{path.name}"
    try:
        run.save(refuge)
    except OSError:
        print(f"xent accuracy: cannot write {path}: {reason}; the run goes to standard output", file=sys.stderr)
        print(json.dumps(run.to_json(), allow_nan=False))
        return None
    print(f"xent accuracy: cannot write {path}: {reason}; the run is in {refuge}", file=sys.stderr)
    return refuge
