"""The accuracy run: which implementations on which batches, measured into a `Run`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.batch import Batch
from harness.claims import flag_unexpected_passes
from harness.declaration import Declaration
from harness.differential import Cell, evaluate, plan, truth_executor
from harness.discovery import Found, discover
from harness.environment import describe_environment
from harness.families import FAMILIES, UnknownFamily, families_for, make_batch
from harness.formats import DTYPES, FormatUnavailable, named
from harness.logits_file import batch_from_file, read_logits
from harness.run import Result, Run
from harness.speed import measure_speed
from harness.worker import Workers

__all__ = ["NothingToDo", "Request", "run_accuracy"]

QUICK_LOGITS = 20_000
"""``--quick`` leaves out batches with more logits than this: their truth takes most of the time."""

SPEED_SHAPES = ((1024, 1000), (64, 32000))


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
        Processes that solve truth; 0 for one per core.
    logits : tuple of Path
        The user's own logits, judged in place of the families (beside them, where families are named).
    quick : bool
        Leave out slow implementations and large batches.
    speed : bool
        Measure times too.
    timeout : float
        Seconds that one call may take.
    """

    only: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    seed: int = 0
    jobs: int = 0
    logits: tuple[Path, ...] = ()
    quick: bool = False
    speed: bool = False
    timeout: float = 300.0


@dataclass
class Progress:
    """How far a run is, told to whoever shows it: cells done and in all, and what is under way."""

    total: int = 0
    done: int = 0
    what: str = ""
    show: Callable[[Progress], None] = field(default=lambda progress: None)

    def advance(self, what: str, steps: int = 1) -> None:
        """One step further."""
        self.done += steps
        self.what = what
        self.show(self)


def run_accuracy(request: Request, show: Callable[[Progress], None] = lambda progress: None) -> Run:
    """Do what a request asks; an interrupt ends it early, with what was finished in a run that is not `complete`.

    Raises
    ------
    NothingToDo, DiscoveryError, UnknownFamily, LogitsFileError, FormatUnavailable
        For a request that selects nothing, or names what does not exist.
    """
    for dtype in request.dtypes:
        if dtype not in DTYPES:
            raise NothingToDo(f"unknown dtype {dtype!r}: choose from {', '.join(DTYPES)}")
    with Workers(timeout=request.timeout) as workers:
        found = discover(request.only or None, workers=workers)
        declarations = [
            f.declaration for f in found if f.declaration and f.available and not (request.quick and f.declaration.slow)
        ]
        batches = _batches(request, declarations)
        cells = plan(declarations, batches, request.dtypes or DTYPES)
        if not cells and any(f.available for f in found):
            raise NothingToDo(_nothing(request, found))
        results, complete = _evaluate(request, cells, workers, show)
        if complete:
            results = flag_unexpected_passes(declarations, results, FAMILIES)
        timings = measure_speed(declarations, workers, SPEED_SHAPES, request.seed) if request.speed and complete else ()
        told = {framework: workers[framework].environment() for framework in _frameworks(declarations)}
    return Run(
        environment=describe_environment(request.seed, 1, told) | {"request": _as_json(request)},
        results=tuple(results),
        families=_about(batches),
        implementations=tuple(_listed(f) for f in found),
        timings=tuple(timings),
        complete=complete,
    )


def _evaluate(
    request: Request, cells: Sequence[Cell], workers: Workers, show: Callable[[Progress], None]
) -> tuple[list[Result], bool]:
    progress = Progress(total=len(cells), show=show)
    finished: list[Result] = []

    def on_done(cell: Cell, results: list[Result]) -> None:
        finished.extend(results)
        progress.advance(f"{cell.batch.family} {cell.batch.dtype}: {cell.declaration.name}")

    try:
        with truth_executor(request.jobs or os.cpu_count() or 1) as executor:
            return evaluate(cells, workers, executor, on_done=on_done), True
    except KeyboardInterrupt:
        return finished, False


def _batches(request: Request, declarations: Sequence[Declaration]) -> list[Batch]:
    """The batches of a request: each family, loss and dtype that some implementation can use, files first."""
    losses = list(dict.fromkeys(d.loss for d in declarations))
    dtypes = [
        dtype
        for dtype in request.dtypes or DTYPES
        if any(dtype in d.grades for d in declarations) and _has(dtype, request)
    ]
    batches = [
        batch_from_file(file, loss, dtype, request.seed)
        for file in map(read_logits, request.logits)
        for loss in losses
        if loss == "cross_entropy"
        for dtype in dtypes
    ]
    if request.logits and not request.families:
        return batches
    for loss in losses:
        for dtype in dtypes:
            drawn = (make_batch(f.name, loss, dtype, request.seed) for f in families_for(loss, dtype, request.families))
            batches += [b for b in drawn if not request.quick or b.logits.size <= QUICK_LOGITS]
    return batches


def _has(dtype: str, request: Request) -> bool:
    """Whether arrays of a dtype can be made here; only a dtype that was asked for by name may not be left out."""
    try:
        return bool(named(dtype).dtype)
    except FormatUnavailable:
        if dtype in request.dtypes:
            raise
        return False


def _frameworks(declarations: Sequence[Declaration]) -> list[str]:
    return sorted({d.framework for d in declarations})


def _nothing(request: Request, found: Sequence[Found]) -> str:
    if request.families:
        try:
            families_for("cross_entropy", "float64", request.families)
        except UnknownFamily as error:
            return str(error)
    asked = ", ".join([*request.only, *request.families, *request.dtypes]) or "this request"
    return f"nothing to judge: no implementation and family fit {asked} (`xent list` shows both)"


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
    }
