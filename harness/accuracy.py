"""The accuracy run: which implementations on which batches, measured into a `Run`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.bridges.stopwatch import DEVICES
from harness.claims import flag_unexpected_passes
from harness.declaration import Declaration
from harness.differential import Cell, evaluate, plan
from harness.discovery import Found, discover
from harness.environment import describe_environment
from harness.executors import Pool, dask_pool, process_pool
from harness.families import FAMILIES, families_for, make_batch
from harness.formats import DTYPES, FormatUnavailable, named
from harness.logits_file import LogitsFile, batch_from_file, read_logits
from harness.run import Result, Run, Timing
from harness.schedule import work_of
from harness.timing import Budget, measure_speed
from harness.timing import plan as plan_speed
from harness.worker import WorkerError, Workers

__all__ = ["NothingToDo", "Progress", "Request", "run_accuracy"]

QUICK_LOGITS = 20_000
"""``--quick`` leaves out batches with more logits than this: their truth takes most of the time."""

POOL_PAYS = 15_000_000
"""Work, in logits, from which on starting further processes pays: some ten seconds of it."""

THREADS = 1
"""Threads of each worker: more would make the order of sums, and so the results, a matter of chance."""

SPEED_SHAPES = ((1024, 1000), (64, 32000))
SPEED_SECONDS = 40.0
"""``--speed`` is a look beside the accuracy, of about this long; `xent speed` is the measurement."""


class NothingToDo(ValueError):
    """A request that selects nothing; the message says what was asked for and what there is."""


@dataclass(frozen=True)
class Request:
    """What an accuracy run is asked to do.

    Parameters
    ----------
    only, families : tuple of str
        Names or ``fnmatch`` patterns of implementations and of families; empty for all.
    dtypes : tuple of str
        Empty for every dtype that an implementation claims.
    seed : int
        What the families draw from.
    jobs : int
        Processes that do the work, each with workers of its own; 0 for one per core, where there is enough to do.
    executor : str
        Address of a Dask scheduler whose workers do it instead; ``""`` for none.
    logits : tuple of Path
        The user's own logits, judged in place of the families (beside them, where families are named).
    quick : bool
        Leave out slow implementations and large batches.
    speed : bool
        Measure times too.
    timeout : float
        Seconds that one call may take.
    device : str
        ``"cpu"``, or ``"cuda"`` for the implementations that declare it.
    """

    only: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    seed: int = 0
    jobs: int = 0
    executor: str = ""
    logits: tuple[Path, ...] = ()
    quick: bool = False
    speed: bool = False
    timeout: float = 120.0
    device: str = "cpu"


@dataclass
class Progress:
    """How far a run is, told to whoever shows it: cells done and in all, the share of the work, what is under way."""

    total: int = 0
    done: int = 0
    share: float = 0.0
    what: str = ""


def run_accuracy(request: Request, show: Callable[[Progress], None] = lambda progress: None) -> Run:
    """Do what a request asks; an interrupt ends it early, with what was finished in a run that is not `complete`.

    Raises
    ------
    NothingToDo, DiscoveryError, UnknownFamily, LogitsFileError, FormatUnavailable
        For a request that selects nothing, or names what does not exist.
    ExecutorUnavailable, UnlikeHere
        Where an executor cannot be had, or runs other versions.
    """
    for dtype in request.dtypes:
        if dtype not in DTYPES:
            raise NothingToDo(f"unknown dtype {dtype!r}: choose from {', '.join(DTYPES)}")
    if request.device not in DEVICES:
        raise NothingToDo(f"unknown device {request.device!r}: choose from {', '.join(DEVICES)}")
    families_for("cross_entropy", DTYPES[0], request.families)  # raises for a name that there is not
    files = [read_logits(path) for path in request.logits]
    with ExitStack() as stack:
        dask = stack.enter_context(dask_pool(request.executor)) if request.executor else None
        workers = stack.enter_context(Workers(timeout=request.timeout, threads=THREADS, device=request.device))
        found = discover(request.only or None, workers=workers)
        declarations = [f.declaration for f in found if f.declaration and f.available and _fits(f.declaration, request)]
        environment = describe_environment(request.seed, THREADS, _described(declarations, workers))
        batches = _batches(request, files, declarations)
        cells = plan(declarations, batches, request.dtypes or DTYPES)
        if not any(not cell.why_not for cell in cells):
            raise NothingToDo(_nothing(request, found))
        results, complete = _evaluate(cells, workers, dask, request.jobs, show)
        timings: list[Timing] = []
        if complete:
            results = flag_unexpected_passes(declarations, results, FAMILIES)
        if complete and request.speed:
            timings, complete = _times(request, declarations, workers)
    return Run(
        environment=environment | {"request": _as_json(request)},
        results=tuple(results),
        families=_about(batches),
        implementations=tuple(_listed(f) for f in found),
        timings=tuple(timings),
        complete=complete,
    )


def _fits(declaration: Declaration, request: Request) -> bool:
    """Whether an implementation that can run here is to: where it was asked for, and as fast."""
    return request.device in declaration.devices and not (request.quick and declaration.slow)


def _described(declarations: Sequence[Declaration], workers: Workers) -> dict[str, Any]:
    """What the worker of each framework says of itself, or why it says nothing."""
    told = {}
    for framework in sorted({d.framework for d in declarations}):
        try:
            told[framework] = workers[framework].environment()
        except WorkerError as error:
            told[framework] = {"error": error.detail}
    return told


def _evaluate(
    cells: Sequence[Cell], workers: Workers, dask: Pool | None, jobs: int, show: Callable[[Progress], None]
) -> tuple[list[Result], bool]:
    """Run the cells. An estimate of the time goes by the size of the batches; a small one has its price, too."""
    work = sum(map(work_of, cells))
    progress = Progress(total=len(cells))

    def on_done(cell: Cell, results: list[Result]) -> None:
        progress.done += 1
        progress.share += work_of(cell) / work
        progress.what = f"{cell.batch.family} {cell.batch.dtype}: {cell.declaration.name}"
        show(progress)

    with ExitStack() as stack:
        pool = dask or stack.enter_context(_processes(jobs, work))
        executor, lanes = (pool.executor, pool.lanes) if pool else (None, 1)
        return evaluate(cells, workers, executor, lanes=lanes, on_done=on_done)


@contextmanager
def _processes(jobs: int, work: int) -> Iterator[Pool | None]:
    """A pool of so many processes, or of one per core; None where this process does it as well."""
    wanted = jobs or (os.cpu_count() or 1 if work >= POOL_PAYS else 1)
    with process_pool(wanted) as executor:
        yield Pool(executor, wanted) if executor else None


def _times(request: Request, declarations: Sequence[Declaration], workers: Workers) -> tuple[list[Timing], bool]:
    """The times, and whether there are all of them: an interrupt here does not cost the results."""
    timings: list[Timing] = []
    groups = plan_speed(declarations, SPEED_SHAPES, seed=request.seed, device=request.device)
    try:
        for step in measure_speed(groups, workers, Budget(SPEED_SECONDS)):
            timings += step.timings
    except KeyboardInterrupt:
        return timings, False
    return timings, True


def _batches(request: Request, files: Sequence[LogitsFile], declarations: Sequence[Declaration]) -> list[Batch]:
    """The batches of a request: the files' first, then each family, loss and dtype that some implementation can use."""
    losses = list(dict.fromkeys(d.loss for d in declarations))
    dtypes = [
        dtype
        for dtype in request.dtypes or DTYPES
        if any(dtype in d.grades for d in declarations) and _has(dtype, request)
    ]
    batches = [
        batch_from_file(file, "cross_entropy", dtype, request.seed)
        for file in files
        for dtype in dtypes
        if request.dtypes or _holds(dtype, file)
    ]
    if files and not request.families:
        return batches
    for loss in losses:
        for dtype in dtypes:
            drawn = (make_batch(f.name, loss, dtype, request.seed) for f in families_for(loss, dtype, request.families))
            batches += [b for b in drawn if not request.quick or b.logits.size <= QUICK_LOGITS]
    return batches


def _holds(dtype: str, file: LogitsFile) -> bool:
    """Whether a dtype holds the logits of a file exactly: what was recorded is judged, and not a rounding of it."""
    return bool(np.array_equal(named(dtype).round(file.logits).astype(np.float64), file.logits, equal_nan=True))


def _has(dtype: str, request: Request) -> bool:
    """Whether arrays of a dtype can be made here; only a dtype that was asked for by name may not be left out."""
    try:
        return bool(named(dtype).dtype)
    except FormatUnavailable:
        if dtype in request.dtypes:
            raise
        return False


def _nothing(request: Request, found: Sequence[Found]) -> str:
    """Why a request leaves nothing to judge."""
    missing = [f for f in found if not f.available]
    if len(missing) == len(found):
        return "nothing can run here: " + "; ".join(dict.fromkeys(f.reason for f in missing))
    asked = {
        "--only": request.only,
        "--family": request.families,
        "--dtype": request.dtypes,
        "--logits": tuple(path.name for path in request.logits),
        "--quick": ("",) if request.quick else (),
        "--device": (request.device,) if request.device != "cpu" else (),
    }
    told = " ".join(f"{option} {value}".strip() for option, values in asked.items() for value in values)
    but = f", of those that can run here ({len(missing)} cannot)" if missing else ""
    return f"nothing to judge: no implementation fits {told}{but}; `xent list` shows what each takes"


def _about(batches: Sequence[Batch]) -> dict[str, dict[str, Any]]:
    about = {}
    for name in dict.fromkeys(b.family for b in batches):
        known = FAMILIES.get(name)
        about[name] = {
            "breaks": known.breaks if known else "Your own logits: what these implementations make of them.",
            "source": known.source if known else name,
            "losses": list(known.losses) if known else ["cross_entropy"],
        }
    return about


def _listed(found: Found) -> dict[str, Any]:
    declared = found.declaration.to_json() if found.declaration else {}
    return declared | {
        "name": found.name,
        "framework": found.framework,
        "loss": found.loss,
        "available": found.available,
        "reason": found.reason,
    }


def _as_json(request: Request) -> dict[str, Any]:
    return {
        "only": list(request.only),
        "families": list(request.families),
        "dtypes": list(request.dtypes),
        "logits": [path.name for path in request.logits],
        "quick": request.quick,
        "device": request.device,
    }
