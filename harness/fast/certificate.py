"""What the fast path may be given, and when its result counts: ranges and constants of docs/theory.md, section 10 f."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = [
    "CANCELLATION",
    "FACTOR",
    "FINE_CANCELLATION",
    "FURTHEST",
    "LARGEST",
    "LEFT_OUT_CANCELLATION",
    "PART",
    "SMALLEST_SHARE",
    "in_range",
]

Array = np.ndarray[Any, Any]

FACTOR = 2.0**300
"""Weights, target masses and scales are 0, or in [1 / FACTOR, FACTOR]: no product of interest under- or overflows."""

PART = 2.0**150
"""What such a factor is a product of is 0, or in [1 / PART, PART]: nothing that is not 0 becomes 0 unnoticed."""

FURTHEST = 2.0**600
"""Logits that a loss is made of (the maximum, and those with a target mass) are at most this; with one target class
`LARGEST`, since `harness.fast.softmax.one_target` takes such logits 2^-500 times as large."""

LARGEST = 1.7976931348623157e308
"""The largest float64."""

SMALLEST_SHARE = 2.0**-400
"""Target masses are 0, or at least this share of the largest one: what is `NEGLIGIBLE` is so next to each of them."""

CANCELLATION = 2.0**-9
"""A difference a - b of values known to 2^-100.2 is known to 2^-91 where abs(a - b) >= CANCELLATION · (a + b)."""

LEFT_OUT_CANCELLATION = 2.0**-7
"""The same for the two entries that leave one class out, whose terms are known to 2^-98.9."""

FINE_CANCELLATION = 2.0**-55
"""The same for entries in triples, whose terms are known to 2^-147."""


def in_range(values: Array, limit: float = FACTOR) -> Array:
    """Which values are 0 or have a magnitude in [1 / limit, limit]: bool, of their shape."""
    size = np.abs(values)
    result: Array = (size == 0) | ((size >= 1 / limit) & (size <= limit))
    return result
