"""The finer pass on arrays: rows that the first pass left with open entries, once more in triples.

`harness.fast.numba_path` has the same entry point, with the same arguments and the same results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from harness.fast.blocks import Block, blocks, column_blocks, top_of_rows
from harness.fast.dd import exponent_of, power_of_two
from harness.fast.dense import mass
from harness.fast.exponential import difference
from harness.fast.fine import Fixed, fine_entry, fine_mass, fine_row, fixed_of
from harness.fast.fine_exponential import fine_exponential
from harness.fast.tables import Tables

__all__ = ["count_open", "refined", "special_classes", "targets_of"]

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
        gradient = block.taken(out[2]), block.taken(out[3])
        given = targets_of(block, q, label)
        _refined(block, given, w, mixing, (scale[0][rows], scale[1][rows]), tables, gradient)
        block.put(out[2], gradient[0])
        block.put(out[3], gradient[1])
        open_entries[rows] = count_open(block, out[2])


def count_open(block: Block, gradient: Array) -> Array:
    """How many entries of each row of a gradient [N, V] are not finite: int64 [n]."""
    return np.array([np.count_nonzero(~np.isfinite(gradient[row])) for row in block.rows.tolist()])


def targets_of(block: Block, q: Array, label: Array) -> Callable[[slice], Array]:
    """The target distribution before smoothing, some columns at a time: given ones [N, V], or else one-hot."""
    if len(q):
        given = block.taken(q)
        return lambda cols: given[:, cols]
    at = block.columns_of(label[block.rows])[:, None]
    return lambda cols: (np.arange(cols.start, cols.stop) == at) * 1.0


def special_classes(q: Array, label: Array, w: Array) -> Callable[[int], set[int]] | None:
    """The classes of a row whose target mass may differ from all others'; None where all may differ.

    The first class is among them: it has the largest mass where none is larger.
    """
    if len(q) or (w != w[0]).any():
        return None
    return lambda row: {0, int(label[row])}


def _refined(
    block: Block,
    q: Callable[[slice], Array],
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

    sizes = np.empty(z.shape)
    for cols in column_blocks(z.shape[1]):
        sizes[:, cols] = mass(q(cols), w[cols], *mixing)[0]
    most = sizes.argmax(axis=1)
    sizes[at, most] = 0.0
    rest_k = exponent_of(sizes.max(axis=1))

    def masses(cols: slice) -> Fixed:
        t = fine_mass(q(cols), w[cols], *mixing)
        f = np.where(np.arange(cols.start, cols.stop) == most[:, None], 0.0, power_of_two(-rest_k)[:, None])
        return fixed_of((t[0] * f, t[1] * f, t[2] * f), np.zeros_like(rest_k)[:, None])

    largest = np.array([q(slice(j, j + 1))[i, 0] for i, j in enumerate(most.tolist())])
    peak = fine_mass(largest, w[most], *mixing)
    beyond, rest = _summed(exponentials, block), _summed(masses, block)
    numbers = fine_row(beyond, k, rest, rest_k, peak, scale, mixing[2])
    for cols in column_blocks(z.shape[1]):
        i, j = np.nonzero(np.isnan(gradient[0][:, cols]))
        t = fine_mass(q(cols)[i, j], w[cols][j], *mixing)
        j += cols.start
        *e, n = fine_exponential(*difference(z[i, j], m[i]), *words)
        here: Any = (*(tuple(word[i] for word in number) for number in numbers[:4]), *(word[i] for word in numbers[4:]))
        h, l, certain = fine_entry((e[0], e[1], e[2]), n, t, j == top[i], j == most[i], here)  # noqa: E741
        gradient[0][i, j], gradient[1][i, j] = np.where(certain, h, np.nan), np.where(certain, l, 0.0)


def _summed(terms: Callable[[slice], Fixed], block: Block) -> Any:
    """Row sums of fixed-point numbers, some columns at a time."""
    sums: Any = 0
    for cols in column_blocks(block.z.shape[1]):
        sums = sums + np.array([block.sum(digit, cols) for digit in terms(cols)])
    return sums
