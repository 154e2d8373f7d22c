"""The softmax of one row to a proved precision: what the truth of every loss of a softmax is made of.

Logits, target masses and their total are exact; exponentials and what follows from them carry the errors that
docs/theory.md, sections 2 and 3, counts. Logits are float64 (`Classes.of_reals`), or exact numbers of any length, as
sums of products are (`Classes.of_exact`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from mpmath import libmp

from harness import certified as real
from harness.certified import Exact

__all__ = ["Classes", "Softmax"]

Array = np.ndarray[Any, Any]


class Classes:
    """The classes of one row, grouped where logit, target and weight agree (ties, masks and 16-bit values are many).

    Parameters
    ----------
    z : list of Exact
        The logit of each group; zero where it is masked.
    masked : list of bool
        Which groups have the logit ``-inf``.
    masses : sequence of (float, float)
        Of each group the target's mass before smoothing, and the class weight.
    member : int array [V]
        The group of each class.
    top : int
        The group of the largest logit.
    smoothing : float
        ε.
    """

    def __init__(
        self,
        z: list[Exact],
        masked: list[bool],
        masses: Sequence[tuple[float, float]],
        member: Array,
        top: int,
        smoothing: float,
    ) -> None:
        self.z, self.masked, self.member, self.top = z, masked, member, top
        self.counts: list[int] = np.bincount(member, minlength=len(z)).tolist()
        self.scale_of_t = len(member) if smoothing else 1
        keep = real.subtract(real.ONE, real.exact(smoothing))
        spread = real.exact(smoothing)
        self.t: list[Exact] = []  # times V where there is smoothing, so that it stays a binary number
        for q, w in masses:
            mass = real.exact(q)
            if smoothing:
                mass = real.add(real.multiply(real.multiply(keep, mass), real.exact(len(member))), spread)
            self.t.append(real.multiply(mass, real.exact(w)) if smoothing or q else real.ZERO)
        self.total = real.ZERO
        for t, count in zip(self.t, self.counts, strict=True):
            if t != real.ZERO:
                self.total = real.add(self.total, real.multiply(t, real.exact(count)))
        self.softmaxes: dict[int, Softmax] = {}

    @classmethod
    def of_reals(cls, z: Array, q: Array, weight: Array | None, smoothing: float) -> Classes:
        """The classes of a row of float64 logits [V] under a target distribution [V]; ``-inf`` is a masked class."""
        w = _weights(q, weight, smoothing)
        first, member = _group(z, q, w)
        masked = np.isneginf(z[first]).tolist()
        exact = [real.ZERO if m else real.exact(x) for x, m in zip(z[first].tolist(), masked, strict=True)]
        masses = list(zip(q[first].tolist(), w[first].tolist(), strict=True))
        return cls(exact, masked, masses, member, int(np.argmax(z[first])), smoothing)

    @classmethod
    def of_exact(cls, z: Sequence[Exact], q: Array, weight: Array | None, smoothing: float) -> Classes:
        """The classes of a row of finite exact logits [V] under a target distribution [V]."""
        w = _weights(q, weight, smoothing)
        groups: dict[tuple[Exact, float, float], int] = {}
        member = [groups.setdefault(key, len(groups)) for key in zip(z, q.tolist(), w.tolist(), strict=True)]
        logits = [key[0] for key in groups]
        top = 0
        for j, logit in enumerate(logits):
            if libmp.mpf_gt(logit, logits[top]):
                top = j
        masses = [key[1:] for key in groups]
        return cls(logits, [False] * len(logits), masses, np.array(member, dtype=np.int64), top, smoothing)

    def softmax(self, prec: int) -> Softmax:
        """The softmax to so many bits."""
        if prec not in self.softmaxes:
            self.softmaxes[prec] = Softmax.of(self, prec)
        return self.softmaxes[prec]

    def loss(self) -> Exact:
        """T log S + Σ t_j (m - z_j): for t >= 0 a sum of non-negative terms, with T and the second sum exact."""
        distance, size = real.ZERO, real.ZERO
        for t, z, count, masked in zip(self.t, self.z, self.counts, self.masked, strict=True):
            if t == real.ZERO:
                continue
            if masked:
                return real.INFINITY
            term = real.multiply(real.multiply(t, real.exact(count)), real.subtract(self.z[self.top], z))
            distance = real.add(distance, term)
            size = real.add(size, real.magnitude(term))
        for prec in real.precisions():
            normaliser = real.multiply(self.total, self.softmax(prec).log_sum, prec)
            value = real.add(normaliser, distance, prec)
            if real.is_settled(value, real.add(real.magnitude(normaliser), size, prec), prec):
                return real.quotient(value, real.exact(self.scale_of_t), prec)
        raise AssertionError("precisions() raises first")

    def gradient(self, scale: Fraction) -> tuple[Array, Array]:
        """(T - t_j) e_j - t_j (S - e_j), over S: for one-hot targets one of the two is zero, so nothing cancels."""
        hi, lo = np.empty(len(self.t)), np.empty(len(self.t))
        numerator, divisor = real.exact(scale.numerator), real.exact(scale.denominator * self.scale_of_t)
        first = next(real.precisions())
        s = self.softmax(first)
        common = real.quotient(real.multiply(self.total, numerator), real.multiply(s.total, divisor), first)
        for j, t in enumerate(self.t):
            if t == real.ZERO:
                hi[j], lo[j] = real.split(real.multiply(s.e[j], common, first))
            else:
                hi[j], lo[j] = real.split(self._target_entry(j, numerator, divisor))
        return hi, lo

    def slope(self, j: int, prec: int) -> tuple[Exact, Exact]:
        """A group's entry of the gradient, not scaled (times V where there is smoothing), and the size of its terms.

        The entry is off by at most 20η · size.
        """
        s = self.softmax(prec)
        gain, loss = self._terms(j, s)
        size = real.add(real.magnitude(gain), real.magnitude(loss), prec)
        difference = real.subtract(gain, loss, s.prec)
        return real.quotient(difference, s.total, prec), real.quotient(size, s.total, prec)

    def _terms(self, j: int, s: Softmax) -> tuple[Exact, Exact]:
        """(T - t_j) e_j and t_j (S - e_j)."""
        gain = real.multiply(real.subtract(self.total, self.t[j]), s.e[j])
        loss = real.multiply(self.t[j], s.rest(j)) if self.t[j] != real.ZERO else real.ZERO
        return gain, loss

    def _target_entry(self, j: int, numerator: Exact, divisor: Exact) -> Exact:
        """The gradient's entry of a class with t_j ≠ 0, at the first precision whose certificate holds."""
        for prec in real.precisions():
            s = self.softmax(prec)
            gain, loss = self._terms(j, s)
            below = real.multiply(s.total, divisor)
            difference = real.multiply(real.subtract(gain, loss, s.prec), numerator)
            value = real.quotient(difference, below, prec)
            size = real.add(real.magnitude(gain), real.magnitude(loss), prec)
            size = real.quotient(real.multiply(size, real.magnitude(numerator)), below, prec)
            if s.tied or real.is_settled(value, size, prec):
                return value
        raise AssertionError("precisions() raises first")


@dataclass(frozen=True)
class Softmax:
    """Exponentials of a row's groups, shifted by the maximum, to a precision: relative errors are in docs/theory.md."""

    e: list[Exact]
    top: int  # the group that holds the maximum left out of R
    beyond_top: Exact  # R: the sum of all exponentials but one that is exactly 1
    total: Exact  # S = 1 + R
    log_sum: Exact  # log S
    tied: bool  # whether all classes that are not masked tie, so that every quantity but log S is exact
    prec: int

    @classmethod
    def of(cls, row: Classes, prec: int) -> Softmax:
        """The softmax of a row to so many bits."""
        high = row.z[row.top]
        e = [
            real.ZERO if masked else real.exponential(real.subtract(z, high), prec)
            for z, masked in zip(row.z, row.masked, strict=True)
        ]
        live = [j for j, masked in enumerate(row.masked) if not masked]
        tied = all(row.z[j] == high for j in live)
        others = [count - (j == row.top) for j, count in enumerate(row.counts)]
        beyond = real.exact(sum(others[j] for j in live)) if tied else real.sum_positive(e, others, prec)
        total = real.add(real.ONE, beyond, 0 if tied else prec)
        return cls(e, row.top, beyond, total, real.log1p(beyond, prec), tied, 0 if tied else prec)

    def rest(self, j: int) -> Exact:
        """S minus one exponential of group j, never by cancellation: R for the maximum itself, else at least S/2."""
        return self.beyond_top if j == self.top else real.subtract(self.total, self.e[j], self.prec)


def _weights(q: Array, weight: Array | None, smoothing: float) -> Array:
    """The class weights [V]; ones where the target has no mass, so that those classes are told apart by less."""
    if weight is None:
        return np.ones(len(q))
    return weight if smoothing else np.where(q != 0, weight, 1.0)


def _group(z: Array, q: Array, w: Array) -> tuple[Array, Array]:
    """Group equal (z, q, w): index of a member of each group, and the group of each class."""
    codes = np.zeros(len(z), dtype=np.int64)
    for column in (z, q, w):
        values, inverse = np.unique(column, return_inverse=True)
        if len(values) > 1:
            _, codes = np.unique(codes * len(values) + inverse, return_inverse=True)
    _, first, member = np.unique(codes, return_index=True, return_inverse=True)
    return first, member
