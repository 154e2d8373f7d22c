"""The arithmetic that a bound is about: its unit roundoff, its constant, and how errors of a long sum grow.

docs/theory.md derives every formula that uses these; nothing here is fitted to measurements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.formats import Format
from harness.grades import Grade

__all__ = ["Arithmetic", "Bound", "applicable_grades", "lost_by_underflow"]

Array = np.ndarray[Any, Any]

VACUOUS = 0.5
"""A bound is vacuous from expm1(κ) > 0.5 on: a probability known to half its size says nothing."""


@dataclass(frozen=True)
class Arithmetic:
    """The arithmetic expected at a grade.

    Parameters
    ----------
    grade : Grade
        `RELATIVE`, `ABSOLUTE` or `STORAGE`.
    unit_roundoff : float
        u: of the arithmetic expected (float32 for 16-bit input), or of the 16-bit input format at `STORAGE`.
    constant : float
        c = 4, one u each for the shift, the exponential, the sum or quotient, and the final operation; 2 at `STORAGE`,
        where the intermediate results are stored in 16 bits twice.
    subnormal : float
        η, the smallest subnormal of that arithmetic.
    flushed : frozenset of str
        The formats whose subnormal results are flushed to zero where it runs; none in IEEE arithmetic.
    lost : float
        What an underflow in that arithmetic may cost, in units of η: see `lost_by_underflow`.
    factor : float
        What may multiply a result that has lost something by underflow already, in magnitude: the upstream gradient of
        a mean, whose own gradient has been formed, divided by W and stored before.
    """

    grade: Grade
    unit_roundoff: float
    constant: float
    subnormal: float
    flushed: frozenset[str] = frozenset()
    lost: float = 0.5
    factor: float = 1.0

    @classmethod
    def at(cls, grade: Grade, input_format: Format, flushed: frozenset[str] = frozenset()) -> Arithmetic:
        """The arithmetic that a grade expects of code that gets input of a format, where some formats are flushed."""
        storage = grade is Grade.STORAGE
        fmt = input_format if storage else input_format.arithmetic
        constant, lost = 2.0 if storage else 4.0, lost_by_underflow(fmt, flushed)
        return cls(grade, fmt.unit_roundoff, constant, fmt.smallest_subnormal, flushed, lost)

    @property
    def cu(self) -> float:
        """c·u."""
        return self.constant * self.unit_roundoff

    def floor(self, terms: Array, output: Format, scale: Array | float = 0.0) -> Array:
        """What underflow may cost in so many terms, and in each of c last operations: see `lost_by_underflow`.

        A `scale` above one multiplies it, or `factor` if that is larger. Formed in units of one η and rounded once:
        half of float64's would be lost.
        """
        last = self.constant * lost_by_underflow(output, self.flushed)
        unit = min(self.subnormal, output.smallest_subnormal)
        if self.subnormal > output.smallest_subnormal:
            # The ratio of the two may be beyond float64's range; each by itself is far from its ends.
            cost = terms * (self.subnormal * self.lost) + last * unit
            value: Array = cost * np.maximum(max(1.0, self.factor), scale)
        else:
            cost = terms * self.lost + last * (output.smallest_subnormal / unit)
            value = unit * (cost * np.maximum(max(1.0, self.factor), scale))
        return value

    def sum_growth(self, terms: int) -> float:
        """By how many u a sum of that many positive terms may be off, relatively.

        Terms (any order: Higham, *ASNA*, 2nd ed., eq. 4.4, with one more than the n-1 additions) at `ABSOLUTE`; log₂ of
        their number (pairwise: *ASNA* eq. 4.6) at the others.
        """
        return float(terms) if self.grade is Grade.ABSOLUTE else math.log2(max(terms, 1))


@dataclass(frozen=True, eq=False)
class Bound:
    """A bound for each value of an array.

    Parameters
    ----------
    value : float64 array
        Largest admissible absolute error, output rounding and underflow floors included.
    vacuous : bool array
        Where the bound says nothing, so that the value is not judged.
    """

    value: Array
    vacuous: Array


def lost_by_underflow(fmt: Format, flushed: frozenset[str]) -> float:
    """What one result in the subnormal range may lose, in units of η: half by rounding, or all that it is by flushing.

    All that it is is less than the smallest normal number, 2^(p-1) η.
    """
    return 2.0 ** (fmt.precision - 1) if fmt.name in flushed else 0.5


def applicable_grades(input_format: Format) -> tuple[Grade, ...]:
    """The grades with a bound of their own for a format, best first (`FAITHFUL` is judged by ulp)."""
    base = (Grade.RELATIVE, Grade.ABSOLUTE)
    return (*base, Grade.STORAGE) if input_format.bits == 16 else base
