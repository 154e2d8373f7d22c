"""The fast path of ``binary_cross_entropy_with_logits``: which elements it takes, and what it makes of them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from harness.fast.certificate import FURTHEST, PART, in_range
from harness.fast.fine_binary import fine_gradient
from harness.fast.paths import Path, own
from harness.fast.solved import Solved
from harness.fast.tables import Tables

__all__ = ["solve"]

Array = np.ndarray[Any, Any]

_AT_ONCE = 1 << 16
"""Elements solved at once: options are broadcast, and would take their own memory for each."""


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
    live = np.zeros(x.shape, bool)
    step = max(1, _AT_ONCE // max(1, x.shape[1]))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        z, t, w, c, *scale = (
            own(array[rows]) for array in (x, problem.target, problem.weight, problem.pos_weight, scale_hi, scale_lo)
        )
        some = in_range(scale[0]) & (np.abs(z) <= FURTHEST)
        for factor in (t, w, c):
            some &= in_range(factor, PART)
        out = tuple(array[rows].reshape(-1) for array in solved.arrays)
        flat = [array.reshape(-1) for array in (z, t, w, c, *scale)]
        given = some.copy()
        with np.errstate(all="ignore"):
            path.elements(flat[0], flat[1], flat[2], flat[3], (flat[4], flat[5]), tables, out, some.reshape(-1))
            _refine(flat, tables, out, given.reshape(-1), some.reshape(-1))
        live[rows] = some
    solved.settle(live, np.zeros(x.shape, bool))
    return solved


def _refine(flat: list[Array], tables: Tables, out: tuple[Array, ...], given: Array, live: Array) -> None:
    """Elements [M] that were given and are not live, once more in triples."""
    rest = np.flatnonzero(given & ~live & np.isfinite(out[0]))
    x, t, w, c, scale_hi, scale_lo = (array[rest] for array in flat)
    out[2][rest], out[3][rest], live[rest] = fine_gradient(x, t, w, c, (scale_hi, scale_lo), tables)
