"""The fast path on arrays: the functions of this package applied to blocks that fit the cache.

`harness.fast.numba_path` has the same entry points, `refined` among them, with the same arguments and the same results.
Wide rows of 16-bit numbers are worked on by their distinct values: see `harness.fast.distinct`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.fast import binary, dense, softmax
from harness.fast.blocks import BLOCK, Block, blocks, column_blocks, groups, top_of_rows
from harness.fast.certificate import FACTOR, FURTHEST, PART, SMALLEST_SHARE
from harness.fast.dd import add, exponent_of, multiply, power_of_two
from harness.fast.exponential import difference, exponential
from harness.fast.fine_numpy import refined, special_classes
from harness.fast.sums import MOST_TERMS, digits
from harness.fast.tables import Tables

__all__ = ["elements", "many_targets", "one_target", "refined"]

Array = np.ndarray[Any, Any]
Triple = tuple[Array, Array, Array]
Sums = tuple[Array, Array, Array, Array]

_FAR_BELOW = -1000
"""Terms that are smaller than the largest by 2^-1000 are taken to be that small: fixed-point sums end at 2^-126."""


def one_target(
    z: Array, label: Array, w: Array, scale: tuple[Array, Array], tables: Tables, out: tuple[Array, ...], live: Array
) -> None:
    """Cross-entropy with one target class: z [N, V], the others [N]; see `harness.fast.cross_entropy`."""
    for group in groups(blocks(z, live, lambda row: {int(label[row])})):
        rows = np.concatenate([block.rows for block in group])
        parts = [_exponentials(block, tables) for block in group]
        ys = [block.columns_of(label[block.rows]) for block in group]
        m, zy, at_top, e0, e1, e2, a, b, c, k, sound = (
            np.concatenate(numbers) for numbers in zip(*map(_target_numbers, group, parts, ys), strict=True)
        )
        lh, ll, ch, cl, yh, yl = softmax.one_target(
            m, zy, at_top, (e0, e1, e2), w[rows], (scale[0][rows], scale[1][rows]), (a, b, c, k), tables.logs
        )
        masked = np.isneginf(zy)
        out[0][rows], out[1][rows] = lh, ll
        live[rows] = sound & ((np.abs(zy) <= FURTHEST) | masked)
        live[rows] &= np.isfinite(yh) & (np.isfinite(lh) | (masked & np.isposinf(lh)))
        end = np.cumsum([len(y) for y in ys])
        for block, part, y, stop in zip(group, parts, ys, end, strict=True):
            some = slice(stop - len(y), stop)
            gh, gl, finite = _multiples(part[3], ch[some], cl[some])
            gh[np.arange(len(y)), y], gl[np.arange(len(y)), y] = yh[some], yl[some]
            block.put(out[2], gh)
            block.put(out[3], gl)
            live[block.rows] &= finite


def _target_numbers(block: Block, part: tuple[Array, Array, Sums, Triple, Array], y: Array) -> tuple[Array, ...]:
    """What `softmax.one_target` takes of each row, and whether it is in range: [n] each."""
    top, m, sums, e, sound = part
    at = np.arange(len(y))
    return m, block.z[at, y], y == top, e[0][at, y], e[1][at, y], e[2][at, y], *sums, sound


def _multiples(e: Triple, ch: Array, cl: Array) -> tuple[Array, Array, Array]:
    """Exponentials [n, U] times the row's c, as pairs, and in which rows all are finite."""
    gh, gl = np.empty(e[0].shape), np.empty(e[0].shape)
    finite = np.ones(len(gh), bool)
    for cols in column_blocks(e[0].shape[1]):
        part = [x[:, cols] for x in e]
        gh[:, cols], gl[:, cols] = softmax.scaled_product(ch[:, None], cl[:, None], part[0], part[1], part[2])
        finite &= np.isfinite(gh[:, cols]).all(axis=1)
    return gh, gl, finite


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
    for block in blocks(z, live, special_classes(q, label, w)):
        rows = block.rows
        given = q[rows] if len(q) else block.one_hot(label[rows])
        parts = (scale[0][rows], scale[1][rows])
        *loss, gh, gl, live[rows] = _many_targets(block, given, w[: block.z.shape[1]], mixing, parts, tables)
        out[0][rows], out[1][rows] = loss
        block.put(out[2], gh)
        block.put(out[3], gl)
        open_entries[rows] = (~np.isfinite(out[2][rows])).sum(axis=1)


def _many_targets(
    block: Block,
    q: Array,
    w: Array,
    mixing: tuple[float, float, float, float],
    scale: tuple[Array, Array],
    tables: Tables,
) -> tuple[Array, Array, Array, Array, Array]:
    """Loss [n] and gradient [n, U] as pairs, NaN where it is open, and which rows hold."""
    z = block.z
    top, m, sums, e, sound = _exponentials(block, tables)
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
    rest = _sum(block, *kept, exponent_of(second))
    away = dense.distance(m[:, None], z, *t)
    far = _sum(block, *away, exponent_of(away[0].max(axis=1)))
    peak = (t[0][at, most], t[1][at, most])
    lh, ll, th, tl, sh, sl, ch, cl, rh, rl = dense.row(sums, rest, peak, far, scale, times, tables.logs)
    lost = (masked & (t[0] > 0)).any(axis=1)
    lh, ll = np.where(lost, np.inf, lh), np.where(lost, 0.0, ll)
    share = multiply(th, tl, ch, cl)
    wide = [(high[:, None], low[:, None]) for high, low in ((th, tl), (sh, sl), (ch, cl), share)]
    gh, gl, certain = dense.entry(e, t, *wide)
    for j in (top, most):
        ej, tj = (e[0][at, j], e[1][at, j], e[2][at, j]), (t[0][at, j], t[1][at, j])
        others_h, others_l = add(th, tl, -tj[0], -tj[1])
        mass = np.where(j == most, rest[0], others_h), np.where(j == most, rest[1], others_l)
        beside_h, beside_l = add(sh, sl, *(-x for x in softmax.plain(*ej)))
        beside = np.where(j == top, rh, beside_h), np.where(j == top, rl, beside_l), np.where(j == top, sums[3], 0)
        gh[at, j], gl[at, j], certain[at, j] = dense.special_entry(ej, tj, mass, beside, (ch, cl))
    return lh, ll, np.where(certain, gh, np.nan), np.where(certain, gl, 0.0), sound & (np.isfinite(lh) | lost)


def _sum(block: Block, h: Array, l: Array, k: Array) -> tuple[Array, Array]:  # noqa: E741
    """The row sums of pairs whose largest has the exponent k; 0 where that is below `dense.NOTHING`."""
    f = np.where(k < dense.NOTHING, 0.0, power_of_two(-np.maximum(k, dense.NOTHING)))[:, None]
    first, second, third = (block.sum(digit) for digit in digits(h * f, l * f))
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
    for start in range(0, len(x), BLOCK):
        some = np.flatnonzero(live[start : start + BLOCK]) + start
        if len(some):
            given = (x[some], t[some], w[some], c[some], (scale[0][some], scale[1][some]))
            *results, live[some] = binary.element(*given, tables.high, tables.low, tables.logs)
            for array, result in zip(out, results, strict=True):
                array[some] = result


def _exponentials(block: Block, tables: Tables) -> tuple[Array, Array, Sums, Triple, Array]:
    """The class left out, the maximum, R as integers with an exponent, all exponentials, which rows are in range."""
    z = block.z
    sound = (np.abs(z.max(axis=1)) <= FURTHEST) & (z.shape[1] <= MOST_TERMS)
    z = np.where(sound[:, None], z, 0.0)
    top, m, k = top_of_rows(z)
    high, low, exponent = np.empty(z.shape), np.empty(z.shape), np.empty(z.shape, np.int64)
    a, b, c = (np.zeros(len(z), np.int64) for _ in range(3))
    for cols in column_blocks(z.shape[1]):
        p, q, n = exponential(*difference(z[:, cols], m[:, None]), tables.high, tables.low)
        high[:, cols], low[:, cols], exponent[:, cols] = p, q, n
        f = power_of_two(np.maximum(n - k[:, None], _FAR_BELOW))
        f = np.where(np.arange(cols.start, cols.stop) == top[:, None], 0.0, f)
        for sum_, digit in zip((a, b, c), digits(p * f, q * f), strict=True):
            sum_ += block.sum(digit, cols)
    return top, m, (a, b, c, k), (high, low, exponent), sound
