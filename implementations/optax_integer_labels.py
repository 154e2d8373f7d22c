"""optax.softmax_cross_entropy_with_integer_labels: logsumexp(z) − z_y.

Good: never overflows, and keeps no [N, V] log-probabilities. Bad: as jax_logsumexp, a common offset of all logits eats
the loss. A label outside [0, V) is no error: NaN, or the class counted from the end (google-deepmind/optax#1185).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.declaration import KnownFailure, implementation

if TYPE_CHECKING:
    from jax import Array


@implementation(
    framework="jax",
    devices=("cpu", "cuda"),
    loss="cross_entropy",
    grade={"float64": "absolute", "float32": "absolute", "bfloat16": "storage", "float16": "storage"},
    requires={"optax": "optax"},
    known_failures=(
        KnownFailure(
            ("uniform_128256",),
            "The sum of exponentials, taken in float32, is rounded to float16: ∞ from 65,520 equal classes on.",
            "jax-ml/jax#40409",
            dtypes=("float16",),
        ),
    ),
)
def optax_integer_labels(logits: Array, target: Array) -> Array:
    """optax.softmax_cross_entropy_with_integer_labels."""
    import optax

    return optax.softmax_cross_entropy_with_integer_labels(logits, target)
