"""Wrong cross-entropies in JAX: right with the options of the first call, and traced with them for good."""

import functools

import jax
import jax.numpy as jnp

_given = {}


@functools.partial(jax.jit, static_argnums=2)
def _weighted(logits, target, weighted):
    rows = -jnp.take_along_axis(jax.nn.log_softmax(logits, 1), target[:, None], 1)[:, 0]
    return rows * _given["weight"][target] if weighted else rows


def weight_baked_into_the_trace(logits, target, *, weight=None):
    _given["weight"] = weight
    return _weighted(logits, target, weight is not None)


EXPECT = {
    "weight_baked_into_the_trace": {
        "check": "no_replay",
        "bug": "the jitted function closes over the weights, which are those of the first call ever after",
    },
}
