"""Cross-entropy of a linear layer: formula, semantics and truth, with gradients for hidden states and projection.

Logits are z = h Wᵀ + b, of hidden states h [N, D], a projection W [V, D] and, as an option, a bias b [V]
(``torch.nn.functional.linear_cross_entropy``, documentation). With g_n the gradient of row n's own loss with respect to
its logits, times the row's upstream gradient, the hidden states' gradient is g W and the projection's gᵀ h, which adds
rows up: the upstream gradient of each counts. Both stand in one array [N + V, D]. Truth forms z exactly; its derivation
is in docs/theory.md, section 12, and so is that of the bounds, which are in `harness.losses.linear_bounds`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from harness import certified as real
from harness.arithmetic import Arithmetic, Bound
from harness.certified import Exact
from harness.fast.solved import Solved
from harness.formats import Format
from harness.losses.base import Loss, Problem, RowTruth, as_exact_reals
from harness.losses.cross_entropy import CrossEntropy, CrossEntropyProblem
from harness.losses.exact_products import Integers, dot, weighted_sums
from harness.losses.exact_softmax import Classes
from harness.losses.linear_bounds import LinearBounds

__all__ = ["LinearCrossEntropy", "LinearProblem"]

Array = np.ndarray[Any, Any]
Coefficients = tuple[list[Exact], list[Exact]]


class LinearCrossEntropy(Loss):
    """Softmax cross-entropy of hidden states times a projection, with the options of `CrossEntropy` and a bias."""

    name = "linear_cross_entropy"
    formula = "cross_entropy of z = h Wᵀ + b, for hidden states h [N, D] and a projection W [V, D]"
    options = ("linear_bias", *CrossEntropy.options)
    inputs = ("projection",)
    elementwise = False

    def draw_target(self, rng: np.random.Generator, logits: Array, labels: Array) -> Array:
        """Class indices [N]: the labels themselves."""
        return labels.astype(np.int64)

    def problem(
        self, logits: Array, target: Array, upstream: Array | None, options: Mapping[str, Any]
    ) -> LinearProblem:
        """State hidden states [N, D] and target [N] (integers) or [N, V] exactly; see `Loss.problem`.

        ``options`` holds the projection too. A row of hidden states that holds NaN or ±inf has NaN as its loss.
        """
        self.check_options(options)
        if "projection" not in options:
            raise ValueError("projection: linear_cross_entropy needs one; pass projection=, an array [V, D]")
        rest = {name: value for name, value in options.items() if name not in ("projection", "linear_bias")}
        h = as_exact_reals("hidden states", logits)
        w = as_exact_reals("projection", options["projection"], finite=True)
        if h.ndim != 2 or w.ndim != 2 or not w.shape[0] or h.shape[1] != w.shape[1]:
            shapes = f"{list(h.shape)} and {list(w.shape)}"
            raise ValueError(
                f"hidden states and projection: expected [N, D] and [V, D] with V at least 1, got {shapes}"
            )
        bias = options.get("linear_bias")
        bias = np.zeros(len(w)) if bias is None else as_exact_reals("linear_bias", bias, finite=True)
        if bias.shape != (len(w),):
            raise ValueError(f"linear_bias: expected shape [{len(w)}], got {list(bias.shape)}")
        exact = _exact_logits(h, w, bias)
        z = np.array([[real.split(x)[0] for x in row] for row in exact]).reshape(len(h), len(w))
        softmax = CrossEntropy().problem(z, target, upstream, rest)
        return LinearProblem(h, w, bias, softmax, exact)


def _exact_logits(h: Array, w: Array, bias: Array) -> list[list[Exact]]:
    """Σ_d h_nd W_vd + b_v, exactly; NaN where h is not finite."""
    projection = [Integers.of(row) for row in w]
    biases = [real.exact(b) for b in bias.tolist()]
    rows = []
    for row in h:
        if not np.isfinite(row).all():
            rows.append([real.NAN] * len(w))
            continue
        hidden = Integers.of(row)
        rows.append([real.add(dot(hidden, p), b) for p, b in zip(projection, biases, strict=True)])
    return rows


@dataclass(frozen=True, eq=False)
class LinearProblem(Problem):
    """One batch: hidden states [N, D], projection [V, D] and bias [V], exact float64, with the softmax that they make.

    `softmax` states the same batch as a cross-entropy of logits that are rounded to float64, which is exact enough for
    what does not depend on them (options, counting) and for bounds; `exact` holds the logits [N][V] themselves.
    """

    logits: Array
    projection: Array
    bias: Array
    softmax: CrossEntropyProblem
    exact: list[list[Exact]]

    @property
    def upstream(self) -> Array:  # type: ignore[override]
        """The upstream gradient [N]."""
        return self.softmax.upstream

    @property
    def counted(self) -> Array:
        """The rows that are not ignored."""
        return self.softmax.counted

    @property
    def gradient_counted(self) -> Array:
        """Those rows, and the whole projection if there are any."""
        return np.concatenate([self.counted, np.full(len(self.projection), self.counted.any())])

    def denominator(self) -> Fraction:
        """As for `CrossEntropy`."""
        return self.softmax.denominator()

    def content(self) -> Iterable[bytes]:
        """See `Problem.content`; the rounded logits are in it, and add nothing."""
        yield repr((self.logits.shape, self.projection.shape)).encode()
        for array in (self.logits, self.projection, self.bias):
            yield np.ascontiguousarray(array).tobytes()
        yield from self.softmax.content()

    def solve(self, row: int, scale: Array | Fraction) -> RowTruth:
        """The certified truth of one row, with its hidden states' gradient; see `Problem.solve`."""
        classes = self._classes[row]
        if classes is None:
            undefined = self.softmax.counted[row]
            empty = np.full(self.logits.shape[1], np.nan if undefined else 0.0)
            return RowTruth([real.NAN if undefined else real.ZERO], empty, np.zeros_like(empty))
        factor = _Factor.of(scale)
        hi, lo = self._settled(lambda prec: self._row(row, factor.of_row(0), prec), self._by_feature, factor)
        return RowTruth([classes.loss()], hi, lo)

    def solve_all(self, scale: Array | Fraction) -> Solved:
        """The certified truth of the batch: losses [N], and the gradients of the sum of scaled losses [N + V, D]."""
        n = len(self.logits)
        solved = Solved.empty((n,), (n + len(self.projection), self.logits.shape[1]))
        solved.settled[:] = True
        factor = _Factor.of(scale)
        for row in range(n):
            truth = self.solve(row, scale if isinstance(scale, Fraction) else scale[row])
            solved.loss_hi[row], solved.loss_lo[row] = real.split(truth.losses[0])
            solved.grad_hi[row], solved.grad_lo[row] = truth.gradient_hi, truth.gradient_lo
        if any(classes is None and counts for classes, counts in zip(self._classes, self.counted, strict=True)):
            solved.grad_hi[n:], solved.grad_lo[n:] = np.nan, 0.0
            return solved
        columns = [Integers.of(np.where(np.isfinite(column), column, 0.0)) for column in self.logits.T]
        for v in range(len(self.projection)):
            hi, lo = self._settled(lambda prec, v=v: self._column(v, factor, prec), columns, factor)  # type: ignore[misc]
            solved.grad_hi[n + v], solved.grad_lo[n + v] = hi, lo
        return solved

    def loss_bound(self, arithmetic: Arithmetic, output: Format, loss: Array) -> Bound:
        """Bound for each row's loss [N]; docs/theory.md, section 12."""
        return self._bounds.loss(arithmetic, output, loss)

    def gradient_bound(self, arithmetic: Arithmetic, output: Format, gradient: Array, scale: Array) -> Bound:
        """Bound for each gradient entry [N + V, D]; docs/theory.md, section 12."""
        return self._bounds.gradient(arithmetic, output, gradient, scale)

    @cached_property
    def _bounds(self) -> LinearBounds:
        return LinearBounds(self.logits, self.projection, self.bias, self.softmax)

    @cached_property
    def _by_feature(self) -> list[Integers]:
        return [Integers.of(column) for column in self.projection.T]

    @cached_property
    def _classes(self) -> list[Classes | None]:
        """The classes of each row; None for one that is ignored, or whose numbers are not finite."""
        found: list[Classes | None] = []
        for row, z in enumerate(self.exact):
            q = self.softmax._distribution(row)
            if self.softmax.ignored[row] or real.NAN in z or not np.isfinite(q).all():
                found.append(None)
            else:
                found.append(Classes.of_exact(z, q, self.softmax.weight, self.softmax.smoothing))
        return found

    def _row(self, row: int, factor: Exact, prec: int) -> Coefficients:
        """Row `row` of g: [V], and the sizes of its entries' errors."""
        classes = self._classes[row]
        assert classes is not None
        slopes = [_scaled(classes.slope(j, prec), factor) for j in range(len(classes.z))]
        members = classes.member.tolist()
        return [slopes[j][0] for j in members], [slopes[j][1] for j in members]

    def _column(self, v: int, factor: _Factor, prec: int) -> Coefficients:
        """Column `v` of g: [N], and the sizes of its entries' errors."""
        values, sizes = [], []
        for row, classes in enumerate(self._classes):
            value, size = (
                (real.ZERO, real.ZERO)
                if classes is None
                else _scaled(classes.slope(int(classes.member[v]), prec), factor.of_row(row))
            )
            values.append(value)
            sizes.append(size)
        return values, sizes

    def _settled(
        self, coefficients: Callable[[int], Coefficients], columns: Sequence[Integers], factor: _Factor
    ) -> tuple[Array, Array]:
        """Σ_i c_i a_ij for each column, over what all are divided by, at the first precision that settles it."""
        hi, lo = np.empty(len(columns)), np.empty(len(columns))
        divisor = real.exact(factor.divisor * (self.projection.shape[0] if self.softmax.smoothing else 1))
        open_columns = list(range(len(columns)))
        for prec in real.precisions():
            values, sizes = coefficients(prec)
            sums = weighted_sums(values, sizes, [columns[j] for j in open_columns], prec)
            left = []
            for j, (value, size) in zip(open_columns, sums, strict=True):
                quotient = real.quotient(value, divisor, prec)
                if real.is_settled(quotient, real.quotient(size, divisor, prec), prec):
                    hi[j], lo[j] = real.split(quotient)
                else:
                    left.append(j)
            open_columns = left
            if not open_columns:
                return hi, lo
        raise AssertionError("precisions() raises first")


@dataclass(frozen=True, eq=False)
class _Factor:
    """What the rows' gradients are multiplied by: a binary number each (or one for all), over one common divisor."""

    numerators: tuple[Exact, ...]
    divisor: int

    @classmethod
    def of(cls, scale: Array | Fraction) -> _Factor:
        if isinstance(scale, Fraction):
            return cls((real.exact(scale.numerator),), scale.denominator)
        return cls(tuple(real.exact(s) for s in np.atleast_1d(scale).tolist()), 1)

    def of_row(self, row: int) -> Exact:
        return self.numerators[row if len(self.numerators) > 1 else 0]


def _scaled(slope: tuple[Exact, Exact], factor: Exact) -> tuple[Exact, Exact]:
    return real.multiply(slope[0], factor), real.multiply(slope[1], real.magnitude(factor))
