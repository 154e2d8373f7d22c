"""−log(softmax(z))[y] in JAX.

Good: jax.nn.softmax is shifted, so nothing overflows.
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
)
def jax_naive(logits: Array, target: Array) -> Array:
    """Softmax, then the logarithm."""
    import jax
    import jax.numpy as jnp

    return -jnp.take_along_axis(jnp.log(jax.nn.softmax(logits, axis=1)), target[:, None], axis=1)[:, 0]
