"""A night that measured nothing is no quiet night: what a run must hold to be compared at all."""

from __future__ import annotations

from collections import Counter

from harness.run import Run

__all__ = ["NothingMeasured", "must_have_measured"]


class NothingMeasured(RuntimeError):
    """A run without a single figure where there should be some; the message says what became of the rest."""


def must_have_measured(run: Run, *, speed: bool) -> None:
    """Refuse a run that has no accuracy, or no speed where that was asked for.

    Raises
    ------
    NothingMeasured
        With the outcomes of what was tried.
    """
    if not any(result.max_ulp is not None for result in run.results):
        outcomes = Counter(result.outcome.replace("_", " ") for result in run.results)
        told = ", ".join(f"{number} {name}" for name, number in outcomes.most_common()) or "no result at all"
        raise NothingMeasured(f"no accuracy was measured: {told}")
    if speed and not any(timing.seconds for timing in run.timings):
        reasons = [timing.detail for timing in run.timings if timing.detail]
        told = f"{len(run.timings)} failed, the first: {reasons[0]}" if reasons else "nothing was timed"
        raise NothingMeasured(f"no speed was measured: {told}; --no-speed leaves it out")
