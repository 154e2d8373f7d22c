"""One element of a binary cross-entropy with logits: loss and gradient, each with its certificate.

With e = exp(-|x|): loss = (a + b) log(1 + e) + near |x|, gradient = ±(near - far e) / (1 + e), near the factor of the
softplus that is |x| more. Names are those of docs/theory.md, sections 3 and 10.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.fast.certificate import CANCELLATION, SMALLEST_SHARE
from harness.fast.dd import Real, add, add_float, divide, multiply, multiply_float, select, two_sum
from harness.fast.exponential import LOWEST, exponential
from harness.fast.logarithm import log1p
from harness.fast.softmax import NEGLIGIBLE, plain, scaled_product

__all__ = ["element"]

Array = np.ndarray[Any, Any]


def element(
    x: Real, t: Real, w: Real, c: Real, scale: tuple[Real, Real], table_h: Array, table_l: Array, logs: Array
) -> tuple[Real, Real, Real, Real, Any]:
    """Loss and scaled gradient of finite numbers as pairs, and whether both are certified."""
    size = abs(x)
    ah, al = multiply_float(*_product(w, c), t)  # the factor of softplus(-x)
    bh, bl = two_sum(1.0, -t)
    bh, bl = multiply_float(bh, bl, w)  # the factor of softplus(x)
    positive = x >= 0.0
    nh, nl = select(positive, bh, ah), select(positive, bl, al)
    fh, fl = select(positive, ah, bh), select(positive, al, bl)
    ph, pl, k = exponential(select(size > -LOWEST, LOWEST, -size), 0.0 * t, table_h, table_l)
    eh, el = plain(ph, pl, k)
    # loss
    lh, ll = log1p(eh, el, logs)
    sh, sl = add(nh, nl, fh, fl)
    lh, ll = multiply(lh, ll, sh, sl)
    dh, dl = multiply_float(nh, nl, size)
    lh, ll = add(lh, ll, dh, dl)
    vh, vl = scaled_product(fh, fl, ph, pl, k)
    tiny = k < NEGLIGIBLE
    alone = tiny & (nh == 0.0)  # the loss is far · e (1 - δ), δ < 2^-600
    lh, ll = select(alone, vh, lh), select(alone, vl, ll)
    # gradient
    oh, ol = add_float(eh, el, 1.0)
    ch, cl = divide(scale[0], scale[1], oh, ol)
    yh, yl = multiply(fh, fl, eh, el)
    gh, gl = add(nh, nl, -yh, -yl)
    certain = (abs(gh) >= CANCELLATION * (nh + yh)) | (nh == 0.0)
    gh, gl = multiply(gh, gl, ch, cl)
    mh, ml = multiply(fh, fl, ch, cl)
    mh, ml = scaled_product(-mh, -ml, ph, pl, k)
    gh, gl = select(nh == 0.0, mh, gh), select(nh == 0.0, ml, gl)
    sign = select(positive, 1.0, -1.0)
    certain = certain & ((nh == 0.0) | (nh >= SMALLEST_SHARE * fh)) & (abs(lh) < np.inf) & (abs(gh) < np.inf)
    return lh, ll, sign * gh, sign * gl, certain


def _product(a: Real, b: Real) -> tuple[Real, Real]:
    return multiply_float(a, 0.0 * a, b)
