"""Bounds of `linear_cross_entropy`: those of the softmax, at logits that are themselves off, through two more products.

A logit is a sum of D products, so that a correct implementation computes it to within δ; that shifts probabilities by a
factor of at most exp(±κ), and their errors are added up with the sizes of what they are multiplied by. Every formula is
derived in docs/theory.md, section 12.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from harness.arithmetic import VACUOUS, Arithmetic, Bound
from harness.formats import FLOAT32, FORMATS, Format
from harness.grades import Grade
from harness.losses.cross_entropy import CrossEntropyProblem

__all__ = ["LinearBounds"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class LinearBounds:
    """What the bounds are made of: hidden states [N, D], projection [V, D], bias [V], and the softmax of the logits."""

    hidden: Array
    projection: Array
    bias: Array
    softmax: CrossEntropyProblem

    def loss(self, arithmetic: Arithmetic, output: Format, loss: Array) -> Bound:
        """Bound for each row's loss [N]: the softmax's, and what the logits' errors shift it by."""
        rows = self.softmax._rows
        with np.errstate(all="ignore"):
            off = self._logit_errors(arithmetic)
            growth, kappa = self._shifts(off)
            shift = rows.total * growth + np.where(rows.t > 0, rows.t * off, 0.0).sum(axis=1)
            if self._one_target.any():
                away = np.where(rows.p > 0, rows.p * np.exp(kappa) * (off + self._at_target(off)), 0.0)
                near = rows.total * (away * self._others).sum(axis=1)
                shift = np.where(self._one_target, np.fmin(shift, near), shift)
            value = self.softmax.loss_bound(arithmetic, output, loss).value + shift
            relative = value / np.where(rows.total > 0, rows.total, 1)
            vacuous = (np.expm1(relative) > VACUOUS) & (value > VACUOUS * loss)
        return Bound(value, vacuous | ~np.isfinite(value))

    def gradient(self, arithmetic: Arithmetic, output: Format, gradient: Array, scale: Array) -> Bound:
        """Bound for each gradient entry [N + V, D]: hidden states, then projection."""
        n, v = self.softmax.logits.shape
        rows, size = self.softmax._rows, np.abs(scale)[:, None]
        with np.errstate(all="ignore"):
            g = self._slopes * size
            off = self._slope_errors(arithmetic, scale)
            plausible = (rows.total[:, None] * rows.p + rows.t) * size
            mass = rows.total[:, None] * size
            parts = [
                self._product(arithmetic, off, g, self._absolute_projection, v),
                self._product(arithmetic, off.T, g.T, self._absolute_hidden, n),
            ]
            first = np.concatenate(parts)
            largest = np.concatenate([plausible @ self._absolute_projection, plausible.T @ self._absolute_hidden])
            reach = np.concatenate(
                [
                    mass * self._absolute_projection.max(axis=0),
                    np.broadcast_to((mass * self._absolute_hidden).sum(axis=0), (v, gradient.shape[1])),
                ]
            )
            underflow = np.concatenate(
                [
                    np.broadcast_to(arithmetic.floor(np.full((n, 1), float(v)), output, size), (n, gradient.shape[1])),
                    np.full((v, gradient.shape[1]), arithmetic.floor(np.array(float(n)), output, size.max(initial=0))),
                ]
            )
            value = first + arithmetic.constant * output.unit_roundoff * np.abs(gradient) + underflow
            vacuous = (first > VACUOUS * largest) & (first > arithmetic.cu * reach)
        return Bound(value, vacuous | ~np.isfinite(value))

    def _product(self, arithmetic: Arithmetic, off: Array, g: Array, factor: Array, terms: int) -> Array:
        """The error of g times a matrix: that of g, and of the sum of so many products."""
        carried: Array = off @ factor
        return carried + _gamma(arithmetic, terms) * (g @ factor + carried)

    def _logit_errors(self, arithmetic: Arithmetic) -> Array:
        """δ [N, V]: γ_{D+1} (|h| |W|ᵀ + |b|), and at `STORAGE` the rounding of the logit to 16 bits."""
        terms = self.hidden.shape[1] + 1
        off = _gamma(arithmetic, terms) * (self._absolute_hidden @ self._absolute_projection.T + np.abs(self.bias))
        if arithmetic.grade is Grade.STORAGE:
            off = off + arithmetic.cu * np.abs(np.where(self.softmax.ignored[:, None], 0.0, self.softmax.logits))
        underflow = terms * arithmetic.subnormal * arithmetic.lost
        return np.where(self.softmax.ignored[:, None], 0.0, off + underflow)

    def _shifts(self, off: Array) -> tuple[Array, Array]:
        """λ [N], by which ℓ is off at most, and κ = δ + λ [N, V]."""
        p = self.softmax._rows.p
        growth: Array = np.log1p(np.where(p > 0, p * np.expm1(off), 0.0).sum(axis=1))
        return growth, off + growth[:, None]

    def _slope_errors(self, arithmetic: Arithmetic, scale: Array) -> Array:
        """β [N, V]: the softmax's bound for the gradient with respect to the logits, and their shift's, scaled."""
        rows = self.softmax._rows
        _, kappa = self._shifts(self._logit_errors(arithmetic))
        moved = np.where(rows.p > 0, rows.total[:, None] * rows.p * np.expm1(kappa), 0.0)
        if self._one_target.any():
            others = (moved * self._others).sum(axis=1, keepdims=True)
            at_target = self._one_target[:, None] & (rows.t > 0)
            moved = np.where(at_target, np.fmin(moved, others), moved)
        # Within the computation the gradient of the logits is a number like others: of the 16-bit format at `STORAGE`.
        inner = next(form for form in FORMATS.values() if form.unit_roundoff == arithmetic.unit_roundoff)
        own = self.softmax.gradient_bound(arithmetic, inner, self._slopes * np.abs(scale)[:, None], scale).value
        errors: Array = own + moved * np.abs(scale)[:, None]
        return errors

    @cached_property
    def _absolute_hidden(self) -> Array:
        """|h|, zero in ignored rows, whatever they hold."""
        return np.where(self.softmax.ignored[:, None], 0.0, np.abs(self.hidden))

    @cached_property
    def _absolute_projection(self) -> Array:
        return np.asarray(np.abs(self.projection))

    @cached_property
    def _one_target(self) -> Array:
        return np.asarray(self.softmax._rows.n_t == 1)

    @cached_property
    def _others(self) -> Array:
        """Which classes have no target mass [N, V]."""
        return np.asarray(self.softmax._rows.t == 0)

    def _at_target(self, values: Array) -> Array:
        """Of values [N, V] that of the class with the largest target mass, [N, 1]."""
        column = self.softmax._rows.t.argmax(axis=1)[:, None]
        return np.take_along_axis(values, column, axis=1)

    @cached_property
    def _slopes(self) -> Array:
        """|g| [N, V], not scaled; where there is one target class its entry is the sum of the others'."""
        rows = self.softmax._rows
        shares = rows.total[:, None] * rows.p
        slopes: Array = np.abs(shares - rows.t)
        rest = (shares * self._others).sum(axis=1, keepdims=True)
        return np.where(self._one_target[:, None] & (rows.t > 0), rest, slopes)


def _gamma(arithmetic: Arithmetic, terms: int) -> float:
    """γ_n = n u / (1 - n u) of a sum of n products in any order (ASNA, eq. 3.5), at least in float32 at every grade."""
    nu = terms * min(arithmetic.unit_roundoff, FLOAT32.unit_roundoff)
    return nu / (1 - nu) if nu < 1 else float("inf")
