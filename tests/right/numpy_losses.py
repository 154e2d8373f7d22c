"""Right cross-entropies in NumPy and SciPy, with and without a gradient of their own."""

import numpy as np
from scipy.special import log_softmax, logsumexp


def _rows(target):
    return np.arange(len(target))


def shifted(logits, target):
    z = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(z).sum(axis=1)) - z[_rows(target), target]


def shifted_gradient(logits, target, upstream):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    g = e / e.sum(axis=1, keepdims=True)
    g[_rows(target), target] -= 1
    return g * upstream[:, None]


def with_a_gradient(logits, target):
    return shifted(logits, target)


def scipy_log_softmax(logits, target):
    return -log_softmax(logits, axis=1)[_rows(target), target]


def scipy_logsumexp(logits, target):
    return logsumexp(logits, axis=1) - logits[_rows(target), target]


def row_by_row(logits, target):
    losses = np.empty(len(logits), dtype=logits.dtype)
    for i, (z, y) in enumerate(zip(logits, target, strict=True)):
        m = z.max()
        losses[i] = (m - z[y]) + np.log(np.exp(z - m).sum(dtype=z.dtype))
    return losses


def mean_only(logits, target):
    return shifted(logits, target).mean()


def with_options(logits, target, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    v = logits.shape[1]
    kept = target != ignore_index
    label = np.where(kept, target, 0)
    w = np.ones(v, logits.dtype) if weight is None else weight
    safe = np.where(kept[:, None], logits, 0)
    m = safe.max(axis=1, keepdims=True)
    deficit = (m - safe) + np.log(np.exp(safe - m).sum(axis=1, keepdims=True))  # -log p, every class
    loss = (1 - label_smoothing) * w[label] * deficit[_rows(target), label]
    if label_smoothing:
        loss = loss + label_smoothing / v * (w * deficit).sum(axis=1)
    loss = np.where(kept, loss, 0).astype(logits.dtype)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / (w[label] * kept).sum(dtype=logits.dtype)


EXPECT = {
    "shifted": {"style": "shifted by the row's maximum, no gradient"},
    "with_a_gradient": {"style": "with a gradient function", "options": {"gradient": "shifted_gradient"}},
    "scipy_log_softmax": {"style": "scipy.special.log_softmax"},
    "scipy_logsumexp": {"style": "scipy.special.logsumexp minus the target's logit"},
    "row_by_row": {"style": "a Python loop over rows"},
    "mean_only": {"style": "gives the mean only"},
    "with_options": {"style": "every option by hand"},
}
