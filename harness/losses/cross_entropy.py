"""Cross-entropy of the softmax of logits: formula, semantics, truth and bounds.

With q the target distribution (one-hot or given, mixed with label smoothing: (1-ε)q + ε/V), w the class weights,
t_j = w_j q_j, T = Σ t_j, ℓ = log Σ exp z_i and p the softmax: row loss = Σ t_j (ℓ - z_j), gradient = T p_j - t_j
(``torch.nn.functional.cross_entropy``, documentation). A -inf logit is a masked class: probability 0. The derivations
of truth and bounds are in docs/theory.md.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from harness import certified as real
from harness.arithmetic import VACUOUS, Arithmetic, Bound
from harness.formats import Format
from harness.grades import Grade
from harness.losses.base import Loss, Problem, RowTruth, as_exact_real, as_exact_reals
from harness.losses.exact_softmax import Classes

__all__ = ["CrossEntropy"]

Array = np.ndarray[Any, Any]


class CrossEntropy(Loss):
    """Softmax cross-entropy with class indices or probabilities, class weights, ignored rows and label smoothing."""

    name = "cross_entropy"
    formula = "Σ_j t_j (log Σ_i exp z_i - z_j), t = w · ((1 - ε) q + ε / V)"
    options = ("weight", "ignore_index", "label_smoothing")
    elementwise = False

    def draw_target(self, rng: np.random.Generator, logits: Array, labels: Array) -> Array:
        """Class indices [N]: the labels themselves."""
        return labels.astype(np.int64)

    def problem(
        self, logits: Array, target: Array, upstream: Array | None, options: Mapping[str, Any]
    ) -> CrossEntropyProblem:
        """State a batch of logits [N, V] and target [N] (integers) or [N, V] exactly; see `Loss.problem`."""
        self.check_options(options)
        z = as_exact_reals("logits", logits)
        if z.ndim != 2 or z.shape[1] == 0:
            raise ValueError(f"logits: expected shape [N, V] with V at least 1, got {list(z.shape)}")
        n, v = z.shape
        smoothing = as_exact_real("label_smoothing", options.get("label_smoothing", 0.0))
        if not 0.0 <= smoothing <= 1.0:
            raise ValueError(f"label_smoothing: {smoothing} is outside [0, 1]")
        weight = options.get("weight")
        if weight is not None:
            weight = as_exact_reals("weight", weight, finite=True)
            if weight.shape != (v,):
                raise ValueError(f"weight: expected shape [{v}], got {list(weight.shape)}")
            if (weight < 0).any():
                raise ValueError(f"weight: {weight.min()} is negative")
        try:
            ignore_index = operator.index(options.get("ignore_index", -100))
        except TypeError:
            raise TypeError(f"ignore_index: {options['ignore_index']!r} is not an integer") from None
        labels, probabilities, ignored = _read_target(np.asarray(target), n, v, ignore_index)
        up = np.ones(n) if upstream is None else as_exact_reals("upstream", upstream, finite=True)
        if up.shape not in ((), (n,)):
            raise ValueError(f"upstream: expected shape [{n}], got {list(up.shape)}")
        up = np.broadcast_to(up, (n,))
        return CrossEntropyProblem(z, labels, probabilities, ignored, weight, smoothing, up)


def _read_target(target: Array, n: int, v: int, ignore_index: int) -> tuple[Array | None, Array | None, Array]:
    """The labels [N] or the probabilities [N, V], and which rows are ignored."""
    if target.shape == (n, v) and target.ndim == 2:
        if ignore_index != -100:
            raise ValueError(f"ignore_index: {ignore_index} was given with class probabilities; it needs class indices")
        probabilities = as_exact_reals("target", target)
        if (probabilities < 0).any():
            raise ValueError(f"target: {probabilities[probabilities < 0].flat[0]} is negative")
        return None, probabilities, np.zeros(n, dtype=bool)
    if target.shape != (n,):
        raise ValueError(f"target: expected class indices [{n}] or probabilities [{n}, {v}], got {list(target.shape)}")
    if target.dtype.kind not in "iu" and target.size:
        raise TypeError(f"target: class indices must be integers, got {target.dtype}")
    ignored = target == ignore_index
    bad = ~ignored & ((target < 0) | (target >= v))
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        raise ValueError(f"target[{at}]: class {target[at]} is outside [0, {v}) and is not ignore_index {ignore_index}")
    return target.astype(np.int64), None, ignored


@dataclass(frozen=True, eq=False)
class CrossEntropyProblem(Problem):
    """One batch, all exact float64: logits [N, V], labels [N] or probabilities [N, V], weight [V] or None."""

    logits: Array
    labels: Array | None
    probabilities: Array | None
    ignored: Array
    weight: Array | None
    smoothing: float
    upstream: Array

    @property
    def counted(self) -> Array:
        """The rows that are not ignored."""
        return ~self.ignored

    def denominator(self) -> Fraction:
        """The sum of the targets' weights over the rows that count; the number of rows for probabilities."""
        if self.labels is None:
            return Fraction(self.logits.shape[0])
        counted = self.labels[~self.ignored]
        if self.weight is None:
            return Fraction(len(counted))
        return sum((Fraction(float(self.weight[y])) for y in counted), Fraction(0))

    def content(self) -> Iterable[bytes]:
        """See `Problem.content`."""
        yield repr((self.logits.shape, self.smoothing, self.labels is None, self.weight is None)).encode()
        for array in (self.logits, self.labels, self.probabilities, self.ignored, self.weight, self.upstream):
            if array is not None:
                yield np.ascontiguousarray(array).tobytes()

    def solve(self, row: int, scale: Array | Fraction) -> RowTruth:
        """The certified truth of one row; see `Problem.solve`."""
        z = self.logits[row]
        if self.ignored[row]:
            return RowTruth([real.ZERO], np.zeros(len(z)), np.zeros(len(z)))
        q = self._distribution(row)
        if np.isnan(z).any() or np.isposinf(z).any() or np.isneginf(z).all() or not np.isfinite(q).all():
            return RowTruth([real.NAN], np.full(len(z), np.nan), np.zeros(len(z)))
        exact_scale = scale if isinstance(scale, Fraction) else Fraction(float(scale))
        classes = Classes.of_reals(z, q, self.weight, self.smoothing)
        group_hi, group_lo = classes.gradient(exact_scale)
        return RowTruth([classes.loss()], group_hi[classes.member], group_lo[classes.member])

    def _distribution(self, row: int) -> Array:
        """q of one row, before smoothing: [V], float64, exact."""
        if self.probabilities is not None:
            given: Array = self.probabilities[row]
            return given
        assert self.labels is not None
        one_hot = np.zeros(self.logits.shape[1])
        if not self.ignored[row]:
            one_hot[self.labels[row]] = 1.0
        return one_hot

    # Bounds: first order in u, in float64, whose own rounding (1e-16 relative) does not matter to a bound.

    @cached_property
    def _rows(self) -> _RowQuantities:
        return _RowQuantities.of(self)

    def loss_bound(self, arithmetic: Arithmetic, output: Format, loss: Array) -> Bound:
        """Bound for each row's loss [N]; DESIGN's table, derived in docs/theory.md, sections 4 and 5."""
        r = self._rows
        v = self.logits.shape[1]
        with np.errstate(over="ignore", invalid="ignore"):
            if arithmetic.grade is Grade.RELATIVE:
                pairwise = 1 + np.log2(np.maximum(r.n_t, 1))
                first = arithmetic.cu * (pairwise * loss + r.total * r.tail_conditioning)
            else:
                growth = arithmetic.sum_growth(v)
                first = arithmetic.cu * (r.total * growth + r.n_t * r.target_magnitude)
            floor = arithmetic.floor(r.total * v, output)
            value = first + 2 * output.unit_roundoff * np.abs(loss) + floor
            vacuous = (np.expm1(first / np.where(r.total > 0, r.total, 1)) > VACUOUS) & (first > VACUOUS * loss)
        return Bound(value, vacuous | ~np.isfinite(value))

    def gradient_bound(self, arithmetic: Arithmetic, output: Format, gradient: Array, scale: Array) -> Bound:
        """Bound for each gradient entry [N, V]; DESIGN's table, derived in docs/theory.md, sections 4 and 5."""
        r = self._rows
        v = self.logits.shape[1]
        size = np.abs(scale)[:, None]
        total = r.total[:, None]
        cu = arithmetic.cu
        with np.errstate(all="ignore"):
            if arithmetic.grade is Grade.RELATIVE:
                growth = arithmetic.sum_growth(v) + np.log2(np.maximum(r.n_t, 1))[:, None]
                kappa = cu * (1 + growth + r.depth)
                others = np.where(r.p > 0, (total - r.t).clip(0) * r.p * kappa, 0.0)
                first = others + cu * r.t * r.rest_conditioning
            else:
                kappa = cu * (arithmetic.sum_growth(v) + r.depth + r.normaliser_magnitude[:, None])
                spread = total * np.exp(-r.depth + kappa + np.log(-np.expm1(-kappa)))
                first = np.where(r.depth < np.inf, spread, 0.0) + cu * r.t
            floor = arithmetic.floor(total * np.where(r.t > 0, v, 1 + v * r.p), output, size)
            rounding = arithmetic.constant * output.unit_roundoff * np.abs(gradient)
            value = first * size + rounding + floor
            vacuous = (np.expm1(kappa) > VACUOUS) & (first > cu * total)
        return Bound(value, vacuous | ~np.isfinite(value))

    def maximum_rounding(self, arithmetic: Arithmetic, scale: Array) -> Array:
        """c·u·T(1 + log₂V) at the largest logits, scaled, and 0 elsewhere: no bound has it, a message may."""
        r = self._rows
        sums = arithmetic.cu * r.total * (1 + np.log2(max(self.logits.shape[1], 1))) * np.abs(scale)
        return np.where(r.shifted == 0, sums[:, None], 0.0)


@dataclass(frozen=True, eq=False)
class _RowQuantities:
    """What the bounds are made of, float64: t, p, depth = ℓ - z_j are [N, V]; the others [N]."""

    t: Array
    p: Array
    depth: Array
    total: Array
    n_t: Array
    normaliser_magnitude: Array  # |ℓ|
    target_magnitude: Array  # Σ t_j (|ℓ| + |z_j|)
    tail_conditioning: Array  # Σ_{i≠k} p_i (1 + log2 V + |z_i - z_k|), k = y for one target class, else the maximum
    shifted: Array  # [N, V]: z_j - max z

    @cached_property
    def rest_conditioning(self) -> Array:
        """Σ_{i≠j} p_i (1 + log2 V + |z_i - z_j|), where t_j > 0: [N, V]; only gradients need it."""
        with np.errstate(all="ignore"):
            return _rest_conditioning(self.shifted, self.p, self.t)

    @classmethod
    def of(cls, problem: CrossEntropyProblem) -> _RowQuantities:
        z = np.where(problem.ignored[:, None], 0.0, problem.logits)  # whatever an ignored row holds, its loss is 0
        n, v = z.shape
        q = np.zeros((n, v)) if problem.probabilities is None else problem.probabilities
        if problem.labels is not None:
            counted = np.flatnonzero(~problem.ignored)
            q[counted, problem.labels[counted]] = 1.0
        t = (1 - problem.smoothing) * q + problem.smoothing / v
        t = np.abs(t if problem.weight is None else t * problem.weight)
        t[problem.ignored] = 0.0
        with np.errstate(all="ignore"):
            m = z.max(axis=1, initial=-np.inf)[:, None]
            shifted = np.where(np.isneginf(z), -np.inf, z - m)
            e = np.exp(shifted)
            s = e.sum(axis=1, keepdims=True)
            log_s = np.log(s)
            p, depth, normaliser = e / s, log_s - shifted, np.abs(m + log_s)[:, 0]
            target_magnitude = np.where(t > 0, t * (normaliser[:, None] + np.abs(z)), 0.0).sum(axis=1)
            pivot = np.where((t > 0).sum(axis=1) == 1, t.argmax(axis=1), shifted.argmax(axis=1))[:, None]
            distance = np.abs(shifted - np.take_along_axis(shifted, pivot, axis=1))
            tail = np.where(p > 0, p * (1 + np.log2(v) + distance), 0.0)
            np.put_along_axis(tail, pivot, 0.0, axis=1)
            beside = tail.sum(axis=1)
        return cls(t, p, depth, t.sum(axis=1), (t > 0).sum(axis=1), normaliser, target_magnitude, beside, shifted)


def _rest_conditioning(shifted: Array, p: Array, t: Array) -> Array:
    """Σ_{i≠j} p_i (1 + log2 V + |z_i - z_j|) for the entries with t_j > 0, through prefix sums over the sorted row."""
    n, v = shifted.shape
    out = np.zeros((n, v))
    active = (t > 0) & (shifted > -np.inf)
    single = np.flatnonzero(active.sum(axis=1) == 1)
    y = active[single].argmax(axis=1)[:, None]
    distance = np.abs(shifted[single] - np.take_along_axis(shifted[single], y, axis=1))
    far = np.where(p[single] > 0, p[single] * (1 + np.log2(v) + distance), 0.0)
    np.put_along_axis(far, y, 0.0, axis=1)  # not taken away afterwards: what is left may be far below its rounding
    out[single, y[:, 0]] = far.sum(axis=1)
    for row in np.setdiff1d(np.arange(n), single).tolist():
        wanted = np.flatnonzero(active[row])
        if len(wanted) <= 4:
            for j in wanted:
                far = np.where(p[row] > 0, p[row] * (1 + np.log2(v) + np.abs(shifted[row] - shifted[row, j])), 0.0)
                far[j] = 0.0
                out[row, j] = far.sum()
            continue
        order = np.argsort(-shifted[row])
        d, mass = shifted[row, order], p[row, order]
        moment = np.where(mass > 0, mass * d, 0.0)
        mass_above, mass_below = _sum_before(mass), _sum_before(mass[::-1])[::-1]
        above = _sum_before(moment) - d * mass_above  # Σ_{i above} p_i (z_i - z_j)
        below = d * mass_below - _sum_before(moment[::-1])[::-1]
        near = (1 + np.log2(v)) * (mass_above + mass_below)
        out[row, order] = np.where(d > -np.inf, np.abs(above) + np.abs(below) + near, 0.0)
    return out


def _sum_before(values: Array) -> Array:
    """For each entry the sum of those before it."""
    return np.concatenate([[0.0], np.cumsum(values[:-1])])
