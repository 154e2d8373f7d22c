"""Sums of many double-doubles that do not depend on the order: integers in a fixed-point format with 126 fractional
bits, or 168 for triples.

Each term, below 2.02 in magnitude, is cut into multiples of 2^-42, 2^-84 and 2^-126 by adding constants whose last
bit that is; the bit patterns of those sums *are* the integers, and integers add without rounding in any order, over
any number of accumulators. What is left of a term after the third cut is at most 2^-126, after the fourth 2^-168.
"""

from __future__ import annotations

from harness.fast.dd import Integer, Real, add_float, bits_of, two_sum
from harness.fast.triple import Triple, add3

__all__ = ["MOST_TERMS", "digits", "fine_digits", "fine_total", "total"]

MOST_TERMS = 1 << 19
"""So many integers of up to 2.02 · 2^42 add up to less than 2^63."""

_CUT_1, _CUT_2, _CUT_3, _CUT_4 = (1.5 * 2.0 ** (52 - 42 * i) for i in (1, 2, 3, 4))
_BITS_1, _BITS_2, _BITS_3, _BITS_4 = (0x3FF8000000000000 + ((52 - 42 * i) << 52) for i in (1, 2, 3, 4))
_LOW = (1 << 31) - 1


def digits(h: Real, l: Real) -> tuple[Integer, Integer, Integer]:  # noqa: E741
    """The integers a, b, c with h + l = a 2^-42 + b 2^-84 + c 2^-126 + δ, abs(δ) <= 2^-126, for abs(l) <= 2^-52."""
    t = h + _CUT_1
    first = bits_of(t) - _BITS_1
    h = h - (t - _CUT_1)
    t = h + _CUT_2
    second = bits_of(t) - _BITS_2
    h = h - (t - _CUT_2)
    t = l + _CUT_2
    second = second + (bits_of(t) - _BITS_2)
    l = l - (t - _CUT_2)  # noqa: E741
    return first, second, bits_of((h + l) + _CUT_3) - _BITS_3


def total(first: Integer, second: Integer, third: Integer) -> tuple[Real, Real]:
    """a 2^-42 + b 2^-84 + c 2^-126 as a double-double: 6.01 u² relative."""
    h, l = two_sum((first >> 31) * 2.0**-11, (first & _LOW) * 2.0**-42)  # noqa: E741
    h, l = add_float(h, l, (second >> 31) * 2.0**-53)  # noqa: E741
    h, l = add_float(h, l, (second & _LOW) * 2.0**-84)  # noqa: E741
    return add_float(h, l, third * 2.0**-126)


def fine_digits(a: Real, b: Real, c: Real) -> tuple[Integer, Integer, Integer, Integer]:
    """The integers that make a + b + c to within 2^-168, for abs(b) <= 2^-51 and abs(c) <= 2^-103."""
    t = a + _CUT_1
    first = bits_of(t) - _BITS_1
    a = a - (t - _CUT_1)
    t = a + _CUT_2
    second = bits_of(t) - _BITS_2
    a = a - (t - _CUT_2)
    t = b + _CUT_2
    second = second + (bits_of(t) - _BITS_2)
    b = b - (t - _CUT_2)
    t = a + _CUT_3
    third = bits_of(t) - _BITS_3
    a = a - (t - _CUT_3)
    t = b + _CUT_3
    third = third + (bits_of(t) - _BITS_3)
    b = b - (t - _CUT_3)
    t = c + _CUT_3
    third = third + (bits_of(t) - _BITS_3)
    c = c - (t - _CUT_3)
    return first, second, third, bits_of(((a + b) + c) + _CUT_4) - _BITS_4


def fine_total(first: Integer, second: Integer, third: Integer, fourth: Integer) -> Triple:
    """a 2^-42 + b 2^-84 + c 2^-126 + d 2^-168 as a triple: 2^-152 relative, for sums of at least 0.99 or 0."""
    h, l = two_sum((first >> 31) * 2.0**-11, (first & _LOW) * 2.0**-42)  # noqa: E741
    result = (h, l, 0.0 * l)
    h, l = two_sum((second >> 31) * 2.0**-53, (second & _LOW) * 2.0**-84)  # noqa: E741
    result = add3(result, (h, l, 0.0 * l))
    h, l = two_sum((third >> 31) * 2.0**-95, (third & _LOW) * 2.0**-126)  # noqa: E741
    result = add3(result, (h, l, 0.0 * l))
    h = fourth * 2.0**-168
    return add3(result, (h, 0.0 * h, 0.0 * h))
