"""The fast path on arrays: the functions of this package applied to blocks that fit the cache.

`harness.fast.numba_path` has the same three entry points, with the same arguments and the same results.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from harness.fast import binary, dense, softmax
from harness.fast.certificate import FACTOR, FURTHEST, PART, SMALLEST_SHARE
from harness.fast.dd import add, exponent_of, multiply, power_of_two
from harness.fast.exponential import difference, exponential, position
from harness.fast.sums import MOST_TERMS, digits
from harness.fast.tables import Tables

__all__ = ["elements", "many_targets", "one_target"]

Array = np.ndarray[Any, Any]
Triple = tuple[Array, Array, Array]
Sums = tuple[Array, Array, Array, Array]

_BLOCK = 8192
"""Entries worked on at once: some thirty arrays of them stay in a second-level cache."""

_FAR_BELOW = -1000
"""Terms that are smaller than the largest by 2^-1000 are taken to be that small: fixed-point sums end at 2^-126."""


def _row_blocks(n: int, v: int) -> Iterator[slice]:
    step = max(1, _BLOCK // v)
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def _column_blocks(v: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK, v)) for start in range(0, v, _BLOCK))


def one_target(
    z: Array, label: Array, w: Array, scale: tuple[Array, Array], tables: Tables, out: tuple[Array, ...], live: Array
) -> None:
    """Cross-entropy with one target class: z [N, V], the others [N]; see `harness.fast.cross_entropy`."""
    for rows in _row_blocks(*z.shape):
        rows_of = np.flatnonzero(live[rows]) + rows.start
        if len(rows_of):
            _one_target(z, label, w, scale, tables, out, live, rows_of)


def _one_target(
    z: Array,
    label: Array,
    w: Array,
    scale: tuple[Array, Array],
    tables: Tables,
    out: tuple[Array, ...],
    live: Array,
    rows: Array,
) -> None:
    block = z[rows]
    top, m, sums, e, live[rows] = _exponentials(block, tables)
    at = np.arange(len(rows))
    y = label[rows]
    zy = block[at, y]
    ey = (e[0][at, y], e[1][at, y], e[2][at, y])
    lh, ll, ch, cl, gh, gl = softmax.one_target(
        m, zy, y == top, ey, w[rows], (scale[0][rows], scale[1][rows]), sums, tables.logs
    )
    masked = np.isneginf(zy)
    live[rows] &= (np.abs(zy) <= FURTHEST) | masked
    live[rows] &= np.isfinite(gh) & (np.isfinite(lh) | (masked & np.isposinf(lh)))
    out[0][rows], out[1][rows] = lh, ll
    for cols in _column_blocks(z.shape[1]):
        part = [x[:, cols] for x in e]
        pair = softmax.scaled_product(ch[:, None], cl[:, None], part[0], part[1], part[2])
        out[2][rows, cols], out[3][rows, cols] = pair
        live[rows] &= np.isfinite(pair[0]).all(axis=1)
    out[2][rows, y], out[3][rows, y] = gh, gl


def many_targets(
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
    """Cross-entropy with target masses: z and q [N, V] (or q empty and label [N]), w [V].

    Entries that cancel too much are left open: they are NaN, and counted per row in `open_entries` [N].
    """
    for rows in _row_blocks(*z.shape):
        rows_of = np.flatnonzero(live[rows]) + rows.start
        if len(rows_of):
            given = q[rows_of] if len(q) else np.arange(z.shape[1]) == label[rows_of, None]
            parts = (scale[0][rows_of], scale[1][rows_of])
            _many_targets(z[rows_of], given * 1.0, w, mixing, parts, tables, out, live, open_entries, rows_of)


def _many_targets(
    z: Array,
    q: Array,
    w: Array,
    mixing: tuple[float, float, float, float],
    scale: tuple[Array, Array],
    tables: Tables,
    out: tuple[Array, ...],
    live: Array,
    open_entries: Array,
    rows: Array,
) -> None:
    top, m, sums, e, sound = _exponentials(z, tables)
    at = np.arange(len(z))
    times = mixing[2]
    t = dense.mass(q, w, *mixing)
    most = t[0].argmax(axis=1)
    others = t[0].copy()
    others[at, most] = 0.0
    second = others.max(axis=1)
    largest = t[0][at, most]
    smallest = np.where(t[0] > 0, t[0], np.inf).min(axis=1)
    sound &= (largest <= FACTOR) & (smallest >= 1 / FACTOR) & (smallest >= SMALLEST_SHARE * largest) & (largest > 0)
    masked = np.isneginf(z)
    sound &= ((q == 0) | (q >= 1 / PART)).all(axis=1)
    sound &= ((np.abs(z) <= FURTHEST) | masked | (t[0] == 0)).all(axis=1)
    kept = np.where(others > 0, t[0], 0.0), np.where(others > 0, t[1], 0.0)
    rest = _sum(*kept, exponent_of(second))
    away = dense.distance(m[:, None], z, *t)
    far = _sum(*away, exponent_of(away[0].max(axis=1)))
    peak = (t[0][at, most], t[1][at, most])
    lh, ll, th, tl, sh, sl, ch, cl, rh, rl = dense.row(sums, rest, peak, far, scale, times, tables.logs)
    lost = (masked & (t[0] > 0)).any(axis=1)
    lh, ll = np.where(lost, np.inf, lh), np.where(lost, 0.0, ll)
    out[0][rows], out[1][rows] = lh, ll
    live[rows] = sound & (np.isfinite(lh) | lost)
    share = multiply(th, tl, ch, cl)
    wide = [(high[:, None], low[:, None]) for high, low in ((th, tl), (sh, sl), (ch, cl), share)]
    gh, gl, certain = dense.entry(e, t, *wide)
    out[2][rows], out[3][rows] = np.where(certain, gh, np.nan), np.where(certain, gl, 0.0)
    for j in (top, most):
        ej, tj = (e[0][at, j], e[1][at, j], e[2][at, j]), (t[0][at, j], t[1][at, j])
        others_h, others_l = add(th, tl, -tj[0], -tj[1])
        mass = np.where(j == most, rest[0], others_h), np.where(j == most, rest[1], others_l)
        beside_h, beside_l = add(sh, sl, *(-x for x in softmax.plain(*ej)))
        beside = np.where(j == top, rh, beside_h), np.where(j == top, rl, beside_l), np.where(j == top, sums[3], 0)
        gh, gl, certain = dense.special_entry(ej, tj, mass, beside, (ch, cl))
        out[2][rows, j], out[3][rows, j] = np.where(certain, gh, np.nan), np.where(certain, gl, 0.0)
    open_entries[rows] = (~np.isfinite(out[2][rows])).sum(axis=1)


def _sum(h: Array, l: Array, k: Array) -> tuple[Array, Array]:  # noqa: E741
    """The row sums of pairs whose largest has the exponent k; 0 where that is below `dense.NOTHING`."""
    f = np.where(k < dense.NOTHING, 0.0, power_of_two(-np.maximum(k, dense.NOTHING)))[:, None]
    first, second, third = (digit.sum(axis=1) for digit in digits(h * f, l * f))
    return dense.sum_of(first, second, third, np.maximum(k, dense.NOTHING))


def elements(
    x: Array,
    t: Array,
    w: Array,
    c: Array,
    scale: tuple[Array, Array],
    tables: Tables,
    out: tuple[Array, ...],
    live: Array,
) -> None:
    """Binary cross-entropy with logits, every array [M]; see `harness.fast.binary_cross_entropy_with_logits`."""
    for start in range(0, len(x), _BLOCK):
        some = np.flatnonzero(live[start : start + _BLOCK]) + start
        if len(some):
            given = (x[some], t[some], w[some], c[some], (scale[0][some], scale[1][some]))
            *results, live[some] = binary.element(*given, tables.high, tables.low, tables.logs)
            for array, result in zip(out, results, strict=True):
                array[some] = result


def _exponentials(z: Array, tables: Tables) -> tuple[Array, Array, Sums, Triple, Array]:
    """The class left out, the maximum, R as integers with an exponent, all exponentials, which rows are in range."""
    at = np.arange(len(z))
    top = z.argmax(axis=1)
    m = z[at, top]
    sound = (np.abs(m) <= FURTHEST) & (z.shape[1] <= MOST_TERMS)
    m = np.where(sound, m, 0.0)
    z = np.where(sound[:, None], z, 0.0)
    second = z.copy()
    second[at, top] = -np.inf
    k = position(difference(second.max(axis=1), m)[0]) >> 10
    high, low, exponent = np.empty(z.shape), np.empty(z.shape), np.empty(z.shape, np.int64)
    a, b, c = (np.zeros(len(z), np.int64) for _ in range(3))
    for cols in _column_blocks(z.shape[1]):
        p, q, n = exponential(*difference(z[:, cols], m[:, None]), tables.high, tables.low)
        high[:, cols], low[:, cols], exponent[:, cols] = p, q, n
        f = power_of_two(np.maximum(n - k[:, None], _FAR_BELOW))
        f = np.where(np.arange(cols.start, cols.stop) == top[:, None], 0.0, f)
        for sum_, digit in zip((a, b, c), digits(p * f, q * f), strict=True):
            sum_ += digit.sum(axis=1)
    return top, m, (a, b, c, k), (high, low, exponent), sound
