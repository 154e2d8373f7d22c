"""Wrong cross-entropies in NumPy: right on the path that every test takes, wrong on one beside it."""

import numpy as np

_BUFFERS = {}


def _shifted(logits):
    return logits - logits.max(1, keepdims=True)


def _rows(logits, target):
    z = _shifted(logits)
    return np.log(np.exp(z).sum(1)) - z[np.arange(len(target)), target]


def _gradient(logits, target, upstream):
    gradient = np.exp(_shifted(logits))
    gradient /= gradient.sum(1, keepdims=True)
    gradient[np.arange(len(target)), target] -= 1
    return gradient * upstream[:, None]


def gradients_share_a_buffer(logits, target):
    return _rows(logits, target)


def into_one_buffer(logits, target, upstream):
    gradient = _gradient(logits, target, upstream)
    buffer = _BUFFERS.setdefault((gradient.shape, gradient.dtype), np.empty_like(gradient))
    buffer[...] = gradient
    return buffer


def losses_share_a_buffer(logits, target):
    rows = _rows(logits, target)
    buffer = _BUFFERS.setdefault((rows.shape, rows.dtype), np.empty_like(rows))
    buffer[...] = rows
    return buffer


def means_skip_nan(logits, target, *, reduction="mean"):
    rows = _rows(logits, target)
    if reduction == "none":
        return rows
    return np.nansum(rows) / (1 if reduction == "sum" else max(1, np.isfinite(rows).sum()))


EXPECT = {
    "gradients_share_a_buffer": {
        "check": "overlapping_calls",
        "bug": "one buffer for the gradients of all calls",
        "options": {"gradient": "into_one_buffer"},
    },
    "losses_share_a_buffer": {"check": "overlapping_calls", "bug": "one buffer for the losses of all calls"},
    "means_skip_nan": {"check": "nan_propagates", "bug": "reductions leave NaN out"},
}
