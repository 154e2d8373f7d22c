"""The softmax cross-entropy with many target classes: target masses, row-wise part, and the gradient's entries.

All masses are V t_j where there is label smoothing, which the last factor makes up for. Names are those of
docs/theory.md, sections 2, 3 and 10.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.fast.certificate import CANCELLATION, LEFT_OUT_CANCELLATION
from harness.fast.dd import (
    Integer,
    Real,
    add,
    add_float,
    divide,
    multiply,
    multiply_float,
    power_of_two,
    select,
    two_sum,
)
from harness.fast.logarithm import log1p
from harness.fast.softmax import NEGLIGIBLE, normaliser, plain, scaled_product
from harness.fast.sums import total

__all__ = ["NOTHING", "distance", "entry", "mass", "row", "special_entry", "sum_of"]

Array = np.ndarray[Any, Any]

NOTHING = -800
"""Σ t_j (m - z_j) is left out where its largest term is below 2^-800: a class with a target mass then ties with the
maximum, so that T log S is above 2^-301."""


def mass(q: Real, w: Real, keep_h: Real, keep_l: Real, times: Real, spread: Real) -> tuple[Real, Real]:
    """w ((1 - ε) q · times + ε): 8u² relative; for ε = 0 and times = 1 the exact product w q."""
    h, l = multiply_float(keep_h, keep_l, q)  # noqa: E741
    h, l = multiply_float(h, l, times)  # noqa: E741
    h, l = add_float(h, l, spread)  # noqa: E741
    return multiply_float(h, l, w)


def distance(m: Real, z: Real, th: Real, tl: Real) -> tuple[Real, Real]:
    """t (m - z), 0 where t is 0 or the class is masked: 7u² relative."""
    absent = (th == 0.0) | (z == -np.inf)
    h, l = two_sum(m, select(absent, -m, -z))  # noqa: E741
    h, l = multiply(h, l, th, tl)  # noqa: E741
    return select(absent, 0.0, h), select(absent, 0.0, l)


def sum_of(first: Integer, second: Integer, third: Integer, k: Integer) -> tuple[Real, Real]:
    """A fixed-point sum whose terms were multiplied by 2^-k."""
    h, l = total(first, second, third)  # noqa: E741
    f = power_of_two(k)
    return h * f, l * f


def row(
    sums: tuple[Integer, Integer, Integer, Integer],
    rest: tuple[Real, Real],
    most: tuple[Real, Real],
    far: tuple[Real, Real],
    scale: tuple[Real, Real],
    times: Real,
    logs: Array,
) -> tuple[Real, Real, Real, Real, Real, Real, Real, Real, Real, Real]:
    """Loss, T, S, scale / (S · times), and r of R = 2^k r, as pairs.

    Parameters
    ----------
    sums : three integers and an exponent
        R, as for `one_target`.
    rest, most : pairs
        T but for its largest mass, and that mass.
    far : pair
        Σ t_j (m - z_j).
    scale : pair
        What the gradient is multiplied by.
    times : float64
        What all masses have been multiplied by.
    logs : float64 array [384]
        The table for the logarithm.
    """
    rh, rl, ph, pl, sh, sl = normaliser(sums[0], sums[1], sums[2], sums[3])
    th, tl = add(rest[0], rest[1], most[0], most[1])
    lh, ll = log1p(ph, pl, logs)
    lh, ll = multiply(lh, ll, th, tl)
    lh, ll = add(lh, ll, far[0], far[1])
    lh, ll = divide(lh, ll, times, 0.0 * times)
    # With nothing far, R alone makes the loss: T R, to a relative 2^-580, where it is too small for a pair.
    xh, xl = divide(th, tl, times, 0.0 * times)
    xh, xl = scaled_product(xh, xl, rh, rl, sums[3])
    alone = (sums[3] < NEGLIGIBLE) & (far[0] == 0.0)
    lh, ll = select(alone, xh, lh), select(alone, xl, ll)
    ch, cl = multiply_float(sh, sl, times)
    ch, cl = divide(scale[0], scale[1], ch, cl)
    return lh, ll, th, tl, sh, sl, ch, cl, rh, rl


def entry(
    e: tuple[Real, Real, Integer],
    t: tuple[Real, Real],
    whole: tuple[Real, Real],
    s: tuple[Real, Real],
    c: tuple[Real, Real],
    share: tuple[Real, Real],
) -> tuple[Real, Real, Any]:
    """(T e_j - t_j S) c as a pair, and whether it is certified; `share` is T c, all that counts where t_j = 0."""
    eh, el = plain(e[0], e[1], e[2])
    ah, al = multiply(whole[0], whole[1], eh, el)
    bh, bl = multiply(t[0], t[1], s[0], s[1])
    gh, gl, certain = _difference(ah, al, bh, bl, c, CANCELLATION)
    xh, xl = scaled_product(share[0], share[1], e[0], e[1], e[2])
    absent = t[0] == 0.0
    return select(absent, xh, gh), select(absent, xl, gl), certain | absent


def _difference(ah: Real, al: Real, bh: Real, bl: Real, c: tuple[Real, Real], least: float) -> tuple[Real, Real, Any]:
    """(a - b) c, and whether the two cancel so little that its error is known."""
    dh, dl = add(ah, al, -bh, -bl)
    gh, gl = multiply(dh, dl, c[0], c[1])
    return gh, gl, (abs(dh) >= least * (ah + bh)) | (c[0] == 0.0)


def special_entry(
    e: tuple[Real, Real, Integer],
    t: tuple[Real, Real],
    other_mass: tuple[Real, Real],
    other_sum: tuple[Real, Real, Integer],
    c: tuple[Real, Real],
) -> tuple[Real, Real, Any]:
    """((T - t_j) e_j - t_j (S - e_j)) c, with the two differences given: for the classes where they could cancel."""
    eh, el = plain(e[0], e[1], e[2])
    sh, sl = plain(other_sum[0], other_sum[1], other_sum[2])
    ah, al = multiply(eh, el, other_mass[0], other_mass[1])
    bh, bl = multiply(t[0], t[1], sh, sl)
    gh, gl, certain = _difference(ah, al, bh, bl, c, LEFT_OUT_CANCELLATION)
    # Without another mass the entry is -t_j (S - e_j) c alone, which may be far too small for a pair.
    xh, xl = multiply(t[0], t[1], c[0], c[1])
    xh, xl = scaled_product(-xh, -xl, other_sum[0], other_sum[1], other_sum[2])
    alone = other_mass[0] == 0.0
    return select(alone, xh, gh), select(alone, xl, gl), certain | alone
