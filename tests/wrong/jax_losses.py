"""Wrong cross-entropies in JAX: forward, gradient, options."""

import jax
import jax.numpy as jnp


def _take(values, target):
    return jnp.take_along_axis(values, target[:, None], axis=1)[:, 0]


def _right(logits, target):
    return -_take(jax.nn.log_softmax(logits, axis=-1), target)


def softmax_then_log(logits, target):
    e = jnp.exp(logits)
    return -jnp.log(_take(e / e.sum(axis=1, keepdims=True), target))


def float32_throughout(logits, target):
    return _right(logits.astype(jnp.float32), target).astype(logits.dtype)


def bfloat16_throughout(logits, target):
    return _right(logits.astype(jnp.bfloat16), target).astype(logits.dtype)


def clipped(logits, target):
    p = jnp.clip(jax.nn.softmax(logits, axis=-1), 1e-7, 1.0)
    return -jnp.log(_take(p, target))


def shift_by_the_batch_maximum(logits, target):
    z = logits - jax.lax.stop_gradient(logits.max())
    return jnp.log(jnp.exp(z).sum(axis=1)) - _take(z, target)


def gradient_through_the_maximum_stopped_twice(logits, target):
    return _right(jax.lax.stop_gradient(logits) + 0 * logits, target)


def half_of_the_gradient_stopped(logits, target):
    return jax.nn.logsumexp(logits, axis=1) - jax.lax.stop_gradient(_take(logits, target))


@jax.custom_vjp
def rule_ignores_upstream(logits, target):
    return _right(logits, target)


def _forward(logits, target):
    return _right(logits, target), (jax.nn.softmax(logits, axis=-1), target)


def _without_upstream(saved, upstream):
    p, target = saved
    return p - jax.nn.one_hot(target, p.shape[1], dtype=p.dtype), None


rule_ignores_upstream.defvjp(_forward, _without_upstream)


@jax.custom_vjp
def rule_averages_upstream(logits, target):
    return _right(logits, target)


def _averaged(saved, upstream):
    p, target = saved
    return (p - jax.nn.one_hot(target, p.shape[1], dtype=p.dtype)) * upstream.mean(), None


rule_averages_upstream.defvjp(_forward, _averaged)


def smoothing_over_the_others(logits, target, *, label_smoothing=0.0, reduction="mean"):
    v = logits.shape[1]
    logp = jax.nn.log_softmax(logits, axis=-1)
    right, rest = _take(logp, target), logp.sum(axis=1) - _take(logp, target)
    loss = -((1 - label_smoothing) * right + label_smoothing / max(v - 1, 1) * rest)
    return loss if reduction == "none" else loss.sum() if reduction == "sum" else loss.mean()


def weights_not_in_the_mean(logits, target, *, weight=None, reduction="mean"):
    loss = _right(logits, target) * (1 if weight is None else weight[target])
    return loss if reduction == "none" else loss.sum() if reduction == "sum" else loss.mean()


def hides_nan(logits, target):
    return jnp.nan_to_num(_right(logits, target))


def drops_the_last_block(logits, target):
    kept = max(logits.shape[1] // 128 * 128, 1)
    return jax.nn.logsumexp(logits[:, :kept], axis=1) - _take(logits, target)


EXPECT = {
    "softmax_then_log": {"check": "nonfinite", "bug": "exp overflows without a shift"},
    "float32_throughout": {
        "check": "accuracy",
        "bug": "float64 input is computed in float32",
        "options": {"dtypes": ["float64"]},
    },
    "bfloat16_throughout": {"check": "accuracy", "bug": "float32 input is computed in bfloat16"},
    "clipped": {"check": "accuracy", "bug": "the loss saturates at -log 1e-7"},
    "shift_by_the_batch_maximum": {"check": "row_independence", "bug": "the shift is the maximum of all rows"},
    "gradient_through_the_maximum_stopped_twice": {"check": "gradient_accuracy", "bug": "the gradient is zero"},
    "half_of_the_gradient_stopped": {"check": "gradient_accuracy", "bug": "the target entry loses its -1"},
    "rule_ignores_upstream": {"check": "upstream_gradient", "bug": "the rule ignores the upstream gradient"},
    "rule_averages_upstream": {"check": "upstream_gradient", "bug": "the rule averages the upstream gradient"},
    "smoothing_over_the_others": {
        "check": "option_label_smoothing",
        "bug": "smoothing goes to the V - 1 other classes",
        "source": "fastai/fastai#1814",
    },
    "weights_not_in_the_mean": {"check": "reduction", "bug": "the weighted sum is divided by N"},
    "hides_nan": {"check": "nan_propagates", "bug": "NaN is replaced by 0"},
    "drops_the_last_block": {"check": "accuracy", "bug": "classes beyond a multiple of 128 are left out"},
}
