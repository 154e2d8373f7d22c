"""Right losses in NumPy: every option with its gradient, sums by math.fsum, the binary loss."""

import math

import numpy as np
from scipy import special


def _weights(logits, target, weight, ignore_index, label_smoothing):
    """Which rows count, their labels, the weights of all classes, and the weighted target [N, V]."""
    kept = target != ignore_index
    label = np.where(kept, target, 0)
    weight = np.ones_like(logits[0]) if weight is None else weight
    mass = np.broadcast_to(weight * (label_smoothing / logits.shape[1]), logits.shape).astype(logits.dtype)
    mass[np.arange(len(label)), label] += (1 - label_smoothing) * weight[label]
    return kept, label, weight, mass


def with_options(logits, target, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    kept, label, weight, mass = _weights(logits, target, weight, ignore_index, label_smoothing)
    shifted = logits - logits.max(axis=1, keepdims=True)
    loss = np.log(np.exp(shifted).sum(axis=1, keepdims=True)) - shifted
    with np.errstate(all="ignore"):
        rows = np.where(kept, np.where(mass == 0, 0, mass * loss).sum(axis=1), 0).astype(logits.dtype)
        if reduction == "none":
            return rows
        return rows.sum() if reduction == "sum" else rows.sum() / np.where(kept, weight[label], 0).sum(dtype=rows.dtype)


def with_options_gradient(
    logits, target, upstream, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    kept, label, weight, mass = _weights(logits, target, weight, ignore_index, label_smoothing)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    with np.errstate(all="ignore"):
        if reduction == "mean":
            upstream = upstream / np.where(kept, weight[label], 0).sum(dtype=logits.dtype)
        rows = mass.sum(axis=1, keepdims=True) * p - mass
        rows = rows * (upstream if np.ndim(upstream) == 0 else upstream[:, None])
    return np.where(kept[:, None], rows, 0).astype(logits.dtype)


def summed_exactly(logits, target):
    shifted = logits - logits.max(axis=1, keepdims=True)
    total = [math.fsum(row) for row in np.exp(shifted).tolist()]
    return np.log(np.array(total, dtype=logits.dtype)) - shifted[np.arange(len(target)), target]


def binary(logits, target):
    return np.maximum(logits, 0) - logits * target + np.log1p(np.exp(-np.abs(logits)))


def binary_gradient(logits, target, upstream):
    return (special.expit(logits) - target) * upstream


EXPECT = {
    "with_options": {
        "style": "every option, and a gradient function with all of them",
        "options": {"gradient": "with_options_gradient"},
    },
    "summed_exactly": {"style": "each row by math.fsum"},
    "binary": {
        "style": "the binary loss with a gradient function",
        "options": {"loss": "binary_cross_entropy_with_logits", "gradient": "binary_gradient"},
    },
}
