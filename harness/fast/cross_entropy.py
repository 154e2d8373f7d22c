"""The fast path of ``cross_entropy``: which rows it takes, and what it makes of them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from harness.fast.certificate import PART, in_range
from harness.fast.dd import two_sum
from harness.fast.paths import Path, own
from harness.fast.solved import Solved
from harness.fast.tables import Tables

__all__ = ["solve"]

Array = np.ndarray[Any, Any]


class Stated(Protocol):
    """A batch of the loss, as `harness.losses` states it: every number exact, float64."""

    logits: Array
    labels: Array | None
    probabilities: Array | None
    ignored: Array
    weight: Array | None
    smoothing: float


def solve(problem: Stated, scale_hi: Array, scale_lo: Array, path: Path, tables: Tables) -> Solved:
    """Rows [N] with their gradients times scale_hi + scale_lo [N]; see `harness.fast.solve`."""
    z = own(problem.logits)
    n, v = z.shape
    solved = Solved.empty((n,), z.shape)
    live = in_range(scale_hi) & ~problem.ignored
    scale = own(scale_hi), own(scale_lo)
    open_entries = np.zeros(n, np.int64)
    with np.errstate(all="ignore"):
        if problem.labels is not None and not problem.smoothing:
            label = np.where(problem.ignored, 0, problem.labels)
            w = np.ones(n) if problem.weight is None else problem.weight[label]
            live &= in_range(w)
            path.one_target(z, label, w, scale, tables, solved.arrays, live)
        else:
            w = np.ones(v) if problem.weight is None else own(problem.weight)
            live &= in_range(w, PART).all() & in_range(np.array(problem.smoothing), PART)
            kept = two_sum(1.0, -problem.smoothing)
            mixing = (kept[0], kept[1], float(v) if problem.smoothing else 1.0, problem.smoothing)
            label = np.zeros(n, np.int64) if problem.labels is None else np.where(problem.ignored, 0, problem.labels)
            q = np.zeros((0, v)) if problem.probabilities is None else own(problem.probabilities)
            given = (z, q, label, w, mixing, scale, tables, solved.arrays, live, open_entries)
            path.many_targets(*given)
            if (live & (open_entries > 0)).any():
                path.refined(*given)
    solved.settle(live & (open_entries == 0), problem.ignored)
    return solved
