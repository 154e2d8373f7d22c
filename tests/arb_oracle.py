"""A second opinion on the truth: Arb's ball arithmetic (python-flint), written from the formulas and not from our code.

Every function takes exact inputs and returns *balls*, enclosures that Arb proves. `Claim.fault` then decides,
rigorously, whether a double-double meets the contract (2^-90 relative or 2^-1074 absolute, whichever is larger): it
raises the precision until the ball is narrow enough to say yes or no, and never compares two approximations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from flint import arb, ctx, fmpq

MOST_BITS = 1 << 15
NOT_A_NUMBER = "nan"
INFINITE = "inf"
LARGEST = Fraction(2) ** 1024 - Fraction(2) ** 970
"""Everything from here on rounds to infinity in float64."""

Ball = Any
Value = Any
"""A ball, or one of the words above."""


@contextmanager
def bits(prec: int) -> Iterator[None]:
    """Work at a precision."""
    before, ctx.prec = ctx.prec, prec
    try:
        yield
    finally:
        ctx.prec = before


def real(value: float | Fraction | int) -> Ball:
    """The ball around an exact number: a point for floats, for fractions as narrow as the precision allows."""
    if isinstance(value, Fraction):
        return arb(fmpq(value.numerator, value.denominator))
    return arb(value)


@dataclass(frozen=True)
class Row:
    """One row of a cross-entropy, every number exact; `label` -1 means that `given` holds the distribution."""

    logits: Sequence[float]
    label: int = -1
    given: Sequence[float] = ()
    weight: Sequence[float] | None = None
    smoothing: float = 0.0
    ignored: bool = False

    def masses(self) -> list[Fraction]:
        """t_j = w_j ((1 - ε) q_j + ε / V)."""
        v = len(self.logits)
        q = [Fraction(int(j == self.label)) for j in range(v)] if self.label >= 0 else [Fraction(x) for x in self.given]
        w = [Fraction(1)] * v if self.weight is None else [Fraction(x) for x in self.weight]
        e = Fraction(self.smoothing)
        return [wj * ((1 - e) * qj + e / v) for wj, qj in zip(w, q, strict=True)]

    @property
    def undefined(self) -> bool:
        """Whether the row's values are NaN."""
        bad = any(math.isnan(z) or z == math.inf for z in self.logits) or all(z == -math.inf for z in self.logits)
        return bad or not all(math.isfinite(q) for q in self.given)

    def loss(self) -> Value:
        """Σ t_j (ℓ - z_j) with ℓ = log Σ exp z_i."""
        if self.ignored:
            return arb(0)
        if self.undefined:
            return NOT_A_NUMBER
        t = self.masses()
        if any(z == -math.inf and tj for z, tj in zip(self.logits, t, strict=True)):
            return INFINITE
        high, total = self._normaliser()
        return sum(
            (real(tj) * (total.log() + (arb(high) - arb(z))) for tj, z in zip(t, self.logits, strict=True) if tj),
            arb(0),
        )

    def gradient(self, scale: Fraction) -> list[Value]:
        """(T p_j - t_j) · scale."""
        if self.ignored:
            return [arb(0)] * len(self.logits)
        if self.undefined:
            return [NOT_A_NUMBER] * len(self.logits)
        t = self.masses()
        high, total = self._normaliser()
        mass = real(sum(t, Fraction(0)))
        p = [arb(0) if z == -math.inf else (arb(z) - arb(high)).exp() / total for z in self.logits]
        return [(mass * pj - real(tj)) * real(scale) for pj, tj in zip(p, t, strict=True)]

    def _normaliser(self) -> tuple[float, Ball]:
        """The maximum m, and Σ exp(z_i - m): Arb has no room for exp(1e300) itself."""
        high = max(self.logits)
        return high, sum(((arb(z) - arb(high)).exp() for z in self.logits if z != -math.inf), arb(0))


@dataclass(frozen=True)
class Element:
    """One element of a binary cross-entropy with logits, every number exact."""

    logit: float
    target: float
    weight: float = 1.0
    pos_weight: float = 1.0

    def factors(self) -> tuple[Fraction, Fraction]:
        """What softplus(-x) and softplus(x) are multiplied by: w c t and w (1 - t)."""
        w, t = Fraction(self.weight), Fraction(self.target)
        return w * Fraction(self.pos_weight) * t, w * (1 - t)

    def loss(self) -> Value:
        """w (c t softplus(-x) + (1 - t) softplus(x))."""
        if math.isnan(self.logit) or math.isnan(self.target):
            return NOT_A_NUMBER
        a, b = self.factors()
        if math.isinf(self.logit):
            return INFINITE if (b if self.logit > 0 else a) else arb(0)
        x = arb(self.logit)
        softplus = (1 + (-abs(x)).exp()).log()  # of -|x|; of |x| it is |x| more
        return real(a + b) * softplus + real(b if self.logit > 0 else a) * abs(x)

    def gradient(self, scale: Fraction) -> Value:
        """w ((1 - t) σ(x) - c t σ(-x)) · scale."""
        if math.isnan(self.logit) or math.isnan(self.target):
            return NOT_A_NUMBER
        a, b = self.factors()
        if math.isinf(self.logit):
            return real((b if self.logit > 0 else -a) * scale)
        e = (-abs(arb(self.logit))).exp()
        large, small = 1 / (1 + e), e / (1 + e)
        up, down = (large, small) if self.logit >= 0 else (small, large)
        return (real(b) * up - real(a) * down) * real(scale)


@dataclass(frozen=True)
class Claim:
    """A double-double, and the enclosure of the value that it should have."""

    what: str
    hi: float
    lo: float
    value: Callable[[], Value]

    def fault(self) -> str:
        """What is wrong with the claim; empty where it meets the contract.

        Raises
        ------
        ArithmeticError
            Where no precision decides, which is a fault of this oracle.
        """
        prec = 256
        while prec <= MOST_BITS:
            with bits(prec):
                verdict = self._at_this_precision(self.value())
            if verdict is not None:
                return f"{self.what}: {verdict}" if verdict else ""
            prec *= 2
        raise ArithmeticError(f"{self.what}: undecided at {MOST_BITS} bits")

    def _at_this_precision(self, value: Value) -> str | None:
        """Empty: certified. A text: refuted. None: the ball is too wide to tell."""
        shown = f"{self.hi!r} + {self.lo!r}"
        if value is NOT_A_NUMBER or value is INFINITE:
            right = math.isnan(self.hi) if value is NOT_A_NUMBER else self.hi == math.inf
            return "" if right and self.lo == 0 else f"{shown} is not {value}"
        if not value.is_finite():
            return None
        if math.isnan(self.hi):
            return f"{shown} is not {value}"
        if math.isinf(self.hi):
            beyond = value * int(math.copysign(1, self.hi)) - real(LARGEST)
            if beyond >= 0 and self.lo == 0:
                return ""
            return f"{shown} is not {value}" if beyond < 0 or self.lo else None
        error = abs(arb(self.hi) + arb(self.lo) - value)
        allowed = (abs(value) * arb(2) ** -90).max(arb(2) ** -1074)
        if error <= allowed:
            return ""
        return f"{shown} is off by {error}, where {allowed} is allowed, from {value}" if error > allowed else None


def exact_scale(upstream: float) -> Fraction:
    """A float as a fraction."""
    return Fraction(float(upstream))


def claims_of_rows(reference: Any, rows: Sequence[Row], upstream: Sequence[float] | None = None) -> list[Claim]:
    """Every number of a cross-entropy reference, loss and gradient, as claims."""
    claims = []
    for i, row in enumerate(rows):
        scale = exact_scale(1.0 if upstream is None else upstream[i])
        claims.append(Claim(f"loss[{i}]", float(reference.loss_hi[i]), float(reference.loss_lo[i]), row.loss))
        claims += gradient_claims(reference, i, len(row.logits), lambda row=row, scale=scale: row.gradient(scale))
    return claims


def gradient_claims(reference: Any, i: int, width: int, gradient: Callable[[], list[Value]]) -> list[Claim]:
    """The entries of one row of a gradient, as claims."""
    hi, lo = np.asarray(reference.grad_hi), np.asarray(reference.grad_lo)
    known: dict[int, list[Value]] = {}

    def entry(j: int) -> Value:
        if ctx.prec not in known:
            known[ctx.prec] = gradient()
        return known[ctx.prec][j]

    return [Claim(f"gradient[{i}, {j}]", float(hi[i, j]), float(lo[i, j]), lambda j=j: entry(j)) for j in range(width)]


def claims_of_elements(reference: Any, elements: Sequence[Sequence[Element]], upstream: Any = None) -> list[Claim]:
    """Every number of a binary cross-entropy reference, as claims."""
    claims = []
    for i, row in enumerate(elements):
        for j, element in enumerate(row):
            scale = exact_scale(1.0 if upstream is None else upstream[i][j])
            hi, lo = float(reference.loss_hi[i, j]), float(reference.loss_lo[i, j])
            claims.append(Claim(f"loss[{i}, {j}]", hi, lo, element.loss))
            hi, lo = float(reference.grad_hi[i, j]), float(reference.grad_lo[i, j])
            gradient = lambda element=element, scale=scale: element.gradient(scale)  # noqa: E731
            claims.append(Claim(f"gradient[{i}, {j}]", hi, lo, gradient))
    return claims


def total(values: Sequence[Value], divisor: Fraction) -> Value:
    """Σ values / divisor, where a NaN wins over an infinity."""
    if any(value is NOT_A_NUMBER for value in values):
        return NOT_A_NUMBER
    if any(value is INFINITE for value in values):
        return INFINITE
    return sum(values, arb(0)) / real(divisor)


def faults(claims: Sequence[Claim]) -> list[str]:
    """What is wrong with some claims."""
    return [fault for fault in (claim.fault() for claim in claims) if fault]
