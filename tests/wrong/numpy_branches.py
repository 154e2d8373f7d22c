"""Wrong cross-entropies in NumPy: right on the paths that all try, wrong on one that a combination of them opens."""

import numpy as np


def _terms(logits, target, weight, ignore_index, label_smoothing):
    kept = target != ignore_index
    label = np.where(kept, target, 0)
    given = np.ones_like(logits[0]) if weight is None else weight
    mass = np.zeros_like(logits)
    mass[np.arange(len(label)), label] = 1 - label_smoothing
    mass = (mass + logits.dtype.type(label_smoothing / logits.shape[1])) * given
    return np.where(kept[:, None], mass, 0).astype(logits.dtype), np.where(kept, given[label], 0)


def _shifted(logits):
    with np.errstate(all="ignore"):
        return logits - logits.max(axis=1, keepdims=True)


def _loss(logits, mass, own, reduction):
    shifted = _shifted(logits)
    lost = np.log(np.exp(shifted).sum(axis=1, keepdims=True)) - shifted
    with np.errstate(all="ignore"):
        rows = np.where(mass == 0, 0, mass * lost).sum(axis=1)
    if reduction == "none":
        return rows
    with np.errstate(all="ignore"):
        return rows.sum() if reduction == "sum" else (rows.sum() / own.sum()).astype(rows.dtype)


def _gradient(logits, mass, own, upstream, reduction):
    e = np.exp(_shifted(logits))
    rows = e / e.sum(axis=1, keepdims=True) * mass.sum(axis=1, keepdims=True) - mass
    if reduction == "none":
        return rows * upstream[:, None]
    with np.errstate(all="ignore"):
        return rows * (upstream if reduction == "sum" else upstream / own.sum())


def _right(logits, target, weight, ignore_index, label_smoothing, reduction):
    mass, own = _terms(logits, target, weight, ignore_index, label_smoothing)
    return _loss(logits, mass, own.astype(logits.dtype), reduction)


def gradient_smooths_without_weights(
    logits, target, upstream, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    mass, own = _terms(logits, target, weight, ignore_index, label_smoothing)
    if weight is not None and label_smoothing:
        kept = (target != ignore_index)[:, None]
        even = _terms(logits, target, None, ignore_index, 1.0)[0] * logits.dtype.type(label_smoothing)
        mass = np.where(kept, _terms(logits, target, weight, ignore_index, 0.0)[0] * (1 - label_smoothing) + even, 0)
    return _gradient(logits, mass.astype(logits.dtype), own.astype(logits.dtype), upstream, reduction)


def with_gradient_smooths_without_weights(
    logits, target, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    return _right(logits, target, weight, ignore_index, label_smoothing, reduction)


def gradient_of_ignored_mean(
    logits, target, upstream, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    mass, own = _terms(logits, target, weight, ignore_index, label_smoothing)
    if weight is None and label_smoothing:
        own = np.ones_like(own)
    return _gradient(logits, mass, own.astype(logits.dtype), upstream, reduction)


def with_gradient_of_ignored_mean(
    logits, target, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    return _right(logits, target, weight, ignore_index, label_smoothing, reduction)


def gradient_transposed(logits, target, upstream):
    mass, own = _terms(logits, target, None, -100, 0.0)
    return _gradient(logits, mass, own, upstream, "none").T


def with_gradient_transposed(logits, target):
    return _right(logits, target, None, -100, 0.0, "none")


EXPECT = {
    "with_gradient_smooths_without_weights": {
        "check": "options_combined",
        "bug": "the gradient of the smoothing term misses the class weights",
        "options": {"gradient": "gradient_smooths_without_weights"},
    },
    "with_gradient_of_ignored_mean": {
        "check": "reduction",
        "bug": "with smoothing and no weights, the mean's gradient divides by all rows, the ignored ones too",
        "options": {"gradient": "gradient_of_ignored_mean"},
    },
    "with_gradient_transposed": {
        "check": "output_form",
        "bug": "the gradient comes back as [V, N]",
        "options": {"gradient": "gradient_transposed"},
    },
}
