"""The judge: arrays in, grades out. Pure; it neither runs implementations nor knows which one it judges.

Each value gets the best grade whose bound holds its error. One whose bound is vacuous at a grade is not judged at that
grade; a non-finite value, a hidden NaN, or one of a sign or size that no rounding explains is inaccurate all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.bounds import Bounds, gradient_bounds, loss_bounds, reduced_gradient_bounds, reduced_loss_bounds
from harness.errors import Errors, measure
from harness.formats import FORMATS, Format
from harness.grades import Grade, Outcome
from harness.output import Output
from harness.reference import Reduced, Reference
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
        `PASSED` (judged; whether the grade suffices is for the caller), `NOT_JUDGED`, `NONFINITE`, `WRONG_SHAPE` or
        `WRONG_DTYPE`.
    grade : Grade or None
        The worst grade over the judged values; None where nothing was judged.
    rows, judged : int
        Rows, and those of which some value was judged.
    max_ulp, max_abs, max_rel, max_bound_ratio : float or None
        Largest error over the judged, finite values: in ulp of the output's format, absolute, relative, and over the
        bound at the gate, `ABSOLUTE`.
    bound_ratios : mapping of str to float
        The same over the bound of each grade, where it is not vacuous.
    nonfinite, negative : int
        Values that are NaN or infinite where the truth is not (hidden NaN counted too); losses below zero.
    witness : mapping or None
        The worst value, non-finite ones first.
    detail : str
        One line on a wrong shape or dtype, or on how many values deviate by ``flush_to_zero``.
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
        The loss, and the gradient where there is one; and which formats are flushed to zero where it was computed.
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
    reduced = None  # takes as long as the truth itself: once for both
    for what in ("loss", "gradient"):
        got = output.loss if what == "loss" else output.gradient
        if got is None:
            continue
        refusal = _refuse(what, got, batch, reduction)
        if refusal is not None:
            found[what] = refusal
            continue
        fmt = FORMATS[got.dtype.name]
        if reduced is None and reduction != "none":
            reduced = reference.reduced(reduction, upstream)
        asked = (what, reference, reduced, batch.format, fmt, reduction, upstream)
        hi, lo, bounds = _truth_and_bounds(*asked)
        impossible = _impossible(what, batch, got, hi, reference, reduction, upstream)
        found[what] = _judge_part(what, batch, got, hi, lo, bounds, fmt, impossible)
        if output.flushed:
            hi, lo, bounds = _truth_and_bounds(*asked, output.flushed)
            found[what] = _excused(found[what], _judge_part(what, batch, got, hi, lo, bounds, fmt, impossible))
    return found


def _excused(strictly: Judgement, flushed: Judgement) -> Judgement:
    """The judgement where subnormal results are flushed to zero, saying how many values owe their grade to that."""
    if strictly.grades is None or flushed.grades is None:
        return flushed
    owing = int((strictly.grades != flushed.grades).sum())
    if not owing:
        return strictly
    return replace(flushed, detail=f"flush_to_zero: {owing} values are as good only where subnormal results are zero")


def _refuse(what: str, got: Array, batch: Batch, reduction: str) -> Judgement | None:
    """The judgement of an output of the wrong form, or None where the form is right."""
    rows = _rows_of(what, batch)
    want = batch.gradient_shape if what == "gradient" else (batch.upstream.shape if reduction == "none" else ())
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
    what: str,
    reference: Reference,
    reduced: Reduced | None,
    fmt: Format,
    output: Format,
    reduction: str,
    upstream: float,
    flushed: frozenset[str] = frozenset(),
) -> tuple[Array, Array, Bounds]:
    if reduced is None:
        if what == "loss":
            return reference.loss_hi, reference.loss_lo, loss_bounds(reference, fmt, output, flushed)
        return reference.grad_hi, reference.grad_lo, gradient_bounds(reference, fmt, output, flushed)
    if what == "loss":
        bounds = reduced_loss_bounds(reference, reduced, reduction, fmt, output, flushed)
        return np.asarray(reduced.loss_hi), np.asarray(reduced.loss_lo), bounds
    bounds = reduced_gradient_bounds(reference, reduced, reduction, upstream, fmt, output, flushed)
    return reduced.grad_hi, reduced.grad_lo, bounds


def _impossible(
    what: str, batch: Batch, got: Array, hi: Array, reference: Reference, reduction: str, upstream: float
) -> Array:
    """Values that no error of the logarithm or the exponentials explains, so that a vacuous bound is no excuse.

    With one target class: a loss below zero, a gradient entry of the wrong sign, or one for which p is outside [0, 1].
    Behind a projection neither is impossible: the target's logit may come of another dot product than the others do,
    and entries of the gradient are sums, of either sign.
    """
    single = batch.target.ndim == 1 and not batch.options.get("label_smoothing") and batch.projection is None
    if not single or not got.size:
        return np.zeros(got.shape, dtype=bool)
    value = got.astype(np.float64)
    if what == "loss":
        return np.asarray((value < 0) & (hi >= 0))
    scale = np.abs(batch.upstream.astype(np.float64))
    if reduction != "none":
        divisor = reference.problem.denominator() if reduction == "mean" else 1
        scale = np.full(scale.shape, abs(upstream) / float(divisor) if divisor else np.inf)
    weight = batch.options.get("weight")
    if weight is not None:
        scale = scale * np.asarray(weight).astype(np.float64)[np.where(reference.problem.counted, batch.target, 0)]
    with np.errstate(invalid="ignore"):
        # Half as much again: products and quotients of the weights may have been rounded to 16 bits.
        return np.asarray((np.sign(value) * np.sign(hi) < 0) | (np.abs(value) > 1.5 * scale[:, None]))


def _judge_part(
    what: str, batch: Batch, got: Array, hi: Array, lo: Array, bounds: Bounds, fmt: Format, impossible: Array
) -> Judgement:
    widest = np.max([np.where(b.vacuous, 0.0, b.value) for b in bounds.values()], axis=0)
    errors = measure(got, hi, lo, fmt, near_overflow=widest)
    value = got.astype(np.float64)
    negative = (value < 0) & (hi >= 0) if what == "loss" else np.zeros(got.shape, bool)
    ranks, ratios = _rank_values(errors, bounds, impossible)
    judged = ranks >= 0
    bad = errors.nonfinite | errors.hidden_nan
    finite = judged & ~bad
    rows = _rows_of(what, batch)
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
        witness=_worst(batch, got, hi, lo, bad | (impossible & judged & np.isnan(gate)), judged, gate),
        grades=ranks,
    )


def _rank_values(errors: Errors, bounds: Bounds, impossible: Array) -> tuple[Array, dict[Grade, Array]]:
    """The grade's rank of each value (-1: not judged), and its error over each bound (NaN where vacuous).

    A value that misses a bound and whose next bound is vacuous gets the grade of the latter, where nothing can be said
    against it: it is not unjudged, since it was judged, and failed, at the better grade.
    """
    ranks = np.full(errors.ulp.shape, -1, dtype=np.int8)
    held = np.zeros(errors.ulp.shape, dtype=bool)
    missed = np.zeros(errors.ulp.shape, dtype=bool)
    ratios = {}
    for grade, bound in bounds.items():
        with np.errstate(all="ignore"):
            ratio = np.where(errors.absolute == 0, 0.0, errors.absolute / bound.value)
            holds = ~bound.vacuous & (errors.absolute <= bound.value)
        ratios[grade] = np.where(bound.vacuous, np.nan, ratio)
        misses = ~bound.vacuous & ~holds
        ranks = np.where(~held & (holds | (bound.vacuous & missed & (ranks < 0))), grade.rank, ranks)
        ranks = np.where(~held & misses, -1, ranks)
        held |= holds
        missed |= misses
    worst = Grade.INACCURATE.rank
    ranks = np.where(~held & ((missed & (ranks < 0)) | impossible), worst, ranks)
    ranks = np.where(errors.ulp <= 1, Grade.FAITHFUL.rank, ranks)
    return np.where(errors.nonfinite | errors.hidden_nan, worst, ranks).astype(np.int8), ratios


def _rows_of(what: str, batch: Batch) -> int:
    """Rows of the loss, or of the gradient, which has those of a projection too."""
    return len(batch.logits) if what == "loss" else batch.gradient_shape[0]


def _rows_with(judged: Array, rows: int) -> int:
    if judged.ndim == 0:
        return rows if bool(judged) else 0
    return int(judged.reshape(rows, -1).any(axis=1).sum())


def _largest(values: Array, where: Array) -> float | None:
    chosen = values[where & ~np.isnan(values)]
    return float(chosen.max()) if chosen.size else None


def _worst(
    batch: Batch, got: Array, hi: Array, lo: Array, bad: Array, judged: Array, ratio: Array
) -> dict[str, Any] | None:
    if got.ndim == 0:
        return None
    flat = int(np.argmax(np.where(bad, np.inf, np.where(judged, np.nan_to_num(ratio, nan=-1.0), -2.0))))
    index = np.unravel_index(flat, got.shape)
    row, column = int(index[0]), int(index[1]) if got.ndim == 2 else None
    return witness(batch, row, column, float(got[index]), float(hi[index]), float(lo[index]))
