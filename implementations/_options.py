"""Option semantics for the NumPy forms: the weights of the terms, which rows count, and how rows are reduced.

In the terms of the documentation: q is the target distribution (one-hot or given, smoothed to (1−ε)q + ε/V), w the
class weights, and t_j = w_j q_j. A row's loss is Σ t_j (ℓ − z_j) and its gradient T p_j − t_j, with T = Σ t_j.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Terms:
    """A batch with its options applied.

    Parameters
    ----------
    logits : array [N, V]
        Contiguous, so that NumPy sums a row pairwise; zeros in ignored rows, so that what they held cannot spread.
    weights : array [N, V]
        t, of the logits' dtype; zero in ignored rows, which makes their loss and gradient zero.
    kept : bool array [N]
        Which rows count: those that are not ignored.
    denominator : scalar
        What ``mean`` divides by: the sum of the targets' weights for class indices, N for probabilities.
    """

    logits: Array
    weights: Array
    kept: Array
    denominator: Any

    def scale(self, upstream: Array, reduction: str) -> Array:
        """What each row's own gradient is multiplied by, [N, 1]: 0 in ignored rows, even where the mean is 0/0."""
        return np.where(self.kept, spread(upstream, self.denominator, reduction), 0)[:, None]


def terms_of(logits: Array, target: Array, weight: Array | None, ignore_index: int, label_smoothing: float) -> Terms:
    """Apply the options to logits [N, V] and a target: class indices [N], or probabilities [N, V].

    Raises
    ------
    IndexError
        For a class index outside [0, V) that is not `ignore_index`; NumPy alone would take −1 for the last class.
    """
    rows, classes = logits.shape
    q = np.zeros_like(logits, order="C")
    kept = np.ones(rows, dtype=bool)
    if target.ndim == 2:
        q[...] = target
        denominator: Any = rows
    else:
        kept = target != ignore_index
        wrong = kept & ((target < 0) | (target >= classes))
        if wrong.any():
            raise IndexError(f"target {target[wrong][0]} is out of range: there are {classes} classes")
        q[kept, target[kept]] = 1
        denominator = kept.sum().astype(logits.dtype) if weight is None else weight[target[kept]].sum()
    if label_smoothing:
        q *= 1 - label_smoothing
        q += label_smoothing / classes
    if weight is not None:
        q *= weight
    q[~kept] = 0
    z = np.where(kept[:, None], logits, 0).astype(logits.dtype, order="C", copy=False)
    return Terms(z, q, kept, denominator)


def weighted(weights: Array, values: Array) -> Array:
    """weights · values, but 0 where a zero weight meets an infinite value: a masked class adds nothing; a NaN stays."""
    return np.where((weights == 0) & np.isinf(values), 0, weights * values)


def reduced(losses: Array, denominator: Any, reduction: str) -> Any:
    """The losses reduced as torch does; 0/0 is NaN, as in torch, where nothing counts.

    Raises
    ------
    ValueError
        For a reduction that is none of ``"none"``, ``"mean"`` and ``"sum"``.
    """
    if reduction == "none":
        return losses
    if reduction not in ("mean", "sum"):
        raise ValueError(f'reduction {reduction!r} is unknown: choose from "none", "mean", "sum"')
    return losses.sum() / denominator if reduction == "mean" else losses.sum()


def spread(upstream: Array, denominator: Any, reduction: str) -> Any:
    """The upstream gradient of a reduced (or not) loss as the upstream gradient of each row's or element's own loss."""
    return upstream / denominator if reduction == "mean" else upstream
