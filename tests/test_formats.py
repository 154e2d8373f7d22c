"""Formats: constants against what the array types say of themselves, rounding against exact fractions."""

import builtins
import importlib
import sys
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.formats import DTYPES, FORMATS, FormatUnavailable, format_of, named

FORMAT = pytest.mark.parametrize("fmt", FORMATS.values(), ids=list(FORMATS))


def nearest(value, fmt):
    """The number of the format nearest to a fraction, ties to even, infinite from the overflow threshold on."""
    if value == 0:
        return 0.0
    size, e = abs(value), fmt.emin
    while size >= Fraction(2) ** (e + 1):
        e += 1
    spacing = Fraction(2) ** (e - fmt.precision + 1)
    rounded = round(size / spacing) * spacing  # `round` of a fraction takes ties to even
    if rounded > Fraction(fmt.largest):
        return float("inf") if value > 0 else float("-inf")
    return float(rounded) if value > 0 else -float(rounded)


@FORMAT
def test_constants_are_those_of_the_array_type(fmt):
    info = ml_dtypes.finfo(fmt.dtype)
    assert fmt.unit_roundoff == float(info.eps) / 2
    assert fmt.largest == float(info.max)
    assert fmt.smallest_normal == float(info.smallest_normal)
    assert fmt.smallest_subnormal == float(info.smallest_subnormal)
    assert fmt.bits == info.bits == 8 * fmt.dtype.itemsize
    assert fmt.dtype.name == fmt.name


@pytest.mark.parametrize(
    ("name", "expected"),
    [("float64", "float64"), ("float32", "float32"), ("bfloat16", "float32"), ("float16", "float32")],
)
def test_arithmetic_expected_of_16_bit_input_is_float32(name, expected):
    assert named(name).arithmetic.name == expected


def test_the_four_names_in_order():
    assert DTYPES == ("float64", "float32", "bfloat16", "float16")


@FORMAT
@given(data=st.data())
def test_round_is_the_nearest_number_ties_to_even(fmt, data):
    close = st.integers(-(2**20), 2**20).map(lambda k: k * fmt.smallest_subnormal * 0.25)
    # Numbers of the format, and float64 neighbours of the midpoints between two of them: where rounding twice shows.
    step = st.integers(2 ** (fmt.precision - 1), 2**fmt.precision - 1)
    tie = st.tuples(step, st.integers(fmt.emin, fmt.emax), st.sampled_from([-1, 0, 1])).map(
        lambda t: float(np.ldexp((t[0] + 0.5 + t[2] * 2.0**-25) / 2.0 ** (fmt.precision - 1), t[1]))
    )
    value = data.draw(st.one_of(st.floats(allow_nan=False, allow_infinity=False), close, tie))
    if not np.isfinite(value):
        value = fmt.largest
    assert float(fmt.round(value)) == nearest(Fraction(value), fmt)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        # Through float32 this would be rounded twice: first to the tie 1 + 2^-8, then down to 1.
        ("bfloat16", 1 + 2**-8 + 2**-40, 1 + 2**-7),
        ("bfloat16", 1 + 2**-8, 1.0),
        ("bfloat16", 2.0**-134, 0.0),
        ("bfloat16", 2.0**-134 + 2.0**-170, 2.0**-133),
        ("float16", 1 + 2**-11 + 2**-40, 1 + 2**-10),
        ("float16", 65519.99999999999, 65504.0),
        ("float16", 65520.0, np.inf),
        ("bfloat16", np.ldexp(2 - 2.0**-8, 127), np.inf),
        ("float32", np.ldexp(2 - 2.0**-24, 127), np.inf),
        ("float32", -np.ldexp(2 - 2.0**-24 - 2.0**-50, 127), -np.ldexp(2 - 2.0**-23, 127)),
        ("bfloat16", -np.inf, -np.inf),
        ("float64", -0.0, -0.0),
    ],
)
def test_round_at_ties_and_at_the_ends(name, value, expected):
    rounded = named(name).round([value, value])
    assert rounded.dtype == named(name).dtype
    assert rounded.astype(np.float64).tolist() == [expected, expected]
    assert np.signbit(rounded.astype(np.float64)).all() == np.signbit(expected)


@FORMAT
def test_round_keeps_nan_and_shape(fmt):
    rounded = fmt.round([[np.nan, 1.5]])
    assert rounded.shape == (1, 2)
    assert np.isnan(rounded.astype(np.float64)).tolist() == [[True, False]]


@FORMAT
def test_format_of_an_array_is_its_own(fmt):
    assert format_of(np.zeros(1, fmt.dtype)) is fmt


def test_unknown_formats_are_refused_by_name():
    with pytest.raises(ValueError, match="unknown dtype 'float8': choose from float64, float32, bfloat16, float16"):
        named("float8")
    with pytest.raises(TypeError, match="dtype int64 is not one of the supported floating-point formats: float64"):
        format_of(np.zeros(1, np.int64))


def test_without_ml_dtypes_bfloat16_says_what_to_install(monkeypatch):
    real = importlib.import_module

    def missing(name, *rest):
        if name == "ml_dtypes":
            raise ImportError("No module named 'ml_dtypes'")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(FormatUnavailable, match="pip install ml_dtypes"):
        _ = named("bfloat16").dtype
    assert named("float16").dtype == np.float16  # the others do without


def test_ml_dtypes_is_imported_only_for_bfloat16(monkeypatch):
    asked = []
    real = builtins.__import__
    monkeypatch.delitem(sys.modules, "harness.formats")
    monkeypatch.setattr(builtins, "__import__", lambda name, *rest: asked.append(name) or real(name, *rest))
    formats = real("harness.formats", fromlist=["FORMATS"])
    for name in ("float64", "float32", "float16"):
        _ = formats.FORMATS[name].dtype
    assert not [name for name in asked if "ml_dtypes" in name]
