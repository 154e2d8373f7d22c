"""Right cross-entropies in JAX and optax: eager, jitted, vmapped, with a custom VJP."""

import functools

import jax
import jax.numpy as jnp
import optax


def log_softmax_and_take(logits, target):
    logp = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), axis=-1)
    return -jnp.take_along_axis(logp, target[:, None], axis=1)[:, 0]


@jax.jit
def jitted(logits, target):
    return log_softmax_and_take(logits, target)


def optax_integer_labels(logits, target):
    return optax.softmax_cross_entropy_with_integer_labels(logits, target)


def optax_mean(logits, target):
    return optax.softmax_cross_entropy_with_integer_labels(logits, target).mean()


def vmapped(logits, target):
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return jax.vmap(lambda z, y: jax.nn.logsumexp(z) - z[y])(wide, target)


@jax.custom_vjp
def with_a_rule(logits, target):
    return _forward(logits, target)[0]


def _forward(logits, target):
    z = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    m = z.max(axis=1, keepdims=True)
    e = jnp.exp(z - m)
    s = e.sum(axis=1, keepdims=True)
    loss = (m - jnp.take_along_axis(z, target[:, None], axis=1) + jnp.log(s))[:, 0]
    return loss, (e / s, target, logits)


def _backward(saved, upstream):
    p, target, logits = saved
    gradient = p - jax.nn.one_hot(target, p.shape[1], dtype=p.dtype)
    return (gradient * upstream[:, None]).astype(logits.dtype), None


with_a_rule.defvjp(_forward, _backward)


@functools.partial(jax.jit, static_argnames=("ignore_index", "label_smoothing", "reduction"))
def with_options(logits, target, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    wide = jnp.promote_types(logits.dtype, jnp.float32)
    v = logits.shape[1]
    kept = target != ignore_index
    label = jnp.where(kept, target, 0)
    w = jnp.ones(v, wide) if weight is None else weight.astype(wide)
    z = jnp.where(kept[:, None], logits.astype(wide), 0)
    logp = jax.nn.log_softmax(z, axis=-1)
    nll = -jnp.take_along_axis(logp, label[:, None], axis=1)[:, 0] * w[label]
    loss = (1 - label_smoothing) * nll
    if label_smoothing:
        loss = loss - label_smoothing / v * (w * logp).sum(axis=1)
    loss = jnp.where(kept, loss, 0)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / jnp.where(kept, w[label], 0).sum()


EXPECT = {
    "log_softmax_and_take": {"style": "jax.nn.log_softmax in float32"},
    "jitted": {"style": "the same under jax.jit"},
    "optax_integer_labels": {"style": "optax", "options": {"dtypes": ["float32", "float64", "bfloat16"]}},
    "optax_mean": {"style": "optax, the mean only", "options": {"dtypes": ["float32", "float64", "bfloat16"]}},
    "vmapped": {"style": "logsumexp minus the target's logit, vmapped over rows"},
    "with_a_rule": {"style": "custom_vjp"},
    "with_options": {"style": "every option by hand, jitted"},
}
