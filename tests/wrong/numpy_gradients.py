"""Wrong gradients in NumPy, beside a loss that is right: they are named by ``--gradient``."""

import numpy as np


def _rows(target):
    return np.arange(len(target))


def _softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _loss(logits, target):
    z = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(z).sum(axis=1)) - z[_rows(target), target]


def gradient_without_upstream(logits, target, upstream):
    g = _softmax(logits)
    g[_rows(target), target] -= 1
    return g


def gradient_for_the_mean(logits, target, upstream):
    g = _softmax(logits)
    g[_rows(target), target] -= 1
    return g * upstream[:, None] / len(target)


def gradient_forgets_the_target(logits, target, upstream):
    return _softmax(logits) * upstream[:, None]


def gradient_zeroes_small_entries(logits, target, upstream):
    g = _softmax(logits)
    g[_rows(target), target] -= 1
    g[np.abs(g) < 1e-4] = 0
    return g * upstream[:, None]


def gradient_from_the_log(logits, target, upstream):
    g = _softmax(logits)
    g = np.exp(np.log(g + np.asarray(1e-7, g.dtype)))
    g[_rows(target), target] -= 1
    return g * upstream[:, None]


def with_gradient_without_upstream(logits, target):
    return _loss(logits, target)


def with_gradient_for_the_mean(logits, target):
    return _loss(logits, target)


def with_gradient_forgets_the_target(logits, target):
    return _loss(logits, target)


def with_gradient_zeroes_small_entries(logits, target):
    return _loss(logits, target)


def with_gradient_from_the_log(logits, target):
    return _loss(logits, target)


EXPECT = {
    "with_gradient_without_upstream": {
        "check": "upstream_gradient",
        "bug": "the upstream gradient is ignored",
        "options": {"gradient": "gradient_without_upstream"},
    },
    "with_gradient_for_the_mean": {
        "check": "gradient_accuracy",
        "bug": "the gradient is divided by N although the loss is per row",
        "options": {"gradient": "gradient_for_the_mean"},
    },
    "with_gradient_forgets_the_target": {
        "check": "gradient_accuracy",
        "bug": "the target class is not subtracted",
        "options": {"gradient": "gradient_forgets_the_target"},
    },
    "with_gradient_zeroes_small_entries": {
        "check": "gradient_accuracy",
        "bug": "entries below 1e-4 are set to zero",
        "options": {"gradient": "gradient_zeroes_small_entries"},
    },
    "with_gradient_from_the_log": {
        "check": "gradient_accuracy",
        "bug": "1e-7 is added to every probability",
        "options": {"gradient": "gradient_from_the_log"},
    },
}
