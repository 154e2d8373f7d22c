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

_SPARE = 13
"""Bits of a float32 that are zero where the number is a float16, a bfloat16, or another with 11 significant bits."""

_GLANCE = 64


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
    keys = _patterns(z)
    if keys is None:
        return None
    alone = np.array(sorted(special))
    there = np.zeros(1 << (32 - _SPARE), bool)
    there[keys] = True
    singled, there[keys[alone]] = keys[alone], False
    others = keys == singled[:, None]
    others[:, alone] = False
    there[singled] = others.any(axis=1)
    words = np.flatnonzero(there.view(np.int64))
    present = np.flatnonzero(there.reshape(-1, 8)[words])  # eight at a time: nearly all are empty
    present = words[present >> 3] * 8 + (present & 7)
    if 2 * len(present) > len(z):
        return None
    where = np.empty(len(there), np.int64)
    where[present] = np.arange(len(alone), len(alone) + len(present))
    place = where[keys]
    place[alone] = np.arange(len(alone))
    values = (present << _SPARE).astype(np.uint32).view(np.float32)
    return Distinct(np.concatenate([z[alone], values]), np.bincount(place), place)


def _patterns(z: Array) -> Array | None:
    """The bit patterns of numbers as float32, without the bits to spare: int64 [V], or None where one needs them."""
    single = z.astype(np.float32)
    bits = single.view(np.uint32)
    if (single == z).all() and not (bits & ((1 << _SPARE) - 1)).any():
        return (bits >> _SPARE).astype(np.int64)
    return None
