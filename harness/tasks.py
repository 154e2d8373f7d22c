"""Tasks: one batch with the implementations to call on it, done from truth to decided results in whatever process.

A task's results depend on the task alone, so that it may be done anywhere and in any order. A process that is lent for
tasks keeps workers of its own between them, and lets them go when there is nothing to do.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from harness.batch import Batch
from harness.claims import decide
from harness.crew import Crew
from harness.declaration import Declaration
from harness.grades import Grade, Outcome
from harness.judge import Judgement, judge
from harness.losses import loss_named
from harness.output import Output
from harness.reference import Reference, reference_of
from harness.run import Result
from harness.worker import Workers

__all__ = ["Cell", "Done", "Task", "perform", "perform_elsewhere", "unmeasured"]

IDLE_SECONDS = 20.0
"""How long workers that nobody uses are kept: a process of somebody's cluster lives on when the run is over."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One implementation on one batch: gives two results, loss and gradient."""

    declaration: Declaration
    batch: Batch

    @property
    def why_not(self) -> str:
        """Why this cell is skipped: what the batch needs and the implementation does not claim; ``""`` if nothing."""
        claimed = self.declaration.options
        missing = [name for name in self.batch.options if name not in claimed]
        if not loss_named(self.batch.loss).elementwise and self.batch.target_kind not in self.declaration.targets:
            missing.append(f"{self.batch.target_kind} as target")
        return f"does not claim {', '.join(missing)}" if missing else ""


@dataclass(frozen=True, eq=False)
class Task:
    """A batch, and the declarations of the implementations to call on it, in this order."""

    batch: Batch
    declarations: tuple[Declaration, ...]


@dataclass(frozen=True)
class Done:
    """What became of one cell: its results, and whether the call had to be given up for time."""

    results: tuple[Result, ...]
    timed_out: bool = False


def perform(task: Task, workers: Workers) -> Iterator[Done]:
    """Do a task, one implementation after the other, in workers that know them; the truth is solved once."""
    reference = reference_of(task.batch)
    for declaration in task.declarations:
        yield _done(Cell(declaration, task.batch), reference, workers)


def perform_elsewhere(task: Task, crew: Crew) -> list[Done]:
    """Do a task in this process, which is not the one that asked, with workers as `crew` describes them.

    Raises
    ------
    harness.crew.UnlikeHere
        Where this process runs other versions than the one that asked.
    """
    with _shelf.borrowed(crew) as workers:
        return list(perform(task, workers))


def unmeasured(cell: Cell, outcome: Outcome, detail: str) -> tuple[Result, ...]:
    """The results of a cell that gave nothing to judge, as its declaration has them."""
    return tuple(decide(cell.declaration, _unmeasured(cell, outcome, detail, what)) for what in _whats(cell))


# ------------------------------------------------------------------------------------------------------ workers on lend


class _Shelf:
    """The workers of a process that does tasks for another, between them: one set for each thread that is at work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: dict[Crew, list[Workers]] = {}
        self._timer: threading.Timer | None = None

    @contextmanager
    def borrowed(self, crew: Crew) -> Iterator[Workers]:
        """Workers of a crew, for one task."""
        with self._lock:
            self._wake()
            waiting = self._free.get(crew)
            workers = waiting.pop() if waiting else None
        if workers is None:
            workers = crew.muster()
        try:
            yield workers
        finally:
            with self._lock:
                self._free.setdefault(crew, []).append(workers)
                self._wake()
                self._timer = threading.Timer(IDLE_SECONDS, self.clear)
                self._timer.daemon = True
                self._timer.start()

    def clear(self) -> None:
        """End the workers that are not at work."""
        with self._lock:
            idle = [workers for waiting in self._free.values() for workers in waiting]
            self._free.clear()
            self._wake()
        for workers in idle:
            workers.close()

    def _wake(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


_shelf = _Shelf()


# ------------------------------------------------------------------------------------------------------------- one cell


def _done(cell: Cell, reference: Reference, workers: Workers) -> Done:
    output = workers[cell.declaration.framework].call(cell.declaration.name, cell.batch)
    if output.outcome is not Outcome.PASSED:
        late = output.outcome is Outcome.TIMED_OUT
        return Done(unmeasured(cell, output.outcome, output.detail), late)
    scalar = output.loss is not None and output.loss.ndim == 0 and "reduction" not in cell.declaration.options
    judged = judge(
        cell.batch,
        reference,
        output,
        reduction="mean" if scalar else "none",
        upstream=float(cell.batch.upstream.flat[0]) if scalar else 1.0,
    )
    return Done(tuple(decide(cell.declaration, _result(cell, output, judged[what])) for what in judged))


def _whats(cell: Cell) -> Sequence[str]:
    return ("loss", "gradient") if cell.declaration.has_gradient else ("loss",)


def _result(cell: Cell, output: Output, judgement: Judgement) -> Result:
    array = output.loss if judgement.what == "loss" else output.gradient
    return Result(
        **_identity(cell, judgement.what),
        backend=output.backend,
        rows=judgement.rows,
        judged=judgement.judged,
        grade=None if judgement.grade is None else str(judgement.grade),
        outcome=str(judgement.outcome),
        max_ulp=judgement.max_ulp,
        max_abs=judgement.max_abs,
        max_rel=judgement.max_rel,
        max_bound_ratio=judgement.max_bound_ratio,
        bound_ratios=judgement.bound_ratios,
        nonfinite=judgement.nonfinite,
        negative=judgement.negative,
        witness=judgement.witness,
        output_dtype=None if array is None else array.dtype.name,
        detail=judgement.detail,
    )


def _unmeasured(cell: Cell, outcome: Outcome, detail: str, what: str) -> Result:
    rows = len(cell.batch.logits) if what == "loss" else cell.batch.gradient_shape[0]
    identity = _identity(cell, what)
    grade = str(Grade.INACCURATE) if outcome.is_failure else None
    return Result(
        **identity,
        backend=cell.declaration.backend,
        rows=rows,
        judged=0,
        grade=grade,
        outcome=str(outcome),
        detail=detail,
    )


def _identity(cell: Cell, what: str) -> dict[str, Any]:
    declaration, batch = cell.declaration, cell.batch
    claimed = declaration.grades.get(batch.dtype)
    return {
        "implementation": declaration.name,
        "framework": declaration.framework,
        "loss": declaration.loss,
        "dtype": batch.dtype,
        "device": declaration.device,
        "family": batch.family,
        "what": what,
        "claimed": None if claimed is None else str(claimed),
    }
