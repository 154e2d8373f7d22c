"""The differential test: every implementation on every batch, against certified truth, into a run.

Truth is solved in a pool of processes; implementations run in one worker process per framework; the judging is done
here. Results come in the order of the plan and do not depend on the number of jobs.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from harness.batch import Batch
from harness.claims import decide
from harness.declaration import Declaration
from harness.grades import Grade, Outcome
from harness.judge import Judgement, judge
from harness.output import Output
from harness.reference import Reference, reference_of
from harness.run import Result
from harness.worker import Workers

__all__ = ["TIMEOUTS", "Cell", "evaluate", "plan", "truth_executor"]

TIMEOUTS = 2
"""An implementation that has not returned in time so often is not called again: a run must end."""


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
        if self.batch.loss == "cross_entropy" and self.batch.target_kind not in self.declaration.targets:
            missing.append(f"{self.batch.target_kind} as target")
        return f"does not claim {', '.join(missing)}" if missing else ""


def plan(declarations: Sequence[Declaration], batches: Sequence[Batch], dtypes: Sequence[str]) -> list[Cell]:
    """All cells, by batch first so that a batch's truth is needed once, then by implementation."""
    return [
        Cell(declaration, batch)
        for batch in batches
        for declaration in declarations
        if batch.loss == declaration.loss and batch.dtype in declaration.grades and batch.dtype in dtypes
    ]


@contextmanager
def truth_executor(jobs: int) -> Iterator[Executor | None]:
    """A pool of processes that solve batches; None for one job, which is done in this process.

    No process of the pool is left at the end, not even one that is still at work.
    """
    if jobs <= 1:
        yield None
        return
    earlier = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - earlier:
            process.kill()


def _end_with_parent() -> None:
    """Have a process of the pool exit when its parent dies: it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold back Ctrl-C, which a terminal sends to every process; those started in here never get it."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def evaluate(
    cells: Sequence[Cell],
    workers: Workers,
    executor: Executor | None = None,
    *,
    on_done: Callable[[Cell, list[Result]], None] | None = None,
) -> tuple[list[Result], bool]:
    """Run and judge cells, in order, to the end or until an interrupt.

    Parameters
    ----------
    cells : sequence of Cell
        As `plan` gives them.
    workers : Workers
        Processes that know the implementations.
    executor : Executor, optional
        Where truth is solved; any ``concurrent.futures`` executor. None: in this process.
    on_done : callable, optional
        Called after each cell with its results.

    Returns
    -------
    results : list of Result
        Two for each cell (one where there is no gradient), sorted by implementation, dtype and family as planned.
    complete : bool
        False where a `KeyboardInterrupt` ended it early, with the results of the cells that were finished.
    """
    results: dict[int, list[Result]] = {}
    timeouts: Counter[str] = Counter()
    solved: tuple[Batch, Reference] | None = None
    try:
        pending = _submit(cells, executor)
        for index, cell in enumerate(cells):
            if cell.why_not:
                found = [_unmeasured(cell, Outcome.SKIPPED, cell.why_not, what) for what in _whats(cell)]
            else:
                if solved is None or solved[0] is not cell.batch:
                    solved = cell.batch, _solved(cell.batch, pending.pop(id(cell.batch), None))
                found = _run_cell(cell, solved[1], workers, timeouts)
            if on_done is not None:
                on_done(cell, found)
            results[index] = found
    except KeyboardInterrupt:
        pass
    order = {name: i for i, name in enumerate(dict.fromkeys(c.declaration.name for c in cells))}
    dtypes = {name: i for i, name in enumerate(dict.fromkeys(c.batch.dtype for c in cells))}
    ranked = sorted(results, key=lambda i: (order[cells[i].declaration.name], dtypes[cells[i].batch.dtype], i))
    return [result for i in ranked for result in results[i]], len(results) == len(cells)


def _submit(cells: Sequence[Cell], executor: Executor | None) -> dict[int, Future[Reference]]:
    """The truth of each batch that some cell needs, under way: in order, since the first cells wait for the first."""
    if executor is None:
        return {}
    needed = {id(cell.batch): cell.batch for cell in cells if not cell.why_not}
    with _interrupts_held():
        return {key: executor.submit(reference_of, batch) for key, batch in needed.items()}


def _solved(batch: Batch, pending: Future[Reference] | None) -> Reference:
    """The truth of a batch; solved here where there is no pool, or where the pool has lost a process."""
    try:
        return pending.result() if pending else reference_of(batch)
    except BrokenExecutor:
        return reference_of(batch)


def _run_cell(cell: Cell, reference: Reference, workers: Workers, timeouts: Counter[str]) -> list[Result]:
    name = cell.declaration.name
    if timeouts[name] < TIMEOUTS:
        output = workers[cell.declaration.framework].call(name, cell.batch)
    else:
        output = Output(outcome=Outcome.TIMED_OUT, detail=f"not called: it has timed out {TIMEOUTS} times before")
    timeouts[name] += output.outcome is Outcome.TIMED_OUT
    if output.outcome is not Outcome.PASSED:
        return [
            decide(cell.declaration, _unmeasured(cell, output.outcome, output.detail, what)) for what in _whats(cell)
        ]
    scalar = output.loss is not None and output.loss.ndim == 0 and "reduction" not in cell.declaration.options
    judged = judge(
        cell.batch,
        reference,
        output,
        reduction="mean" if scalar else "none",
        upstream=float(cell.batch.upstream.flat[0]) if scalar else 1.0,
    )
    return [decide(cell.declaration, _result(cell, output, judged[what])) for what in judged]


def _whats(cell: Cell) -> tuple[str, ...]:
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
    rows = len(cell.batch.logits)
    identity = _identity(cell, what)
    grade = str(Grade.INACCURATE) if outcome.is_failure else None
    return Result(**identity, backend="native", rows=rows, judged=0, grade=grade, outcome=str(outcome), detail=detail)


def _identity(cell: Cell, what: str) -> dict[str, Any]:
    declaration, batch = cell.declaration, cell.batch
    claimed = declaration.grades.get(batch.dtype)
    return {
        "implementation": declaration.name,
        "framework": declaration.framework,
        "loss": declaration.loss,
        "dtype": batch.dtype,
        "device": "cpu",
        "family": batch.family,
        "what": what,
        "claimed": None if claimed is None else str(claimed),
    }
