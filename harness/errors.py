"""Errors of computed values against unrounded truth: absolute, relative, and in fractional ulp.

Truth is a double-double hi + lo; the computed values are exact float64 images of values of some format. Errors are
formed as abs((got - hi) - lo), whose own rounding is 2^-53 of the error: it does not matter to a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.formats import Format

__all__ = ["Errors", "measure", "ulp"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Errors:
    """Errors of an array of values.

    Parameters
    ----------
    absolute, relative, ulp : float64 array
        The error; over the absolute truth (0/0 is 0); in units in the last place of the format at the truth. All are
        infinite where `nonfinite` or `hidden_nan` holds.
    nonfinite : bool array
        NaN or infinite where the truth, rounded to the format, is not: an overflow is right when the truth rounds to
        infinity, and one just below that is an error of the distance to the overflow threshold, not a `nonfinite`.
    hidden_nan : bool array
        Finite where the truth is NaN.
    """

    absolute: Array
    relative: Array
    ulp: Array
    nonfinite: Array
    hidden_nan: Array


def ulp(hi: Array, lo: Array, fmt: Format) -> Array:
    """The unit in the last place of a format at the real numbers hi + lo (Goldberg 1991; Muller, *Handbook*, 2.6).

    2^(e-p+1) where 2^e <= abs(hi + lo) < 2^(e+1), from the truth before it is rounded: just below a power of two it has
    the smaller unit. η for subnormal numbers and zero; from the top binade on, the top binade's.
    """
    _, exponent = np.frexp(np.where(np.isfinite(hi), hi, 0.0))
    just_below = (np.abs(np.frexp(hi)[0]) == 0.5) & (np.sign(lo) == -np.sign(hi)) & (lo != 0)
    e = np.where(np.isfinite(hi), exponent - 1 - just_below, fmt.emax)
    e = np.where(hi == 0, fmt.emin, np.clip(e, fmt.emin, fmt.emax))
    unit: Array = np.ldexp(1.0, e - fmt.precision + 1)
    return unit


def measure(got: Array, hi: Array, lo: Array, fmt: Format, *, near_overflow: Array | float = 0.0) -> Errors:
    """Measure values that came out in a format.

    Parameters
    ----------
    got : array
        Computed values, of any of the four formats.
    hi, lo : float64 array
        The truth.
    fmt : Format
        The format of `got`.
    near_overflow : array or float
        Admissible absolute error (a bound): an infinity is not `nonfinite` where the truth is that close to overflow.
    """
    value = got.astype(np.float64)
    with np.errstate(all="ignore"):
        overflowed = np.isinf(value) & (np.sign(value) == np.sign(hi)) & ~np.isnan(hi)
        short_of = _short_of_overflow(hi, lo, fmt)
        absolute = np.where(overflowed, short_of, np.abs((value - hi) - lo))
        absolute = np.where(value == hi, np.abs(lo), absolute)
        nan_truth = np.isnan(hi)
        bad = ~np.isfinite(value) & ~nan_truth & ~(overflowed & (short_of <= near_overflow))
        hidden = nan_truth & np.isfinite(value)
        absolute = np.where(nan_truth, 0.0, absolute)
        absolute = np.where(bad | hidden | np.isnan(absolute), np.inf, absolute)
        relative = np.where(absolute == 0, 0.0, absolute / np.abs(np.where(nan_truth, 1.0, hi)))
        relative = np.where(np.isnan(relative), np.inf, relative)
        units = absolute / ulp(np.where(nan_truth, 1.0, hi), np.where(nan_truth, 0.0, lo), fmt)
    return Errors(absolute, relative, units, bad, hidden)


def _short_of_overflow(hi: Array, lo: Array, fmt: Format) -> Array:
    """How far hi + lo is below the least number that rounds to infinity, 2^emax (2 - 2^-p); 0 from there on.

    That number is the largest one and half its ulp, added last: float64 holds the two, but not their sum.
    """
    half_ulp = 2.0 ** (fmt.emax - fmt.precision)
    distance: Array = np.maximum(((fmt.largest - np.abs(hi)) - np.sign(hi) * lo) + half_ulp, 0.0)
    return distance
