"""−log(exp(z_y) / Σ exp(z_j)): the softmax as it stands in the textbook, then the logarithm.

Good: nothing but brevity; right for logits of a few units. Bad: exp overflows from 88.7 on in float32 (709.8 in
float64), and then ∞/∞ is NaN; it underflows for a gap of 104 (745), and log(0) is −∞. A loss below u comes out as a
multiple of u, or 0, because p rounds to 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.declaration import KnownFailure, implementation

Array = np.ndarray[Any, Any]


def _softmax(logits: Array) -> Array:
    e = np.exp(logits)
    return e / e.sum(axis=1, keepdims=True)


@np.errstate(all="ignore")
def _gradient(logits: Array, target: Array, upstream: Array) -> Array:
    p = _softmax(logits)
    p[np.arange(len(target)), target] -= 1
    return upstream[:, None] * p


@implementation(
    framework="numpy",
    loss="cross_entropy",
    grade="absolute",
    gradient=_gradient,
    known_failures=(
        KnownFailure(
            (
                "mixed_scales",
                "worst_cases_*",
                "uniform",
                "uniform_1000",
                "overflow_edge",
                "format_maximum",
                "common_offset",
                "common_offset_random",
                "ties",
                "near_ties",
                "wrong_confident",
                "one_class",
                "two_classes",
                "recorded/charlm_diverging",
            ),
            "exp of an unshifted logit overflows, and infinity over infinity is NaN.",
        ),
        KnownFailure(
            ("wide", "underflow_edge"),
            "exp of an unshifted logit underflows: log(0) is −∞, and a sum of subnormal numbers has lost its digits.",
        ),
    ),
)
@np.errstate(all="ignore")
def numpy_naive(logits: Array, target: Array) -> Array:
    """Softmax without a shift, then the logarithm."""
    return -np.log(_softmax(logits)[np.arange(len(target)), target])
