"""Rounds: all implementations of a group take turns, so that a drift of the machine's speed meets all alike.

In each round everyone runs in an order drawn anew, and a copy of the logits beside them. A ratio is that of one round,
and the median of these is what a table shows.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from harness.grades import Outcome
from harness.timing.check import Checker, Verdict
from harness.timing.plan import Contender, Group
from harness.wire import WireError
from harness.worker import WorkerError, Workers

__all__ = ["LEAST_ROUNDS", "MOST_ROUNDS", "Laps", "take_turns"]

LEAST_ROUNDS = 3
MOST_ROUNDS = 25
"""Enough for a median; more are taken while there is time."""

ROUND_SECONDS = 2e-3
"""A call that is shorter is made several times in a round, whose figure is their median: a clock tick, an interrupt or
a cold cache is no small part of 100 µs."""
MOST_CALLS = 20


@dataclass
class Laps:
    """What the rounds gave for one contender: seconds per round, or the verdict that says why there are none."""

    seconds: list[float] = field(default_factory=list)
    verdict: Verdict = field(default_factory=Verdict)
    calls: int = 1

    @property
    def well(self) -> bool:
        """Whether it is still in the race."""
        return self.verdict.outcome is Outcome.PASSED

    def fail(self, verdict: Verdict) -> None:
        """Take it out, and its times with it."""
        self.verdict = verdict
        self.seconds.clear()


def take_turns(
    group: Group,
    workers: Workers,
    checker: Checker,
    *,
    seconds: float = 0.0,
    least: int = LEAST_ROUNDS,
    most: int = MOST_ROUNDS,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[dict[str, Laps], list[float]]:
    """Time a group.

    Parameters
    ----------
    group : Group
        Who takes part.
    workers : Workers
        Processes that know them.
    checker : Checker
        Judges what comes back, of the group's batch.
    seconds : float
        How long rounds beyond `least` may be begun.
    least, most : int
        Rounds that there are at least and at most; a warm-up, whose results are judged too, comes before.

    Returns
    -------
    laps : dict
        By contender's name its seconds per round: all of the same length, or empty.
    copies : list of float
        Per round, the seconds of a copy of the logits.
    """
    start = clock()
    laps = {contender.name: Laps() for contender in group.contenders}
    for contender in group.contenders:
        _run(group, contender, laps[contender.name], workers, checker, warming=True)
    copies: list[float] = []
    order = np.random.default_rng(group.batch.seed)
    slowest = 0.0
    for turn in range(most):
        began = clock()
        if not any(own.well for own in laps.values()) or (turn >= least and began - start + slowest > seconds):
            break
        for place in order.permutation(len(group.contenders)):
            contender = group.contenders[place]
            if laps[contender.name].well:
                _run(group, contender, laps[contender.name], workers, checker)
        copies += _copy(group, workers)
        slowest = max(slowest, clock() - began)
    return laps, copies


def _run(
    group: Group, contender: Contender, own: Laps, workers: Workers, checker: Checker, *, warming: bool = False
) -> None:
    """One contender's part of a round; of the warm-up, its two calls tell how many a round has."""
    declaration = contender.declaration
    try:
        timed = workers[declaration.framework].time(
            declaration.name,
            group.batch,
            group.task(contender),
            repeats=2 if warming else own.calls,
            known=checker.known(declaration.framework),
        )
    except WorkerError as error:
        own.fail(Verdict(error.outcome, error.detail))
        return
    except WireError as error:  # a batch that is too large to be sent
        own.fail(Verdict(Outcome.SKIPPED, str(error)))
        return
    if timed.backend != "native":
        own.fail(Verdict(Outcome.SKIPPED, f"ran in the {timed.backend}, whose time says nothing of the code's"))
        return
    verdict = checker(timed, declaration)
    if verdict.outcome is not Outcome.PASSED:
        own.fail(verdict)
    elif warming:
        own.verdict = verdict
        own.calls = max(1, min(MOST_CALLS, round(ROUND_SECONDS / max(timed.seconds[-1], 1e-9))))
    else:
        own.verdict |= verdict
        own.seconds.append(statistics.median(timed.seconds))


def _copy(group: Group, workers: Workers) -> list[float]:
    """One figure: the median of a few copies; none where that cannot be done."""
    try:
        worker = workers[group.baseline.declaration.framework]
        return [statistics.median(worker.copies(group.batch, device=group.device, repeats=3))]
    except (WorkerError, WireError):
        return []
