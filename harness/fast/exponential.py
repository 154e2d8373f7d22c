"""The exponential of a double-double, as a double-double times a power of two: relative error at most 2^-101.

exp(d) = 2^k · 2^(i/1024) · exp(r) with n = 1024 k + i the integer nearest to 1024 d / log 2, and abs(r) <= log 2 /
2048 + 2^-31. The powers 2^(i/1024) are a table of double-doubles; exp(r) is its Taylor polynomial of degree 7. The
error analysis is in docs/theory.md, section 10, line by line.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from mpmath import libmp

from harness.certified import Exact, split
from harness.fast.dd import Integer, Real, at, bits_of, exact_product, fast_two_sum, select, two_sum

__all__ = ["LOWEST", "PER_STEP", "ROUNDER", "STEPS", "difference", "exponential", "position", "powers"]

Array = np.ndarray[Any, Any]

STEPS = 1024
"""Entries of the table: two words each, 16 KiB, which is half of a first-level cache."""

LOWEST = -1200.0
"""Differences below it are taken for it: exp(-1200) < 2^-1731 is nothing, even times 2^600."""

ROUNDER = 6755399441055744.0  # 1.5 · 2^52: adding it rounds to an integer, which the low bits then hold
_ROUNDER_BITS = 0x4338000000000000
PER_STEP = 1477.3197218702985  # fl(1024 / log 2)

# log 2 / 1024 in three pieces. The first two have 32 bits, so that their products with n, abs(n) < 2^21, are exact.
STEP_1 = float.fromhex("0x1.62e42ff000000p-11")
STEP_2 = float.fromhex("-0x1.718432a200000p-45")
STEP_3 = float.fromhex("0x1.3c7673007e5edp-79")

# 1/3! as a pair; 1/4! to 1/7! in float64
_C3H, _C3L = 0.16666666666666666, 9.25185853854297e-18
_C4, _C5, _C6, _C7 = 1 / 24, 1 / 120, 1 / 720, 1 / 5040


def difference(z: Real, m: Real) -> tuple[Real, Real]:
    """z - m as an exact pair, for z <= m; `LOWEST` where it is below that (also for z = -inf)."""
    h, l = two_sum(z, -m)  # noqa: E741
    low = h < LOWEST
    return select(low, LOWEST, h), select(low, 0.0, l)


def position(h: Real) -> Integer:
    """n = 1024 k + i: the integer nearest to 1024 h / log 2 (or next to nearest, where it is nearly a tie)."""
    return bits_of(h * PER_STEP + ROUNDER) - _ROUNDER_BITS


def exponential(h: Real, l: Real, table_h: Array, table_l: Array) -> tuple[Real, Real, Integer]:  # noqa: E741
    """exp(h + l) = (p_h + p_l) 2^k for `LOWEST` <= h <= 0, abs(l) <= ulp(h) / 2; p is in (0.99, 2.01)."""
    n = position(h)
    f = (h * PER_STEP + ROUNDER) - ROUNDER
    s, e1 = two_sum(h - f * STEP_1, -(f * STEP_2))
    s, e2 = two_sum(s, l)
    rh, rl = two_sum(s, (e1 + e2) - f * STEP_3)  # s may be the smaller one
    # exp(r) - 1 = r (1 + r (1/2 + r (1/6 + r q)))
    q = _C4 + rh * (_C5 + rh * (_C6 + rh * _C7))
    th, tl = fast_two_sum(_C3H, _C3L + rh * q)
    th, tl = _times_r_plus(rh, rl, th, tl, 0.5)
    th, tl = _times_r_plus(rh, rl, th, tl, 1.0)
    ph, pe = exact_product(rh, th)
    pl = pe + (rh * tl + rl * th)
    # 2^(i/1024) · (1 + that)
    i = n & (STEPS - 1)
    bh, bl = at(table_h, i), at(table_l, i)
    ch, ce = exact_product(bh, ph)
    sh, sl = fast_two_sum(bh, ch)
    eh, el = fast_two_sum(sh, sl + ((ce + (bh * pl + bl * ph)) + bl))
    return eh, el, n >> 10


def _times_r_plus(rh: Real, rl: Real, th: Real, tl: Real, c: float) -> tuple[Real, Real]:
    """r t + c, where abs(r t) < c."""
    ph, pe = exact_product(rh, th)
    sh, sl = fast_two_sum(c, ph)
    return sh, sl + (pe + (rh * tl + rl * th))


@functools.cache
def powers() -> tuple[Array, Array]:
    """2^(i/1024) for 0 <= i < 1024, as pairs: relative error at most 2^-106."""
    prec = 160
    log_2 = libmp.mpf_ln2(prec)
    step: list[Exact] = [
        libmp.mpf_exp(libmp.mpf_shift(libmp.mpf_mul_int(log_2, i, prec), -10), prec) for i in range(STEPS)
    ]
    high, low = np.array([split(value) for value in step]).T
    return np.ascontiguousarray(high), np.ascontiguousarray(low)
