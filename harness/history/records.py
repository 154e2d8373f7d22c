"""What a night holds: a *cell* of accuracy, a *series* of speed, and their compact form, columns and rows.

An object per cell with its keys would make a year of nights ten times as large: rows share one line of column names.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.grades import Grade, Outcome
from harness.run import Result, Timing

__all__ = ["Cell", "CellKey", "Series", "SeriesKey"]

ACCURACY_COLUMNS = (
    "implementation", "framework", "loss", "dtype", "device", "backend", "what", "claimed",
    "families", "grades", "ulp", "rows", "judged", "outcomes", "nonfinite", "true_class",
)  # fmt: skip
SPEED_COLUMNS = (
    "loss", "dtype", "device", "mode", "what", "n", "v", "baseline",
    "implementations", "frameworks", "ratio", "seconds",
)  # fmt: skip

_UNMEASURED = {Outcome.SKIPPED, Outcome.UNAVAILABLE}
_LETTERS: dict[str | None, str] = {None: "-", **{str(grade): str(grade)[0] for grade in Grade}}
_GRADES = {letter: grade for grade, letter in _LETTERS.items()}


@dataclass(frozen=True, order=True)
class CellKey:
    """Which figures of accuracy belong together over the nights."""

    implementation: str
    framework: str
    loss: str
    dtype: str
    device: str
    backend: str
    what: str
    family: str


@dataclass(frozen=True)
class Cell:
    """The accuracy of one implementation in one dtype on one family, loss or gradient.

    Parameters
    ----------
    claimed, grade : str or None
        The declared grade, and the one that was reached.
    outcome : str
        An `Outcome`.
    ulp : float or None
        The largest error in ulp of the output's format; None where nothing was measured.
    rows, judged : int
        Rows in the batch, and those whose bound means something.
    nonfinite : int
        Results that are NaN or infinite where the truth is not.
    true_class : bool
        Whether the worst error of a gradient is that of the row's target class.
    """

    claimed: str | None
    grade: str | None
    outcome: str
    ulp: float | None
    rows: int
    judged: int
    nonfinite: int
    true_class: bool


@dataclass(frozen=True, order=True)
class SeriesKey:
    """Which times belong together over the nights: a series.

    `mode` is how the implementation was run (``"eager"``, ``"compiled"``; ``""`` where there is one way); the shape is
    (`n`, `v`); `baseline` is what its ratio is relative to.
    """

    implementation: str
    framework: str
    loss: str
    dtype: str
    device: str
    mode: str
    what: str
    n: int
    v: int
    baseline: str

    @property
    def table(self) -> tuple[object, ...]:
        """What the series shares with those that were measured in the same rounds."""
        return (self.loss, self.dtype, self.device, self.mode, self.what, self.n, self.v, self.baseline)

    @property
    def told(self) -> str:
        """The series in words, for a reader."""
        where = ", ".join(word for word in (self.mode, self.device) if word not in ("", "eager", "cpu"))
        return f"{self.implementation} {self.dtype} {self.what} {self.n} × {self.v}" + (f" ({where})" if where else "")


@dataclass(frozen=True)
class Series:
    """The times of one night in one series.

    Parameters
    ----------
    ratio : float or None
        The median over rounds of the time over the baseline's time of the same round.
    seconds : float
        The median time. The single rounds are in the run file.
    """

    ratio: float | None
    seconds: float


# ------------------------------------------------------------------------------------------------------------ accuracy


def pack_accuracy(results: Iterable[Result]) -> dict[str, Any]:
    """Results as columns and rows; those that measured nothing (skipped, unavailable) are left out."""
    groups: dict[tuple[Any, ...], list[Result]] = {}
    families: dict[str, int] = {}
    for r in results:
        if r.outcome in _UNMEASURED:
            continue
        families.setdefault(r.family, len(families))
        key = (r.implementation, r.framework, r.loss, r.dtype, r.device, r.backend, r.what, r.claimed)
        groups.setdefault(key, []).append(r)
    rows = [
        [
            *key,
            [families[r.family] for r in group],
            "".join(_LETTERS[r.grade] for r in group),
            [_short(r.max_ulp) for r in group],
            [r.rows for r in group],
            [r.judged for r in group],
            {r.family: r.outcome for r in group if r.outcome != Outcome.PASSED},
            {r.family: r.nonfinite for r in group if r.nonfinite},
            [families[r.family] for r in group if _at_true_class(r)],
        ]
        for key, group in groups.items()
    ]
    return {"families": list(families), "columns": list(ACCURACY_COLUMNS), "rows": rows}


def unpack_accuracy(data: Mapping[str, Any]) -> dict[CellKey, Cell]:
    """The inverse of `pack_accuracy`."""
    names: list[str] = data["families"]
    cells: dict[CellKey, Cell] = {}
    for row in data["rows"]:
        subject, claimed = row[:7], row[7]
        families, grades, ulps, rows, judged, outcomes, nonfinite, true_class = row[8:]
        at_target = set(true_class)
        for i, grade, ulp, n, m in zip(families, grades, ulps, rows, judged, strict=True):
            family = names[i]
            cells[CellKey(*(*subject, family))] = Cell(
                claimed=claimed,
                grade=_GRADES[grade],
                outcome=outcomes.get(family, str(Outcome.PASSED)),
                ulp=None if ulp is None else float(ulp),
                rows=n,
                judged=m,
                nonfinite=nonfinite.get(family, 0),
                true_class=i in at_target,
            )
    return cells


def _at_true_class(result: Result) -> bool:
    w = result.witness
    return result.what == "gradient" and w is not None and w.get("column") is not None and w["column"] == w["target"]


def _short(value: float | None) -> float | None:
    """Six digits: more than any comparison looks at, and half the size."""
    return value if value is None or not math.isfinite(value) else float(f"{value:.6g}")


# --------------------------------------------------------------------------------------------------------------- speed


def pack_speed(timings: Iterable[Timing]) -> dict[str, Any]:
    """Timings as columns and rows, a row for those measured together; what has no figure is left out."""
    groups: dict[tuple[Any, ...], list[Timing]] = {}
    for t in timings:
        if t.seconds:
            groups.setdefault(series_key(t).table, []).append(t)
    rows = [
        [
            *table,
            [t.implementation for t in group],
            [t.framework for t in group],
            [_short(t.ratio) for t in group],
            [_short(statistics.median(t.seconds)) for t in group],
        ]
        for table, group in groups.items()
    ]
    return {"columns": list(SPEED_COLUMNS), "rows": rows}


def unpack_speed(data: Mapping[str, Any]) -> dict[SeriesKey, Series]:
    """The inverse of `pack_speed`."""
    series = {}
    for row in data["rows"]:
        loss, dtype, device, mode, what, n, v, baseline = row[:8]
        for name, framework, ratio, seconds in zip(*row[8:], strict=True):
            key = SeriesKey(name, framework, loss, dtype, device, mode, what, n, v, baseline)
            series[key] = Series(None if ratio is None else float(ratio), float(seconds))
    return series


def series_key(timing: Timing) -> SeriesKey:
    """The series that a timing belongs to."""
    t = timing
    n, v = t.shape
    return SeriesKey(t.implementation, t.framework, t.loss, t.dtype, t.device, t.mode, t.what, n, v, t.baseline)


def check_table(data: Any, columns: Sequence[str]) -> None:
    """Refuse what is no table of these columns.

    Raises
    ------
    ValueError
        With the reason.
    """
    if not isinstance(data, dict) or data.get("columns") != list(columns) or not isinstance(data.get("rows"), list):
        raise ValueError(f"no table with the columns {', '.join(columns[:3])}, …")
    width = len(columns)
    for row in data["rows"]:
        if not isinstance(row, list) or len(row) != width:
            raise ValueError(f"a row that has not {width} entries: {row!r:.60}")
