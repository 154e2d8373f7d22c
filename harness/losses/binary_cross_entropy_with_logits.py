"""Binary cross-entropy of the logistic function of logits, element by element: formula, semantics, truth and bounds.

For a logit x, target t in [0, 1], weight w and positive weight c: loss = w (c t softplus(-x) + (1-t) softplus(x)),
gradient = w ((1-t) σ(x) - c t σ(-x)) (``torch.nn.functional.binary_cross_entropy_with_logits``, documentation). A
factor of zero wins over an infinite softplus: x = -inf with t = 0 has loss 0. Derivations are in docs/theory.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from harness import certified as real
from harness.arithmetic import VACUOUS, Arithmetic, Bound
from harness.certified import Exact
from harness.formats import Format, format_of
from harness.grades import Grade
from harness.losses.base import Loss, Problem, RowTruth, as_exact_reals

__all__ = ["BinaryCrossEntropyWithLogits"]

Array = np.ndarray[Any, Any]


class BinaryCrossEntropyWithLogits(Loss):
    """Logistic cross-entropy with soft and multi-hot targets, weights and positive weights."""

    name = "binary_cross_entropy_with_logits"
    formula = "w (c t softplus(-x) + (1 - t) softplus(x))"
    options = ("weight", "pos_weight")
    elementwise = True

    def draw_target(self, rng: np.random.Generator, logits: Array, labels: Array) -> Array:
        """Targets [N, K] of the logits' dtype: rows in turn one-hot, multi-hot, and soft with multiples of 1/16."""
        fmt = format_of(logits)
        n, k = logits.shape
        target = np.zeros((n, k))
        target[np.arange(n), labels] = 1.0
        multi_hot = rng.integers(0, 2, size=(n, k))
        soft = rng.integers(0, 17, size=(n, k)) / 16
        kind = np.arange(n)[:, None] % 3
        return fmt.round(np.where(kind == 0, target, np.where(kind == 1, multi_hot, soft)))

    def problem(
        self, logits: Array, target: Array, upstream: Array | None, options: Mapping[str, Any]
    ) -> BinaryProblem:
        """State a batch of logits [N, K] and targets [N, K] in [0, 1] exactly; see `Loss.problem`."""
        self.check_options(options)
        x = as_exact_reals("logits", logits)
        if x.ndim != 2:
            raise ValueError(f"logits: expected shape [N, K], got {list(x.shape)}")
        t = as_exact_reals("target", target)
        if t.shape != x.shape:
            raise ValueError(f"target: expected shape {list(x.shape)}, got {list(t.shape)}")
        outside = (t < 0) | (t > 1)
        if outside.any():
            raise ValueError(f"target: {t[outside].flat[0]} is outside [0, 1]")
        w = _broadcast("weight", options.get("weight"), x.shape)
        c = _broadcast("pos_weight", options.get("pos_weight"), x.shape)
        up = _broadcast("upstream", upstream, x.shape, signed=True)
        return BinaryProblem(x, t, w, c, up)


def _broadcast(name: str, value: Any, shape: tuple[int, ...], *, signed: bool = False) -> Array:
    """An option as a float64 array of the logits' shape; ones where it was not given."""
    array = np.ones(()) if value is None else as_exact_reals(name, value, finite=True)
    if not signed and (array < 0).any():
        raise ValueError(f"{name}: {array.min()} is negative")
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(f"{name}: shape {list(array.shape)} does not broadcast to {list(shape)}") from None


@dataclass(frozen=True, eq=False)
class BinaryProblem(Problem):
    """One batch, every array [N, K] of exact float64."""

    logits: Array
    target: Array
    weight: Array
    pos_weight: Array
    upstream: Array

    @property
    def counted(self) -> Array:
        """Every row."""
        return np.ones(len(self.logits), dtype=bool)

    def denominator(self) -> Fraction:
        """The number of elements."""
        return Fraction(self.logits.size)

    def content(self) -> Iterable[bytes]:
        """See `Problem.content`."""
        yield repr(self.logits.shape).encode()
        for array in (self.logits, self.target, self.weight, self.pos_weight, self.upstream):
            yield np.ascontiguousarray(array).tobytes()

    def solve(self, row: int, scale: Array | Fraction) -> RowTruth:
        """The certified truth of one row; see `Problem.solve`."""
        k = self.logits.shape[1]
        scales = [scale] * k if isinstance(scale, Fraction) else [Fraction(s) for s in scale.tolist()]
        losses: list[Exact] = []
        hi, lo = np.empty(k), np.empty(k)
        seen: dict[tuple[float, float, float, float, Fraction], tuple[Exact, float, float]] = {}
        columns = (self.logits, self.target, self.weight, self.pos_weight)
        for j, element in enumerate(zip(*(column[row].tolist() for column in columns), scales, strict=True)):
            if element not in seen or np.isnan(element[0]):
                seen[element] = _solve_element(*element)
            loss, hi[j], lo[j] = seen[element]
            losses.append(loss)
        return RowTruth(losses, hi, lo)

    def _positive_negative(self) -> tuple[Array, Array]:
        """The factors of softplus(-x) and of softplus(x): w c t and w (1 - t), [N, K]."""
        return self.weight * self.pos_weight * self.target, self.weight * (1 - self.target)

    def loss_bound(self, arithmetic: Arithmetic, output: Format, loss: Array) -> Bound:
        """Bound for each element's loss [N, K]; docs/theory.md, section 6."""
        a, b = self._positive_negative()
        with np.errstate(over="ignore", invalid="ignore"):
            if arithmetic.grade is Grade.RELATIVE:
                first = arithmetic.cu * loss
            else:
                # An infinite logit whose loss is finite has loss 0: nothing of its size is rounded.
                size = np.where(np.isinf(self.logits) & np.isfinite(loss), 0.0, np.abs(self.logits))
                first = arithmetic.cu * np.where(a + b > 0, (a + b) * (1 + size), 0.0)
            floor = arithmetic.floor(2 * (a + b), output)
            value = first + 2 * output.unit_roundoff * np.abs(loss) + floor
            vacuous = (np.expm1(first / np.where(a + b > 0, a + b, 1)) > VACUOUS) & (first > VACUOUS * loss)
        return Bound(value, vacuous | ~np.isfinite(value))

    def gradient_bound(self, arithmetic: Arithmetic, output: Format, gradient: Array, scale: Array) -> Bound:
        """Bound for each gradient entry [N, K]; docs/theory.md, section 6."""
        a, b = self._positive_negative()
        magnitude, positive = np.abs(self.logits), self.logits >= 0
        with np.errstate(over="ignore", invalid="ignore"):
            e = np.exp(-magnitude)
            if arithmetic.grade is Grade.RELATIVE:
                near, far = 1 / (1 + e), e / (1 + e)
                first = arithmetic.cu * (a * np.where(positive, far, near) + b * np.where(positive, near, far))
            else:
                # σ(|x|) as exp(|x| - softplus(|x|)): |x| is a number, so that no more than what is added to it is lost.
                rounded = arithmetic.constant * np.minimum(arithmetic.unit_roundoff * magnitude, e)
                first = arithmetic.cu * (a + b) + np.where(positive, b, a) * rounded
            size = np.abs(scale)
            floor = arithmetic.floor(2 * (a + b), output, size)
            value = first * size + arithmetic.constant * output.unit_roundoff * np.abs(gradient) + floor
        return Bound(value, ~np.isfinite(value))


def _solve_element(x: float, t: float, w: float, c: float, scale: Fraction) -> tuple[Exact, float, float]:
    """Loss (relative error 2^-100) and scaled gradient (double-double) of one element."""
    if np.isnan(x) or np.isnan(t):
        return real.NAN, float("nan"), 0.0
    target, weight = real.exact(t), real.exact(w)
    positive = real.multiply(real.multiply(weight, real.exact(c)), target)  # the factor of softplus(-x)
    negative = real.multiply(weight, real.subtract(real.ONE, target))  # the factor of softplus(x)
    near, far = (negative, positive) if x >= 0 else (positive, negative)  # near: the one whose softplus is |x| + …
    numerator, divisor = real.exact(scale.numerator), real.exact(scale.denominator)
    if np.isinf(x):
        loss = real.INFINITY if near != real.ZERO else real.ZERO
        slope = near
        prec = next(real.precisions())
    else:
        size = real.magnitude(real.exact(x))
        for prec in real.precisions():
            e = real.exponential(real.subtract(real.ZERO, size), prec)
            tail = real.multiply(real.add(positive, negative), real.log1p(e, prec), prec)
            loss = real.add(tail, real.multiply(near, size), prec)
            below = real.add(real.ONE, e, prec)
            small = real.multiply(far, e)
            slope = real.quotient(real.subtract(near, small, prec), below, prec)
            # Neither term of the loss is negative; the slope's two terms may cancel. At x = 0, where e = 1, both are
            # exact, so that their difference is right although no certificate could say so of an exact zero.
            scaled = real.multiply(real.add(near, small, prec), real.magnitude(numerator))
            if x == 0 or real.is_settled(real.multiply(slope, numerator), scaled, prec):
                break
    sign = real.ONE if x >= 0 else real.exact(-1)
    gradient = real.quotient(real.multiply(real.multiply(slope, sign), numerator), divisor, prec)
    return loss, *real.split(gradient)
