"""Floating-point formats: the four storage formats of logits, and their constants.

A *format* is a set of real numbers (IEEE 754 binary64, binary32, binary16, and bfloat16); a *dtype* is the array type
that holds one. bfloat16 arrays need ``ml_dtypes``, which is imported only when bfloat16 is asked for.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["DTYPES", "FORMATS", "Format", "FormatUnavailable", "format_of", "named"]


class FormatUnavailable(ImportError):
    """A format's array type is not installed; the message names the package that provides it."""


@dataclass(frozen=True)
class Format:
    """A binary floating-point format.

    Parameters
    ----------
    name : str
        The dtype's name, as NumPy and torch spell it.
    precision : int
        Significand bits, the implicit one included (p in Higham's notation).
    emin, emax : int
        Exponents of the smallest and the largest normal binade: normal numbers lie in [2^emin, 2^(emax+1)).
    """

    name: str
    precision: int
    emin: int
    emax: int

    @property
    def unit_roundoff(self) -> float:
        """u = 2^-p, the largest relative error of rounding to nearest (Higham, *ASNA*, Theorem 2.2)."""
        return 2.0**-self.precision

    @property
    def smallest_normal(self) -> float:
        """The smallest positive normal number, 2^emin."""
        return 2.0**self.emin

    @property
    def smallest_subnormal(self) -> float:
        """η = 2^(emin-p+1), the spacing of the subnormal numbers."""
        return 2.0 ** (self.emin - self.precision + 1)

    @property
    def largest(self) -> float:
        """The largest finite number, 2^emax (2 - 2^(1-p))."""
        return 2.0**self.emax * (2.0 - 2.0 ** (1 - self.precision))

    @property
    def bits(self) -> int:
        """Storage size in bits."""
        return {"float64": 64, "float32": 32}.get(self.name, 16)

    @property
    def arithmetic(self) -> Format:
        """The format whose arithmetic is expected of code that gets this one as input: float32 for 16-bit input."""
        return FLOAT32 if self.bits == 16 else self

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy dtype.

        Raises
        ------
        FormatUnavailable
            For bfloat16, where ``ml_dtypes`` is not installed.
        """
        if self.name != "bfloat16":
            return np.dtype(self.name)
        try:
            dtype: np.dtype[Any] = np.dtype(importlib.import_module("ml_dtypes").bfloat16)
        except ImportError as error:
            raise FormatUnavailable("bfloat16 arrays need ml_dtypes: pip install ml_dtypes") from error
        return dtype

    def round(self, values: npt.ArrayLike) -> np.ndarray[Any, Any]:
        """Round float64 values to this format (values beyond its range become infinite), as an array of its dtype."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            exact = np.asarray(values, dtype=np.float64)
            if self.name == "bfloat16":  # ml_dtypes goes through float32: 1 + 2^-8 + 2^-40 would be rounded twice, to 1
                exact = self._rounded(exact)
            return exact.astype(self.dtype)

    def _rounded(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The nearest numbers of the format, ties to even, still as float64: whole multiples of the spacing there."""
        _, exponent = np.frexp(values)
        spacing = np.ldexp(1.0, np.maximum(exponent - 1, self.emin) - self.precision + 1)
        rounded: np.ndarray[Any, Any] = np.rint(values / spacing) * spacing
        return rounded


FLOAT64 = Format("float64", 53, -1022, 1023)
FLOAT32 = Format("float32", 24, -126, 127)
BFLOAT16 = Format("bfloat16", 8, -126, 127)
FLOAT16 = Format("float16", 11, -14, 15)
FORMATS = {f.name: f for f in (FLOAT64, FLOAT32, BFLOAT16, FLOAT16)}
DTYPES = tuple(FORMATS)


def named(name: str) -> Format:
    """The format of that name.

    Raises
    ------
    ValueError
        For a name that is none of the four.
    """
    try:
        return FORMATS[name]
    except KeyError:
        raise ValueError(f"unknown dtype {name!r}: choose from {', '.join(DTYPES)}") from None


def format_of(array: np.ndarray[Any, Any]) -> Format:
    """The format that an array's elements have.

    Raises
    ------
    TypeError
        For a dtype that is none of the four.
    """
    name = array.dtype.name
    if name not in FORMATS:
        raise TypeError(f"dtype {name} is not one of the supported floating-point formats: {', '.join(DTYPES)}")
    return FORMATS[name]
