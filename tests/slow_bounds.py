"""The bounds once more, written down literally: one row and one class at a time, in mpmath, from the published table.

Nothing here is shared with the vectorised code: not the constants, not the truth, not the order of the sums.
"""

from __future__ import annotations

from dataclasses import dataclass

from mpmath import expm1, fabs, fsum, isinf, log, log1p, mp, mpf

mp.dps = 50
U = {"float64": mpf(2) ** -53, "float32": mpf(2) ** -24, "float16": mpf(2) ** -11, "bfloat16": mpf(2) ** -8}
ETA = {"float64": mpf(2) ** -1074, "float32": mpf(2) ** -149, "float16": mpf(2) ** -24, "bfloat16": mpf(2) ** -133}
NARROW = ("float16", "bfloat16")


@dataclass
class Slow:
    """A bound, whether it is vacuous, and how near to the edge of being so the decision was (0: on it)."""

    value: mpf
    vacuous: bool
    margin: mpf


def arithmetic(grade, dtype):
    """c, u, η of the arithmetic expected."""
    if grade == "storage":
        return 2, U[dtype], ETA[dtype]
    inside = "float32" if dtype in NARROW else dtype
    return 4, U[inside], ETA[inside]


def growth(grade, classes):
    return mpf(classes) if grade == "absolute" else log(classes, 2)


class Row:
    """z, t → p, ℓ, the loss and the gradient of one row with mass on unmasked classes only."""

    def __init__(self, z, t):
        self.z, self.t = [mpf(x) for x in z], t
        self.v, self.total, self.n_t = len(z), fsum(t), sum(x > 0 for x in t)
        self.top = max(range(self.v), key=lambda i: self.z[i])
        high = self.z[self.top]
        self.e = [mpf(0) if isinf(x) else mp.exp(x - high) for x in self.z]
        others = fsum(self.e[: self.top] + self.e[self.top + 1 :])
        self.s = 1 + others
        self.p = [x / self.s for x in self.e]
        self.lse = high + log1p(others)
        self.loss = self.total * log1p(others) + fsum(w * (high - x) for w, x in zip(t, self.z, strict=True) if w > 0)
        self.gradient = [
            ((self.total - w) * self.e[j] - w * fsum(self.e[:j] + self.e[j + 1 :])) / self.s for j, w in enumerate(t)
        ]

    def far(self, k):
        """Σ_{i≠k} p_i (1 + log2 V + |z_i - z_k|)."""
        return fsum(
            self.p[i] * (1 + log(self.v, 2) + fabs(self.z[i] - self.z[k]))
            for i in range(self.v)
            if i != k and self.p[i]
        )


def decided(value, first, scale, small):
    """A bound with its verdict: vacuous where expm1(first/scale) > 1/2, unless `first` is at most `small`."""
    share = expm1(min(first / scale, mpf(100))) if scale else mpf(0)
    near = min(fabs(share / mpf("0.5") - 1), fabs(first / small - 1) if small else mpf(1))
    return Slow(value, bool(share > 0.5 and first > small), near)


def loss_bound(row, grade, dtype, output):
    c, u, eta = arithmetic(grade, dtype)
    if grade == "relative":
        k = next(j for j, w in enumerate(row.t) if w > 0) if row.n_t == 1 else row.top
        first = c * u * (row.loss * (1 + log(max(row.n_t, 1), 2)) + row.total * row.far(k))
    else:
        magnitude = fsum(w * (fabs(row.lse) + fabs(x)) for w, x in zip(row.t, row.z, strict=True) if w > 0)
        first = c * u * (row.total * growth(grade, row.v) + row.n_t * magnitude)
    floor = row.total * row.v * eta / 2 + c * ETA[output] / 2
    return decided(first + 2 * U[output] * row.loss + floor, first, row.total, row.loss / 2)


def gradient_bound(row, j, grade, dtype, output, upstream, factor=1):
    c, u, eta = arithmetic(grade, dtype)
    t, p, size = row.t[j], row.p[j], fabs(mpf(upstream))
    distance = fabs(row.z[j] - row.lse)
    if grade == "relative":
        kappa = c * u * (1 + log(row.v, 2) + log(max(row.n_t, 1), 2) + distance)
        first = ((row.total - t) * p * kappa if p else mpf(0)) + (c * u * t * row.far(j) if t else 0)
    else:
        kappa = c * u * (growth(grade, row.v) + distance + fabs(row.lse))
        first = (row.total * p * expm1(kappa) if p else mpf(0)) + c * u * t
    terms = row.v if t else 1 + row.v * p
    floor = (row.total * terms * eta / 2 + c * ETA[output] / 2) * max(1, size, fabs(mpf(factor)))
    value = size * first + c * U[output] * size * fabs(row.gradient[j]) + floor
    share = expm1(min(kappa, mpf(100)))
    small = c * u * row.total
    near = min(fabs(2 * share - 1), fabs(first / small - 1) if small else mpf(1))
    return Slow(value, bool(share > 0.5 and first > small), near)


class Element:
    """x, t, w, c → loss and gradient of one element of the binary loss."""

    def __init__(self, x, t, w, c):
        x, t, w, c = (mpf(float(value)) for value in (x, t, w, c))
        self.x, self.a, self.b = x, w * c * t, w * (1 - t)
        e = mp.exp(-fabs(x))
        self.loss = (self.a + self.b) * log1p(e) + fabs(x) * (self.b if x >= 0 else self.a)
        self.near, self.far = 1 / (1 + e), e / (1 + e)  # σ(|x|), σ(-|x|)
        rising, falling = (self.near, self.far) if x >= 0 else (self.far, self.near)
        self.terms = self.a * falling + self.b * rising
        self.gradient = self.b * rising - self.a * falling

    def loss_bound(self, grade, dtype, output):
        c, u, eta = arithmetic(grade, dtype)
        size = self.a + self.b
        first = c * u * (self.loss if grade == "relative" else size * (1 + fabs(self.x)))
        value = first + 2 * U[output] * self.loss + size * eta + c * ETA[output] / 2
        return decided(value, first, size, self.loss / 2)

    def gradient_bound(self, grade, dtype, output, upstream):
        c, u, eta = arithmetic(grade, dtype)
        size = fabs(mpf(upstream))
        first = c * u * (self.terms if grade == "relative" else self.a + self.b)
        if grade != "relative":  # exp(|x| - softplus(|x|)), the exponent rounded by what is added to |x| at the most
            first += c * (self.b if self.x >= 0 else self.a) * min(u * fabs(self.x), mp.exp(-fabs(self.x)))
        floor = ((self.a + self.b) * eta + c * ETA[output] / 2) * max(1, size)
        return Slow(first * size + c * U[output] * size * fabs(self.gradient) + floor, False, mpf(1))
