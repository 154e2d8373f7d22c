"""The *reference*: certified truth for a batch, as double-double pairs.

`truth` is the public entry. Each value's error is at most 2^-90 relative or 2^-1074 absolute, whichever is larger; the
proof is in docs/theory.md, and the code that it is about in `harness.certified` and in each loss's ``solve``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from harness import cache
from harness import certified as real
from harness.batch import Batch
from harness.certified import Exact
from harness.fast.settle import settle
from harness.fast.solved import Solved
from harness.losses import Problem, loss_named
from harness.losses.base import as_array, as_exact_real

__all__ = ["Reduced", "Reference", "reference_of", "truth"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Reduced:
    """A reduced loss and its gradient.

    Parameters
    ----------
    loss_hi, loss_lo : float
        The reduced loss in nats; the sum of the two is the value.
    grad_hi, grad_lo : float64 array [N, V]
        Its gradient with respect to the logits, times the upstream gradient.
    """

    loss_hi: float
    loss_lo: float
    grad_hi: Array
    grad_lo: Array


@dataclass(frozen=True, eq=False)
class Reference:
    """The certified truth for a batch: unevaluated sums hi + lo of float64 pairs.

    Parameters
    ----------
    loss_hi, loss_lo : float64 array [N] or [N, K]
        The loss of each row (each element, for an element-wise loss) in nats. Beyond float64's range hi is inf, lo 0.
    grad_hi, grad_lo : float64 array [N, V]
        The gradient of each row's own loss with respect to its logits, times the upstream gradient; for
        ``linear_cross_entropy`` that of their sum, [N + V, D]: the hidden states' rows, then the projection's.
    problem : Problem
        The batch that this is the truth of.
    loss : str
        Name of the loss; without it reductions are left to mpmath.
    """

    loss_hi: Array
    loss_lo: Array
    grad_hi: Array
    grad_lo: Array
    problem: Problem
    loss: str = ""

    def reduced(self, reduction: str, upstream: float = 1.0) -> Reduced:
        """The loss reduced by ``"mean"`` or ``"sum"``, and its gradient times a scalar upstream gradient.

        A mean over nothing (every row ignored, weights that sum to zero, an empty batch) is NaN, with gradient 0 in
        ignored rows and NaN in others, as ``torch.nn.functional.cross_entropy`` has it.

        Raises
        ------
        ValueError, TypeError
            For another reduction, or an upstream that is not one finite number.
        """
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction: {reduction!r} is neither 'mean' nor 'sum'")
        exact_upstream = Fraction(as_exact_real("upstream", upstream))
        divisor = self.problem.denominator() if reduction == "mean" else Fraction(1)
        if divisor == 0:
            undefined = np.where(self.problem.gradient_counted[:, None], np.nan, np.zeros_like(self.grad_hi))
            return Reduced(float("nan"), 0.0, undefined, np.zeros_like(self.grad_lo))
        scale = exact_upstream / divisor
        hi, lo = real.split(self._total(divisor))
        solved = _settled(self.loss, self.problem, scale)
        return Reduced(hi, lo, solved.grad_hi, solved.grad_lo)

    def _total(self, divisor: Fraction) -> Exact:
        """The sum of the losses over a divisor: relative error 2^-90, or what rounding to a pair loses."""
        largest = float(self.loss_hi.max(initial=0.0))
        # Each loss may be off by 2^-1074 besides its 2^-91, which does not count only where the sum is far above that.
        if self.loss_hi.size * 2.0**-980 <= largest <= 2.0**1000 / max(self.loss_hi.size, 1):
            pairs = [*self.loss_hi.ravel().tolist(), *self.loss_lo.ravel().tolist()]
            total = math.fsum(pairs)
            return _ratio(real.exact(Fraction(total) + Fraction(math.fsum((*pairs, -total)))), divisor)
        losses = [
            loss for row in range(len(self.problem.logits)) for loss in self.problem.solve(row, Fraction(0)).losses
        ]
        total_exact = _sum(losses)
        return total_exact if total_exact in (real.NAN, real.INFINITY) else _ratio(total_exact, divisor)


def truth(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    loss: str = "cross_entropy",
    upstream: npt.ArrayLike | None = None,
    **options: Any,
) -> Reference:
    """The certified truth of a loss and of its gradient with respect to the logits.

    Every number, options included, is read as the exact real that it is.

    Parameters
    ----------
    logits : array_like [N, V]
        float64, float32, float16, bfloat16 (``ml_dtypes``), or integers. ``-inf`` is a masked class.
        For ``linear_cross_entropy`` the hidden states [N, D], all finite in rows that count.
    target : array_like
        Class indices [N], or class probabilities [N, V]; for ``binary_cross_entropy_with_logits`` [N, K] in [0, 1].
    loss : str
        ``"cross_entropy"``, ``"binary_cross_entropy_with_logits"`` or ``"linear_cross_entropy"``.
    upstream : array_like, optional
        Upstream gradient of the unreduced loss's shape (or a scalar); ones where it is not given.
    **options
        ``weight``, ``ignore_index``, ``label_smoothing``, ``pos_weight``, with torch's meanings. For a reduction call
        `Reference.reduced` on what this returns. ``linear_cross_entropy`` needs ``projection`` [V, D], and takes
        ``linear_bias`` [V].

    Returns
    -------
    Reference
        ``loss_hi``, ``loss_lo``, ``grad_hi``, ``grad_lo``: float64 arrays whose sums are the values, with an error of
        at most 2^-90 relative or 2^-1074 absolute, whichever is larger.

    Raises
    ------
    ValueError, TypeError
        For shapes, dtypes, labels or options that the loss does not define.

    Examples
    --------
    >>> import harness
    >>> harness.truth([[2.0, 1.0, 0.1]], [0]).loss_hi
    array([0.41703002])
    """
    declared = loss_named(loss)
    if "reduction" in options:
        raise TypeError("truth is per row: call .reduced('mean') or .reduced('sum') on what it returns")
    declared.check_options(options)
    given = {name: value for name, value in options.items() if value is not None}
    up = None if upstream is None else as_array("upstream", upstream)
    return _solve(loss, declared.problem(as_array("logits", logits), as_array("target", target), up, given))


def reference_of(batch: Batch, *, kept: bool = True) -> Reference:
    """The certified truth of a batch, its upstream gradient included; kept on disk, or only for this once."""
    inputs = {} if batch.projection is None else {"projection": batch.projection}
    if not kept:
        stated = loss_named(batch.loss).problem(batch.logits, batch.target, batch.upstream, {**inputs, **batch.options})
        loss_hi, loss_lo, grad_hi, grad_lo = _solve_rows(stated, batch.loss)
        return Reference(loss_hi, loss_lo, grad_hi, grad_lo, stated, batch.loss)
    return truth(batch.logits, batch.target, loss=batch.loss, upstream=batch.upstream, **inputs, **batch.options)


def _solve(loss: str, problem: Problem) -> Reference:
    key = cache.key_of(loss, problem.content())
    arrays = cache.load(key)
    if arrays is None:
        arrays = _solve_rows(problem, loss)
        cache.store(key, arrays)
    loss_hi, loss_lo, grad_hi, grad_lo = arrays
    return Reference(loss_hi, loss_lo, grad_hi, grad_lo, problem, loss)


def _solve_rows(problem: Problem, loss: str) -> list[Array]:
    solved = _settled(loss, problem, problem.upstream)
    return [solved.loss_hi, solved.loss_lo, solved.grad_hi, solved.grad_lo]


def _settled(loss: str, problem: Problem, scale: Array | Fraction) -> Solved:
    """The truth of a batch: all at once where its rows are coupled, else row by row, by the fast path first."""
    return problem.solve_all(scale) or settle(loss, problem, scale)


def _ratio(total: Exact, divisor: Fraction) -> Exact:
    total = real.multiply(total, real.exact(divisor.denominator))
    return real.quotient(total, real.exact(divisor.numerator), 2 * real.RELATIVE_BITS)


def _sum(losses: list[Exact]) -> Exact:
    """The sum of losses, each of relative error 2^-100 and none negative, so that the sum's is 2^-100 too."""
    if any(loss == real.NAN for loss in losses):
        return real.NAN
    if any(loss == real.INFINITY for loss in losses):
        return real.INFINITY
    return real.sum_positive(losses, [1] * len(losses), 2 * real.RELATIVE_BITS)
