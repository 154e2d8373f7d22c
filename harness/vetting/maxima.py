"""Differentiating through a row's maximum: what rounding leaves there of a sum that is zero, and what to say of it.

``z - z.max(…)`` is a usual way to write a loss, and many forget to detach the maximum. Its derivative is then
T·Σ p_j − Σ t_j, which is zero but for rounding, and lands on the maximum's own entry of the gradient. The bounds have
no term for it: where many classes are about equally likely, it exceeds what the entry itself may be off.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.arithmetic import Arithmetic
from harness.batch import Batch
from harness.grades import Grade
from harness.reference import Reference

__all__ = ["advice"]

Array = np.ndarray[Any, Any]


def advice(bad: Array, gradient: Array, batch: Batch, reference: Reference, required: Grade) -> str:
    """What to do where the bad entries of an unreduced gradient [N, V] are off by that rounding alone, else ``""``.

    It lands on one entry of a row; among several largest logits it is shared out, and does not show.
    """
    if (bad.sum(axis=1) > 1).any():
        return ""
    arithmetic = Arithmetic.at(Grade.STORAGE if required is Grade.STORAGE else Grade.ABSOLUTE, batch.format)
    residue = reference.problem.maximum_rounding(arithmetic, reference.problem.upstream)
    with np.errstate(all="ignore"):
        error = np.abs((gradient.astype(np.float64) - reference.grad_hi) - reference.grad_lo)
        explained = (error <= residue) | ~bad
    if not explained.all():
        return ""
    return "; only at the largest logit, as where it is differentiated through: detach the maximum that is subtracted"
