"""Products with matrices of binary numbers: exact ones, and those of coefficients that are known to a precision.

A vector of float64 is a vector of Python integers over one power of two (`Integers`), so that a sum of products is one
exact integer, however its terms cancel. The error of a sum with rounded coefficients is counted in docs/theory.md,
section 12.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul
from typing import Any

import numpy as np
from mpmath import libmp

from harness import certified as real
from harness.certified import Exact

__all__ = ["Integers", "dot", "weighted_sums"]

Array = np.ndarray[Any, Any]

_SIZE_BITS = 64
"""To so many bits below the largest are the sizes of coefficients taken, rounded up: they need not be exact."""


@dataclass(frozen=True)
class Integers:
    """A vector of finite float64, exactly: values[i] · 2^exponent; `sizes` are the absolute values."""

    values: list[int]
    sizes: list[int]
    exponent: int

    @classmethod
    def of(cls, vector: Array) -> Integers:
        """The vector, on the exponent of its finest entry."""
        ratios = [x.as_integer_ratio() for x in vector.tolist()]
        bits = max((below.bit_length() for _, below in ratios), default=1)
        values = [above << (bits - below.bit_length()) for above, below in ratios]
        return cls(values, [abs(x) for x in values], 1 - bits)


def dot(a: Integers, b: Integers) -> Exact:
    """Σ a_i b_i, exactly."""
    return _exact(sum(map(mul, a.values, b.values)), a.exponent + b.exponent)


def weighted_sums(
    coefficients: Sequence[Exact], sizes: Sequence[Exact], columns: Sequence[Integers], prec: int
) -> list[tuple[Exact, Exact]]:
    """Σ_i c_i a_ij for each column j, with the size that its certificate needs.

    Parameters
    ----------
    coefficients, sizes : sequence of Exact
        c_i, each off by at most 20η · sizes[i], η = 2^-prec; one whose size is zero is zero.
    columns : sequence of Integers
        The columns of a.
    prec : int
        Working precision in bits.

    Returns
    -------
    list of (Exact, Exact)
        Each sum, off by at most 21η · size; and that size, which is zero only where the sum is.
    """
    live = [size for size in sizes if size != real.ZERO]
    if not live:
        return [(real.ZERO, real.ZERO)] * len(columns)
    top = max(map(real.top_exponent, live))
    unit, coarse = top - prec - _SIZE_BITS, top - _SIZE_BITS
    c = [_truncated(value, unit) for value in coefficients]
    s = [0 if size == real.ZERO else _truncated(size, coarse) + 1 for size in sizes]
    return [
        (
            _exact(sum(map(mul, c, column.values)), unit + column.exponent),
            _exact(sum(map(mul, s, column.sizes)), coarse + column.exponent),
        )
        for column in columns
    ]


def _truncated(value: Exact, unit: int) -> int:
    """A number in units of 2^unit, cut towards zero."""
    sign, man, exp, bits = value
    shift = exp - unit
    size = int(man) << shift if shift >= 0 else (int(man) >> -shift if -shift < bits else 0)
    return -size if sign else size


def _exact(total: int, exponent: int) -> Exact:
    value: Exact = libmp.from_man_exp(total, exponent)
    return value
