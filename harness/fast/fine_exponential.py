"""The exponential of a double-double as a triple times a power of two: relative error at most 2^-152.

The same reduction as in `harness.fast.exponential`, with a fourth piece of log 2 / 1024 and nothing rounded above
2^-161; then the Taylor polynomial of degree 11, in float64, pairs and loose triples as far down as each is enough. The
error analysis is in docs/theory.md, section 11, line by line.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from mpmath import libmp

from harness.fast.dd import Integer, Real, at, exact_product, fast_two_sum, two_sum
from harness.fast.exponential import PER_STEP, ROUNDER, STEP_1, STEP_2, STEP_3, STEPS, position, powers
from harness.fast.triple import Triple, add3, loose_product, loose_sum

__all__ = ["fine_exponential", "third_words"]

Array = np.ndarray[Any, Any]

STEP_4 = float.fromhex("0x1.7a079a193394cp-133")
"""What `STEP_1` to `STEP_3` leave of log 2 / 1024, to 2^-186."""

# 1/3! as a triple, 1/4! to 1/7! as pairs, 1/8! to 1/11! in float64
_S3H, _S3M, _S3L = 1 / 6, float.fromhex("0x1.5555555555555p-57"), float.fromhex("0x1.5555555555555p-111")
_S4H, _S4L = 1 / 24, float.fromhex("0x1.5555555555555p-59")
_S5H, _S5L = 1 / 120, float.fromhex("0x1.1111111111111p-63")
_S6H, _S6L = 1 / 720, float.fromhex("-0x1.f49f49f49f49fp-65")
_S7H, _S7L = 1 / 5040, float.fromhex("0x1.a01a01a01a01ap-73")
_S8, _S9, _S10, _S11 = 1 / 40320, 1 / 362880, 1 / 3628800, 1 / 39916800


def fine_exponential(
    h: Real,
    l: Real,  # noqa: E741
    table_h: Array,
    table_l: Array,
    table_t: Array,
) -> tuple[Real, Real, Real, Integer]:
    """exp(h + l) = (p_0 + p_1 + p_2) 2^k for `LOWEST` <= h <= 0, abs(l) <= ulp(h) / 2; p_0 is in (0.99, 2.01)."""
    n = position(h)
    f = (h * PER_STEP + ROUNDER) - ROUNDER
    r = _reduced(h, l, f)
    # exp(r) - 1 = r + r² (1/2 + r (1/6 + r (1/24 + ...)))
    th, tl = fast_two_sum(_S7H, _S7L + r[0] * (_S8 + r[0] * (_S9 + r[0] * (_S10 + r[0] * _S11))))
    th, tl = _pair_step(r[0], r[1], th, tl, _S6H, _S6L)
    th, tl = _pair_step(r[0], r[1], th, tl, _S5H, _S5L)
    th, tl = _pair_step(r[0], r[1], th, tl, _S4H, _S4L)
    t = loose_product(r, _third(r, th, tl))
    t = loose_sum((0.5, 0.0, 0.0), t)
    t = loose_sum(r, loose_product(loose_product(r, r), t))
    # 2^(i/1024) · (1 + that)
    i = n & (STEPS - 1)
    b = (at(table_h, i), at(table_l, i), at(table_t, i))
    p = add3(b, loose_product(b, t))
    return p[0], p[1], p[2], n >> 10


def _reduced(h: Real, l: Real, f: Real) -> Triple:  # noqa: E741
    """h + l - f log 2 / 1024, as a loose triple."""
    s, e1 = two_sum(h - f * STEP_1, -(f * STEP_2))
    s, e2 = two_sum(s, l)
    p, rest = exact_product(f, STEP_3)
    s, e3 = two_sum(s, -p)
    e1, d1 = two_sum(e1, e2)
    e1, d2 = two_sum(e1, e3)
    return s, e1, ((d1 + d2) - rest) - f * STEP_4


def _third(r: Triple, th: Real, tl: Real) -> Triple:
    """1/3! + r t for a pair t below 2^-4.5, as a loose triple."""
    p, e = exact_product(r[0], th)
    h, d = fast_two_sum(_S3H, p)
    m, f = two_sum(d, _S3M)
    m, g = two_sum(m, e + (r[0] * tl + r[1] * th))
    return h, m, (f + g) + (_S3L + r[2] * th)


def _pair_step(rh: Real, rl: Real, th: Real, tl: Real, ch: float, cl: float) -> tuple[Real, Real]:
    """c + r t, where abs(r t) < c."""
    ph, pe = exact_product(rh, th)
    sh, sl = fast_two_sum(ch, ph)
    return fast_two_sum(sh, sl + ((pe + (rh * tl + rl * th)) + cl))


@functools.cache
def third_words() -> Array:
    """What the pairs of `powers` leave of 2^(i/1024), for 0 <= i < 1024: with them relative error at most 2^-158."""
    prec = 220
    log_2 = libmp.mpf_ln2(prec)
    words = []
    for i, pair in enumerate(zip(*(word.tolist() for word in powers()), strict=True)):
        rest = libmp.mpf_exp(libmp.mpf_shift(libmp.mpf_mul_int(log_2, i, prec), -10), prec)
        for word in pair:
            rest = libmp.mpf_sub(rest, libmp.from_float(word))
        words.append(libmp.to_float(rest, rnd="n"))
    return np.array(words)
