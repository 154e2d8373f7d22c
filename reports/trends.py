"""History lines: how figures have gone over the nights, one small line each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from reports.numbers import figure

__all__ = ["History", "Trend", "trends"]

History = Mapping[str, Sequence[tuple[str, float]]]
"""By the name of a series, its points in time: a date (ISO 8601) and a value; smaller is better."""

WIDTH, HEIGHT, EDGE = 220.0, 30.0, 3.0
RECENT = 3
"""Points at the end that are compared with those before: what an alarm looks at, too."""


@dataclass(frozen=True)
class Trend:
    """A series as the page shows it.

    Parameters
    ----------
    name : str
        Of the series.
    path : str
        The line, as an SVG path; a point that is not finite interrupts it.
    last_x, last_y : float
        Where the last finite point is.
    first_date, last_date : str
        Of the first and the last point.
    last, usual : str
        The last value, and the median of all before the recent ones.
    change : float or None
        Median of the recent points over that of those before; None where there are too few, or zeros.
    """

    name: str
    path: str
    last_x: float
    last_y: float
    first_date: str
    last_date: str
    last: str
    usual: str
    change: float | None

    @property
    def change_text(self) -> str:
        """The change in per cent, or as a factor where it is large."""
        if self.change is None:
            return "–"
        if not 0.5 <= self.change < 2:
            return f"{figure(self.change)}×"
        percent = round((self.change - 1) * 100, 1)
        return f"{'+' if percent > 0 else '−' if percent < 0 else '±'}{abs(percent):g} %"

    @property
    def label(self) -> str:
        """The line in words."""
        span = f"from {self.first_date} to {self.last_date}"
        return f"{self.name}, {span}: last {self.last}, before usually {self.usual}, change {self.change_text}"


def trends(history: History) -> list[Trend]:
    """A trend for each series with at least two finite points, the largest change for the worse first."""
    made = [trend for name, points in history.items() if (trend := _trend(name, sorted(points))) is not None]
    return sorted(made, key=lambda t: (-(t.change or 0.0), t.name))


def _trend(name: str, points: Sequence[tuple[str, float]]) -> Trend | None:
    finite = [value for _, value in points if math.isfinite(value)]
    if len(finite) < 2:
        return None
    low, high = min(finite), max(finite)
    across = (WIDTH - 2 * EDGE) / (len(points) - 1)
    path, pen, last = [], "M", (0.0, 0.0)
    for index, (_, value) in enumerate(points):
        if not math.isfinite(value):
            pen = "M"
            continue
        share = 0.5 if high == low else (value - low) / (high - low)
        last = (round(EDGE + index * across, 1), round(HEIGHT - EDGE - share * (HEIGHT - 2 * EDGE), 1))
        path.append(f"{pen}{last[0]:g} {last[1]:g}")
        pen = "L"
    recent, before = finite[-RECENT:], finite[:-RECENT]
    usual = median(before) if before else None
    change = median(recent) / usual if usual and usual > 0 else None
    value = points[-1][1]
    return Trend(name, "".join(path), *last, points[0][0], points[-1][0], figure(value), figure(usual), change)
