"""(m − z_y) + log1p(r) with r = Σ exp(z_j − m) over all classes but one that attains the maximum m.

Good: the one form whose *relative* error is small. The largest term of the sum is exactly 1 and would absorb a tail
below u; left out, the tail keeps all its digits: a loss of 1e-300 is right in float64. Every term of the loss is ≥ 0,
so nothing cancels. Bad: finding the maximum's place costs another pass over the row.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.declaration import implementation
from implementations._options import reduced, terms_of, weighted

Array = np.ndarray[Any, Any]


def _exponentials(logits: Array) -> tuple[Array, Array, Array]:
    """exp(z − m) [N, V]; the column [N, 1] of one maximum per row; and r [N, 1], the row's sum without that one."""
    top = logits.argmax(axis=1)[:, None]
    e = np.exp(logits - np.take_along_axis(logits, top, axis=1))
    return e, top, _sum_without(e, top)


def _sum_without(values: Array, column: Array) -> Array:
    rest = values.copy()
    np.put_along_axis(rest, column, 0, axis=1)
    return rest.sum(axis=1, keepdims=True)


def _others(values: Array, column: Array, rest: Array) -> Array:
    """For each entry of non-negative values [N, V] the sum of its row's other entries, without cancellation.

    `column` is where a row's largest entry stands and `rest` the sum without it. Any other entry is at most half of the
    total, so taking it away loses one bit at most; the largest may be nearly all of it, and gets the direct sum.
    """
    others = (np.take_along_axis(values, column, axis=1) + rest) - values
    np.put_along_axis(others, column, rest, axis=1)
    return others


@np.errstate(all="ignore")
def _gradient(
    logits: Array,
    target: Array,
    upstream: Array,
    *,
    weight: Array | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Array:
    """T p_j − t_j as p_j Σ_{i≠j} t_i − t_j Σ_{i≠j} p_i: for the target of a confident row T p_y and t_y cancel."""
    terms = terms_of(logits, target, weight, ignore_index, label_smoothing)
    t = terms.weights
    e, top, r = _exponentials(terms.logits)
    heaviest = t.argmax(axis=1)[:, None]
    gradient = e * _others(t, heaviest, _sum_without(t, heaviest)) - t * _others(e, top, r)
    # The row's two scalars are joined first: a subnormal entry is then rounded once here, not twice.
    return terms.scale(upstream, reduction) / (1 + r) * gradient


@implementation(
    framework="numpy",
    loss="cross_entropy",
    grade="relative",
    targets=("indices", "probabilities"),
    gradient=_gradient,
)
@np.errstate(all="ignore")
def numpy_log1p(
    logits: Array,
    target: Array,
    *,
    weight: Array | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Any:
    """Distance from the maximum, plus log1p of the sum without its largest term."""
    terms = terms_of(logits, target, weight, ignore_index, label_smoothing)
    _, top, r = _exponentials(terms.logits)
    distances = np.take_along_axis(terms.logits, top, axis=1) - terms.logits
    # The two parts are weighted apart: added first, log1p(r) would be rounded to the size of the distance.
    losses = weighted(terms.weights, distances).sum(axis=1) + terms.weights.sum(axis=1) * np.log1p(r[:, 0])
    return reduced(losses, terms.denominator, reduction)
