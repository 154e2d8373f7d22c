"""Bounds for a whole output: per grade, unreduced or reduced, from the declarations of the losses.

The row bounds are each loss's; what a reduction adds is here (docs/theory.md, section 7).
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np

from harness.arithmetic import Arithmetic, Bound, applicable_grades
from harness.formats import Format
from harness.grades import Grade
from harness.reference import Reduced, Reference

__all__ = ["gradient_bounds", "loss_bounds", "reduced_gradient_bounds", "reduced_loss_bounds"]

Bounds = dict[Grade, Bound]


NONE: frozenset[str] = frozenset()


def loss_bounds(reference: Reference, fmt: Format, output: Format, flushed: frozenset[str] = NONE) -> Bounds:
    """Bounds of each unreduced loss: `fmt` is the input's format, `output` that of the result.

    `flushed` names the formats whose subnormal results are flushed to zero there, here as below.
    """
    return {
        grade: reference.problem.loss_bound(Arithmetic.at(grade, fmt, flushed), output, reference.loss_hi)
        for grade in applicable_grades(fmt)
    }


def gradient_bounds(reference: Reference, fmt: Format, output: Format, flushed: frozenset[str] = NONE) -> Bounds:
    """Bounds of each gradient entry [N, V], the upstream gradient included."""
    return {
        grade: reference.problem.gradient_bound(
            Arithmetic.at(grade, fmt, flushed), output, reference.grad_hi, reference.problem.upstream
        )
        for grade in applicable_grades(fmt)
    }


def reduced_loss_bounds(
    reference: Reference,
    reduced: Reduced,
    reduction: str,
    fmt: Format,
    output: Format,
    flushed: frozenset[str] = NONE,
) -> Bounds:
    """(Σ b_i)/W + c·u·(N+1)·Σ abs(l_i)/W + 2 u_o abs(result) and its own floor, with W = 1 for a sum."""
    weight = _denominator(reference, reduction)
    losses = np.abs(reference.loss_hi)
    bounds = {}
    for grade, rows in loss_bounds(reference, fmt, output, flushed).items():
        arithmetic = Arithmetic.at(grade, fmt, flushed)
        with np.errstate(over="ignore"):  # a sum beyond float64's range is a bound that says nothing
            total = rows.value.sum() + arithmetic.cu * (losses.size + 1) * losses.sum()
        last = 2 * output.unit_roundoff * abs(reduced.loss_hi) + arithmetic.floor(np.zeros(()), output)
        value = total / weight + last
        bounds[grade] = Bound(np.asarray(value), np.asarray(bool(rows.vacuous.any()) or not np.isfinite(value)))
    return bounds


def reduced_gradient_bounds(
    reference: Reference,
    reduced: Reduced,
    reduction: str,
    upstream: float,
    fmt: Format,
    output: Format,
    flushed: frozenset[str] = NONE,
) -> Bounds:
    """The row bounds at the scale upstream/W, and c·u·(N+1)·abs(g_j) for the rounding of W itself.

    Their floors are multiplied by the upstream gradient itself where that is larger: it comes after the division by W.
    """
    scale = np.full(reference.problem.upstream.shape, upstream / _denominator(reference, reduction))
    bounds = {}
    for grade in applicable_grades(fmt):
        arithmetic = replace(Arithmetic.at(grade, fmt, flushed), factor=abs(upstream))
        rows = reference.problem.gradient_bound(arithmetic, output, reduced.grad_hi, scale)
        weighing = arithmetic.cu * (scale.size + 1) * np.abs(reduced.grad_hi) if reduction == "mean" else 0.0
        bounds[grade] = Bound(rows.value + weighing, rows.vacuous)
    return bounds


def _denominator(reference: Reference, reduction: str) -> float:
    divisor = reference.problem.denominator() if reduction == "mean" else Fraction(1)
    return float(divisor) if divisor else float("nan")
