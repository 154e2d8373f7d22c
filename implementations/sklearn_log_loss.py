"""sklearn.metrics.log_loss of scipy.special.softmax(z): the mean of −log p_y, over clipped probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.declaration import implementation

Array = np.ndarray[Any, Any]


@implementation(
    framework="numpy",
    loss="cross_entropy",
    grade="absolute",
    requires={"sklearn": "scikit-learn", "scipy": "scipy"},
)
def sklearn_log_loss(logits: Array, target: Array) -> Any:
    """Softmax, then scikit-learn's log_loss, which is a mean."""
    from scipy.special import softmax
    from sklearn.metrics import log_loss

    return log_loss(target, softmax(logits, axis=1), labels=np.arange(logits.shape[1]))
