"""The judge: arrays in, grades out. Pure; it neither runs implementations nor knows which one it judges.

Each value gets the best grade whose bound holds its error. One whose bound is vacuous at a grade is not judged at that
grade; a non-finite value, a hidden NaN, or a loss below zero that the truth does not allow is inaccurate all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.bounds import Bounds, gradient_bounds, loss_bounds, reduced_gradient_bounds, reduced_loss_bounds
from harness.errors import Errors, measure
from harness.formats import FORMATS, Format
from harness.grades import Grade, Outcome
from harness.output import Output
from harness.reference import Reference
from harness.witness import witness

__all__ = ["Judgement", "judge"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Judgement:
    """What the judge says of a loss or of a gradient.

    Parameters
    ----------
    what : str
        ``"loss"`` or ``"gradient"``.
    outcome : Outcome
        `PASSED` (judged; whether the grade suffices is for the caller), `NOT_JUDGED`, `NONFINITE`, `WRONG_SHAPE`, `WRONG_DTYPE`.
    grade : Grade or None
        The worst grade over the judged values; None where nothing was judged.
    rows, judged : int
        Rows, and those of which some value was judged.
    max_ulp, max_abs, max_rel, max_bound_ratio : float or None
        Largest error over the judged, finite values: in ulp of the output's format, absolute, relative, and over the bound
        at the gate, `ABSOLUTE`.
    bound_ratios : mapping of str to float
        The same over the bound of each grade, where it is not vacuous.
    nonfinite, negative : int
        Values that are NaN or infinite where the truth is not (hidden NaN counted too); losses below zero.
    witness : mapping or None
        The worst value, non-finite ones first.
    detail : str
        One line on a wrong shape or dtype.
    grades : int8 array or None
        The rank of each value's grade (`Grade.rank`), -1 where it is not judged.
    """

    what: str
    outcome: Outcome
    grade: Grade | None
    rows: int
    judged: int = 0
    max_ulp: float | None = None
    max_abs: float | None = None
    max_rel: float | None = None
    max_bound_ratio: float | None = None
    bound_ratios: Mapping[str, float] = field(default_factory=dict)
    nonfinite: int = 0
    negative: int = 0
    witness: Mapping[str, Any] | None = None
    detail: str = ""
    grades: Array | None = None


def judge(
    batch: Batch, reference: Reference, output: Output, *, reduction: str = "none", upstream: float = 1.0
) -> dict[str, Judgement]:
    """Judge what one call gave back.

    Parameters
    ----------
    batch : Batch
        The inputs.
    reference : Reference
        Their truth.
    output : Output
        The loss, and the gradient where there is one.
    reduction : str
        ``"none"``, or the reduction that the output has undergone (``"mean"``, ``"sum"``).
    upstream : float
        The scalar upstream gradient of a reduced output.

    Returns
    -------
    dict of str to Judgement
        ``"loss"``, and ``"gradient"`` where the output has one.
    """
    found = {}
    for what in ("loss", "gradient"):
        got = output.loss if what == "loss" else output.gradient
        if got is None:
            continue
        refusal = _refuse(what, got, batch, reduction)
        if refusal is not None:
            found[what] = refusal
            continue
        fmt = FORMATS[got.dtype.name]
        hi, lo, bounds = _truth_and_bounds(what, reference, batch.format, fmt, reduction, upstream)
        found[what] = _judge_part(what, batch, got, hi, lo, bounds, fmt)
    return found


def _refuse(what: str, got: Array, batch: Batch, reduction: str) -> Judgement | None:
    """The judgement of an output of the wrong form, or None where the form is right."""
    rows = len(batch.logits)
    want = batch.logits.shape if what == "gradient" else (batch.upstream.shape if reduction == "none" else ())
    if got.shape != want:
        detail = f"expected shape {list(want)}, got {list(got.shape)}"
        return Judgement(what, Outcome.WRONG_SHAPE, Grade.INACCURATE, rows, detail=detail)
    fmt = FORMATS.get(got.dtype.name)
    needed = batch.format
    if fmt is None or fmt.bits < needed.bits or (fmt.bits == needed.bits and fmt != needed):
        detail = f"expected {needed.name} or wider, got {got.dtype.name}"
        return Judgement(what, Outcome.WRONG_DTYPE, Grade.INACCURATE, rows, detail=detail)
    return None


def _truth_and_bounds(
    what: str, reference: Reference, fmt: Format, output: Format, reduction: str, upstream: float
) -> tuple[Array, Array, Bounds]:
    if reduction == "none":
        if what == "loss":
            return reference.loss_hi, reference.loss_lo, loss_bounds(reference, fmt, output)
        return reference.grad_hi, reference.grad_lo, gradient_bounds(reference, fmt, output)
    reduced = reference.reduced(reduction, upstream)
    if what == "loss":
        bounds = reduced_loss_bounds(reference, reduced, reduction, fmt, output)
        return np.asarray(reduced.loss_hi), np.asarray(reduced.loss_lo), bounds
    bounds = reduced_gradient_bounds(reference, reduced, reduction, upstream, fmt, output)
    return reduced.grad_hi, reduced.grad_lo, bounds


def _judge_part(what: str, batch: Batch, got: Array, hi: Array, lo: Array, bounds: Bounds, fmt: Format) -> Judgement:
    widest = np.max([np.where(b.vacuous, 0.0, b.value) for b in bounds.values()], axis=0)
    errors = measure(got, hi, lo, fmt, near_overflow=widest)
    value = got.astype(np.float64)
    negative = (value < 0) & (hi >= 0) if what == "loss" else np.zeros(got.shape, bool)
    ranks, ratios = _rank_values(errors, hi, bounds, negative & (batch.target.ndim == 1))
    judged = ranks >= 0
    bad = errors.nonfinite | errors.hidden_nan
    finite = judged & ~bad
    rows = len(batch.logits)
    if not judged.any():
        return Judgement(what, Outcome.NOT_JUDGED, None, rows, grades=ranks, negative=int(negative.sum()))
    gate = ratios[Grade.ABSOLUTE]
    return Judgement(
        what,
        Outcome.NONFINITE if bad.any() else Outcome.PASSED,
        list(Grade)[int(ranks.max())],
        rows,
        judged=_rows_with(judged, rows),
        max_ulp=_largest(errors.ulp, finite),
        max_abs=_largest(errors.absolute, finite),
        max_rel=_largest(errors.relative, finite & (hi != 0)),
        max_bound_ratio=_largest(gate, finite),
        bound_ratios={str(grade): r for grade, a in ratios.items() if (r := _largest(a, finite)) is not None},
        nonfinite=int(bad.sum()),
        negative=int(negative.sum()),
        witness=_worst(batch, got, hi, lo, bad, np.where(judged, np.nan_to_num(gate, nan=-1.0), -2.0)),
        grades=ranks,
    )


def _rank_values(errors: Errors, hi: Array, bounds: Bounds, impossible: Array) -> tuple[Array, dict[Grade, Array]]:
    """The grade's rank of each value (-1: not judged), and its error over each bound (NaN where vacuous)."""
    worst = Grade.INACCURATE.rank
    ranks = np.full(hi.shape, worst, dtype=np.int8)
    unjudged = np.zeros(hi.shape, dtype=bool)
    ratios = {}
    for grade, bound in reversed(list(bounds.items())):
        with np.errstate(all="ignore"):
            ratio = np.where(errors.absolute == 0, 0.0, errors.absolute / bound.value)
        ratios[grade] = np.where(bound.vacuous, np.nan, ratio)
        ranks = np.where(~bound.vacuous & (errors.absolute <= bound.value), grade.rank, ranks).astype(np.int8)
        unjudged |= bound.vacuous
    ranks = np.where(errors.ulp <= 1, Grade.FAITHFUL.rank, ranks)
    failed = errors.nonfinite | errors.hidden_nan
    ranks = np.where((ranks == worst) & unjudged & ~failed & ~impossible, -1, ranks)
    return np.where(failed, worst, ranks).astype(np.int8), dict(reversed(ratios.items()))


def _rows_with(judged: Array, rows: int) -> int:
    if judged.ndim == 0:
        return rows if bool(judged) else 0
    return int(judged.reshape(rows, -1).any(axis=1).sum())


def _largest(values: Array, where: Array) -> float | None:
    chosen = values[where & ~np.isnan(values)]
    return float(chosen.max()) if chosen.size else None


def _worst(batch: Batch, got: Array, hi: Array, lo: Array, bad: Array, ratio: Array) -> dict[str, Any] | None:
    if got.ndim == 0:
        return None
    flat = int(np.argmax(np.where(bad, np.inf, ratio)))
    index = np.unravel_index(flat, got.shape)
    row, column = int(index[0]), int(index[1]) if got.ndim == 2 else None
    return witness(batch, row, column, float(got[index]), float(hi[index]), float(lo[index]))
