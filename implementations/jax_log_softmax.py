"""−log_softmax(z)[y] by jax.nn.log_softmax: plain, one XLA program per operation, and under jax.jit, one for the whole.

Good: never overflows, a common offset costs nothing. Bad: the sum of exponentials contains its largest term, exactly 1,
which absorbs a tail below u, and the target's gradient is lost with it (jax-ml/jax#40384). In 16 bits the sum is taken
in float32, and what comes before and after it is rounded to the input's format.
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

    return -jnp.take_along_axis(jax.nn.log_softmax(logits, axis=1), target[:, None], axis=1)[:, 0]


@functools.cache
def _jitted() -> Callable[..., Any]:
    """The compiled function, made once: each shape and dtype is then compiled once."""
    import jax

    return jax.jit(_loss)


@implementation(
    framework="jax", devices=("cpu", "cuda"), loss="cross_entropy", grade=_GRADES, known_failures=_KNOWN_FAILURES
)
def jax_log_softmax(logits: Array, target: Array) -> Array:
    """Log-softmax, taken at the label."""
    return _loss(logits, target)


@implementation(
    framework="jax", devices=("cpu", "cuda"), loss="cross_entropy", grade=_GRADES, known_failures=_KNOWN_FAILURES
)
def jax_log_softmax_jit(logits: Array, target: Array) -> Array:
    """Log-softmax, taken at the label, under jax.jit."""
    result: Array = _jitted()(logits, target)
    return result
