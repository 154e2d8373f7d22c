"""optax.softmax_cross_entropy_with_integer_labels: logsumexp(z) − z_y.

Good: what most JAX code trains with; no [N, V] log-probabilities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.declaration import implementation

if TYPE_CHECKING:
    from jax import Array


@implementation(
    framework="jax",
    loss="cross_entropy",
    grade={"float64": "absolute", "float32": "absolute", "bfloat16": "storage", "float16": "storage"},
    requires={"optax": "optax"},
)
def optax_integer_labels(logits: Array, target: Array) -> Array:
    """optax.softmax_cross_entropy_with_integer_labels."""
    import optax

    return optax.softmax_cross_entropy_with_integer_labels(logits, target)
