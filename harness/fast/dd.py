"""Double-double arithmetic: error-free transformations, and sums, products and quotients of unevaluated pairs hi + lo.

Every function is written once, in +, −, ×, ÷ alone, and works on float64 arrays (the NumPy path) as on float64 scalars
(the Numba path, which compiles these very functions; it replaces only those marked *primitive* by the processor's own
instructions, which give the same values). So both paths give the same bits, and docs/theory.md, section 10, is about
both.

Bounds are in u = 2^-53 and hold while nothing overflows and no product of interest is below 2^-969. Source: M. Joldes,
J.-M. Muller, V. Popescu, *Tight and rigorous error bounds for basic building blocks of double-word arithmetic*, ACM
Trans. Math. Softw. 44(2), 2017 (JMP below).
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = [
    "PRIMITIVES",
    "add",
    "add_float",
    "at",
    "bits_of",
    "divide",
    "exact_product",
    "exponent_of",
    "fast_two_sum",
    "float_of",
    "multiply",
    "multiply_float",
    "power_of_two",
    "put",
    "scaled",
    "select",
    "two_sum",
]

Real = Any
"""A float64 array, or a float64 inside compiled code."""

Integer = Any
"""An int64 array, or an int64 inside compiled code."""

_SPLITTER = 134217729.0  # 2^27 + 1 (Veltkamp)


# Primitives


def exact_product(a: Real, b: Real) -> tuple[Real, Real]:
    """p + e = a b exactly, p = fl(a b): Dekker's product, for arguments below 2^995. *Primitive* (one FMA)."""
    p = a * b
    ah = _SPLITTER * a
    ah -= ah - a
    al = a - ah
    bh = _SPLITTER * b
    bh -= bh - b
    bl = b - bh
    e = ah * bh  # in place from here on: half as many arrays go through the cache
    e -= p
    e += ah * bl
    e += al * bh
    e += al * bl
    return p, e


def bits_of(a: Real) -> Integer:
    """The bit pattern of a float64, as an int64. *Primitive*."""
    return a.view(np.int64)


def float_of(a: Integer) -> Real:
    """The float64 of a bit pattern. *Primitive*."""
    return a.view(np.float64)


def select(condition: Any, a: Any, b: Any) -> Any:
    """a where the condition holds, else b. *Primitive*."""
    return np.where(condition, a, b)


def at(array: Any, i: Integer) -> Real:
    """array[i], of an array that nothing is written to meanwhile. *Primitive* (says so to the compiler)."""
    return array[i]


def put(array: Any, i: Integer, value: Any) -> None:
    """array[i] = value, in an array that `at` does not read. *Primitive* (says so to the compiler)."""
    array[i] = value


PRIMITIVES = (exact_product, bits_of, float_of, select, at, put)


# Error-free transformations


def two_sum(a: Real, b: Real) -> tuple[Real, Real]:
    """s + e = a + b exactly, s = fl(a + b) (Møller, Knuth; JMP, Algorithm 2)."""
    s = a + b
    aa = s - b
    return s, (a - aa) + (b - (s - aa))


def fast_two_sum(a: Real, b: Real) -> tuple[Real, Real]:
    """The same where a = 0 or the exponent of a is at least that of b (Dekker; JMP, Algorithm 1)."""
    s = a + b
    return s, b - (s - a)


# Pairs


def add(xh: Real, xl: Real, yh: Real, yl: Real) -> tuple[Real, Real]:
    """x + y: 3u² + 13u³ relative, also for unlike signs (AccurateDWPlusDW; JMP, Algorithm 6, Theorem 3.1)."""
    sh, sl = two_sum(xh, yh)
    th, tl = two_sum(xl, yl)
    vh, vl = fast_two_sum(sh, sl + th)
    return fast_two_sum(vh, tl + vl)


def add_float(xh: Real, xl: Real, y: Real) -> tuple[Real, Real]:
    """x + y for a float64 y: 2u² relative (DWPlusFP; JMP, Algorithm 4, Theorem 2.2)."""
    sh, sl = two_sum(xh, y)
    return fast_two_sum(sh, xl + sl)


def multiply(xh: Real, xl: Real, yh: Real, yl: Real) -> tuple[Real, Real]:
    """x y: 7u² relative (DWTimesDW1; JMP, Algorithm 10, Theorem 5.1; 5u² by Muller & Rideau 2022)."""
    ch, cl = exact_product(xh, yh)
    return fast_two_sum(ch, cl + (xh * yl + xl * yh))


def multiply_float(xh: Real, xl: Real, y: Real) -> tuple[Real, Real]:
    """x y for a float64 y: 1.5u² + 4u³ relative (DWTimesFP1; JMP, Algorithm 7, Theorem 4.1)."""
    ch, cl = exact_product(xh, y)
    th, tl = fast_two_sum(ch, xl * y)
    return fast_two_sum(th, tl + cl)


def divide(xh: Real, xl: Real, yh: Real, yl: Real) -> tuple[Real, Real]:
    """x / y: 15u² + 56u³ relative (DWDivDW2; JMP, Algorithm 17, Theorem 7.2)."""
    th = xh / yh
    rh, rl = multiply_float(yh, yl, th)
    return fast_two_sum(th, ((xh - rh) + (xl - rl)) / yh)


# Powers of two


def power_of_two(k: Integer) -> Real:
    """2^k for -1022 <= k <= 1023."""
    return float_of((k + 1023) << 52)


def exponent_of(a: Real) -> Integer:
    """k with 2^k <= abs(a) < 2^(k+1) for a normal a, and 0 for a = 0."""
    return select(a == 0.0, 0, ((bits_of(a) >> 52) & 2047) - 1023)


def scaled(h: Real, l: Real, k: Integer) -> tuple[Real, Real]:  # noqa: E741
    """(h + l) 2^k: exactly where nothing is lost to underflow, else to within 2^-1075 (1 + u).

    What rounding h 2^k to a subnormal loses is known exactly and goes into the low word, so that a rounding to a
    multiple of 2^-1074 happens once. For abs(h) in [2^-60, 2^60], and any k; beyond float64's range the result is not
    finite.
    """
    k = select(k < -1280, -1280, select(k > 1280, 1280, k))
    first = k >> 1
    f, g = power_of_two(first), power_of_two(k - first)
    high = (h * f) * g
    back = (high * power_of_two(first - k)) * power_of_two(-first)
    return high, ((l + (h - back)) * f) * g
