"""Binary cross-entropy from logits: w [pos·t·log(1 + e^−x) + (1 − t)·log(1 + e^x)], stable and naive.

Stable: log(1 + e^x) = max(x, 0) + log1p(e^−|x|) never overflows and keeps the tail's digits, so x = 40, t = 1 has its
4.2e-18. In the gradient σ(−x) is formed directly; 1 − σ(x) would be 0 there. Both terms are ≥ 0: nothing cancels.

Naive: p = σ(x), then −[t log p + (1 − t) log(1 − p)]. Bad: p rounds to 1 from x = 17 on in float32 (37 in float64), so
log(1 − p) is −∞ or has no digits; 0·∞ is NaN even where the loss is 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.declaration import KnownFailure, implementation
from implementations._options import reduced, spread, weighted

Array = np.ndarray[Any, Any]


def _coefficients(target: Array, weight: Array | None, pos_weight: Array | None) -> tuple[Array, Array]:
    """What multiplies log(1 + e^−x) and log(1 + e^x)."""
    positive, negative = target, 1 - target
    if pos_weight is not None:
        positive = pos_weight * positive
    if weight is not None:
        positive, negative = weight * positive, weight * negative
    return positive, negative


@np.errstate(all="ignore")
def _gradient(
    logits: Array,
    target: Array,
    upstream: Array,
    *,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    reduction: str = "mean",
) -> Array:
    positive, negative = _coefficients(target, weight, pos_weight)
    e = np.exp(-np.abs(logits))
    larger, smaller = 1 / (1 + e), e / (1 + e)
    rising, falling = np.where(logits > 0, (larger, smaller), (smaller, larger))  # σ(x) and σ(−x)
    return spread(upstream, logits.size, reduction) * (negative * rising - positive * falling)


@implementation(
    framework="numpy",
    loss="binary_cross_entropy_with_logits",
    grade="relative",
    targets=("probabilities",),
    gradient=_gradient,
)
@np.errstate(all="ignore")
def numpy_bce_with_logits(
    logits: Array,
    target: Array,
    *,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    reduction: str = "mean",
) -> Any:
    """Softplus in the log1p form, each side with its own coefficient."""
    positive, negative = _coefficients(target, weight, pos_weight)
    tail = np.log1p(np.exp(-np.abs(logits)))
    zero = logits.dtype.type(0)
    losses = weighted(positive, np.maximum(-logits, zero) + tail) + weighted(negative, np.maximum(logits, zero) + tail)
    return reduced(losses, losses.size, reduction)


_FAILING = (
    "worst_cases_*",
    "moderate",
    "wide",
    "mixed_scales",
    "uniform",
    "overflow_edge",
    "underflow_edge",
    "format_maximum",
    "confident",
    "wrong_confident",
    "masked",
)


def _sigmoid(logits: Array) -> Array:
    return 1 / (1 + np.exp(-logits))


@np.errstate(all="ignore")
def _naive_gradient(logits: Array, target: Array, upstream: Array) -> Array:
    return upstream * (_sigmoid(logits) - target)


@implementation(
    framework="numpy",
    loss="binary_cross_entropy_with_logits",
    grade="absolute",
    targets=("probabilities",),
    gradient=_naive_gradient,
    known_failures=(
        KnownFailure(
            _FAILING,
            "1 − p has lost its digits long before p rounds to 1; from there on log(1 − p) is −∞ and 0·∞ is NaN.",
            "ml-explore/mlx#1280",
            what=("loss",),
        ),
    ),
)
@np.errstate(all="ignore")
def numpy_bce_naive(logits: Array, target: Array) -> Array:
    """Sigmoid, then the logarithms of p and 1 − p."""
    p = _sigmoid(logits)
    return -(target * np.log(p) + (1 - target) * np.log(1 - p))
