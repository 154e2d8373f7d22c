"""Speed before and now: which series got slower by more than chance, chance being measured first.

What is compared of a night is the *ratio* to the baseline in the same rounds, so that a slow machine slows both. The
noise of a series is the spread of its logarithm over the nights before, an A/A comparison: the same code each night.
A slow-down counts only if three things hold (`Limits` has the figures, docs/nightly.md the reasons):

1. the Mann-Whitney test says that the recent nights lie above those before;
2. the median has changed by more than a floor;
3. the change is beyond what the noise makes likely over *all* series together. The worst third of the recent nights is
   left out here, so that one bad night among three raises no alarm.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from harness.compare.limits import Limits
from harness.compare.ranks import mann_whitney
from harness.history.records import SeriesKey

__all__ = ["Samples", "SpeedChange", "Verdict", "compare_speed"]


class Verdict(StrEnum):
    """What became of one series."""

    SLOWER = "slower"
    FASTER = "faster"
    SAME = "same"
    UNDECIDED = "undecided"
    LOST = "lost"
    NEW = "new"


@dataclass(frozen=True)
class Samples:
    """The figures of one series before and now (ratios or seconds: their ratio is what counts), all positive."""

    before: tuple[float, ...] = ()
    recent: tuple[float, ...] = ()


@dataclass(frozen=True)
class SpeedChange:
    """What became of one series.

    Parameters
    ----------
    key : SeriesKey
        The series.
    verdict : Verdict
        `UNDECIDED` where there are too few figures for a test.
    change : float or None
        The change of the median time: 0.5 is 50 % slower, -0.2 is 20 % faster.
    p : float or None
        One-sided p-value of the Mann-Whitney test in the direction of the change.
    noise : float or None
        Standard deviation of the logarithm over the nights before; about the relative one.
    needed : float or None
        The change from which on it would count, by the noise and the floor.
    before, recent : int
        Figures on each side.
    """

    key: SeriesKey
    verdict: Verdict
    change: float | None = None
    p: float | None = None
    noise: float | None = None
    needed: float | None = None
    before: int = 0
    recent: int = 0


def compare_speed(
    samples: Mapping[SeriesKey, Samples], limits: Limits, *, floor: float, fewest: tuple[int, int]
) -> list[SpeedChange]:
    """Judge every series, each in the light of the noise of all.

    Parameters
    ----------
    samples : mapping of SeriesKey to Samples
        A side without figures makes a series lost or new.
    limits : Limits
        From when on a difference counts.
    floor : float
        The least change that counts.
    fewest : (int, int)
        Figures that a test needs before and now.
    """
    ready = {k: s for k, s in samples.items() if len(s.before) >= fewest[0] and len(s.recent) >= fewest[1]}
    noises = {key: _spread(s.before) for key, s in ready.items()}
    # A spread that came out small by chance must not make a series touchy: none counts as quieter than the middle one.
    typical = statistics.median(noises.values()) if noises else 0.0
    quantile = statistics.NormalDist().inv_cdf(1 - limits.false_alarms / max(len(ready), 1))
    changes = []
    for key, sample in sorted(samples.items()):
        if key in ready:
            noise = max(noises[key], typical)
            changes.append(_judged(key, sample, noise, quantile, floor, limits.significance))
        else:
            changes.append(_unjudged(key, sample))
    return changes


def _judged(
    key: SeriesKey, sample: Samples, noise: float, quantile: float, floor: float, significance: float
) -> SpeedChange:
    change = statistics.median(sample.recent) / statistics.median(sample.before) - 1
    slower = change >= 0
    p = mann_whitney(sample.recent, sample.before) if slower else mann_whitney(sample.before, sample.recent)
    sign = 1 if slower else -1
    before = [sign * math.log(value) for value in sample.before]
    recent = [sign * math.log(value) for value in sample.recent]
    chance = quantile * noise * math.sqrt(1 / len(recent) + 1 / len(before))
    trimmed = sorted(recent)[: len(recent) - len(recent) // 3]
    beyond = statistics.fmean(trimmed) - statistics.fmean(before) > chance
    changed = p < significance and sign * math.log1p(change) > math.log1p(floor) and beyond
    return SpeedChange(
        key=key,
        verdict=(Verdict.SLOWER if slower else Verdict.FASTER) if changed else Verdict.SAME,
        change=change,
        p=p,
        noise=noise,
        needed=max(floor, math.expm1(chance)),
        before=len(before),
        recent=len(recent),
    )


def _unjudged(key: SeriesKey, sample: Samples) -> SpeedChange:
    sizes = {"before": len(sample.before), "recent": len(sample.recent)}
    if not sample.recent:
        return SpeedChange(key, Verdict.LOST, **sizes)
    if not sample.before:
        return SpeedChange(key, Verdict.NEW, **sizes)
    change = statistics.median(sample.recent) / statistics.median(sample.before) - 1
    return SpeedChange(key, Verdict.UNDECIDED, change, **sizes)


def _spread(values: Sequence[float]) -> float:
    """The standard deviation of the logarithm."""
    return statistics.stdev(math.log(value) for value in values)
