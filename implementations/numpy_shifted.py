"""(m − z_y) + log s with s = Σ exp(z_j − m): both terms are differences from the maximum m.

Good: never overflows, and a common offset of all logits costs nothing, because the rounded maximum is never added back.
Bad: the largest term of s is exactly 1, so a tail below u is absorbed: [0, −40] has loss 0 where 4.2e-18 is true.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.declaration import implementation
from implementations._options import reduced, terms_of, weighted

Array = np.ndarray[Any, Any]


def _surprisals(logits: Array) -> Array:
    """−log p [N, V]."""
    distances = logits.max(axis=1, keepdims=True) - logits
    return distances + np.log(np.exp(-distances).sum(axis=1, keepdims=True))


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
    terms = terms_of(logits, target, weight, ignore_index, label_smoothing)
    p = np.exp(-_surprisals(terms.logits))
    gradient = terms.weights.sum(axis=1, keepdims=True) * p - terms.weights
    return terms.scale(upstream, reduction) * gradient


@implementation(framework="numpy", loss="cross_entropy", grade="absolute", gradient=_gradient)
@np.errstate(all="ignore")
def numpy_shifted(
    logits: Array,
    target: Array,
    *,
    weight: Array | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Any:
    """Distance of the target's logit from the maximum, plus the logarithm of the shifted sum."""
    terms = terms_of(logits, target, weight, ignore_index, label_smoothing)
    losses = weighted(terms.weights, _surprisals(terms.logits)).sum(axis=1)
    return reduced(losses, terms.denominator, reduction)
