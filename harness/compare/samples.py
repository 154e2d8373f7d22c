"""Which figures of which nights stand against each other: windows of nights, or the rounds of two single runs.

A series is compared by its ratio to the baseline. The baseline's own ratio is always 1: its figure is its time over the
median time of the others in the same rounds (with fewer than three others, whose own changes would pass for its, the
bare time), so that a new release that makes the baseline slow shows as that, and not as everyone else's speed-up.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from harness.compare.limits import Limits
from harness.compare.speed import Samples
from harness.history import Night, Series, SeriesKey

__all__ = ["of_nights", "of_runs", "windows"]

FEWEST_OTHERS = 3


def windows(nights: Sequence[Night], limits: Limits) -> tuple[list[Night], list[Night]]:
    """The nights before and the recent ones, of a history whose last night is the one in question."""
    recent, rest = list(nights[-limits.recent :]), list(nights[: -limits.recent])
    if len(rest) >= limits.before + limits.settling:
        rest = rest[: -limits.settling]
    return rest[-limits.before :], recent


def of_nights(
    before: Sequence[Night], recent: Sequence[Night], begins: Mapping[SeriesKey, str] | None = None
) -> dict[SeriesKey, Samples]:
    """The figures of nights, one per night. What the last two nights lack has no recent figure.

    One night may miss a series on a busy machine, which leaves too few figures for a test; a second one is a loss.

    Parameters
    ----------
    before, recent : sequence of Night
        Oldest first.
    begins : mapping of SeriesKey to str, optional
        For a series whose change was accepted: when the first night at its new speed started; earlier ones are left
        out of `before`.
    """
    begins = begins or {}
    levels = [_levels([*before, *recent], table) for table in _tables([*before, *recent])]
    figures = {key: values for level in levels for key, values in level.items()}
    cut = len(before)
    samples = {}
    for key, values in figures.items():
        kept = [v for v, night in zip(values[:cut], before, strict=True) if night.started >= begins.get(key, "")]
        now = [] if values[-2:] == [None, None] else values[cut:]
        samples[key] = Samples(tuple(v for v in kept if v is not None), tuple(v for v in now if v is not None))
    return {key: sample for key, sample in samples.items() if sample.before or sample.recent}


def of_runs(old: Night, new: Night) -> dict[SeriesKey, Samples]:
    """The figures of two single runs, one per round."""
    keys = dict.fromkeys([*old.rounds, *new.rounds])
    return {key: Samples(tuple(_rounds(old, key)), tuple(_rounds(new, key))) for key in keys}


def _tables(nights: Sequence[Night]) -> list[list[SeriesKey]]:
    """The series of all nights, those together that were measured in the same rounds."""
    tables: dict[object, dict[SeriesKey, None]] = {}
    for night in nights:
        for key in night.series:
            tables.setdefault(key.table, {})[key] = None
    return [list(keys) for keys in tables.values()]


def _levels(nights: Sequence[Night], table: Sequence[SeriesKey]) -> dict[SeriesKey, list[float | None]]:
    """Of each series in a table its figure of each night; None where it was not measured."""
    others = [
        key
        for key in table
        if key.implementation != key.baseline
        and all(_ratio(night.series.get(key)) for night in nights if _measured(night, table))
    ]
    levels: dict[SeriesKey, list[float | None]] = {}
    for key in table:
        if key.implementation != key.baseline:
            levels[key] = [_ratio(night.series.get(key)) for night in nights]
        elif len(others) >= FEWEST_OTHERS:
            levels[key] = [_against(night, key, others) for night in nights]
        else:
            levels[key] = [_seconds(night.series.get(key)) for night in nights]
    return levels


def _measured(night: Night, table: Sequence[SeriesKey]) -> bool:
    return any(key in night.series for key in table)


def _against(night: Night, key: SeriesKey, others: Sequence[SeriesKey]) -> float | None:
    """The baseline's time over the median time of the others."""
    ratios = [ratio for other in others if (ratio := _ratio(night.series.get(other)))]
    return 1 / statistics.median(ratios) if ratios and key in night.series else None


def _ratio(series: Series | None) -> float | None:
    return _usable(series.ratio) if series is not None else None


def _seconds(series: Series | None) -> float | None:
    return _usable(series.seconds) if series is not None else None


def _usable(value: float | None) -> float | None:
    """A figure with a logarithm, or None: a clock that stood still has measured nothing."""
    return value if value is not None and 0 < value < math.inf else None


def _rounds(night: Night, key: SeriesKey) -> list[float]:
    """The ratio of each round to the baseline; for the baseline, to the median of the others, or else the seconds."""
    own = night.rounds.get(key, ())
    together = {k: s for k, s in night.rounds.items() if k.table == key.table and len(s) == len(own)}
    if key.implementation != key.baseline:
        below = next((seconds for k, seconds in together.items() if k.implementation == key.baseline), ())
    else:
        others = [seconds for k, seconds in together.items() if k != key]
        enough = len(others) >= FEWEST_OTHERS
        below = tuple(map(statistics.median, zip(*others, strict=True))) if enough else (1.0,) * len(own)
    return [value for a, b in zip(own, below, strict=False) if b > 0 and (value := _usable(a / b))]
