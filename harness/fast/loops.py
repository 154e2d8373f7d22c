"""The loops over rows and classes that `harness.fast.numba_path` compiles; each computes what its namesake in
`harness.fast.numpy_path` does, to the bit.

Inner loops have no branches and no sums of floats, so that LLVM turns them into vector code without being allowed to
reassociate anything: maxima are taken of integers that order like the floats, sums are fixed-point integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.fast.binary import element
from harness.fast.certificate import FACTOR, FURTHEST, LARGEST, PART, SMALLEST_SHARE
from harness.fast.dd import (
    Integer,
    Real,
    add,
    at,
    bits_of,
    exponent_of,
    float_of,
    multiply,
    power_of_two,
    put,
    select,
)
from harness.fast.dense import NOTHING, distance, entry, mass, row, special_entry, sum_of
from harness.fast.exponential import difference, exponential, position
from harness.fast.softmax import one_target, plain, scaled_product
from harness.fast.sums import MOST_TERMS, digits

__all__ = ["all_elements", "all_many_targets", "all_one_target"]

Array = np.ndarray[Any, Any]

FAR_BELOW = -1000
_NOT_SIGN = 0x7FFFFFFFFFFFFFFF
_EXPONENT = 0x7FF0000000000000
_LEAST = -0x8000000000000000
_MINUS_INFINITY = -0x7FF0000000000001  # the key of -inf; only a NaN with a sign is below


def key_of(x: Real) -> Integer:
    """An integer that orders like the float, with -0 below 0, and NaN beyond the infinities."""
    b = bits_of(x)
    return b ^ ((b >> 63) & _NOT_SIGN)


def extremes(z: Array) -> tuple[Integer, Integer]:
    """The smallest and the largest key of some logits; (0, least) where there are none."""
    low, high = 0, _LEAST
    for j in range(len(z)):
        key = key_of(z[j])
        low = min(low, key)
        high = max(high, key)
    return low, high


def maximum_of(key: Integer) -> Real:
    """The float of a key; -inf for the key of nothing."""
    return select(key < _MINUS_INFINITY, -np.inf, float_of(key ^ ((key >> 63) & _NOT_SIGN)))


def exponentials(
    z: Array, m: Real, k: Integer, table_h: Array, table_l: Array, high: Array, low: Array
) -> tuple[Integer, Integer, Integer]:
    """Write the exponentials of z - m, without their powers of two; their sum times 2^-k, as integers."""
    first, second, third = 0, 0, 0
    for j in range(len(z)):
        h, l = difference(at(z, j), m)  # noqa: E741
        p, q, n = exponential(h, l, table_h, table_l)
        put(high, j, p)
        put(low, j, q)
        f = power_of_two(max(n - k, FAR_BELOW))
        a, b, c = digits(p * f, q * f)
        first += a
        second += b
        third += c
    return first, second, third


def top_of(z: Array, furthest: Real) -> tuple[Integer, Real, Integer, bool]:
    """The class to leave out (the first maximum), the maximum, the next exponential's exponent, and if in range."""
    low, high = extremes(z)
    m = maximum_of(high)
    sound = (abs(m) <= furthest) & (low >= _MINUS_INFINITY) & (len(z) <= MOST_TERMS)
    top = 0
    if sound:
        while z[top] != m:
            top += 1
    second = maximum_of(max(extremes(z[:top])[1], extremes(z[top + 1 :])[1]))
    return top, m, position(difference(second, m)[0]) >> 10, sound


def softmax_of(
    z: Array, top: Integer, m: Real, k: Integer, table_h: Array, table_l: Array, high: Array, low: Array
) -> tuple[Integer, Integer, Integer, Integer]:
    """Write all exponentials of a row; R, without the class left out, as integers and an exponent."""
    high[top], low[top] = 1.0, 0.0
    a = exponentials(z[:top], m, k, table_h, table_l, high[:top], low[:top])
    b = exponentials(z[top + 1 :], m, k, table_h, table_l, high[top + 1 :], low[top + 1 :])
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], k


def infinite(x: Real) -> Integer:
    """1 for an infinity or a NaN, else 0."""
    return select((bits_of(x) & _EXPONENT) == _EXPONENT, 1, 0)


def multiples(z: Array, m: Real, ch: Real, cl: Real, high: Array, low: Array) -> bool:
    """Multiply exponentials, given without their powers of two, by c; whether all results are finite."""
    overflow = 0
    for j in range(len(z)):
        k = position(difference(z[j], m)[0]) >> 10
        h, l = scaled_product(ch, cl, high[j], low[j], k)  # noqa: E741
        high[j], low[j] = h, l
        overflow |= infinite(h)
    return overflow == 0


def all_one_target(
    z: Array,
    label: Array,
    w: Array,
    scale_h: Array,
    scale_l: Array,
    table_h: Array,
    table_l: Array,
    logs: Array,
    loss_h: Array,
    loss_l: Array,
    grad_h: Array,
    grad_l: Array,
    live: Array,
) -> None:
    """See `harness.fast.numpy_path.one_target`."""
    for i in range(len(z)):
        if not live[i]:
            continue
        top, m, k, sound = top_of(z[i], LARGEST)
        y = label[i]
        zy = z[i, y]
        live[i] = sound & ((abs(zy) <= LARGEST) | (zy == -np.inf))
        if not live[i]:
            continue
        sums = softmax_of(z[i], top, m, k, table_h, table_l, grad_h[i], grad_l[i])
        ey = (grad_h[i, y], grad_l[i, y], position(difference(zy, m)[0]) >> 10)
        lh, ll, ch, cl, gh, gl = one_target(m, zy, y == top, ey, w[i], (scale_h[i], scale_l[i]), sums, logs)
        finite = multiples(z[i], m, ch, cl, grad_h[i], grad_l[i])
        grad_h[i, y], grad_l[i, y] = gh, gl
        loss_h[i], loss_l[i] = lh, ll
        live[i] = finite & (abs(gh) < np.inf) & ((abs(lh) < np.inf) | ((zy == -np.inf) & (lh == np.inf)))


def all_elements(
    x: Array,
    t: Array,
    w: Array,
    c: Array,
    scale_h: Array,
    scale_l: Array,
    table_h: Array,
    table_l: Array,
    logs: Array,
    loss_h: Array,
    loss_l: Array,
    grad_h: Array,
    grad_l: Array,
    live: Array,
    certified: Array,
) -> None:
    """See `harness.fast.numpy_path.elements`; elements that are not live are computed all the same, as zeros."""
    for j in range(len(x)):
        on = at(live, j)
        xj, tj = select(on, at(x, j), 0.0), select(on, at(t, j), 0.0)
        wj, cj = select(on, at(w, j), 1.0), select(on, at(c, j), 1.0)
        scale = (select(on, at(scale_h, j), 1.0), select(on, at(scale_l, j), 0.0))
        lh, ll, gh, gl, certain = element(xj, tj, wj, cj, scale, table_h, table_l, logs)
        put(loss_h, j, lh)
        put(loss_l, j, ll)
        put(grad_h, j, gh)
        put(grad_l, j, gl)
        put(certified, j, on & certain)


# Many targets


def masses(
    z: Array, q: Array, w: Array, mixing: tuple[Real, Real, Real, Real], th: Array, tl: Array
) -> tuple[Integer, Integer, Integer, bool]:
    """Write target masses; the bits of the largest and of the least above 0, if a number is too far, if one is lost."""
    largest, smallest = 0, 0x7FF0000000000000
    far, lost = 0, 0
    for j in range(len(z)):
        h, l = mass(q[j], w[j], mixing[0], mixing[1], mixing[2], mixing[3])  # noqa: E741
        th[j], tl[j] = h, l
        b = bits_of(abs(h))
        largest = max(largest, b)
        smallest = min(smallest, select(b == 0, 0x7FF0000000000000, b))
        masked = z[j] == -np.inf
        far |= select((q[j] > 0.0) & (q[j] < 1 / PART), 1, 0)
        far |= select((b != 0) & (abs(z[j]) > FURTHEST) & (z[j] != -np.inf), 1, 0)
        lost |= select((b != 0) & masked, 1, 0)
    return largest, smallest, far, lost != 0


def sum_of_masses(th: Array, tl: Array) -> tuple[Real, Real]:
    """The sum of some masses."""
    largest = 0
    for j in range(len(th)):
        largest = max(largest, bits_of(abs(th[j])))
    k = exponent_of(float_of(largest))
    f = power_of_two(-k)
    first, second, third = 0, 0, 0
    for j in range(len(th)):
        a, b, c = digits(th[j] * f, tl[j] * f)
        first += a
        second += b
        third += c
    return sum_of(first, second, third, k)


def sum_of_distances(z: Array, m: Real, th: Array, tl: Array) -> tuple[Real, Real]:
    """Σ t_j (m - z_j)."""
    largest = 0
    for j in range(len(z)):
        largest = max(largest, bits_of(abs(distance(m, z[j], th[j], tl[j])[0])))
    k = exponent_of(float_of(largest))
    f = select(k < NOTHING, 0.0, power_of_two(-max(k, NOTHING)))
    first, second, third = 0, 0, 0
    for j in range(len(z)):
        h, l = distance(m, z[j], th[j], tl[j])  # noqa: E741
        a, b, c = digits(h * f, l * f)
        first += a
        second += b
        third += c
    return sum_of(first, second, third, max(k, NOTHING))


def entries(
    z: Array,
    m: Real,
    th: Array,
    tl: Array,
    whole: tuple[Real, Real],
    s: tuple[Real, Real],
    c: tuple[Real, Real],
    high: Array,
    low: Array,
) -> Integer:
    """Turn exponentials, given without their powers of two, into gradient entries.

    Those that are not certified become NaN. How many of the classes did, or are not finite.
    """
    weak = 0
    share = multiply(whole[0], whole[1], c[0], c[1])
    for j in range(len(z)):
        k = position(difference(z[j], m)[0]) >> 10
        h, l, certain = entry((high[j], low[j], k), (th[j], tl[j]), whole, s, c, share)  # noqa: E741
        h = select(certain, h, np.nan)
        high[j], low[j] = h, select(certain, l, 0.0)
        weak += infinite(h)
    return weak


def all_many_targets(
    z: Array,
    q: Array,
    label: Array,
    w: Array,
    mixing: tuple[Real, Real, Real, Real],
    scale_h: Array,
    scale_l: Array,
    table_h: Array,
    table_l: Array,
    logs: Array,
    loss_h: Array,
    loss_l: Array,
    grad_h: Array,
    grad_l: Array,
    live: Array,
    open_entries: Array,
) -> None:
    """See `harness.fast.numpy_path.many_targets`."""
    v = z.shape[1]
    th, tl, one_hot = np.empty(v), np.empty(v), np.zeros(v)
    for i in range(len(z)):
        if not live[i]:
            continue
        top, m, k, sound = top_of(z[i], FURTHEST)
        if len(q):
            largest, smallest, far, lost = masses(z[i], q[i], w, mixing, th, tl)
        else:
            one_hot[label[i]] = 1.0
            largest, smallest, far, lost = masses(z[i], one_hot, w, mixing, th, tl)
            one_hot[label[i]] = 0.0
        most_h, least_h = float_of(largest), float_of(smallest)
        live[i] = sound & (far == 0) & (most_h <= FACTOR) & (least_h >= 1 / FACTOR)
        live[i] = live[i] & (least_h >= SMALLEST_SHARE * most_h) & (most_h > 0.0)
        if not live[i]:
            continue
        most = 0
        while th[most] != most_h:
            most += 1
        peak = (th[most], tl[most])
        th[most], tl[most] = 0.0, 0.0
        rest = sum_of_masses(th, tl)
        th[most], tl[most] = peak
        away = sum_of_distances(z[i], m, th, tl)
        high, low = grad_h[i], grad_l[i]
        sums = softmax_of(z[i], top, m, k, table_h, table_l, high, low)
        et = (high[top], low[top], position(difference(z[i, top], m)[0]) >> 10)
        em = (high[most], low[most], position(difference(z[i, most], m)[0]) >> 10)
        scale = (scale_h[i], scale_l[i])
        lh, ll, wh, wl, sh, sl, ch, cl, rh, rl = row(sums, rest, peak, away, scale, mixing[2], logs)
        loss_h[i], loss_l[i] = select(lost, np.inf, lh), select(lost, 0.0, ll)
        live[i] = lost | (abs(lh) < np.inf)
        weak = entries(z[i], m, th, tl, (wh, wl), (sh, sl), (ch, cl), high, low)
        for at_most in range(2):
            j = most if at_most else top
            e = em if at_most else et
            oh, ol = add(wh, wl, -th[j], -tl[j])
            others = (select(j == most, rest[0], oh), select(j == most, rest[1], ol))
            eh, el = plain(e[0], e[1], e[2])
            bh, bl = add(sh, sl, -eh, -el)
            beside = (select(j == top, rh, bh), select(j == top, rl, bl), select(j == top, k, 0))
            gh, gl, certain = special_entry(e, (th[j], tl[j]), others, beside, (ch, cl))
            weak -= infinite(high[j])
            high[j], low[j] = select(certain, gh, np.nan), select(certain, gl, 0.0)
            weak += infinite(high[j])
        open_entries[i] = weak
