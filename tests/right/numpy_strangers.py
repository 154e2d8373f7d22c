"""Right cross-entropies in NumPy, as strangers hand them in: pure Python, longdouble, Numba, options by slices."""

import math

import numpy as np
from scipy import special


def longdouble_inside(logits, target, reduction="mean"):
    z = logits.astype(np.longdouble)
    top = z.max(axis=1, keepdims=True)
    loss = np.log(np.exp(z - top).sum(axis=1)) + top[:, 0] - z[np.arange(len(z)), target]
    return (loss if reduction == "none" else getattr(loss, reduction)()).astype(logits.dtype)


def longdouble_output(logits, target):
    return special.logsumexp(logits.astype(np.longdouble), axis=1) - logits[np.arange(len(target)), target]


def mean_in_pure_python(logits, target):
    total = 0.0
    for row, label in zip(logits.tolist(), target.tolist(), strict=True):
        top = max(row)
        total += top - row[label] + math.log(math.fsum(math.exp(z - top) for z in row))
    return total / len(logits)


_compiled = []


def compiled_at_the_first_call(logits, target):
    if not _compiled:
        import numba

        @numba.njit
        def kernel(z, y, out):
            for i in range(len(z)):
                top, total = z[i, 0], 0.0
                for j in range(z.shape[1]):
                    if not z[i, j] <= top:
                        top = z[i, j]
                for j in range(z.shape[1]):
                    total += math.exp(z[i, j] - top)
                out[i] = top - z[i, y[i]] + math.log(total)

        _compiled.append(kernel)
    out = np.empty(len(logits), dtype=logits.dtype)
    _compiled[0](logits, target, out)
    return out


def compiled_at_the_first_call_gradient(logits, target, upstream):
    gradient = special.softmax(logits, axis=1)
    np.subtract.at(gradient, (np.arange(len(target)), target), 1)
    return gradient * upstream[:, None]


def rows_that_count(logits, target, *, weight=None, ignore_index=-100, reduction="mean"):
    kept = target != ignore_index
    label = target[kept]
    loss = -special.log_softmax(logits[kept], axis=1)[np.arange(len(label)), label]
    w = np.ones(len(label), logits.dtype) if weight is None else weight[label]
    if reduction == "mean":
        return np.average(loss, weights=w)
    rows = np.zeros(len(target), logits.dtype)
    rows[kept] = w * loss
    return rows if reduction == "none" else rows.sum()


def puts_the_error_state_back(logits, target):
    before = np.seterr(all="ignore")
    try:
        z = logits - np.max(logits, axis=-1, keepdims=True)
        return np.log(np.exp(z) @ np.ones(z.shape[1], z.dtype)) - z[range(len(z)), target]
    finally:
        np.seterr(**before)


EXPECT = {
    "longdouble_inside": {"style": "longdouble, the loss rounded to the input's dtype"},
    "longdouble_output": {"style": "a longdouble loss", "deviation": "wider_output"},
    "mean_in_pure_python": {"style": "lists and math, the mean as a Python float", "deviation": "wider_output"},
    "compiled_at_the_first_call": {
        "style": "Numba, compiled at the first call, with a gradient function",
        "options": {"gradient": "compiled_at_the_first_call_gradient"},
    },
    "rows_that_count": {"style": "boolean indexing and numpy.average", "deviation": "all_ignored"},
    "puts_the_error_state_back": {"style": "np.seterr, put back; sums as matrix products"},
}
