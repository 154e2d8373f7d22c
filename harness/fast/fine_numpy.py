"""The finer pass on arrays: rows that the first pass left with open entries, once more in triples.

`harness.fast.numba_path` has the same entry point, with the same arguments and the same results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from harness.fast.blocks import BLOCK, Block, blocks, column_blocks, top_of_rows
from harness.fast.dd import exponent_of, power_of_two
from harness.fast.dense import mass
from harness.fast.exponential import difference
from harness.fast.fine import Fixed, fine_entry, fine_mass, fine_row, fixed_of
from harness.fast.fine_exponential import fine_exponential
from harness.fast.tables import Tables

__all__ = ["refined", "special_classes"]

Array = np.ndarray[Any, Any]


def refined(
    z: Array,
    q: Array,
    label: Array,
    w: Array,
    mixing: tuple[float, float, float, float],
    scale: tuple[Array, Array],
    tables: Tables,
    out: tuple[Array, ...],
    live: Array,
    open_entries: Array,
) -> None:
    """Entries that are NaN in rows with open ones, where their certificate holds; counts anew what is open.

    The arguments are those of `harness.fast.numpy_path.many_targets`, which goes before.
    """
    for block in blocks(z, live & (open_entries > 0), special_classes(q, label, w)):
        rows = block.rows
        given = q[rows] if len(q) else block.one_hot(label[rows])
        gradient = block.taken(out[2]), block.taken(out[3])
        _refined(block, given, w[: block.z.shape[1]], mixing, (scale[0][rows], scale[1][rows]), tables, gradient)
        block.put(out[2], gradient[0])
        block.put(out[3], gradient[1])
        open_entries[rows] = (~np.isfinite(out[2][rows])).sum(axis=1)


def special_classes(q: Array, label: Array, w: Array) -> Callable[[int], set[int]] | None:
    """The classes of a row whose target mass may differ from all others'; None where all may differ.

    The first class is among them: it has the largest mass where none is larger.
    """
    if len(q) or (w != w[0]).any():
        return None
    return lambda row: {0, int(label[row])}


def _refined(
    block: Block,
    q: Array,
    w: Array,
    mixing: tuple[float, float, float, float],
    scale: tuple[Array, Array],
    tables: Tables,
    gradient: tuple[Array, Array],
) -> None:
    """Fill in what is NaN of a gradient [n, U], where that is certified."""
    z = block.z
    words = (tables.high, tables.low, tables.third)
    at = np.arange(len(z))
    top, m, k = top_of_rows(z)

    def exponentials(cols: slice) -> Fixed:
        *p, n = fine_exponential(*difference(z[:, cols], m[:, None]), *words)
        kept = np.where(np.arange(cols.start, cols.stop) == top[:, None], 0.0, 1.0)
        return fixed_of((p[0] * kept, p[1] * kept, p[2] * kept), n - k[:, None])

    sizes = mass(q, w, *mixing)[0]
    most = sizes.argmax(axis=1)
    sizes[at, most] = 0.0
    rest_k = exponent_of(sizes.max(axis=1))

    def masses(cols: slice) -> Fixed:
        t = fine_mass(q[:, cols], w[cols], *mixing)
        f = np.where(np.arange(cols.start, cols.stop) == most[:, None], 0.0, power_of_two(-rest_k)[:, None])
        return fixed_of((t[0] * f, t[1] * f, t[2] * f), np.zeros_like(rest_k)[:, None])

    peak = fine_mass(q[at, most], w[most], *mixing)
    beyond, rest = _summed(exponentials, block), _summed(masses, block)
    numbers = fine_row(beyond, k, rest, rest_k, peak, scale, mixing[2])
    rows, columns = np.nonzero(np.isnan(gradient[0]))
    for start in range(0, len(rows), BLOCK):
        i, j = rows[start : start + BLOCK], columns[start : start + BLOCK]
        *e, n = fine_exponential(*difference(z[i, j], m[i]), *words)
        t = fine_mass(q[i, j], w[j], *mixing)
        here: Any = (*(tuple(word[i] for word in number) for number in numbers[:4]), *(word[i] for word in numbers[4:]))
        h, l, certain = fine_entry((e[0], e[1], e[2]), n, t, j == top[i], j == most[i], here)  # noqa: E741
        gradient[0][i, j], gradient[1][i, j] = np.where(certain, h, np.nan), np.where(certain, l, 0.0)


def _summed(terms: Callable[[slice], Fixed], block: Block) -> Any:
    """Row sums of fixed-point numbers, some columns at a time."""
    sums: Any = 0
    for cols in column_blocks(block.z.shape[1]):
        sums = sums + np.array([block.sum(digit, cols) for digit in terms(cols)])
    return sums
