"""The fast path on arrays: the functions of this package applied to blocks that fit the cache.

`harness.fast.numba_path` has the same entry points, `refined` among them, with the same arguments and the same results.
Wide rows of 16-bit numbers are worked on by their distinct values: see `harness.fast.distinct`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from harness.fast import binary, dense, softmax
from harness.fast.blocks import BLOCK, Block, blocks, column_blocks, groups, top_of_rows
from harness.fast.certificate import FACTOR, FURTHEST, LARGEST, PART, SMALLEST_SHARE
from harness.fast.dd import add, exponent_of, multiply, power_of_two
from harness.fast.exponential import difference, exponential
from harness.fast.fine_numpy import count_open, refined, special_classes, targets_of
from harness.fast.sums import MOST_TERMS, digits
from harness.fast.tables import Tables

__all__ = ["elements", "many_targets", "one_target", "refined"]

Array = np.ndarray[Any, Any]
Triple = tuple[Array, Array, Array]
Sums = tuple[Array, Array, Array, Array]

_ELEMENTS = BLOCK // 2
"""Elements worked on at once: twice as many numbers are kept of each as of a class."""

_FAR_BELOW = -1000
"""Terms that are smaller than the largest by 2^-1000 are taken to be that small: fixed-point sums end at 2^-126."""


def one_target(
    z: Array, label: Array, w: Array, scale: tuple[Array, Array], tables: Tables, out: tuple[Array, ...], live: Array
) -> None:
    """Cross-entropy with one target class: z [N, V], the others [N]; see `harness.fast.cross_entropy`."""
    for group in groups(blocks(z, live, lambda row: {int(label[row])})):
        rows = np.concatenate([block.rows for block in group])
        parts = [_exponentials(block, tables, out, LARGEST) for block in group]
        ys = [block.columns_of(label[block.rows]) for block in group]
        m, zy, at_top, e0, e1, e2, a, b, c, k, sound = (
            np.concatenate(numbers) for numbers in zip(*map(_target_numbers, group, parts, ys), strict=True)
        )
        lh, ll, ch, cl, yh, yl = softmax.one_target(
            m, zy, at_top, (e0, e1, e2), w[rows], (scale[0][rows], scale[1][rows]), (a, b, c, k), tables.logs
        )
        masked = np.isneginf(zy)
        out[0][rows], out[1][rows] = lh, ll
        live[rows] = sound & ((np.abs(zy) <= LARGEST) | masked)
        live[rows] &= np.isfinite(yh) & (np.isfinite(lh) | (masked & np.isposinf(lh)))
        end = np.cumsum([len(y) for y in ys])
        for block, part, y, stop in zip(group, parts, ys, end, strict=True):
            some = slice(stop - len(y), stop)
            gh, gl, _ = part[3]
            finite = _multiply(part[3], ch[some], cl[some])
            gh[np.arange(len(y)), y], gl[np.arange(len(y)), y] = yh[some], yl[some]
            block.put(out[2], gh)
            block.put(out[3], gl)
            live[block.rows] &= finite


def _target_numbers(block: Block, part: tuple[Array, Array, Sums, Triple, Array], y: Array) -> tuple[Array, ...]:
    """What `softmax.one_target` takes of each row, and whether it is in range: [n] each."""
    top, m, sums, e, sound = part
    at = np.arange(len(y))
    return m, block.z[at, y], y == top, *_at(e, at, y), *sums, sound


def _multiply(e: Triple, ch: Array, cl: Array) -> Array:
    """Multiply exponentials [n, U] by the row's c, in their place as pairs; in which rows all are finite."""
    finite = np.ones(len(e[0]), bool)
    for cols in column_blocks(e[0].shape[1]):
        h, l = softmax.scaled_product(ch[:, None], cl[:, None], *_at(e, slice(None), cols))  # noqa: E741
        e[0][:, cols], e[1][:, cols] = h, l
        finite &= np.isfinite(h).all(axis=1)
    return finite


def _at(e: Triple, i: Any, j: Any) -> Triple:
    """Exponentials [n, U] at an index, their exponents as int64."""
    return e[0][i, j], e[1][i, j], e[2][i, j].astype(np.int64)


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
        masses = _masses(block, targets_of(block, q, label), w, mixing)
        *loss, e, live[rows] = _many_targets(block, masses, mixing[2], (scale[0][rows], scale[1][rows]), tables, out)
        out[0][rows], out[1][rows] = loss
        block.put(out[2], e[0])
        block.put(out[3], e[1])
        open_entries[rows] = count_open(block, out[2])


def _masses(
    block: Block, q: Callable[[slice], Array], w: Array, mixing: tuple[float, float, float, float]
) -> tuple[Array, Array, Array, Array]:
    """Target masses [n, U] as pairs; which rows hold, and in which a masked class has a mass."""
    z = block.z
    th, tl = np.empty(z.shape), np.empty(z.shape)
    sound, lost, least = np.ones(len(z), bool), np.zeros(len(z), bool), np.full(len(z), np.inf)
    for cols in column_blocks(z.shape[1]):
        given, part = q(cols), z[:, cols]
        h, l = dense.mass(given, w[cols], *mixing)  # noqa: E741
        th[:, cols], tl[:, cols] = h, l
        masked = np.isneginf(part)
        lost |= (masked & (h > 0)).any(axis=1)
        least = np.minimum(least, np.where(h > 0, h, np.inf).min(axis=1))
        sound &= ((given == 0) | (given >= 1 / PART)).all(axis=1)
        sound &= ((np.abs(part) <= FURTHEST) | masked | (h == 0)).all(axis=1)
    most = th.max(axis=1)
    sound &= (most <= FACTOR) & (least >= 1 / FACTOR) & (least >= SMALLEST_SHARE * most) & (most > 0)
    return th, tl, sound, lost


def _many_targets(
    block: Block,
    masses: tuple[Array, Array, Array, Array],
    times: float,
    scale: tuple[Array, Array],
    tables: Tables,
    out: tuple[Array, ...],
) -> tuple[Array, Array, Triple, Array]:
    """Loss [n] as a pair, gradient [n, U], NaN where it is open, in place of exponentials, and which rows hold."""
    z = block.z
    th, tl, whole, lost = masses
    top, m, sums, e, sound = _exponentials(block, tables, out, FURTHEST)
    sound &= whole
    at = np.arange(len(z))
    most = th.argmax(axis=1)
    peak = th[at, most], tl[at, most]
    th[at, most] = tl[at, most] = 0.0
    second = exponent_of(th.max(axis=1))
    rest = _sum(block, second, lambda cols: (th[:, cols], tl[:, cols]))
    th[at, most], tl[at, most] = peak

    def away(cols: slice) -> tuple[Array, Array]:
        return dense.distance(m[:, None], z[:, cols], th[:, cols], tl[:, cols])

    furthest = np.max([away(cols)[0].max(axis=1) for cols in column_blocks(z.shape[1])], axis=0)
    far = _sum(block, exponent_of(furthest), away)
    lh, ll, wh, wl, sh, sl, ch, cl, rh, rl = dense.row(sums, rest, peak, far, scale, times, tables.logs)
    lh, ll = np.where(lost, np.inf, lh), np.where(lost, 0.0, ll)
    special = [(j, _at(e, at, j)) for j in (top, most)]
    share = multiply(wh, wl, ch, cl)
    wide = [(high[:, None], low[:, None]) for high, low in ((wh, wl), (sh, sl), (ch, cl), share)]
    for cols in column_blocks(z.shape[1]):
        gh, gl, certain = dense.entry(_at(e, slice(None), cols), (th[:, cols], tl[:, cols]), *wide)
        e[0][:, cols], e[1][:, cols] = np.where(certain, gh, np.nan), np.where(certain, gl, 0.0)
    for j, ej in special:
        tj = th[at, j], tl[at, j]
        others_h, others_l = add(wh, wl, -tj[0], -tj[1])
        mass = np.where(j == most, rest[0], others_h), np.where(j == most, rest[1], others_l)
        beside_h, beside_l = add(sh, sl, *(-x for x in softmax.plain(*ej)))
        beside = np.where(j == top, rh, beside_h), np.where(j == top, rl, beside_l), np.where(j == top, sums[3], 0)
        gh, gl, certain = dense.special_entry(ej, tj, mass, beside, (ch, cl))
        e[0][at, j], e[1][at, j] = np.where(certain, gh, np.nan), np.where(certain, gl, 0.0)
    return lh, ll, e, sound & (np.isfinite(lh) | lost)


def _sum(block: Block, k: Array, terms: Callable[[slice], tuple[Array, Array]]) -> tuple[Array, Array]:
    """The row sums of pairs whose largest has the exponent k; 0 where that is below `dense.NOTHING`."""
    f = np.where(k < dense.NOTHING, 0.0, power_of_two(-np.maximum(k, dense.NOTHING)))[:, None]
    sums: Any = 0
    for cols in column_blocks(block.z.shape[1]):
        h, l = terms(cols)  # noqa: E741
        sums = sums + np.array([block.sum(digit, cols) for digit in digits(h * f, l * f)])
    return dense.sum_of(sums[0], sums[1], sums[2], np.maximum(k, dense.NOTHING))


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
    for start in range(0, len(x), _ELEMENTS):
        some = np.flatnonzero(live[start : start + _ELEMENTS]) + start
        if len(some):
            given = (x[some], t[some], w[some], c[some], (scale[0][some], scale[1][some]))
            *results, live[some] = binary.element(*given, tables.high, tables.low, tables.logs)
            for array, result in zip(out, results, strict=True):
                array[some] = result


def _exponentials(
    block: Block, tables: Tables, out: tuple[Array, ...], furthest: float
) -> tuple[Array, Array, Sums, Triple, Array]:
    """The class left out, the maximum, R as integers with an exponent, all exponentials, which rows are in range.

    The exponentials take the room of the gradient, where that is the same; their exponents are int16.
    """
    z = block.z
    sound = (np.abs(z.max(axis=1)) <= furthest) & (z.shape[1] <= MOST_TERMS)
    if not sound.all():
        z = np.where(sound[:, None], z, 0.0)
    top, m, k = top_of_rows(z)
    high, low, exponent = block.room(out[2]), block.room(out[3]), np.empty(z.shape, np.int16)
    a, b, c = (np.zeros(len(z), np.int64) for _ in range(3))
    for cols in column_blocks(z.shape[1]):
        p, q, n = exponential(*difference(z[:, cols], m[:, None]), tables.high, tables.low)
        high[:, cols], low[:, cols], exponent[:, cols] = p, q, n
        f = power_of_two(np.maximum(n - k[:, None], _FAR_BELOW))
        f = np.where(np.arange(cols.start, cols.stop) == top[:, None], 0.0, f)
        for sum_, digit in zip((a, b, c), digits(p * f, q * f), strict=True):
            sum_ += block.sum(digit, cols)
    return top, m, (a, b, c, k), (high, low, exponent), sound
