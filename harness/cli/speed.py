"""``xent speed``: how fast the implementations are, and how much memory they take."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from harness.accuracy import Progress
from harness.cli.exits import INTERRUPTED, NOT_AS_CLAIMED, Refused, command
from harness.cli.layout import wide_console
from harness.cli.progress import shown_progress
from harness.cli.speed_table import speed_lines, wrong
from harness.cli.targets import must_be_writable
from harness.discovery import DiscoveryError
from harness.formats import FormatUnavailable
from harness.run import Run
from harness.speed import SHAPES, NothingToTime, SpeedRequest, run_speed
from harness.timing import BASELINE

__all__ = ["register"]

_SHAPES = " ".join(f"{rows},{classes}" for rows, classes in SHAPES)

EPILOG = """\b
Examples:
  xent speed                                        everything installed
  xent speed --only 'torch_*' --only my_kernel
  xent speed --shape 8192,50304 --dtype bfloat16    a shape of your own
  xent speed --what backward --mode compiled
  xent speed --device cuda --json speed.json

\b
A ratio above 1 is slower than the baseline. Exit status: 0 measured; 1 some
implementation gave a wrong answer, which has no speed; 2 it cannot be done as
asked; 3 a fault of ours; 130 interrupted (what was finished is kept).
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(epilog=EPILOG, short_help="Time implementations against torch's, and weigh them.")(
        command("speed", speed)
    )


def speed(
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Implementations: a name or pattern; repeatable. The baseline takes part."),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(metavar="N,V", help=f"Rows and classes; repeatable. Else {_SHAPES}."),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(metavar="DTYPE", help="float64, float32, bfloat16 or float16; repeatable. Else float32."),
    ] = None,
    what: Annotated[
        list[str] | None,
        typer.Option(metavar="WHAT", help="forward, backward or forward+backward; repeatable. Else first and last."),
    ] = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(metavar="MODE", help="eager or compiled (torch.compile, jax.jit); repeatable. Else eager."),
    ] = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(metavar="T", min=1, help="Threads of each worker process.")] = 1,
    budget: Annotated[
        float, typer.Option(metavar="SECONDS", min=1.0, help="About how long; more time is more rounds.")
    ] = 60.0,
    seed: Annotated[int, typer.Option(metavar="S", min=0, help="What the logits are drawn from.")] = 0,
    baseline: Annotated[str, typer.Option(metavar="NAME", help="What the ratios are to.")] = BASELINE,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Measure peak memory too.")] = True,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write every figure to a run file.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="What one call of an implementation may take.")
    ] = 120.0,
) -> int:
    """Time the implementations in turns, as ratios to torch's cross-entropy; every result is checked against truth."""
    if json_file is not None:
        must_be_writable(json_file)
    try:
        request = SpeedRequest(
            only=tuple(only or ()),
            shapes=tuple(map(_shape, shape)) if shape else SHAPES,
            dtypes=tuple(dtype or ("float32",)),
            whats=tuple(what or ("forward", "forward+backward")),
            modes=tuple(mode or ("eager",)),
            device=device,
            seed=seed,
            threads=threads,
            budget=budget,
            memory=memory,
            baseline=baseline,
            timeout=timeout,
        )
        with shown_progress("groups") as show:
            run = run_speed(request, lambda p: show(Progress(p.total, p.done, p.share, p.what)))
    except (NothingToTime, DiscoveryError, FormatUnavailable) as error:
        raise Refused(error) from error
    if json_file is not None:
        run.save(json_file)
    with suppress(BrokenPipeError):
        _print(run, json_file)
    return _status(run)


def _shape(text: str) -> tuple[int, int]:
    try:
        rows, classes = map(int, text.lower().replace("x", ",").split(","))
    except ValueError:
        raise Refused(f"--shape {text!r} is no shape: write rows and classes, as in --shape 64,32000") from None
    return rows, classes


def _print(run: Run, saved: Path | None) -> None:
    console = wide_console()
    for line in speed_lines(run.timings, console.width, run.environment):
        console.print(line, soft_wrap=False, overflow="fold")
    if saved:
        console.print(f"Every figure: {saved}\nAs a page: xent report {saved}", soft_wrap=True)


def _status(run: Run) -> int:
    """The exit status, and the line on standard error that goes with it."""
    if not run.complete:
        print(f"xent speed: interrupted after {len(run.timings)} timings", file=sys.stderr)
        return INTERRUPTED
    names = wrong(run.timings)
    if names:
        told = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        print(f"xent speed: no speed without a right answer: {told}", file=sys.stderr)
        return NOT_AS_CLAIMED
    return 0
