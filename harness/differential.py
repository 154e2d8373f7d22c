"""The differential test: every implementation on every batch, against certified truth, into a run.

The unit of work is one batch with all that is to be called on it (`harness.tasks`). Tasks are done here, or handed to
an executor; results are put together in the order of the plan, and are the same wherever and in whatever order they
came about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait

from harness.batch import Batch
from harness.crew import crew_of
from harness.declaration import Declaration
from harness.executors import interrupts_held, is_lost
from harness.executors import process_pool as truth_executor
from harness.grades import Outcome
from harness.run import Result
from harness.schedule import Deal, Late, Step, scheduled
from harness.tasks import Cell, Done, Task, perform, perform_elsewhere, unmeasured
from harness.worker import Workers

__all__ = ["TIMEOUTS", "Cell", "evaluate", "plan", "truth_executor"]

TIMEOUTS = 2
"""An implementation that has not returned in time so often is not called again: a run must end."""


def plan(declarations: Sequence[Declaration], batches: Sequence[Batch], dtypes: Sequence[str]) -> list[Cell]:
    """All cells, by batch first so that a batch's truth is needed once, then by implementation."""
    return [
        Cell(declaration, batch)
        for batch in batches
        for declaration in declarations
        if batch.loss == declaration.loss and batch.dtype in declaration.grades and batch.dtype in dtypes
    ]


def evaluate(
    cells: Sequence[Cell],
    workers: Workers,
    executor: Executor | None = None,
    *,
    lanes: int = 1,
    on_done: Callable[[Cell, list[Result]], None] | None = None,
) -> tuple[list[Result], bool]:
    """Run and judge cells, to the end or until an interrupt.

    Parameters
    ----------
    cells : sequence of Cell
        As `plan` gives them.
    workers : Workers
        Processes that know the implementations.
    executor : Executor, optional
        Where the work is done, with workers of its own; any ``concurrent.futures`` executor. None: in this process.
    lanes : int
        How many tasks the executor does at a time.
    on_done : callable, optional
        Called after each cell with its results.

    Returns
    -------
    results : list of Result
        Two for each cell (one where there is no gradient), sorted by implementation, dtype and family as planned.
    complete : bool
        False where a `KeyboardInterrupt` ended it early, with the results of the cells that were finished.

    Raises
    ------
    UnlikeHere
        Where a process of the executor runs other versions than this one.
    """
    evaluation = _Evaluation(cells, workers, on_done)
    try:
        evaluation.skip()
        if executor is None:
            evaluation.run_here()
        else:
            evaluation.run_in(executor, lanes)
    except KeyboardInterrupt:
        pass
    return evaluation.merged()


class _Evaluation:
    """What is done and what is open."""

    def __init__(
        self, cells: Sequence[Cell], workers: Workers, on_done: Callable[[Cell, list[Result]], None] | None
    ) -> None:
        self._cells, self._workers, self._on_done = cells, workers, on_done
        self._results: dict[int, list[Result]] = {}
        self._late = Late()
        self._groups = scheduled(cells)
        self._open = {step.rank: step for group in self._groups for step in group}
        self._rank = {index: step.rank for step in self._open.values() for index in step.cells}

    def skip(self) -> None:
        """Give their results to the cells that are not to be called."""
        for index, cell in enumerate(self._cells):
            if index not in self._rank:
                self._record(index, Done(unmeasured(cell, Outcome.SKIPPED, cell.why_not)))

    def run_here(self) -> None:
        """Do what is open, in the order of the schedule."""
        for rank in sorted(self._open):
            called = self._called(self._open[rank])
            if called:
                for index, done in zip(called, perform(self._task(called), self._workers), strict=True):
                    self._record(index, done)
            del self._open[rank]

    def run_in(self, executor: Executor, lanes: int) -> None:
        """Have an executor do what is open; what it loses is done here."""
        crew = crew_of(self._workers, {self._cells[index].declaration.framework for index in self._rank})
        self._workers.close()  # the executor's take their place, and their memory
        deal = Deal(self._groups, max(1, lanes))
        under_way: dict[Future[list[Done]], tuple[int, Step, list[int]]] = {}

        def start(lane: int) -> None:
            while (step := deal.next(lane)) is not None:
                called = self._called(step)
                if called:
                    with interrupts_held():
                        future = executor.submit(perform_elsewhere, self._task(called), crew)
                    under_way[future] = lane, step, called
                    return
                del self._open[step.rank]

        try:
            for lane in range(max(1, lanes)):
                start(lane)
            while under_way:
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    lane, step, called = under_way.pop(future)
                    for index, done in zip(called, future.result(), strict=True):
                        self._record(index, done)
                    del self._open[step.rank]
                    start(lane)
        except BaseException as error:
            for future in under_way:
                future.cancel()
            if not is_lost(error):
                raise
            self.run_here()

    def merged(self) -> tuple[list[Result], bool]:
        """The results in their order, and whether there are all of them."""
        for index in self._results:
            if index in self._rank and self._is_out(index):
                self._results[index] = list(self._not_called(index).results)
        cells = self._cells
        order = {name: i for i, name in enumerate(dict.fromkeys(c.declaration.name for c in cells))}
        dtypes = {name: i for i, name in enumerate(dict.fromkeys(c.batch.dtype for c in cells))}

        def place(index: int) -> tuple[int, int, int]:
            cell = cells[index]
            return order[cell.declaration.name], dtypes[cell.batch.dtype], index

        ranked = sorted(self._results, key=place)
        return [result for i in ranked for result in self._results[i]], len(self._results) == len(cells)

    def _called(self, step: Step) -> list[int]:
        """The cells of a step that are still to be called; those that are not any more get their results."""
        called = [index for index in step.cells if index not in self._results]
        for index in called:
            if self._is_out(index):
                self._record(index, self._not_called(index))
        return [index for index in called if index not in self._results]

    def _task(self, called: Sequence[int]) -> Task:
        return Task(self._cells[called[0]].batch, tuple(self._cells[index].declaration for index in called))

    def _is_out(self, index: int) -> bool:
        return self._late.times(self._cells[index].declaration.name, before=self._rank[index]) >= TIMEOUTS

    def _not_called(self, index: int) -> Done:
        detail = f"not called: it has timed out {TIMEOUTS} times before"
        return Done(unmeasured(self._cells[index], Outcome.TIMED_OUT, detail))

    def _record(self, index: int, done: Done) -> None:
        if done.timed_out:
            self._late.add(self._cells[index].declaration.name, self._rank[index])
        if self._on_done is not None:
            self._on_done(self._cells[index], list(done.results))
        self._results[index] = list(done.results)
