"""h Wᵀ + b in NumPy, then `numpy_log1p`, whose small losses and gradients are as good as the logits are.

Good: the only errors beside those of `numpy_log1p` are of three matrix products, whose sums come in whatever order BLAS
takes. Bad: logits and their gradient are whole in memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.declaration import implementation
from implementations import numpy_log1p as log1p_form

Array = np.ndarray[Any, Any]


def _logits(hidden: Array, projection: Array, linear_bias: Array | None) -> Array:
    logits = hidden @ projection.T
    return logits if linear_bias is None else logits + linear_bias


def _gradient(
    hidden: Array,
    projection: Array,
    target: Array,
    upstream: Array,
    *,
    linear_bias: Array | None = None,
    **options: Any,
) -> tuple[Array, Array]:
    """g W [N, D] and gᵀ h [V, D], with g the gradient with respect to the logits."""
    g = log1p_form._gradient(_logits(hidden, projection, linear_bias), target, upstream, **options)
    return g @ projection, g.T @ hidden


@implementation(
    framework="numpy",
    loss="linear_cross_entropy",
    grade="relative",
    targets=("indices", "probabilities"),
    gradient=_gradient,
)
def numpy_linear_log1p(
    hidden: Array,
    projection: Array,
    target: Array,
    *,
    linear_bias: Array | None = None,
    weight: Array | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Any:
    """A matrix product, then distance from the maximum plus log1p of the sum without its largest term."""
    return log1p_form.numpy_log1p(
        _logits(hidden, projection, linear_bias),
        target,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
