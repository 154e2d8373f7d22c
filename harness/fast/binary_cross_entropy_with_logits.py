"""The fast path of ``binary_cross_entropy_with_logits``: which elements it takes, and what it makes of them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from harness.fast.certificate import FURTHEST, PART, in_range
from harness.fast.paths import Path, own
from harness.fast.solved import Solved
from harness.fast.tables import Tables

__all__ = ["solve"]

Array = np.ndarray[Any, Any]


class Stated(Protocol):
    """A batch of the loss, as `harness.losses` states it: every array [N, K] of exact float64."""

    logits: Array
    target: Array
    weight: Array
    pos_weight: Array


def solve(problem: Stated, scale_hi: Array, scale_lo: Array, path: Path, tables: Tables) -> Solved:
    """Elements [N, K] with their gradients times scale_hi + scale_lo [N, K]; see `harness.fast.solve`."""
    x = problem.logits
    solved = Solved.empty(x.shape, x.shape)
    live = in_range(scale_hi) & (np.abs(x) <= FURTHEST)
    for factor in (problem.target, problem.weight, problem.pos_weight):
        live &= in_range(factor, PART)
    z, t, w, c = (own(a).reshape(-1) for a in (x, problem.target, problem.weight, problem.pos_weight))
    scale = own(scale_hi).reshape(-1), own(scale_lo).reshape(-1)
    out = tuple(a.reshape(-1) for a in solved.arrays)
    with np.errstate(all="ignore"):
        path.elements(z, t, w, c, scale, tables, out, live.reshape(-1))
    solved.settle(live, np.zeros(x.shape, bool))
    return solved
