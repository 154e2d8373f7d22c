"""The tables that the fast path works with, as one argument, so that a test can damage a copy."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.fast.exponential import powers
from harness.fast.fine_exponential import third_words
from harness.fast.logarithm import reciprocals

__all__ = ["Tables", "standard"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Tables:
    """Constants by index.

    Parameters
    ----------
    high, low : float64 array [1024]
        2^(i/1024), as pairs.
    logs : float64 array [3 · 128]
        Reciprocals with few bits, and their negative logarithms: the high words, then the low words.
    third : float64 array [1024]
        What the pairs leave of 2^(i/1024).
    """

    high: Array
    low: Array
    logs: Array
    third: Array


@functools.cache
def standard() -> Tables:
    """The right ones."""
    return Tables(*powers(), reciprocals(), third_words())
