"""The speed tables: times beside the baseline measured in the same rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from harness.run import Run, Timing
from reports.numbers import duration, figure, ratio, spread

__all__ = ["Entry", "Scale", "Table", "tables"]


@dataclass(frozen=True)
class Entry:
    """One implementation in a table: figures as text, and where its dot and whisker go (None: no ratio)."""

    timing: Timing
    median: str
    spread: str
    ratio: str
    share: str
    memory: str
    reason: str
    low: float | None
    mid: float | None
    high: float | None

    @property
    def name(self) -> str:
        """The implementation, with its mode where that is not the ordinary one."""
        timing = self.timing
        return timing.implementation if timing.mode == "eager" else f"{timing.implementation} ({timing.mode})"

    @property
    def is_baseline(self) -> bool:
        """Whether the others are measured against this one."""
        return self.name == self.timing.baseline

    @property
    def bar_label(self) -> str:
        """What the bar shows, in words."""
        if self.low is None or self.high is None:
            return f"{self.ratio} of the baseline's time"
        return f"{self.ratio} of the baseline's time; per round {ratio(self.low)} to {ratio(self.high)}"


@dataclass(frozen=True)
class Scale:
    """A logarithmic axis of ratios, with 1 on it, over a width in user units."""

    low: float
    high: float
    width: float = 96.0

    def at(self, value: float) -> float:
        """Where a ratio lies, clamped to the axis."""
        span = math.log(self.high / self.low)
        place = math.log(min(max(value, self.low), self.high) / self.low) / span
        return round(4 + place * (self.width - 8), 2)


@dataclass(frozen=True)
class Table:
    """The timings of one loss, dtype, shape, device and `what`, fastest first."""

    loss: str
    dtype: str
    device: str
    what: str
    shape: tuple[int, int]
    baseline: str
    rounds: int
    entries: tuple[Entry, ...]
    scale: Scale

    @property
    def weighed(self) -> bool:
        """Whether any peak memory is known."""
        return any(entry.memory for entry in self.entries)

    @property
    def copied(self) -> bool:
        """Whether any bandwidth is known."""
        return any(entry.share for entry in self.entries)


def tables(run: Run) -> list[Table]:
    """The timings of a run, a table for each combination of loss, dtype, device, shape and what, in the run's order."""
    groups: dict[tuple[object, ...], list[Timing]] = {}
    for timing in run.timings:
        key = (timing.loss, timing.dtype, timing.device, timing.what, timing.shape, timing.baseline)
        groups.setdefault(key, []).append(timing)
    filled = [(group[0], _entries(group)) for group in groups.values()]
    scale = _scale([entry for _, entries in filled for entry in entries])
    return [_table(first, entries, scale) for first, entries in filled]


def _table(first: Timing, entries: Sequence[Entry], scale: Scale) -> Table:
    rounds = max(len(entry.timing.seconds) for entry in entries)
    shape = (first.shape[0], first.shape[1])
    return Table(
        first.loss, first.dtype, first.device, first.what, shape, first.baseline, rounds, tuple(entries), scale
    )


def _entries(group: Sequence[Timing]) -> list[Entry]:
    baseline = next((t.seconds for t in group if t.implementation == t.baseline and t.mode == "eager"), ())
    entries = [_entry(timing, baseline) for timing in group]
    return sorted(entries, key=lambda e: (math.inf if e.mid is None else e.mid, e.timing.implementation))


def _entry(timing: Timing, baseline: Sequence[float]) -> Entry:
    seconds = [s for s in timing.seconds if math.isfinite(s)]
    known = timing.ratio is not None and math.isfinite(timing.ratio) and timing.ratio > 0
    low, high = _range(timing, baseline) if known else (None, None)
    return Entry(
        timing=timing,
        median=duration(median(seconds)) if seconds else "–",
        spread=spread(min(seconds), max(seconds)) if seconds else "",
        ratio=ratio(timing.ratio),
        share="" if timing.bandwidth is None else f"{figure(100 * timing.bandwidth, 2)} %",
        memory="" if timing.memory is None else f"{timing.memory:.1f}×",
        reason=timing.detail or "not measured",
        low=low,
        mid=timing.ratio if known else None,
        high=high,
    )


def _range(timing: Timing, baseline: Sequence[float]) -> tuple[float | None, float | None]:
    """Least and largest ratio over the rounds, each against the baseline of the same round."""
    if len(timing.seconds) != len(baseline) or timing.seconds == tuple(baseline):
        return None, None
    pairs = zip(timing.seconds, baseline, strict=True)
    ratios = [own / base for own, base in pairs if base > 0 and own > 0 and math.isfinite(own / base)]
    return (min(ratios), max(ratios)) if ratios else (None, None)


def _scale(entries: Sequence[Entry]) -> Scale:
    """One axis for all tables, so that bars compare across them."""
    values = [v for e in entries for v in (e.low, e.mid, e.high) if v is not None]
    return Scale(min([0.5, *values]), max([2.0, *values]))
