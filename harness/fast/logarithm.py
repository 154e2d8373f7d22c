"""log(1 + x) of a double-double x in [0, 2^20]: relative error at most 2^-98, however small x is.

1 + x = 2^k M with M in [1, 2). A table gives c with few bits next to 1 / M, and -log c as a double-double; f = (1 +
x) c 2^-k - 1 is small, and log(1 + x) = k log 2 - log c + log(1 + f). Where M is next to 1, c = 1 and, for k = 0, f =
x exactly: nothing cancels. log(1 + f) = 2 artanh(f / (2 + f)), as a series. The error analysis is in docs/theory.md,
section 10.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from mpmath import libmp

from harness.certified import exact, split
from harness.fast.dd import (
    Real,
    add,
    add_float,
    at,
    bits_of,
    divide,
    exponent_of,
    fast_two_sum,
    multiply,
    multiply_float,
    power_of_two,
)

__all__ = ["log1p", "reciprocals"]

Array = np.ndarray[Any, Any]

INTERVALS = 128
_LOG2_H, _LOG2_L = float.fromhex("0x1.62e42fefa39efp-1"), float.fromhex("0x1.abc9e3b39803fp-56")
_THIRD_H, _THIRD_L = 1 / 3, 1.850371707708594e-17
_FIFTH_H, _FIFTH_L = 0.2, -1.1102230246251566e-17


def log1p(h: Real, l: Real, table: Array) -> tuple[Real, Real]:  # noqa: E741
    """log(1 + h + l), with a table of `reciprocals`."""
    one_more = 1.0 + h
    k = exponent_of(one_more)
    i = (bits_of(one_more) >> 45) & (INTERVALS - 1)
    c = at(table, i) * power_of_two(-k)
    fh, fl = multiply_float(h, l, c)
    fh, fl = add_float(fh, fl, c - 1.0)
    bh, bl = add_float(fh, fl, 2.0)
    sh, sl = divide(fh, fl, bh, bl)
    wh, wl = multiply(sh, sl, sh, sl)
    q = wh * (1 / 7 + wh * (1 / 9 + wh * (1 / 11 + wh * (1 / 13))))
    ah, al = fast_two_sum(_FIFTH_H, _FIFTH_L + q)
    ah, al = multiply(wh, wl, ah, al)
    ah, al = add(_THIRD_H, _THIRD_L, ah, al)
    ah, al = multiply(wh, wl, ah, al)
    ah, al = multiply(sh, sl, ah, al)
    ah, al = add(sh, sl, ah, al)
    kh, kl = multiply_float(_LOG2_H, _LOG2_L, k * 1.0)
    kh, kl = add(kh, kl, at(table, i + INTERVALS), at(table, i + 2 * INTERVALS))
    return add(kh, kl, 2.0 * ah, 2.0 * al)


@functools.cache
def reciprocals() -> Array:
    """[3 · 128]: c, and -log c as a pair, for M in [1 + i/128, 1 + (i+1)/128)."""
    c = np.rint(1024 / (1 + (np.arange(INTERVALS) + 0.5) / INTERVALS)) / 1024
    c[0], c[-1] = 1.0, 0.5
    logs = [split(libmp.mpf_neg(libmp.mpf_log(exact(x), 160))) for x in c.tolist()]
    return np.concatenate([c, *np.array(logs).T])
