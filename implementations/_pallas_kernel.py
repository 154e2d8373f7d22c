"""A fused cross-entropy in Pallas, for JAX: forward and backward, one pass over the logits each, nothing that cancels.

As in our Triton kernel, the largest term of Σ exp(z_j − m), which is exactly 1, stays out of the running sum and meets
it in log1p, so that a small loss is not lost in it; and the gradient of the target's class is minus the sum of the
*other* probabilities, never p_y − 1.

The forward's grid has a program per block of rows, which walks over blocks of classes (online softmax: the sum is
rescaled where a new largest logit turns up) and writes three numbers per row; the backward's has one per block of rows
and block of classes. Memory traffic: the forward reads the logits once, the backward once more and writes the gradient:
two reads and one write of [N, V], where the floor is one and one. The tail of V is masked, not padded.

This file imports JAX alone, and can be copied. ``interpret=True`` runs it anywhere, as XLA's own operations.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

__all__ = ["fused_cross_entropy"]

ROWS = 8
BLOCK = 4096
"""Rows and classes of a tile: 128 KiB of float32, which a GPU's fast memory holds."""
INTERPRETED_BLOCK = 1 << 16
"""The interpreter takes its time by the step, whatever its size."""


def fused_cross_entropy(
    logits: jax.Array,
    target: jax.Array,
    *,
    weight: jax.Array | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    block_size: int | None = None,
    interpret: bool | None = None,
) -> jax.Array:
    """Cross-entropy of class indices, as ``torch.nn.functional.cross_entropy`` defines it, in one kernel each way.

    Parameters
    ----------
    logits : array [N, V]
        float16, bfloat16, float32 or float64.
    target : array [N]
        Class indices. A label outside [0, V) that is not `ignore_index` gives NaN, loss and gradient.
    weight : array [V], optional
        Class weights, ≥ 0.
    ignore_index : int
        Rows with this label have loss 0 and gradient 0, whatever their logits hold.
    label_smoothing : float
        In [0, 1].
    reduction : str
        ``"none"``, ``"mean"`` or ``"sum"``.
    block_size : int, optional
        Classes per block, a power of two; chosen by V where None.
    interpret : bool, optional
        Run in Pallas' interpreter; where None, on a CPU, which Pallas does not compile for.

    Returns
    -------
    array [N] or []
        In nats, in float32 for 16-bit logits, else in their dtype; sums are accumulated in that format too.

    Raises
    ------
    ValueError
        For shapes, dtypes or options that make no sense.
    """
    if logits.ndim != 2 or not jnp.issubdtype(logits.dtype, jnp.floating) or logits.shape[1] == 0:
        raise ValueError(f"logits: {logits.shape} of {logits.dtype}, but [N, V] of a floating-point dtype, V ≥ 1")
    if target.shape != logits.shape[:1] or not jnp.issubdtype(target.dtype, jnp.integer):
        raise ValueError(f"target: {target.shape} of {target.dtype}, but [{logits.shape[0]}] of class indices")
    if weight is not None and weight.shape != logits.shape[1:]:
        raise ValueError(f"weight: {weight.shape}, but [{logits.shape[1]}]")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing is {label_smoothing}, which is not in [0, 1]")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f'reduction {reduction!r} is unknown: choose from "none", "mean", "sum"')
    rows, classes = logits.shape
    here = jax.default_backend() == "cpu" if interpret is None else interpret
    block = block_size or min(INTERPRETED_BLOCK if here else BLOCK, max(16, pl.next_power_of_2(classes)))
    wide = jnp.promote_types(logits.dtype, jnp.float32)
    # int32 suffices for a class, and is what GPUs and TPUs take; −1 stands for an ignored row, −2 for a wrong label.
    wrong = (target < 0) | (target >= classes)
    label = jnp.where(target == ignore_index, -1, jnp.where(wrong, -2, target)).astype(jnp.int32)
    weights = jnp.ones(classes, wide) if weight is None else weight.astype(wide)
    share = (1 - label_smoothing) * weights[jnp.maximum(label, 0)]
    how = _How(float(label_smoothing), weight is not None, block, here)
    losses = _losses(logits, label, share, weights, how) if rows else jnp.zeros(0, wide)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    return losses.sum() / jnp.where(label == -1, 0, weights[jnp.maximum(label, 0)]).sum()


class _How(NamedTuple):
    """What is compiled in."""

    smoothing: float
    weighted: bool
    block: int
    interpret: bool


def _forward_kernel(
    z_ref: Any, y_ref: Any, share_ref: Any, w_ref: Any, loss_ref: Any, top_ref: Any, rest_ref: Any, *, n: int, how: _How
) -> None:
    """One program: the losses [R] of a block of rows, their largest logits, and Σ exp(z_j − m) without the largest."""
    wide, classes, block = loss_ref.dtype, z_ref.shape[1], how.block
    y, share = y_ref[...], share_ref[...]
    counted = (y != -1) & (pl.program_id(0) * ROWS + jnp.arange(ROWS, dtype=jnp.int32) < n)
    zero = jnp.zeros(ROWS, wide)

    def step(i: Any, carry: Any) -> Any:
        m, ties, s, z_y, gaps, mass = carry
        column = i * block + jnp.arange(block, dtype=jnp.int32)
        there = column < classes
        # What an ignored row holds is not even read, so that it cannot spread.
        z = _load(z_ref.at[:, pl.ds(i * block, block)], counted[:, None] & there[None, :], wide)
        new = jnp.maximum(m, z.max(axis=1))
        safe = jnp.where(new == -jnp.inf, 0, new)  # so far everything is masked: −inf − −inf is NaN
        equal = z == new[:, None]
        s = jnp.where(new > m, (s + ties) * jnp.exp(m - safe), s)
        ties = jnp.where(new > m, 0, ties) + equal.astype(wide).sum(axis=1)
        s += jnp.where(equal, 0, jnp.exp(z - safe[:, None])).sum(axis=1)  # a NaN is equal to nothing: it stays
        z_y += jnp.where(column[None, :] == y[:, None], z, 0).sum(axis=1)
        if how.smoothing:
            w = w_ref[pl.ds(i * block, block)][None, :]  # zero beyond the last class
            gaps += mass * (safe - jnp.where(m == -jnp.inf, 0, m))
            gaps += jnp.where(w == 0, 0, w * (safe[:, None] - z)).sum(axis=1)
            mass += w.sum()
        return new, ties, s, z_y, gaps, mass

    start = (jnp.full(ROWS, -jnp.inf, wide), zero, zero, zero, zero, jnp.zeros((), wide))
    m, ties, s, z_y, gaps, mass = jax.lax.fori_loop(jnp.int32(0), jnp.int32(pl.cdiv(classes, block)), step, start)
    others = jnp.where(jnp.abs(m) < jnp.inf, s + (ties - 1), jnp.nan)  # all masked, or +inf among them: as torch
    beyond = jnp.log1p(others)  # not Kahan's form: XLA simplifies (1 + x) − 1
    of_target = (m - z_y) + beyond
    value = jnp.where((share == 0) & (of_target == jnp.inf), 0, share * of_target)
    if how.smoothing:
        value += (jnp.asarray(how.smoothing, wide) / classes) * (gaps + mass * beyond)
    loss_ref[...] = jnp.where(y >= 0, value, jnp.where(y == -1, 0, jnp.nan))
    top_ref[...] = m
    rest_ref[...] = others


def _backward_kernel(
    z_ref: Any, y_ref: Any, share_ref: Any, up_ref: Any, top_ref: Any, rest_ref: Any, w_ref: Any, mass_ref: Any,
    gradient_ref: Any, *, n: int, classes: int, how: _How,
) -> None:  # fmt: skip
    """One program: the gradient [R, B] of a block of rows and a block of classes."""
    wide = top_ref.dtype
    y, share, up, m, others = (ref[...][:, None] for ref in (y_ref, share_ref, up_ref, top_ref, rest_ref))
    column = (pl.program_id(1) * how.block + jnp.arange(how.block, dtype=jnp.int32))[None, :]
    row = (pl.program_id(0) * ROWS + jnp.arange(ROWS, dtype=jnp.int32))[:, None]
    inside = (row < n) & (column < classes)
    z = _load(z_ref, inside & (y != -1), wide)
    e = jnp.exp(z - m)
    total = 1 + others
    p = e / total
    # Of the target's class: minus what all others have. Where it is the largest, that is the sum that left it out.
    not_it = jnp.where(z == m, others, total - e) / total
    slope = jnp.where(column == y, -share * not_it, share * p)
    if how.smoothing:
        slope += (jnp.asarray(how.smoothing, wide) / classes) * (mass_ref[...] * p - w_ref[...][None, :])
    slope = jnp.where(y >= 0, slope * up, jnp.where(y == -1, 0, jnp.nan))
    plgpu.store(gradient_ref, slope.astype(gradient_ref.dtype), mask=inside)


def _load(ref: Any, mask: Any, wide: Any) -> Any:
    """A tile of logits in the format of the sums; −inf, which adds nothing, where the mask is False."""
    return jnp.where(mask, plgpu.load(ref, mask=mask, other=-jnp.inf).astype(wide), -jnp.inf)


def _padded(vector: jax.Array, step: int) -> jax.Array:
    """A vector with zeros up to a multiple of `step`."""
    return jnp.pad(vector, (0, -len(vector) % step))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _losses(logits: jax.Array, label: jax.Array, share: jax.Array, weights: jax.Array, how: _How) -> jax.Array:
    """The losses [N], in the format of the sums."""
    return _forward(logits, label, share, weights, how)[0]


@functools.partial(jax.jit, static_argnums=4)
def _forward(logits: jax.Array, label: jax.Array, share: jax.Array, weights: jax.Array, how: _How) -> Any:
    n, classes = logits.shape
    count = pl.cdiv(n, ROWS)
    per_row = pl.BlockSpec((ROWS,), lambda i: (i,))
    per_class = _padded(weights, how.block)
    found = pl.pallas_call(
        functools.partial(_forward_kernel, n=n, how=how),
        grid=(count,),
        in_specs=[
            pl.BlockSpec((ROWS, classes), lambda i: (i, 0)),
            per_row,
            per_row,
            pl.BlockSpec(per_class.shape, lambda i: (0,)),
        ],
        out_specs=[per_row] * 3,
        out_shape=[jax.ShapeDtypeStruct((count * ROWS,), weights.dtype)] * 3,
        interpret=how.interpret,
    )(logits, _padded(label, ROWS), _padded(share, ROWS), per_class)
    return tuple(array[:n] for array in found)


def _forward_rule(logits: jax.Array, label: jax.Array, share: jax.Array, weights: jax.Array, how: _How) -> Any:
    loss, top, rest = _forward(logits, label, share, weights, how)
    return loss, (logits, label, share, weights, top, rest)


@functools.partial(jax.jit, static_argnums=0)
def _backward(how: _How, kept: Any, upstream: jax.Array) -> jax.Array:
    logits, label, share, weights, top, rest = kept
    n, classes = logits.shape
    per_row = pl.BlockSpec((ROWS,), lambda i, j: (i,))
    tile = pl.BlockSpec((ROWS, how.block), lambda i, j: (i, j))
    gradient: jax.Array = pl.pallas_call(
        functools.partial(_backward_kernel, n=n, classes=classes, how=how),
        grid=(pl.cdiv(n, ROWS), pl.cdiv(classes, how.block)),
        in_specs=[
            tile,
            *[per_row] * 5,
            pl.BlockSpec((how.block,), lambda i, j: (j,)),
            pl.BlockSpec((1,), lambda i, j: (0,)),
        ],
        out_specs=tile,
        out_shape=jax.ShapeDtypeStruct(logits.shape, logits.dtype),
        interpret=how.interpret,
    )(
        logits,
        *(_padded(array, ROWS) for array in (label, share, upstream, top, rest)),
        _padded(weights, how.block),
        weights.sum(keepdims=True),
    )
    return gradient


def _backward_rule(how: _How, kept: Any, upstream: jax.Array) -> Any:
    return _backward(how, kept, upstream), None, None, None


_losses.defvjp(_forward_rule, _backward_rule)
