"""The row-wise part of a softmax cross-entropy with one target class: from the fixed-point sum of a row to its numbers.

R is the sum of all exponentials exp(z_i - m) but one that is exactly 1; it arrives as 2^k r, k that of its largest
term, so that it has its relative accuracy however small it is. All names are those of docs/theory.md, sections 2, 3
and 10.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.fast.certificate import FURTHEST
from harness.fast.dd import (
    Integer,
    Real,
    add,
    add_float,
    divide,
    exponent_of,
    multiply,
    multiply_float,
    power_of_two,
    scaled,
    select,
    two_sum,
)
from harness.fast.logarithm import log1p
from harness.fast.sums import total

__all__ = ["NEARER", "NEGLIGIBLE", "normaliser", "one_target", "plain", "scaled_product"]

Array = np.ndarray[Any, Any]

NEGLIGIBLE = -600
"""Exponentials below 2^-600 are left out of what is at least 1, and kept apart, scaled, where they are all there is."""


NEARER = 2.0**-500
"""What logits beyond `FURTHEST`, whose differences are 0 or above 2^546, are multiplied by: no product overflows."""


def plain(h: Real, l: Real, k: Integer) -> tuple[Real, Real]:  # noqa: E741
    """(h + l) 2^k as a double-double, 0 where it is `NEGLIGIBLE`."""
    f = select(k < NEGLIGIBLE, 0.0, power_of_two(select(k < NEGLIGIBLE, 0, k)))
    return h * f, l * f


def normaliser(
    first: Integer, second: Integer, third: Integer, k: Integer
) -> tuple[Real, Real, Real, Real, Real, Real]:
    """r as a pair (R = 2^k r), R itself (0 where it is negligible), and S = 1 + R."""
    rh, rl = total(first, second, third)
    ph, pl = plain(rh, rl, k)
    sh, sl = add_float(ph, pl, 1.0)
    return rh, rl, ph, pl, sh, sl


def scaled_product(xh: Real, xl: Real, yh: Real, yl: Real, k: Integer) -> tuple[Real, Real]:
    """x y 2^k, rounded once where that is subnormal; x any factor within 2^±700, y in [2^-40, 2^40] or 0."""
    e = exponent_of(xh)
    f = power_of_two(-e)
    h, l = multiply(xh * f, xl * f, yh, yl)  # noqa: E741
    return scaled(h, l, k + e)


def one_target(
    m: Real,
    zy: Real,
    at_top: Any,
    ey: tuple[Real, Real, Integer],
    w: Real,
    scale: tuple[Real, Real],
    sums: tuple[Integer, Integer, Integer, Integer],
    logs: Array,
) -> tuple[Real, Real, Real, Real, Real, Real]:
    """Loss, w · scale / S, and the gradient's entry at the target, as pairs.

    Parameters
    ----------
    m, zy : float64
        The largest logit, and the target's (-inf where it is masked).
    at_top : bool
        Whether the target is the class that was left out of R.
    ey : pair and exponent
        exp(zy - m).
    w : float64
        The target's weight.
    scale : pair
        What the gradient is multiplied by.
    sums : three integers and an exponent
        R.
    logs : float64 array [384]
        The table for the logarithm.
    """
    k = sums[3]
    rh, rl, ph, pl, sh, sl = normaliser(sums[0], sums[1], sums[2], k)
    masked = zy == -np.inf
    far = (abs(m) > FURTHEST) | ((abs(zy) > FURTHEST) & (zy != -np.inf))
    f = select(far, NEARER, 1.0)
    dh, dl = two_sum(m * f, select(masked, 0.0, -zy) * f)
    dh, dl = multiply_float(dh, dl, w)
    lh, ll = log1p(ph, pl, logs)
    lh, ll = multiply_float(lh, ll, w)
    lh, ll = add(lh * f, ll * f, dh, dl)
    f = select(far, 1 / NEARER, 1.0)
    lh, ll = lh * f, ll * f
    th, tl = scaled_product(w, 0.0 * w, rh, rl, k)
    alone = at_top & (k < NEGLIGIBLE)  # the loss is w log(1 + R) = w R (1 - δ), δ < 2^-580
    lh, ll = select(alone, th, lh), select(alone, tl, ll)
    lost = masked & (w > 0.0)
    lh, ll = select(lost, np.inf, select(masked, 0.0, lh)), select(masked, 0.0, ll)
    ch, cl = multiply_float(scale[0], scale[1], w)
    ch, cl = divide(ch, cl, sh, sl)
    eh, el = plain(ey[0], ey[1], ey[2])
    eh, el = add(sh, sl, -eh, -el)  # S - e_y >= S / 2, unless the class is the one left out: R then
    gh, gl = scaled_product(-ch, -cl, select(at_top, rh, eh), select(at_top, rl, el), select(at_top, k, 0))
    return lh, ll, ch, cl, gh, gl
