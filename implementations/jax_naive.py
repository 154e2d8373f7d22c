"""−log(softmax(z))[y] in JAX.

Good: jax.nn.softmax is shifted, so nothing overflows. Bad: p_y is flushed to zero from a gap of 88 on in float32 (709
in float64, 17 in float16): the loss is ∞ and its gradient NaN. The logarithm is taken of every class, so that any class
of probability 0, a masked one too, makes the row's gradient NaN. A loss below u comes out as a multiple of u, or 0. In
float16 the softmax's gradient divides by the square of its sum, which overflows from 256 equal classes on.
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
    known_failures=(
        KnownFailure(
            (
                "uniform_1000",
                "uniform_128256",
                "common_offset_random",
                "ties",
                "confident",
                "tail_mass",
                "masked",
                "recorded/*",
                "worst_cases_*",
            ),
            "In float16 1/p overflows for p below 1.5e-5, and the softmax's squared sum for 256 equal classes.",
            dtypes=("float16",),
        ),
        KnownFailure(
            ("masked", "format_maximum", "ties", "confident", "worst_cases_*"),
            "The logarithm is taken of every class: one whose probability is 0 makes the whole row's gradient 0·∞.",
            what=("gradient",),
        ),
        KnownFailure(
            (
                "wide",
                "mixed_scales",
                "underflow_edge",
                "wrong_confident",
                "two_classes",
                "recorded/charlm_diverging",
                "worst_cases_*",
            ),
            "The target's probability underflows: log(0) is −∞, and its gradient is 0·∞.",
        ),
    ),
)
def jax_naive(logits: Array, target: Array) -> Array:
    """Softmax, then the logarithm."""
    import jax
    import jax.numpy as jnp

    return -jnp.take_along_axis(jnp.log(jax.nn.softmax(logits, axis=1)), target[:, None], axis=1)[:, 0]
