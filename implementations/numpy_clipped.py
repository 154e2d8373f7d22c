"""−log(clip(p_y, ε, 1 − ε)) with p = softmax(z): the tutorials' way round log(0), for ε = 1e-7 and 1e-15.

Good: always finite. Bad: the loss saturates at −log ε (16.1 for 1e-7, 34.5 for 1e-15) and its gradient is zero from
there on, so the worst rows teach nothing; at the other end no loss is below ε. Formats disagree with ε: in float32
1 − 1e-15 is 1, so that end is not clipped at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from harness.declaration import KnownFailure, implementation

Array = np.ndarray[Any, Any]

_SATURATES = KnownFailure(
    (
        "wide",
        "worst_cases_*",
        "mixed_scales",
        "underflow_edge",
        "format_maximum",
        "wrong_confident",
        "two_classes",
        "recorded/charlm_diverging",
    ),
    "A probability below ε is replaced by ε: the loss saturates at −log ε and its gradient is zero.",
    "keras-team/keras#17634",
)
_FLOOR = "A probability above 1 − ε is replaced by it: no loss is below ε, and the gradient is zero."


def _softmax(logits: Array) -> Array:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _loss(logits: Array, target: Array, epsilon: float) -> Array:
    p = _softmax(logits)[np.arange(len(target)), target]
    return -np.log(np.clip(p, epsilon, 1 - epsilon))


def _gradient(epsilon: float) -> Callable[[Array, Array, Array], Array]:
    @np.errstate(all="ignore")
    def gradient(logits: Array, target: Array, upstream: Array) -> Array:
        p = _softmax(logits)
        rows = np.arange(len(target))
        chosen = p[rows, target]
        clipped = np.clip(chosen, epsilon, 1 - epsilon) != chosen
        p[rows, target] -= 1
        return np.where(clipped[:, None], 0, upstream[:, None] * p).astype(p.dtype)

    return gradient


@implementation(
    framework="numpy",
    loss="cross_entropy",
    grade="absolute",
    gradient=_gradient(1e-7),
    known_failures=(
        _SATURATES,
        KnownFailure(("confident", "masked"), _FLOOR, "keras-team/keras#9664"),
        KnownFailure(("one_class", "tail_mass"), _FLOOR, "keras-team/keras#9664", dtypes=("float64",)),
    ),
)
@np.errstate(all="ignore")
def numpy_clipped_1e7(logits: Array, target: Array) -> Array:
    """Softmax clipped to [1e-7, 1 − 1e-7], then the logarithm."""
    return _loss(logits, target, 1e-7)


@implementation(
    framework="numpy",
    loss="cross_entropy",
    grade="absolute",
    gradient=_gradient(1e-15),
    known_failures=(
        _SATURATES,
        KnownFailure(("confident", "one_class"), _FLOOR, "keras-team/keras#9664", dtypes=("float64",)),
    ),
)
@np.errstate(all="ignore")
def numpy_clipped_1e15(logits: Array, target: Array) -> Array:
    """Softmax clipped to [1e-15, 1 − 1e-15], then the logarithm."""
    return _loss(logits, target, 1e-15)
