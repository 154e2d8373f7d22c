"""Rows of 16-bit numbers by their distinct values, of which there are at most 65,536, for the NumPy path.

A value that occurs n times is computed once: it counts n times in the sums, which are integers, so that the results are
the same bits. Classes that a formula singles out keep a column of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["WIDE", "Distinct", "distinct"]

Array = np.ndarray[Any, Any]

WIDE = 1 << 13
"""Narrower rows are not worth it: looking for their values goes through all patterns."""

PATTERNS = 1 << 16
_GLANCE = 64

_SIGN_AWAY = 0x7FFFFFFF
_INFINITY = 0x7F800000
_TO_HALF = np.float32(2.0**-112)
"""What takes a float16, held as a float32, to its own exponents: 127 - 15 of them lower, subnormal ones included."""

_LARGEST_HALF = 0x0F7FE000
"""The bits of 65504 · 2^-112, a float32: the largest finite float16."""


@dataclass(frozen=True, eq=False)
class Distinct:
    """A row without its repetitions.

    Parameters
    ----------
    values : float64 array [U]
        Logits: first those of the special classes, in the classes' order, then every other one once.
    counts : int64 array [U]
        How many classes each stands for.
    place : int64 array [V]
        Where each class is.
    """

    values: Array
    counts: Array
    place: Array

    @property
    def members(self) -> Array:
        """One class of each column: int64 [U]."""
        member = np.empty(len(self.values), np.int64)
        member[self.place] = np.arange(len(self.place))
        return member


def distinct(z: Array, special: set[int]) -> Distinct | None:
    """A row [V] of float64 by its values, if all are 16-bit numbers of a format, and few are different; else None."""
    if len(z) < WIDE or _patterns(z[:_GLANCE]) is None:
        return None
    found = _patterns(z)
    if found is None:
        return None
    keys, form = found
    alone = np.array(sorted(special))
    counts = np.bincount(keys, minlength=PATTERNS)
    for key in keys[alone].tolist():
        counts[key] -= 1
    present = np.flatnonzero(counts.astype(bool))
    if 2 * len(present) > len(z):
        return None
    where = np.empty(PATTERNS, np.int64)  # what is read of it is written below, or at last taken by special classes
    where[present] = np.arange(len(alone), len(alone) + len(present))
    place = where.take(keys)
    place[alone] = np.arange(len(alone))
    values = np.concatenate([z[alone], _numbers(present, form)])
    return Distinct(values, np.concatenate([np.ones(len(alone), np.int64), counts[present]]), place)


def _patterns(z: Array) -> tuple[Array, str] | None:
    """The bit patterns of numbers as bfloat16 or float16, int64 [V], and as which; None where they are neither."""
    single = z.astype(np.float32)
    if not (single == z).all():
        return None
    bits = single.view(np.uint32)
    if not int(np.bitwise_or.reduce(bits)) & 0xFFFF:
        return (bits >> 16).astype(np.int64), "bfloat16"
    bits = (single * _TO_HALF).view(np.uint32)
    if int(np.bitwise_or.reduce(bits)) & 0x1FFF:
        return None
    size = bits & _SIGN_AWAY
    if int(size.max()) > _LARGEST_HALF and int(size[size != _INFINITY].max(initial=0)) > _LARGEST_HALF:
        return None
    return (((bits >> 13) & 0x7FFF) | ((bits >> 16) & 0x8000)).astype(np.int64), "float16"


def _numbers(patterns: Array, form: str) -> Array:
    """What `_patterns` were taken of: float64."""
    if form == "float16":
        return patterns.astype(np.uint16).view(np.float16).astype(np.float64)
    return (patterns << 16).astype(np.uint32).view(np.float32).astype(np.float64)
