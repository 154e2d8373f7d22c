"""Accuracy against speed as one picture: each implementation a letter, its grade, at its time and its largest error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.run import Run, Timing
from reports.marks import BLANK, GRADES, Mark, grade_of, mark_of, worst
from reports.numbers import figure, ratio

__all__ = ["Picture", "Point", "Tick", "pictures"]

WIDTH, HEIGHT = 860.0, 430.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 16.0, 44.0, 48.0
LANE = 34.0
"""Height of the lane at the top, for results that are not finite."""
SIDE = 16.0
"""Side of a point's square."""
_CHARACTER, _LINE = 6.3, 13.0
"""Width and height of a character of a label, about."""

Unit = Literal["bound", "ulp"]


@dataclass(frozen=True)
class Point:
    """An implementation in the picture: where it stands, and where its name does."""

    name: str
    mark: Mark
    time: str
    error: str
    x: float
    y: float
    label_x: float = 0.0
    label_y: float = 0.0
    far: bool = False
    """Whether the name is so far off that a line must lead to it."""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Picture:
    """One dtype: times of one shape and what, errors over all families (`unit` bound) or of the timed calls (ulp)."""

    dtype: str
    what: str
    shape: tuple[int, int]
    baseline: str
    unit: Unit
    points: tuple[Point, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    one: float
    """Where the baseline's time is, across."""
    limit: float | None
    """Where the error is all that the bound allows, up; None where the axis is in ulp."""
    lane: bool
    """Whether there is a lane for results that are not finite."""
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM

    @property
    def label(self) -> str:
        """The picture in words."""
        best = min(self.points, key=lambda p: (p.mark.severity, p.x))
        return (
            f"{len(self.points)} implementations in {self.dtype}: across, the time relative to {self.baseline}; up, "
            f"the largest error. Most accurate: {best.name}, at {best.time} the time. The table below says the same."
        )


def pictures(run: Run) -> list[Picture]:
    """A picture for each dtype with times, of the largest shape, of forward + backward where there is that."""
    made = []
    for dtype in dict.fromkeys(t.dtype for t in run.timings):
        timed = [t for t in run.timings if t.dtype == dtype and t.ratio and math.isfinite(t.ratio) and t.ratio > 0]
        if timed:
            key = max((t.what != "forward", t.shape[0] * t.shape[1], t.shape, t.what, t.device) for t in timed)
            chosen = [t for t in timed if (t.shape, t.what, t.device) == key[2:]]
            picture = _picture(run, chosen)
            if picture is not None:
                made.append(picture)
    return made


def _picture(run: Run, timings: Sequence[Timing]) -> Picture | None:
    judged = any(r.dtype == timings[0].dtype and mark_of(r).measured for r in run.results)
    unit: Unit = "bound" if judged else "ulp"
    found = [(t, *_accuracy(run, t, unit)) for t in timings]
    found = [(t, mark, error) for t, mark, error in found if mark is not BLANK and error is not None]
    if len(found) < 2:
        return None
    lane = any(not math.isfinite(error) for _, _, error in found if error is not None)
    across = _Axis([1.0, *(t.ratio for t, _, _ in found if t.ratio)], LEFT + SIDE, WIDTH - RIGHT - 120.0)
    errors = [max(error, 1e-3) for _, _, error in found if error is not None and math.isfinite(error)]
    up = _Axis([1.0, *errors], HEIGHT - BOTTOM - SIDE, TOP + (LANE if lane else 0.0) + SIDE)
    points = [
        Point(
            _name(t),
            mark,
            ratio(t.ratio),
            figure(error),
            across.at(t.ratio or 1.0),
            up.at(max(error or 0.0, 1e-3)) if math.isfinite(error or 0.0) else TOP + LANE / 2,
        )
        for t, mark, error in found
    ]
    first = timings[0]
    limit = up.at(1.0) if unit == "bound" else None
    return Picture(
        dtype=first.dtype,
        what=first.what,
        shape=first.shape,
        baseline=first.baseline,
        unit=unit,
        points=tuple(_labelled(points, limit)),
        across=tuple(Tick(across.at(v), f"{v:g}×") for v in across.ticks((1, 2, 5))),
        up=tuple(Tick(up.at(v), _power(v)) for v in up.ticks((1,))),
        one=across.at(1.0),
        limit=limit,
        lane=lane,
    )


def _accuracy(run: Run, timing: Timing, unit: Unit) -> tuple[Mark, float | None]:
    """The worst mark, and the largest error (infinite where a result is not finite; None: not known)."""
    if unit == "ulp":
        grade = grade_of(timing.grade)
        return (BLANK if grade is None else GRADES[grade]), timing.max_ulp
    own = [
        r
        for r in run.results
        if (r.implementation, r.dtype, r.device) == (timing.implementation, timing.dtype, timing.device)
    ]
    measured = [r for r in own if mark_of(r).measured]
    ratios = [
        r.max_bound_ratio for r in measured if r.max_bound_ratio is not None and not math.isnan(r.max_bound_ratio)
    ]
    lost = any(r.nonfinite for r in measured)
    error = math.inf if lost else max(ratios, default=None)
    return worst(mark_of(r) for r in measured), error


def _name(timing: Timing) -> str:
    return timing.implementation if timing.mode == "eager" else f"{timing.implementation} ({timing.mode})"


class _Axis:
    """A logarithmic axis over some values, from one place to another."""

    def __init__(self, values: Iterable[float], start: float, end: float) -> None:
        known = list(values)
        self.low, self.high = min(0.5, *known), max(2.0, *known)
        self.start, self.end = start, end

    def at(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, steps: Sequence[int]) -> list[float]:
        """Powers of ten times the steps, as far as they lie on the axis; not more than nine."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        found = [step * 10.0**power for power in powers for step in steps]
        found = [value for value in found if self.low * 0.999 <= value <= self.high * 1.001]
        return found[:: math.ceil(len(found) / 9)] if found else [1.0]


def _power(value: float) -> str:
    return f"{value:g}" if 1e-3 <= value < 1e4 else f"1e{round(math.log10(value))}"


Box = tuple[float, float, float, float]


def _labelled(points: Sequence[Point], limit: float | None) -> list[Point]:
    """The points with a place for each name: beside the point if that is free, else the nearest that is."""
    taken: list[Box] = [_square(p) for p in points]
    if limit is not None:  # the words on that line
        taken.append((WIDTH - RIGHT - 190.0, limit - 2 * _LINE + 10, WIDTH, limit))
    made = []
    for point in sorted(points, key=lambda p: (p.y, p.x)):
        size = _CHARACTER * len(point.name)
        x, y, far = _free(point, size, taken)
        taken.append((x, y - _LINE / 2, x + size, y + _LINE / 2))
        made.append(
            Point(point.name, point.mark, point.time, point.error, point.x, point.y, round(x, 1), round(y, 1), far)
        )
    return made


def _free(point: Point, size: float, taken: Sequence[Box]) -> tuple[float, float, bool]:
    beside = SIDE / 2 + 5
    for step in range(16):
        for sign in (1, -1) if step else (1,):
            y = point.y + sign * step * _LINE
            for x in (point.x + beside, point.x - beside - size):
                box = (x, y - _LINE / 2, x + size, y + _LINE / 2)
                inside = x > LEFT and x + size < WIDTH and TOP < y < HEIGHT - BOTTOM - 4
                if inside and not any(_overlap(box, other) for other in taken):
                    return x, y, step > 1
    return point.x + beside, point.y, False


def _square(point: Point) -> Box:
    half = SIDE / 2
    return (point.x - half, point.y - half, point.x + half, point.y + half)


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
