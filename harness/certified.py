"""Real numbers with a proved error: the few arbitrary-precision steps that every truth is made of.

All values are libmp's raw floats (``(sign, mantissa, exponent, bitcount)``, the tuples inside ``mpmath.mpf``), whose
exponents are unbounded, so nothing overflows or underflows here. Sums, differences and products of inputs are *exact*
(``prec=0``); the rest is approximate. With η = 2^-prec, the analysis in docs/theory.md uses two facts about libmp:

- sums, differences, products and quotients with a precision are rounded to nearest, a relative error of at most η;
- ``mpf_exp`` and ``mpf_log`` have one of at most 2η: one for the rounding, and one for all that goes before it.

Both, and what follows from them, are tested against Arb's ball arithmetic, a second library with proofs of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from mpmath import libmp

__all__ = [
    "ABSOLUTE_FLOOR",
    "INFINITY",
    "NAN",
    "ONE",
    "RELATIVE_BITS",
    "ZERO",
    "Exact",
    "add",
    "exact",
    "exponential",
    "is_settled",
    "log1p",
    "magnitude",
    "multiply",
    "precisions",
    "quotient",
    "split",
    "subtract",
    "sum_positive",
    "to_fraction",
]

Exact = tuple[int, int, int, int]
"""A raw libmp float; exact unless a docstring says otherwise."""

ZERO: Exact = libmp.fzero
ONE: Exact = libmp.fone
NAN: Exact = libmp.fnan
INFINITY: Exact = libmp.finf

RELATIVE_BITS = 100
"""Each row is settled to 2^-100 relative, so that sums of rows keep the contract's 2^-90."""

ABSOLUTE_FLOOR = -1076
"""… or to 2^-1076 absolute: splitting adds at most 2^-1075, which stays within the contract's 2^-1074."""

_START = 128
"""First working precision in bits: 2^-100 with 28 bits to spare for rounding errors and mild cancellation."""


def exact(value: float | int | Fraction) -> Exact:
    """The raw float that equals a finite binary number.

    Raises
    ------
    ValueError
        For a fraction whose denominator is not a power of two.
    """
    if isinstance(value, Fraction):
        bits = value.denominator.bit_length() - 1
        if value.denominator != 1 << bits:
            raise ValueError(f"{value} is not a binary fraction")
        return _raw(libmp.mpf_shift(libmp.from_int(value.numerator), -bits))
    return _raw(libmp.from_int(value) if isinstance(value, int) else libmp.from_float(float(value)))


def add(a: Exact, b: Exact, prec: int = 0) -> Exact:
    """a + b, exact for ``prec=0``, else rounded to `prec` bits."""
    return _raw(libmp.mpf_add(a, b, prec, "n"))


def subtract(a: Exact, b: Exact, prec: int = 0) -> Exact:
    """a - b, exact for ``prec=0`` (for inputs only: exponents of results may be astronomically apart), else rounded."""
    return _raw(libmp.mpf_sub(a, b, prec, "n"))


def multiply(a: Exact, b: Exact, prec: int = 0) -> Exact:
    """a · b, exact for ``prec=0``, else rounded to `prec` bits."""
    return _raw(libmp.mpf_mul(a, b, prec, "n"))


def quotient(a: Exact, b: Exact, prec: int) -> Exact:
    """a / b to `prec` bits."""
    return _raw(libmp.mpf_div(a, b, prec, "n"))


def magnitude(a: Exact) -> Exact:
    """The absolute value of a."""
    return _raw(libmp.mpf_abs(a))


def top_exponent(a: Exact) -> int:
    """E with 2^(E-1) <= abs(a) < 2^E, for a non-zero a."""
    return a[2] + a[3]


def exponential(a: Exact, prec: int) -> Exact:
    """e^a with a relative error of at most 2η."""
    return _raw(libmp.mpf_exp(a, prec, "n"))


def log1p(a: Exact, prec: int) -> Exact:
    """log(1 + a) for a >= 0, with a relative error of at most 3η.

    Below 2^-prec it is a itself: a - a²/2 <= log(1+a) <= a. Above, 1 + a is formed exactly, and the logarithm is taken
    with as many bits more as a has leading zeros, so that it does not matter how libmp treats arguments next to 1.
    """
    if a == ZERO:
        return ZERO
    top = top_exponent(a)
    if top < -prec:
        return a
    return _raw(libmp.mpf_pos(libmp.mpf_log(add(ONE, a), prec + max(0, -top) + 2, "n"), prec, "n"))


def sum_positive(terms: Sequence[Exact], counts: Sequence[int], prec: int) -> Exact:
    """The sum of counts[i] · terms[i], non-negative terms, with a relative error of at most η.

    Each term is truncated to a multiple of q = 2^(E - prec - L), where 2^E exceeds every term and 2^L twice the number
    of terms: the total error is below 2^(E - prec - 1), and the sum is at least 2^(E - 1).
    """
    live = [(term, count) for term, count in zip(terms, counts, strict=True) if term != ZERO and count]
    if not live:
        return ZERO
    top = max(top_exponent(term) for term, _ in live)
    unit = top - prec - (2 * sum(count for _, count in live)).bit_length()
    total = 0
    for (_, man, exp, _), count in live:
        shift = exp - unit
        total += count * (man << shift if shift >= 0 else (man >> -shift if -shift < man.bit_length() else 0))
    return _raw(libmp.from_man_exp(total, unit))


def precisions() -> Iterator[int]:
    """Working precisions to try in turn: 128 bits, then doubling.

    A caller leaves the loop when its own certificate holds. It does at the latest when η is below the floor, since the
    operands' magnitudes are bounded by the inputs' range; the last precision covers products of three inputs.
    """
    prec = _START
    while prec <= 1 << 14:
        yield prec
        prec *= 2
    raise ArithmeticError("no precision settles this value: please report the inputs")


def is_settled(value: Exact, size: Exact, prec: int) -> bool:
    """Whether an error of at most 32η · size is within 2^-100 · abs(value), or below the absolute floor 2^-1076."""
    if size == ZERO:
        return True
    error_top = top_exponent(size) + 5 - prec
    if error_top <= ABSOLUTE_FLOOR:
        return True
    return value != ZERO and error_top <= top_exponent(value) - 1 - RELATIVE_BITS


def split(value: Exact) -> tuple[float, float]:
    """The double-double nearest to a value: ``hi`` is its float64 rounding and ``lo`` that of the rest.

    The error is at most 2^-106 relative or 2^-1075 absolute. Beyond float64's range ``hi`` is ±inf and ``lo`` 0;
    NaN gives (nan, 0).
    """
    hi = libmp.to_float(value, rnd="n")
    if not math.isfinite(hi):
        return hi, 0.0
    return hi, libmp.to_float(libmp.mpf_sub(value, libmp.from_float(hi)), rnd="n")


def to_fraction(value: Exact) -> Fraction:
    """The value as a fraction, exactly."""
    sign, man, exp, _ = value
    numerator = -int(man) if sign else int(man)
    return Fraction(numerator << exp) if exp >= 0 else Fraction(numerator, 1 << -exp)


def _raw(value: Any) -> Exact:
    raw: Exact = value
    return raw
