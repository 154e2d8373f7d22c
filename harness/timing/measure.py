"""From groups to the `Timing` entries of a run, within a budget of time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.grades import Outcome
from harness.run import Timing
from harness.timing.check import Checker, Verdict
from harness.timing.memory import MemoryWorkers
from harness.timing.plan import Contender, Group
from harness.timing.rounds import LEAST_ROUNDS, MOST_ROUNDS, Laps, take_turns
from harness.worker import WorkerError, Workers

__all__ = ["OVER", "Budget", "Step", "measure_speed"]

OVERHEAD_LOGITS = 100_000
"""What one implementation's turns cost besides its logits, in logits: for sharing the time out among the groups."""
MEMORY_LOGITS = 10_000_000
"""What measuring its memory costs, likewise: a process is forked, and a compiler may run in it."""

GRACE = 2.0
"""What has not begun after so many times the budget is left out: a busy machine must not make a minute an hour."""

OVER = "not begun within twice the time budget: give --budget more seconds, or ask for less"


class Budget:
    """Seconds to be spent, from now on; `clock` is monotonic."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds
        self._last = clock() + GRACE * seconds

    @property
    def left(self) -> float:
        """Seconds that are left, 0 at the least."""
        return max(0.0, self._end - self._clock())

    @property
    def over(self) -> bool:
        """Whether nothing more may begin."""
        return self._clock() >= self._last


@dataclass(frozen=True)
class Step:
    """A group that has been measured, and the share of all work that is done then."""

    group: Group
    timings: tuple[Timing, ...]
    share: float


def measure_speed(
    groups: Sequence[Group],
    workers: Workers,
    budget: Budget,
    *,
    memory: MemoryWorkers | None = None,
    least: int = LEAST_ROUNDS,
    most: int = MOST_ROUNDS,
) -> Iterator[Step]:
    """Measure groups in turn; each gets its share of the time that is left, and the least number of rounds at any rate.

    Parameters
    ----------
    groups : sequence of Group
        As `plan` makes them.
    workers : Workers
        Processes that know the implementations.
    budget : Budget
        The time for all of it: a group that has not begun when it is over is told, not measured.
    memory : MemoryWorkers, optional
        Processes that know them too, for the groups that are to be weighed.

    Yields
    ------
    Step
        After each group.
    """
    works = [_work(group, memory is not None) for group in groups]
    done = 0.0
    checkers: dict[int, Checker] = {}
    for index, group in enumerate(groups):
        checker = checkers.setdefault(id(group.batch), Checker(group.batch))
        if budget.over:
            timings = tuple(_untimed(group, contender) for contender in group.contenders)
        else:
            share = budget.left * (_timing_work(group) / sum(works[index:]))
            laps, copies = take_turns(group, workers, checker, seconds=share, least=least, most=most)
            peaks = _peaks(group, laps, memory, budget) if memory is not None and group.weighed else {}
            timings = tuple(
                _timing(group, contender, laps, copies, peaks.get(contender.name)) for contender in group.contenders
            )
        done += works[index]
        yield Step(group, timings, done / sum(works))


def _timing_work(group: Group) -> float:
    return len(group.contenders) * (
        OVERHEAD_LOGITS + group.batch.logits.size * (1.0 if group.what == "forward" else 2.0)
    )


def _work(group: Group, weighing: bool) -> float:
    return _timing_work(group) + (len(group.contenders) * MEMORY_LOGITS if weighing and group.weighed else 0.0)


def _peaks(group: Group, laps: Mapping[str, Laps], memory: MemoryWorkers, budget: Budget) -> dict[str, int | str]:
    """Bytes of those that have a speed, while there is time; where they cannot be had, why."""
    found: dict[str, int | str] = {}
    for contender in group.contenders:
        if laps[contender.name].well and budget.over:
            found[contender.name] = "memory: not measured within twice the time budget"
        elif laps[contender.name].well:
            worker = memory[contender.declaration.framework]
            try:
                found[contender.name] = worker.peak(contender.declaration.name, group.batch, group.task(contender))
            except WorkerError as error:  # more memory than there is, say: its times stand all the same
                found[contender.name] = f"memory: {error.detail}"
    return found


def _timing(
    group: Group, contender: Contender, laps: Mapping[str, Laps], copies: Sequence[float], told: int | str | None
) -> Timing:
    own, base = laps[contender.name], laps[group.baseline.name]
    size = group.batch.logits.nbytes
    peak = told if isinstance(told, int) else None
    verdict = replace(own.verdict, detail=told) if isinstance(told, str) else own.verdict
    # The logits are read once, and a gradient is written; a copy reads and writes.
    moved = size * (1 if group.what == "forward" else 2)
    return _entry(
        group,
        contender,
        verdict,
        seconds=tuple(own.seconds),
        ratio=_median_ratio(own.seconds, base.seconds),
        copy_seconds=tuple(copies) if own.seconds else (),
        bandwidth=_median_ratio([moved * c for c in copies], [2 * size * s for s in own.seconds]),
        peak_bytes=peak,
        memory=None if peak is None or not size else peak / size,
    )


def _untimed(group: Group, contender: Contender) -> Timing:
    return _entry(group, contender, Verdict(Outcome.SKIPPED, OVER), seconds=(), ratio=None)


def _entry(group: Group, contender: Contender, verdict: Verdict, **figures: object) -> Timing:
    declaration = contender.declaration
    fields = {
        "implementation": declaration.name,
        "framework": declaration.framework,
        "loss": declaration.loss,
        "dtype": group.batch.dtype,
        "device": group.device,
        "what": group.what,
        "shape": group.shape,
        "baseline": group.baseline.declaration.name,
        "detail": verdict.detail,
        "mode": contender.mode,
        "outcome": str(verdict.outcome),
        "grade": None if verdict.grade is None else str(verdict.grade),
        "max_ulp": verdict.max_ulp,
    }
    return Timing(**fields, **figures)  # type: ignore[arg-type]


def _median_ratio(over: Sequence[float], under: Sequence[float]) -> float | None:
    """The median over the rounds of one round's ratio."""
    if not over or len(over) != len(under):
        return None
    return statistics.median(a / b for a, b in zip(over, under, strict=True))
