"""Errors: tables of cases at the awkward places of each format, and exact fractions everywhere else."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import measure, ulp
from harness.formats import FORMATS

FORMAT = pytest.mark.parametrize("fmt", FORMATS.values(), ids=list(FORMATS))
INF, NAN = float("inf"), float("nan")


def measured(fmt, got, hi, lo=0.0, near_overflow=0.0):
    """Absolute, relative, ulp, nonfinite and hidden NaN of one value."""
    array = np.array([got]).astype(fmt.dtype)
    assert array.astype(np.float64)[0] == got or np.isnan(got), "the case itself is not exact in the format"
    errors = measure(array, np.array([hi]), np.array([lo]), fmt, near_overflow=near_overflow)
    return tuple(
        field[0].item() for field in (errors.absolute, errors.relative, errors.ulp, errors.nonfinite, errors.hidden_nan)
    )


def nearly(value):
    """A fraction as float64 up to a few of its roundings; infinite beyond its range."""
    try:
        return pytest.approx(float(value), rel=2.0**-49, abs=2.0**-1073)
    except OverflowError:
        return INF


def exact_ulp(x, fmt):
    """2^(e-p+1) at a fraction, η at and below the smallest normal number, the top binade's beyond it."""
    e = fmt.emin
    while e < fmt.emax and abs(x) >= Fraction(2) ** (e + 1):
        e += 1
    return Fraction(2) ** (e - fmt.precision + 1)


@FORMAT
def test_ulp_on_both_sides_of_every_power_of_two(fmt):
    exponents = np.arange(max(fmt.emin + 1, -1010), fmt.emax + 1)  # 2^-60 of them is a float64, so that lo exists
    powers = np.ldexp(1.0, exponents)
    unit = np.ldexp(1.0, exponents - fmt.precision + 1)
    for sign in (1.0, -1.0):
        hi = sign * powers
        tiny = hi * 2.0**-60
        assert (ulp(hi, np.zeros_like(hi), fmt) == unit).all()
        assert (ulp(hi, tiny, fmt) == unit).all()
        assert (ulp(hi, -tiny, fmt) == unit / 2).all()


@FORMAT
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_ulp_at_zero_subnormal_and_the_ends(fmt, sign):
    eta, normal = fmt.smallest_subnormal, fmt.smallest_normal
    top = 2.0 ** (fmt.emax - fmt.precision + 1)
    cases = [(0.0, 0.0, eta), (eta, 0.0, eta), (normal - eta, 0.0, eta), (normal, 0.0, eta), (normal, -1e-320, eta)]
    cases += [(normal, 0.0, eta), (2 * normal, 0.0, 2 * eta), (fmt.largest, 0.0, top), (INF, 0.0, top)]
    for hi, lo, expected in cases:
        assert ulp(np.array([sign * hi]), np.array([sign * lo]), fmt)[0] == expected, (hi, lo)


@FORMAT
def test_truth_just_below_a_power_of_two_has_the_smaller_unit(fmt):
    """got = 1 + 2u against a truth of 1 - 2^-60: two units of the lower binade, one of the upper."""
    step = 2 * fmt.unit_roundoff
    assert measured(fmt, 1 + step, 1.0, 0.0)[2] == 1.0
    assert measured(fmt, 1 + step, 1.0, 2.0**-60)[2] == pytest.approx(1.0, abs=2.0**-6)
    assert measured(fmt, 1 + step, 1.0, -(2.0**-60))[2] == pytest.approx(2.0, abs=2.0**-6)
    assert measured(fmt, 1.0, 1.0, -(2.0**-60))[2] == 2.0**-60 / fmt.unit_roundoff


@FORMAT
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_fractions_of_an_ulp(fmt, sign):
    u, eta = fmt.unit_roundoff, fmt.smallest_subnormal
    # got, hi, lo → ulp
    cases = [
        (1.0, 1.0 + u / 2 if fmt.precision < 53 else 1.0, 0.0 if fmt.precision < 53 else u / 2, 0.25),
        (1.0, 1.0, u, 0.5),
        (1.0, 1.0, 0.0, 0.0),
        (0.0, 0.0, 0.0, 0.0),
        (eta, 0.0, 0.0, 1.0),
        (0.0, eta, 0.0, 1.0),
        (-eta, eta, 0.0, 2.0),
        (fmt.smallest_normal, fmt.smallest_normal - eta, 0.0, 1.0),
        (fmt.largest, fmt.largest, 0.0, 0.0),
    ]
    for got, hi, lo, expected in cases:
        assert measured(fmt, sign * got, sign * hi, sign * lo)[2] == expected, (got, hi, lo)


@FORMAT
def test_zeros_of_both_signs_are_zero(fmt):
    for got in (0.0, -0.0):
        for hi in (0.0, -0.0):
            assert measured(fmt, got, hi) == (0.0, 0.0, 0.0, False, False)
    assert measured(fmt, -0.0, 2.0)[:2] == (2.0, 1.0)
    assert measured(fmt, fmt.smallest_subnormal, 0.0)[1] == INF  # anything over a true zero


HALF = {f.name: 2.0 ** (f.emax - f.precision) for f in FORMATS.values()}
"""Half the top binade's ulp: the overflow threshold is that much above the largest number."""


@FORMAT
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_infinity_is_right_from_the_overflow_threshold_on(fmt, sign):
    half, big = HALF[fmt.name], fmt.largest
    tiny = half * 2.0**-40
    # truth = hi + lo, distance of it to the threshold
    cases = [(big, half, 0.0), (big, half - tiny, tiny), (big, 0.0, half), (big - 4 * half, half, 4 * half)]
    if fmt.precision < 53:
        cases += [(big + half, 0.0, 0.0), (big + half, -tiny, tiny), (big + half, tiny, 0.0), (2 * big, 0.0, 0.0)]
    for hi, lo, distance in [*cases, (INF, 0.0, 0.0)]:
        absolute, *_, nonfinite, hidden = measured(fmt, sign * INF, sign * hi, sign * lo)
        assert not hidden
        assert nonfinite == (distance > 0), (hi, lo)
        assert absolute == (INF if nonfinite else 0.0)
        # Within a bound that reaches the threshold an infinity is an error of the distance to it, and no more.
        allowed = measured(fmt, sign * INF, sign * hi, sign * lo, near_overflow=distance)
        assert allowed[0] == distance
        assert not allowed[3]
        assert allowed[2] == distance / (2 * half)
        if distance:
            assert measured(fmt, sign * INF, sign * hi, sign * lo, near_overflow=distance * 0.99)[3]


@FORMAT
@pytest.mark.parametrize("hi", [INF, -INF])
def test_truth_beyond_the_range_of_float64(fmt, hi):
    assert measured(fmt, hi, hi) == (0.0, 0.0, 0.0, False, False)
    assert measured(fmt, -hi, hi, near_overflow=1e300)[0] == INF
    assert measured(fmt, -hi, hi)[3]
    assert measured(fmt, NAN, hi) == (INF, INF, INF, True, False)
    for got in (0.0, fmt.largest, -fmt.largest):
        assert measured(fmt, got, hi) == (INF, INF, INF, False, False)


@FORMAT
def test_infinity_of_the_other_sign_is_never_right(fmt):
    for hi in (fmt.largest, 1.0, 0.0):
        assert measured(fmt, -INF, hi, near_overflow=INF) == (INF, INF, INF, True, False)


@FORMAT
@pytest.mark.parametrize("got", [INF, -INF, NAN])
def test_nonfinite_against_an_ordinary_truth(fmt, got):
    for hi in (0.0, 1.0, -fmt.smallest_subnormal):
        assert measured(fmt, got, hi) == (INF, INF, INF, True, False)


@FORMAT
def test_true_nan_must_not_be_hidden(fmt):
    assert measured(fmt, NAN, NAN) == (0.0, 0.0, 0.0, False, False)
    for got in (0.0, 1.0, fmt.largest):
        assert measured(fmt, got, NAN) == (INF, INF, INF, False, True)
    assert measured(fmt, INF, NAN)[3:] == (False, False)  # not finite: the NaN has not come out as a number


@FORMAT
@given(data=st.data())
def test_errors_are_those_of_exact_arithmetic(fmt, data):
    number = st.floats(-fmt.largest, fmt.largest, allow_nan=False)
    truth = data.draw(number, "hi")
    near = st.integers(-3, 3).map(lambda k: truth + k * 0.5 * float(exact_ulp(Fraction(truth), fmt)))
    got = float(fmt.round(data.draw(st.one_of(number, near), "got")))
    if not np.isfinite(got):
        got = float(np.copysign(fmt.largest, got))
    lo = data.draw(st.floats(-0.5, 0.5)) * math.ulp(truth)
    if truth + lo != truth or abs(truth) == FORMATS["float64"].largest:
        lo = 0.0
    real = Fraction(truth) + Fraction(lo)
    error = abs(Fraction(got) - real)
    absolute, relative, units, nonfinite, hidden = measured(fmt, got, truth, lo)
    assert not nonfinite
    assert not hidden
    assert absolute == nearly(error)
    if error:
        assert units == nearly(error / exact_ulp(real, fmt))
    if truth:
        assert relative == nearly(error / abs(Fraction(truth)))


@FORMAT
@given(hi=st.floats(allow_nan=False, allow_infinity=False), fraction=st.floats(-0.5, 0.5))
def test_ulp_is_that_of_the_unrounded_truth(fmt, hi, fraction):
    lo = fraction * math.ulp(hi)
    if abs(hi) == FORMATS["float64"].largest or hi + lo != hi:
        lo = 0.0
    expected = exact_ulp(Fraction(hi) + Fraction(lo), fmt)
    assert Fraction(float(ulp(np.array([hi]), np.array([lo]), fmt)[0])) == expected


def test_shapes_follow_the_output():
    fmt = FORMATS["float32"]
    scalar = measure(np.float32(1.5) * np.ones(()), np.asarray(1.5), np.asarray(0.0), fmt)
    assert scalar.ulp.shape == ()
    assert scalar.ulp == 0
    empty = measure(np.zeros((0, 3), np.float32), np.zeros((0, 3)), np.zeros((0, 3)), fmt)
    assert empty.absolute.shape == empty.nonfinite.shape == (0, 3)
