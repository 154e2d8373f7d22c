"""The gradient's entries that cancel too much for pairs, (T e_j - t_j S) scale / S once more, in triples.

A row that has such entries gets its R, S, T and target masses again with a third word; then those entries alone, with a
certificate of their own. Names are those of docs/theory.md, sections 3, 10 and 11.
"""

from __future__ import annotations

from typing import Any

from harness.fast.certificate import FINE_CANCELLATION
from harness.fast.dd import Integer, Real, divide, multiply, multiply_float, power_of_two, select
from harness.fast.softmax import NEGLIGIBLE
from harness.fast.sums import fine_digits, fine_total
from harness.fast.triple import (
    Triple,
    add3,
    difference3,
    loose_product_float,
    loose_sum,
    multiply3,
    renormalised,
    scaled3,
)

__all__ = ["Fixed", "fine_entry", "fine_mass", "fine_row", "fixed_of"]

Fixed = tuple[Integer, Integer, Integer, Integer]
"""A number as multiples of 2^-42, 2^-84, 2^-126 and 2^-168."""

TINIEST = -1000
"""Terms below 2^-1000 of the largest are taken to be that small: fixed-point sums end at 2^-168."""


def fine_mass(q: Real, w: Real, keep_h: Real, keep_l: Real, times: Real, spread: Real) -> Triple:
    """w ((1 - ε) q · times + ε): 2^-152 relative; for ε = 0 and times = 1 the exact product w q."""
    t = loose_product_float((keep_h, keep_l, 0.0), q)
    t = loose_sum(loose_product_float(t, times), (spread, 0.0, 0.0))
    return renormalised(*loose_product_float(t, w))


def fixed_of(x: Triple, k: Integer) -> Fixed:
    """x 2^k, below 2.02, for a sum."""
    x = scaled3(x, power_of_two(select(k < TINIEST, TINIEST, k)))
    return fine_digits(x[0], x[1], x[2])


def plain3(x: Triple, k: Integer) -> Triple:
    """x 2^k, 0 where that is `NEGLIGIBLE`."""
    return scaled3(x, select(k < NEGLIGIBLE, 0.0, power_of_two(select(k < NEGLIGIBLE, 0, k))))


def fine_row(
    beyond: Fixed, k: Integer, rest: Fixed, rest_k: Integer, most: Triple, scale: tuple[Real, Real], times: Real
) -> tuple[Triple, Triple, Triple, Triple, Real, Real]:
    """R, S, T without its largest mass, T, and scale / (S · times) as a pair.

    Parameters
    ----------
    beyond : four integers
        2^-k R, which leaves out one exponential that is exactly 1.
    rest : four integers
        2^-rest_k (T - most).
    most : triple
        The largest target mass.
    scale : pair
        What the gradient is multiplied by.
    times : float64
        What all masses have been multiplied by.
    """
    r = plain3(fine_total(*beyond), k)
    s = add3((1.0, 0.0, 0.0), r)
    others = scaled3(fine_total(*rest), power_of_two(rest_k))
    ch, cl = multiply_float(s[0], s[1], times)
    ch, cl = divide(scale[0], scale[1], ch, cl)
    return r, s, others, add3(most, others), ch, cl


def fine_entry(
    e: Triple,
    k: Integer,
    t: Triple,
    at_top: Any,
    at_most: Any,
    numbers: tuple[Triple, Triple, Triple, Triple, Real, Real],
) -> tuple[Real, Real, Any]:
    """One entry as a pair, and whether it is certified; `numbers` is what `fine_row` gives, e without its 2^k.

    The class left out of R and the one with the largest mass take (T - t_j) e_j - t_j (S - e_j) instead.
    """
    r, s, others, whole, ch, cl = numbers
    e = plain3(e, k)
    special = at_top | at_most
    mass = _chosen(at_most, others, _chosen(special, add3(whole, _negative(t)), whole))
    beside = _chosen(at_top, r, _chosen(special, add3(s, _negative(e)), s))
    a, b = multiply3(mass, e), multiply3(t, beside)
    h, l = difference3(a, b)  # noqa: E741
    certain = abs(h) >= FINE_CANCELLATION * (a[0] + b[0])
    h, l = multiply(h, l, ch, cl)  # noqa: E741
    return h, l, certain & (a[0] + b[0] > 0.0)


def _chosen(condition: Any, x: Triple, y: Triple) -> Triple:
    return select(condition, x[0], y[0]), select(condition, x[1], y[1]), select(condition, x[2], y[2])


def _negative(x: Triple) -> Triple:
    return -x[0], -x[1], -x[2]
