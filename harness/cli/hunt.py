"""``xent hunt``: search for the input on which an implementation is worst."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from harness.cli.exits import INTERRUPTED, Refused, command
from harness.cli.targets import must_be_writable, write
from harness.declaration import Declaration
from harness.discovery import DiscoveryError, Found, discover
from harness.evaluation import HuntError
from harness.formats import DTYPES, FormatUnavailable
from harness.hunt import STARTS, Hunt, Hunted, HuntProgress, hunt
from harness.rows import Row
from harness.scoring import Metric
from harness.snippet import family_snippet
from harness.worker import Worker, Workers
from harness.worst_case import WorstCase, WorstCaseError, keep

__all__ = ["register"]

SCHEMA = 1
SECONDS_BETWEEN_LINES = 15.0

EPILOG = """\b
Examples:
  xent hunt torch_cross_entropy --dtype float32
  xent hunt numpy_log1p --metric bound_ratio --seconds 300
  xent hunt optax_integer_labels --metric mixed --from random
  xent hunt torch_cross_entropy --what gradient --keep

\b
Metrics: ulp; bound_ratio (error over the bound of the claimed grade);
absolute (nats); mixed (error over 1 + the truth); negativity (how far below
zero a loss comes out).

\b
Exit status: 0 done; 2 it cannot be done as asked; 3 a fault of ours;
130 interrupted (the worst so far is printed and kept).
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("hunt", epilog=EPILOG, short_help="Search for the worst input of an implementation.")(
        command("hunt", hunting)
    )


def hunting(
    implementation: Annotated[str, typer.Argument(metavar="IMPLEMENTATION", help="Its name, as `xent list` has it.")],
    metric: Annotated[Metric, typer.Option(help="What is to be as large as possible.")] = Metric.ULP,
    what: Annotated[str, typer.Option(metavar="loss|gradient", help="Of which result.")] = "loss",
    dtype: Annotated[
        list[str] | None, typer.Option(metavar="DTYPE", help="Repeatable; all that it claims if left out.")
    ] = None,
    seconds: Annotated[float, typer.Option(metavar="S", min=0.1, help="Time for each dtype.")] = 60.0,
    evaluations: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Rows to look at for each dtype, in place of a time; the same seed then finds the same.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", min=0, help="Of the search.")] = 0,
    starts: Annotated[
        list[str] | None,
        typer.Option(
            "--from", metavar="START", help=f"Where to begin: {', '.join(STARTS)}; repeatable, all if left out."
        ),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write what was found.")] = None,
    kept: Annotated[
        bool,
        typer.Option("--keep/--no-keep", help="Put it among the package's worst cases, where it is worse than those."),
    ] = False,
    timeout: Annotated[float, typer.Option(metavar="S", min=0.1, help="What one call may take.")] = 120.0,
) -> int:
    """Search for the input on which an implementation is worst, in each dtype, with certified truth for every row."""
    _check(what, dtype or (), starts or ())
    if json_file is not None:
        must_be_writable(json_file)
    done: list[tuple[str, Hunted]] = []
    with Workers(timeout=timeout, threads=1) as workers:
        found = _found(implementation, workers)
        assert found.declaration is not None
        for name in _dtypes(found.declaration, dtype or ()):
            request = Hunt(
                name,
                what,
                metric,
                seconds=seconds if evaluations is None else float("inf"),
                evaluations=evaluations,
                seed=seed,
                starts=tuple(starts or STARTS),
            )
            hunted = _hunt(request, found.declaration, workers[found.framework])
            done.append((name, hunted))
            with suppress(BrokenPipeError):
                _print(implementation, name, what, metric, hunted)
            if not hunted.complete:
                break
    if json_file is not None:
        write(json_file, _json(implementation, what, metric, seed, done))
    if kept:
        _keep([hunted.smallest for _, hunted in done if hunted.smallest is not None])
    if not all(hunted.complete for _, hunted in done):
        print("xent hunt: interrupted; the worst so far is above", file=sys.stderr)
        return INTERRUPTED
    return 0


def _check(what: str, dtypes: list[str] | tuple[()], starts: list[str] | tuple[()]) -> None:
    checks = (("--what", [what], ("loss", "gradient")), ("--dtype", dtypes, DTYPES), ("--from", starts, STARTS))
    for option, given, known in checks:
        for value in given:
            if value not in known:
                raise Refused(f"{option} {value!r}: choose from {', '.join(known)}")


def _found(name: str, workers: Workers) -> Found:
    try:
        chosen = discover([name], workers=workers)
    except DiscoveryError as error:
        raise Refused(error) from error
    if len(chosen) > 1:
        raise Refused(f"{name!r} names {len(chosen)} implementations: hunt one at a time")
    (found,) = chosen
    if not found.available:
        raise Refused(f"{name} cannot run here: {found.reason}")
    return found


def _dtypes(declaration: Declaration, asked: list[str] | tuple[()]) -> list[str]:
    for dtype in asked:
        if dtype not in declaration.grades:
            raise Refused(f"{declaration.name} does not claim {dtype}: choose from {', '.join(declaration.grades)}")
    return list(dict.fromkeys(asked)) or list(declaration.grades)


def _hunt(request: Hunt, declaration: Declaration, worker: Worker) -> Hunted:
    if request.what == "gradient" and not declaration.has_gradient:
        raise Refused(f"{declaration.name} has no gradient: leave out --what gradient")
    try:
        with _shown(request) as show:
            return hunt(request, declaration, worker, show)
    except (HuntError, WorstCaseError, FormatUnavailable) as error:
        raise Refused(error) from error


def _keep(cases: list[WorstCase]) -> None:
    try:
        new = keep(cases)
    except (WorstCaseError, OSError) as error:
        raise Refused(f"nothing is kept: {error}") from error
    print(f"{len(new)} kept" + "".join(f"; {case.dtype} {case.what} {case.metric}" for case in new))


def _print(name: str, dtype: str, what: str, metric: Metric, hunted: Hunted) -> None:
    case = hunted.worst
    spent = f"{hunted.evaluations} rows in {hunted.seconds:.0f} s"
    if case is None:
        print(f"{name} {dtype} {what}: no row counted, of {spent}\n")
        return
    digits = 17 if dtype == "float64" else 9
    got, want = (f"{float.fromhex(text):.{digits}g}" for text in (case.got, case.want))
    print(f"{name} {dtype} {what}: {metric} {case.value:.6g}, of {spent}")
    print(f"  got {got} ({case.got})\n  want {want} ({case.want})")
    ratio = "no bound" if case.bound_ratio is None else f"{case.bound_ratio:.3g} of the {case.bound} bound"
    print(f"  {case.ulp:.6g} ulp, {ratio}, {len(case.logits)} classes")
    if metric is Metric.NEGATIVITY and case.value <= 0:
        print("  nothing on the wrong side of zero was found")
    target = case.target if isinstance(case.target, int) else 0
    row = Row(case.reals, target, case.targets, float.fromhex(case.upstream))
    snippet = family_snippet(
        row,
        case.loss,
        dtype,
        name=f"worst_{name}_{dtype}_{what}",
        breaks=f"{name} in {dtype}: the {what} is {got} where {want} is true.",
        source=f"xent hunt {name} --metric {metric}",
        about=f"{metric} {case.value:.6g}.",
    )
    print("\n" + snippet)


def _json(name: str, what: str, metric: Metric, seed: int, done: list[tuple[str, Hunted]]) -> bytes:
    hunts: list[dict[str, Any]] = [
        {
            "dtype": dtype,
            "evaluations": hunted.evaluations,
            "seconds": round(hunted.seconds, 3),
            "complete": hunted.complete,
            "worst": None if hunted.worst is None else hunted.worst.to_json(),
        }
        for dtype, hunted in done
    ]
    head = {"schema": SCHEMA, "implementation": name, "what": what, "metric": str(metric), "seed": seed}
    return (json.dumps({**head, "hunts": hunts}, indent=1, allow_nan=False) + "\n").encode()


@contextmanager
def _shown(request: Hunt) -> Iterator[Callable[[HuntProgress], None]]:
    """Progress on standard error: a bar on a terminal, a plain line now and then elsewhere."""
    if not sys.stderr.isatty():
        yield _Lines(request)
        return
    columns = (
        BarColumn(bar_width=12),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(request.dtype, total=1.0)
        yield lambda p: bar.update(task, completed=p.share, description=_told(request, p))


def _told(request: Hunt, progress: HuntProgress) -> str:
    return f"{request.dtype} {request.what}: {request.metric} {progress.best:.4g} after {progress.evaluations} rows"


class _Lines:
    def __init__(self, request: Hunt) -> None:
        self.request = request
        self.start = self.last = time.monotonic()

    def __call__(self, progress: HuntProgress) -> None:
        now = time.monotonic()
        if now - self.last < SECONDS_BETWEEN_LINES:
            return
        self.last = now
        elapsed = now - self.start
        left = elapsed / max(progress.share, 1e-9) * (1 - progress.share)
        told = f"{elapsed:.0f} s, about {left:.0f} s left: {_told(self.request, progress)}"
        print(f"xent: {told}", file=sys.stderr, flush=True)
