"""What a loss declares: one object per loss holds its formula, truth, bounds, semantics and families.

Adding a loss is one file in this package that defines a `Loss` and the `Problem` that states one batch of it exactly;
truth, judging, families and commands follow from those.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

from harness.arithmetic import Arithmetic, Bound
from harness.certified import Exact
from harness.fast.solved import Solved
from harness.formats import FORMATS, Format

__all__ = ["Loss", "Problem", "RowTruth", "as_array", "as_exact_real", "as_exact_reals"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class RowTruth:
    """The truth of one row.

    Parameters
    ----------
    losses : list of Exact
        One loss (or one per element), relative error at most 2^-100; infinite and NaN ones as libmp's.
    gradient_hi, gradient_lo : float64 array [V]
        The gradient of the row's own loss, times the scale that was asked for, as double-doubles.
    """

    losses: list[Exact]
    gradient_hi: Array
    gradient_lo: Array


class Problem(ABC):
    """One batch of a loss, every number read as the exact real that it is (all formats embed in float64)."""

    logits: Array
    upstream: Array
    """float64, of the unreduced output's shape; ones where none was given."""

    @property
    @abstractmethod
    def counted(self) -> Array:
        """Which rows count towards a reduction: bool [N]."""

    @abstractmethod
    def solve(self, row: int, scale: Array | Fraction) -> RowTruth:
        """The certified truth of one row; `scale` multiplies the gradient (a fraction, or one float64 per element)."""

    def solve_all(self, scale: Array | Fraction) -> Solved | None:
        """The certified truth of the whole batch, where the gradient couples its rows; None where `solve` is enough."""
        return None

    @property
    def gradient_counted(self) -> Array:
        """Which rows of the gradient anything flows to."""
        return self.counted

    @abstractmethod
    def denominator(self) -> Fraction:
        """What `mean` divides the sum of the losses by."""

    @abstractmethod
    def content(self) -> Iterable[bytes]:
        """Everything that the truth depends on, as bytes for a content address."""

    @abstractmethod
    def loss_bound(self, arithmetic: Arithmetic, output: Format, loss: Array) -> Bound:
        """Bound for each unreduced loss, given the true losses (float64, of the output's shape)."""

    @abstractmethod
    def gradient_bound(self, arithmetic: Arithmetic, output: Format, gradient: Array, scale: Array) -> Bound:
        """Bound for each gradient entry [N, V], given the true gradient; `scale` (the upstream's shape) is in it."""

    def maximum_rounding(self, arithmetic: Arithmetic, scale: Array) -> Array:
        """What differentiating through a row's maximum may leave in its entry, float64 [N, V]; 0 elsewhere."""
        return np.zeros(())


class Loss(ABC):
    """A loss, the mathematical function, named as in ``torch.nn.functional``."""

    name: ClassVar[str]
    formula: ClassVar[str]
    options: ClassVar[tuple[str, ...]]
    inputs: ClassVar[tuple[str, ...]] = ()
    """Arrays that it takes beside logits and target, by name."""
    elementwise: ClassVar[bool]
    """Whether the unreduced output is [N, K] (one loss per element) instead of [N] (one per row)."""

    @abstractmethod
    def problem(self, logits: Array, target: Array, upstream: Array | None, options: Mapping[str, Any]) -> Problem:
        """State a batch exactly.

        Raises
        ------
        ValueError, TypeError
            For shapes, dtypes, labels or options that the loss does not define; the message names the value.
        """

    @abstractmethod
    def draw_target(self, rng: np.random.Generator, logits: Array, labels: Array) -> Array:
        """A target for logits [N, V] of any supported dtype, given the label [N] that each row is about."""

    def output_shape(self, logits: Array) -> tuple[int, ...]:
        """The shape of the unreduced loss."""
        shape: tuple[int, ...] = logits.shape if self.elementwise else logits.shape[:1]
        return shape

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuse options that this loss does not have.

        Raises
        ------
        TypeError
            Naming the option and those that exist.
        """
        for name in options:
            if name not in (*self.options, *self.inputs):
                raise TypeError(f"{self.name} has no option {name!r}; it has {', '.join(self.options)}")


def as_array(name: str, value: Any) -> Array:
    """A value as an array.

    Raises
    ------
    ValueError
        For rows of unlike lengths.
    """
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: not an array of numbers: {error}") from None


def as_exact_reals(name: str, value: Any, *, finite: bool = False) -> Array:
    """An array of numbers as float64, exactly: any of the four formats, or integers and Python numbers.

    Raises
    ------
    TypeError
        For a dtype that is neither, naming it.
    ValueError
        For what is no array, an integer beyond 2^53, or, with ``finite``, a value that is NaN or infinite.
    """
    array = as_array(name, value)
    if array.dtype.kind in "iu":
        if array.size and max(abs(int(array.max())), abs(int(array.min()))) > 2**53:
            raise ValueError(f"{name}: an integer beyond 2^53 is not exact in float64; pass floating-point values")
    elif array.dtype.name not in FORMATS:
        raise TypeError(f"{name}: dtype {array.dtype} is not one of {', '.join(FORMATS)} or an integer")
    result: Array = array.astype(np.float64)
    if finite and not np.isfinite(result).all():
        raise ValueError(f"{name}: {result[~np.isfinite(result)].flat[0]} is not finite")
    return result


def as_exact_real(name: str, value: Any) -> float:
    """One finite number as a float64, exactly; see `as_exact_reals`.

    Raises
    ------
    TypeError, ValueError
        As there, and ValueError for an array that is not a scalar.
    """
    scalar = as_exact_reals(name, value, finite=True)
    if scalar.ndim:
        raise ValueError(f"{name}: expected one number, got an array of shape {list(scalar.shape)}")
    return float(scalar)
