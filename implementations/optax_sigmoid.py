"""optax.sigmoid_binary_cross_entropy: −t log σ(x) − (1 − t) log σ(−x), by log_sigmoid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.declaration import implementation

if TYPE_CHECKING:
    from jax import Array


@implementation(
    framework="jax",
    loss="binary_cross_entropy_with_logits",
    grade={"float64": "absolute", "float32": "absolute", "bfloat16": "storage", "float16": "storage"},
    targets=("probabilities",),
    requires={"optax": "optax"},
)
def optax_sigmoid(logits: Array, target: Array) -> Array:
    """optax.sigmoid_binary_cross_entropy."""
    import optax

    return optax.sigmoid_binary_cross_entropy(logits, target)
