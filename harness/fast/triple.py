"""Triple-word arithmetic: unevaluated sums of three floats, for what a double-double loses to cancellation.

Written in the manner of `harness.fast.dd`, and compiled as it stands. A triple (a, b, c) is *normalised* where abs(b)
<= 2^-52 abs(a) and abs(c) <= 2^-105 abs(a), and *loose* where abs(b) <= 2^-48 abs(a) and abs(c) <= 2^-96 abs(a). What
is called loose takes and gives loose triples, in two thirds of the operations; every other function takes normalised
ones. The bounds are derived in docs/theory.md, section 11, and hold on the ranges of section 10.
"""

from __future__ import annotations

from harness.fast.dd import Real, exact_product, fast_two_sum, two_sum

__all__ = [
    "Triple",
    "add3",
    "difference3",
    "loose_product",
    "loose_product_float",
    "loose_sum",
    "multiply3",
    "multiply3_float",
    "renormalised",
    "scaled3",
]

Triple = tuple[Real, Real, Real]


def renormalised(a: Real, b: Real, c: Real) -> Triple:
    """a + b + c, exactly: normalised where abs(b) <= 2^-40 abs(a) and abs(c) <= 2^-90 abs(a)."""
    b, c = two_sum(b, c)
    a, b = fast_two_sum(a, b)
    b, c = fast_two_sum(b, c)
    return a, b, c


def add3(x: Triple, y: Triple) -> Triple:
    """x + y: 2^-154 relative to abs(x) + abs(y), which may be at most 2^5 times the sum."""
    return renormalised(*loose_sum(x, y))


def difference3(x: Triple, y: Triple) -> tuple[Real, Real]:
    """x - y as a pair: 2^-154 relative to abs(x) + abs(y), and 2^-105 relative while that is 2^56 times it at most."""
    a, b, c = loose_sum(x, (-y[0], -y[1], -y[2]))
    h, l = two_sum(a, b)  # noqa: E741
    l, rest = two_sum(l, c)  # noqa: E741
    h, l = two_sum(h, l)  # noqa: E741
    return h, l + rest


def multiply3(x: Triple, y: Triple) -> Triple:
    """x y: 2^-151 relative; what is below the third order, x_1 y_2 and less, is left out."""
    return renormalised(*loose_product(x, y))


def multiply3_float(x: Triple, y: Real) -> Triple:
    """x y for a float64 y: 2^-154 relative."""
    return renormalised(*loose_product_float(x, y))


def scaled3(x: Triple, f: Real) -> Triple:
    """x f for a power of two: exact."""
    return x[0] * f, x[1] * f, x[2] * f


def loose_sum(x: Triple, y: Triple) -> Triple:
    """x + y: 2^-147 relative to abs(x) + abs(y); 2^-154 for normalised ones."""
    a, e = two_sum(x[0], y[0])
    b, f = two_sum(x[1], y[1])
    b, e = two_sum(b, e)
    return a, b, (x[2] + y[2]) + (e + f)


def loose_product(x: Triple, y: Triple) -> Triple:
    """x y: 2^-142 relative; 2^-151 for normalised ones."""
    p, e = exact_product(x[0], y[0])
    q, f = exact_product(x[0], y[1])
    r, g = exact_product(x[1], y[0])
    s, d = two_sum(q, r)
    s, e = two_sum(s, e)
    return p, s, ((x[0] * y[2] + x[2] * y[0]) + x[1] * y[1]) + ((f + g) + (d + e))


def loose_product_float(x: Triple, y: Real) -> Triple:
    """x y for a float64 y: 2^-147 relative; 2^-154 for a normalised x."""
    p, e = exact_product(x[0], y)
    q, f = exact_product(x[1], y)
    s, e = two_sum(q, e)
    return p, s, (e + f) + x[2] * y
