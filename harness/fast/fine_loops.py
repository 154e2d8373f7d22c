"""The loop of the finer pass that `harness.fast.numba_path` compiles; it computes what `harness.fast.fine_numpy` does,
to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.fast.certificate import FURTHEST
from harness.fast.dd import Integer, Real, at, bits_of, exponent_of, float_of, power_of_two, put, select
from harness.fast.dense import mass
from harness.fast.exponential import difference
from harness.fast.fine import Fixed, fine_entry, fine_mass, fine_row, fixed_of
from harness.fast.fine_exponential import fine_exponential
from harness.fast.loops import infinite, top_of

__all__ = ["all_refined"]

Array = np.ndarray[Any, Any]


def fine_sum(z: Array, m: Real, top: Integer, k: Integer, table_h: Array, table_l: Array, table_t: Array) -> Fixed:
    """The sum of the exponentials of z - m, without the class `top`, times 2^-k."""
    first, second, third, fourth = 0, 0, 0, 0
    for j in range(len(z)):
        h, l = difference(at(z, j), m)  # noqa: E741
        p, q, r, n = fine_exponential(h, l, table_h, table_l, table_t)
        f = select(j == top, 0.0, 1.0)
        a, b, c, d = fixed_of((p * f, q * f, r * f), n - k)
        first += a
        second += b
        third += c
        fourth += d
    return first, second, third, fourth


def largest_masses(q: Array, w: Array, mixing: tuple[Real, Real, Real, Real], sizes: Array) -> tuple[Integer, Integer]:
    """The first class with the largest target mass, and the exponent of the largest one beside it; overwrites sizes."""
    largest = 0
    for j in range(len(q)):
        h = abs(mass(at(q, j), at(w, j), mixing[0], mixing[1], mixing[2], mixing[3])[0])
        put(sizes, j, h)
        largest = max(largest, bits_of(h))
    most = 0
    while bits_of(sizes[most]) != largest:
        most += 1
    sizes[most] = 0.0
    second = 0
    for j in range(len(q)):
        second = max(second, bits_of(sizes[j]))
    return most, exponent_of(float_of(second))


def fine_sum_of_masses(q: Array, w: Array, mixing: tuple[Real, Real, Real, Real], most: Integer, k: Integer) -> Fixed:
    """The sum of the target masses without the class `most`, times 2^-k."""
    first, second, third, fourth = 0, 0, 0, 0
    for j in range(len(q)):
        x, y, t = fine_mass(at(q, j), at(w, j), mixing[0], mixing[1], mixing[2], mixing[3])
        f = select(j == most, 0.0, power_of_two(-k))
        a, b, c, d = fixed_of((x * f, y * f, t * f), 0)
        first += a
        second += b
        third += c
        fourth += d
    return first, second, third, fourth


def all_refined(
    z: Array,
    q: Array,
    label: Array,
    w: Array,
    mixing: tuple[Real, Real, Real, Real],
    scale_h: Array,
    scale_l: Array,
    table_h: Array,
    table_l: Array,
    table_t: Array,
    grad_h: Array,
    grad_l: Array,
    live: Array,
    open_entries: Array,
) -> None:
    """See `harness.fast.fine_numpy.refined`."""
    one_hot, sizes = np.zeros(z.shape[1]), np.empty(z.shape[1])
    for i in range(len(z)):
        if not live[i] or open_entries[i] == 0:
            continue
        top, m, k, _ = top_of(z[i], FURTHEST)
        one_hot[label[i]] = 1.0
        given = q[i] if len(q) else one_hot
        most, rest_k = largest_masses(given, w, mixing, sizes)
        peak = fine_mass(given[most], w[most], mixing[0], mixing[1], mixing[2], mixing[3])
        rest = fine_sum_of_masses(given, w, mixing, most, rest_k)
        beyond = fine_sum(z[i], m, top, k, table_h, table_l, table_t)
        numbers = fine_row(beyond, k, rest, rest_k, peak, (scale_h[i], scale_l[i]), mixing[2])
        still_open = 0
        for j in range(z.shape[1]):
            if np.isnan(grad_h[i, j]):
                h, l = difference(z[i, j], m)  # noqa: E741
                e0, e1, e2, n = fine_exponential(h, l, table_h, table_l, table_t)
                t = fine_mass(given[j], w[j], mixing[0], mixing[1], mixing[2], mixing[3])
                h, l, certain = fine_entry((e0, e1, e2), n, t, j == top, j == most, numbers)  # noqa: E741
                grad_h[i, j], grad_l[i, j] = select(certain, h, np.nan), select(certain, l, 0.0)
            still_open += infinite(grad_h[i, j])
        one_hot[label[i]] = 0.0
        open_entries[i] = still_open
