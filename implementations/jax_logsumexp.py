"""jax.nn.logsumexp(z) − z_y: plain, and under jax.jit.

Good: never overflows, and keeps no [N, V] log-probabilities. Bad: lse is rounded to the size of the largest logit
before z_y is taken away, so a common offset of all logits eats the loss.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from harness.declaration import KnownFailure, implementation

if TYPE_CHECKING:
    from jax import Array

_GRADES = {"float64": "absolute", "float32": "absolute", "bfloat16": "storage", "float16": "storage"}
_KNOWN_FAILURES = (
    KnownFailure(
        ("uniform_128256",),
        "The sum of exponentials, taken in float32, is rounded to float16: ∞ from 65,520 equal classes on.",
        "jax-ml/jax#40409",
        dtypes=("float16",),
    ),
)


def _loss(logits: Array, target: Array) -> Array:
    import jax
    import jax.numpy as jnp

    return jax.nn.logsumexp(logits, axis=1) - jnp.take_along_axis(logits, target[:, None], axis=1)[:, 0]


@functools.cache
def _jitted() -> Callable[..., Any]:
    """The compiled function, made once: each shape and dtype is then compiled once."""
    import jax

    return jax.jit(_loss)


@implementation(
    framework="jax", devices=("cpu", "cuda"), loss="cross_entropy", grade=_GRADES, known_failures=_KNOWN_FAILURES
)
def jax_logsumexp(logits: Array, target: Array) -> Array:
    """Log-sum-exp minus the target's logit."""
    return _loss(logits, target)


@implementation(
    framework="jax", devices=("cpu", "cuda"), loss="cross_entropy", grade=_GRADES, known_failures=_KNOWN_FAILURES
)
def jax_logsumexp_jit(logits: Array, target: Array) -> Array:
    """Log-sum-exp minus the target's logit, under jax.jit."""
    result: Array = _jitted()(logits, target)
    return result
