"""optax.softmax_cross_entropy and safe_softmax_cross_entropy: −Σ q_j log_softmax(z)_j, labels as one-hot rows.

Good: takes class probabilities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.declaration import implementation

if TYPE_CHECKING:
    from jax import Array

_GRADES = {"float64": "absolute", "float32": "absolute", "bfloat16": "storage", "float16": "storage"}


def _probabilities(logits: Array, target: Array) -> Array:
    """The target as probabilities [N, V] of the logits' dtype."""
    import jax

    return target if target.ndim == 2 else jax.nn.one_hot(target, logits.shape[1], dtype=logits.dtype)


@implementation(
    framework="jax",
    loss="cross_entropy",
    grade=_GRADES,
    targets=("indices", "probabilities"),
    requires={"optax": "optax"},
)
def optax_one_hot(logits: Array, target: Array) -> Array:
    """optax.softmax_cross_entropy."""
    import optax

    return optax.softmax_cross_entropy(logits, _probabilities(logits, target))


@implementation(
    framework="jax",
    loss="cross_entropy",
    grade=_GRADES,
    targets=("indices", "probabilities"),
    requires={"optax": "optax"},
)
def optax_safe_softmax(logits: Array, target: Array) -> Array:
    """optax.safe_softmax_cross_entropy."""
    import optax

    return optax.safe_softmax_cross_entropy(logits, _probabilities(logits, target))
