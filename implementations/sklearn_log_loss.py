"""sklearn.metrics.log_loss of scipy.special.softmax(z): the mean of −log p_y over clipped probabilities, no gradient.

Good: the metric that scikit-learn's own models are compared by. Bad: p is clipped to [ε, 1 − ε] with ε of its dtype, so
no row counts for more than 36.04 in float64, or 15.94 in float32, and none for less than ε. One class is refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.declaration import KnownFailure, implementation

Array = np.ndarray[Any, Any]


@implementation(
    framework="numpy",
    loss="cross_entropy",
    grade="absolute",
    requires={"sklearn": "scikit-learn", "scipy": "scipy"},
    known_failures=(
        KnownFailure(
            (
                "wide",
                "mixed_scales",
                "underflow_edge",
                "wrong_confident",
                "two_classes",
                "recorded/charlm_diverging",
                "worst_cases_*",
            ),
            "Probabilities are clipped at ε of their dtype: a row's loss ends at −log ε, which is 36.04 or 15.94.",
            "scikit-learn/scikit-learn#17399",
        ),
        KnownFailure(
            ("one_class",),
            "Labels of a single class are refused with an error.",
            "scikit-learn/scikit-learn#18523",
        ),
    ),
)
def sklearn_log_loss(logits: Array, target: Array) -> Any:
    """Softmax, then scikit-learn's log_loss, which is a mean."""
    from scipy.special import softmax
    from sklearn.metrics import log_loss

    return log_loss(target, softmax(logits, axis=1), labels=np.arange(logits.shape[1]))
