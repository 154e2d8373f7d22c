"""Scores: how bad each row of an output is, by one metric. What the search for the worst input climbs on.

Errors and bounds are those of the judge; a value that no bound says anything about counts for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from harness.bounds import gradient_bounds, loss_bounds
from harness.declaration import Declaration
from harness.errors import measure
from harness.formats import FORMATS, Format
from harness.grades import Grade
from harness.output import Output
from harness.reference import Reference

__all__ = ["Metric", "Scores", "bound_of", "score"]

Array = np.ndarray[Any, Any]


class Metric(StrEnum):
    """What is to be as large as possible."""

    ULP = "ulp"
    BOUND_RATIO = "bound_ratio"
    ABSOLUTE = "absolute"
    MIXED = "mixed"
    NEGATIVITY = "negativity"

    @property
    def meaning(self) -> str:
        """What it measures, with its unit."""
        return _MEANINGS[self]


_MEANINGS = {
    Metric.ULP: "error in units in the last place of the output's format",
    Metric.BOUND_RATIO: "error over the derived bound of the claimed grade",
    Metric.ABSOLUTE: "absolute error (nats)",
    Metric.MIXED: "error over 1 + abs(truth), as a test with allclose has it",
    Metric.NEGATIVITY: "how far the value is on the wrong side of zero (nats)",
}


@dataclass(frozen=True, eq=False)
class Scores:
    """The worst value of each row, all arrays [N].

    Parameters
    ----------
    score : float64 array
        By the metric; infinite where a value is not finite and should be, ``-inf`` where no value counts.
    column : int64 array
        Which value of the row it is; 0 for a loss per row.
    got, hi, lo : float64 array
        What came out, and the truth.
    ulp, ratio : float64 array
        Its error in ulp and over the bound (NaN where that is vacuous).
    """

    score: Array
    column: Array
    got: Array
    hi: Array
    lo: Array
    ulp: Array
    ratio: Array


def bound_of(declaration: Declaration, dtype: str) -> Grade:
    """The grade whose bound a bound ratio is about: the claimed one, or the nearest that has a bound of its own."""
    claimed = declaration.grades.get(dtype, Grade.ABSOLUTE)
    return {Grade.FAITHFUL: Grade.RELATIVE, Grade.INACCURATE: Grade.ABSOLUTE}.get(claimed, claimed)


def score(
    metric: Metric, what: str, reference: Reference, output: Output, fmt: Format, grade: Grade = Grade.ABSOLUTE
) -> Scores:
    """Score an unreduced output.

    Parameters
    ----------
    metric : Metric
        By what.
    what : str
        ``"loss"`` or ``"gradient"``: which of the output's arrays, [N], [N, K] or [N, V].
    reference : Reference
        The truth.
    output : Output
        What came back, of the right shape and dtype.
    fmt : Format
        The input's format.
    grade : Grade
        Whose bound `Metric.BOUND_RATIO` is about.
    """
    got = output.loss if what == "loss" else output.gradient
    assert got is not None
    of_loss = what == "loss"
    hi, lo = (reference.loss_hi, reference.loss_lo) if of_loss else (reference.grad_hi, reference.grad_lo)
    bounds = (loss_bounds if of_loss else gradient_bounds)(reference, fmt, FORMATS[got.dtype.name], output.flushed)
    widest = np.max([np.where(b.vacuous, 0.0, b.value) for b in bounds.values()], axis=0)
    errors = measure(got, hi, lo, FORMATS[got.dtype.name], near_overflow=widest)
    value, bound = got.astype(np.float64), bounds[grade]
    with np.errstate(all="ignore"):
        ratio = np.where(errors.absolute == 0, 0.0, errors.absolute / bound.value)
    ratio = np.where(bound.vacuous, np.nan, ratio)
    judged = ~np.all([b.vacuous for b in bounds.values()], axis=0)
    if metric is Metric.NEGATIVITY:
        # A value on the wrong side of zero is wrong even where no bound says anything of its size.
        found = np.where(hi == 0, -np.inf if not of_loss else -value, -value * np.where(hi < 0, -1.0, 1.0))
    else:
        with np.errstate(invalid="ignore"):
            mixed = errors.absolute / (1 + np.abs(np.where(np.isfinite(hi), hi, 0.0)))
        by_metric = {
            Metric.ULP: errors.ulp,
            Metric.BOUND_RATIO: ratio,
            Metric.ABSOLUTE: errors.absolute,
            Metric.MIXED: mixed,
        }
        found = np.where(judged & ~np.isnan(by_metric[metric]), by_metric[metric], -np.inf)
    found = np.where(errors.nonfinite | errors.hidden_nan, np.inf, np.where(np.isnan(found), -np.inf, found))
    return _worst_of_rows(found, value, hi, lo, errors.ulp, ratio)


def _worst_of_rows(found: Array, *others: Array) -> Scores:
    rows = len(found)
    flat = found.reshape(rows, -1)
    column = flat.argmax(axis=1) if flat.size else np.zeros(rows, dtype=np.int64)
    index = np.arange(rows)
    score, got, hi, lo, ulp, ratio = (a.reshape(rows, -1)[index, column] for a in (found, *others))
    return Scores(score, column, got, hi, lo, ulp, ratio)
