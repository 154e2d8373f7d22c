"""optax.sigmoid_binary_cross_entropy: −t log σ(x) − (1 − t) log σ(−x), by log_sigmoid.

Good: both logarithms are accurate, so a loss of 4e-18 is one, and its gradient too. Bad: the derivative of softplus(x)
is formed as exp(x − softplus(x)), whose exponent carries the rounding of softplus(x), so that a gradient of 1 is off by
some 24 ulp at x = 32, which `absolute` allows. The term without target mass is still formed: 0·∞ for an infinite logit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.declaration import KnownFailure, implementation

if TYPE_CHECKING:
    from jax import Array


@implementation(
    framework="jax",
    devices=("cpu", "cuda"),
    loss="binary_cross_entropy_with_logits",
    grade={"float64": "absolute", "float32": "absolute", "bfloat16": "storage", "float16": "storage"},
    targets=("probabilities",),
    requires={"optax": "optax"},
    known_failures=(
        KnownFailure(
            ("masked",),
            "The logarithm of the other outcome is −∞ for an infinite logit, and its product with 0 is NaN.",
            "google-deepmind/optax#896",
            what=("loss",),
        ),
    ),
)
def optax_sigmoid(logits: Array, target: Array) -> Array:
    """optax.sigmoid_binary_cross_entropy."""
    import optax

    return optax.sigmoid_binary_cross_entropy(logits, target)
