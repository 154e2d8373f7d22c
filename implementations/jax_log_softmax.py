"""−log_softmax(z)[y] by jax.nn.log_softmax: plain, one XLA program per operation, and under jax.jit, one for the whole.

Good: never overflows, a common offset costs nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from harness.declaration import implementation

if TYPE_CHECKING:
    from jax import Array

_GRADES = {"float64": "absolute", "float32": "absolute", "bfloat16": "storage", "float16": "storage"}


def _loss(logits: Array, target: Array) -> Array:
    import jax
    import jax.numpy as jnp

    return -jnp.take_along_axis(jax.nn.log_softmax(logits, axis=1), target[:, None], axis=1)[:, 0]


@functools.cache
def _jitted() -> Callable[..., Any]:
    """The compiled function, made once: each shape and dtype is then compiled once."""
    import jax

    return jax.jit(_loss)


@implementation(framework="jax", loss="cross_entropy", grade=_GRADES)
def jax_log_softmax(logits: Array, target: Array) -> Array:
    """Log-softmax, taken at the label."""
    return _loss(logits, target)


@implementation(framework="jax", loss="cross_entropy", grade=_GRADES)
def jax_log_softmax_jit(logits: Array, target: Array) -> Array:
    """Log-softmax, taken at the label, under jax.jit."""
    result: Array = _jitted()(logits, target)
    return result
