"""The gradient of a binary cross-entropy where its two terms cancel too much for pairs: near - far e, in triples.

Names are those of `harness.fast.binary` and docs/theory.md, section 11.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.fast.certificate import FINE_CANCELLATION, SMALLEST_SHARE
from harness.fast.dd import Real, add_float, divide, multiply, select, two_sum
from harness.fast.exponential import LOWEST
from harness.fast.fine import plain3
from harness.fast.fine_exponential import fine_exponential
from harness.fast.tables import Tables
from harness.fast.triple import difference3, multiply3, multiply3_float

__all__ = ["fine_gradient"]

Array = np.ndarray[Any, Any]


def fine_gradient(
    x: Real, t: Real, w: Real, c: Real, scale: tuple[Real, Real], tables: Tables
) -> tuple[Real, Real, Any]:
    """The scaled gradient of finite numbers as a pair, and whether it is certified: all arrays [M]."""
    zero = 0.0 * t
    a = multiply3_float(multiply3_float((w, zero, zero), c), t)
    b = multiply3_float((*two_sum(1.0, -t), zero), w)
    positive = x >= 0.0
    near = (select(positive, b[0], a[0]), select(positive, b[1], a[1]), select(positive, b[2], a[2]))
    far = (select(positive, a[0], b[0]), select(positive, a[1], b[1]), select(positive, a[2], b[2]))
    size = abs(x)
    *p, k = fine_exponential(select(size > -LOWEST, LOWEST, -size), zero, tables.high, tables.low, tables.third)
    e = plain3((p[0], p[1], p[2]), k)
    less = multiply3(far, e)
    h, l = difference3(near, less)  # noqa: E741
    certain = (abs(h) >= FINE_CANCELLATION * (near[0] + less[0])) & (near[0] > 0.0)
    certain = certain & (near[0] >= SMALLEST_SHARE * far[0])
    oh, ol = add_float(e[0], e[1], 1.0)
    ch, cl = divide(scale[0], scale[1], oh, ol)
    h, l = multiply(h, l, ch, cl)  # noqa: E741
    sign = select(positive, 1.0, -1.0)
    return sign * h, sign * l, certain & (abs(h) < np.inf)
