"""The fast path of ``binary_cross_entropy_with_logits``: which elements it takes, and what it makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from harness.fast.certificate import FURTHEST, PART, in_range
from harness.fast.fine_binary import fine_gradient
from harness.fast.paths import Path, own
from harness.fast.solved import Solved
from harness.fast.tables import Tables

__all__ = ["solve"]

Array = np.ndarray[Any, Any]

_AT_ONCE = 1 << 14
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
    for part in _parts(x.shape):
        numbers = (x, problem.target, problem.weight, problem.pos_weight, scale_hi, scale_lo)
        flat = [own(array[part]).reshape(-1) for array in numbers]
        out = tuple(array[part].reshape(-1) for array in solved.arrays)  # views: a part is contiguous
        live[part] = _solve(flat, tables, path, out).reshape(live[part].shape)
    solved.settle(live, np.zeros(x.shape, bool))
    return solved


def _parts(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Contiguous parts of an array [N, K]: whole rows, or pieces of one."""
    n, k = shape
    step = max(1, _AT_ONCE // max(1, k))
    for row in range(0, n, step):
        for column in range(0, k, _AT_ONCE):
            yield slice(row, row + step), slice(column, column + _AT_ONCE)


def _solve(flat: list[Array], tables: Tables, path: Path, out: tuple[Array, ...]) -> Array:
    """Elements [M] into `out`; which are certified."""
    x, t, w, c, scale_hi, scale_lo = flat
    given = in_range(scale_hi) & (np.abs(x) <= FURTHEST)
    for factor in (t, w, c):
        given &= in_range(factor, PART)
    live = given.copy()
    with np.errstate(all="ignore"):
        path.elements(x, t, w, c, (scale_hi, scale_lo), tables, out, live)
        _refine(flat, tables, out, given, live)
    return live


def _refine(flat: list[Array], tables: Tables, out: tuple[Array, ...], given: Array, live: Array) -> None:
    """Elements [M] that were given and are not live, once more in triples."""
    rest = np.flatnonzero(given & ~live & np.isfinite(out[0]))
    x, t, w, c, scale_hi, scale_lo = (array[rest] for array in flat)
    out[2][rest], out[3][rest], live[rest] = fine_gradient(x, t, w, c, (scale_hi, scale_lo), tables)
