"""Wrong cross-entropies in JAX: right on the path that every test takes, wrong on one beside it."""

import jax
import jax.numpy as jnp


def _rows(logits, target):
    return jax.nn.logsumexp(logits, 1) - jnp.take_along_axis(logits, target[:, None], 1)[:, 0]


@jax.custom_vjp
def _clipped(logits, target):
    return -jnp.log(jnp.take_along_axis(jax.nn.softmax(logits, 1), target[:, None], 1)[:, 0] + 1e-5)


def _forward(logits, target):
    return _rows(logits, target), (logits, target)


def _backward(saved, upstream):
    logits, target = saved
    gradient = jax.nn.softmax(logits, 1) - jax.nn.one_hot(target, logits.shape[1], dtype=logits.dtype)
    return gradient * upstream[:, None], None


_clipped.defvjp(_forward, _backward)


def differentiated_by_another_formula(logits, target):
    return _clipped(logits, target)


def means_skip_nan(logits, target, *, reduction="mean"):
    rows = _rows(logits, target)
    return {"none": rows, "sum": jnp.nansum(rows), "mean": jnp.nanmean(rows)}[reduction]


def switches_debugging_on(logits, target):
    jax.config.update("jax_debug_infs", False)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    return _rows(logits, target)


_evaluated = {}


def keeps_evaluations_by_shape(logits, target):
    if isinstance(logits, jax.core.Tracer):
        return _rows(logits, target)
    return _evaluated.setdefault(logits.shape, _rows(logits, target))


EXPECT = {
    "differentiated_by_another_formula": {
        "check": "without_gradient",
        "bug": "the primal of a custom_vjp, which only a call without a gradient runs, clips",
    },
    "keeps_evaluations_by_shape": {
        "check": "without_gradient",
        "bug": "answers of calls that are not differentiated are kept by shape, and given again",
    },
    "means_skip_nan": {"check": "nan_propagates", "bug": "reductions leave NaN out"},
    "switches_debugging_on": {"check": "process_state", "bug": "sets JAX to raise on rank promotion"},
}
