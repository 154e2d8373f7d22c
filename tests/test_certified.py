"""The steps that truth is made of, each held to the error that docs/theory.md gives it; Arb's balls are the judge."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import islice

import numpy as np
import pytest
from flint import arb
from hypothesis import given
from hypothesis import strategies as st
from mpmath import libmp

from harness import certified as real
from harness.certified import Exact
from tests.arb_oracle import LARGEST, bits

PRECISIONS = [128, 256, 512, 1024, 2048, 4096]
"""Above 600 bits libmp takes another road to exponentials, and above 2,500 to logarithms."""

finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=5e-324, allow_nan=False, allow_infinity=False)
precs = st.sampled_from(PRECISIONS)


def ball(value: Exact) -> arb:
    """The point that a raw float is."""
    sign, man, exp, _ = value
    return arb((-int(man) if sign else int(man), int(exp)))


def in_units(got: Exact, want: Callable[[], arb], prec: int) -> float:
    """An upper bound on the relative error of a result, in units of η = 2^-prec."""
    with bits(4 * prec + 4096):
        error = abs(ball(got) - want()) / abs(want()) * arb(2) ** prec
        assert error.is_finite()
        return float(error.upper())


@given(finite)
def test_a_float_is_read_exactly(x: float) -> None:
    assert real.to_fraction(real.exact(x)) == Fraction(x)
    assert real.to_fraction(real.exact(Fraction(x) / 2**70)) == Fraction(x) / 2**70


@pytest.mark.parametrize("value", [0, 1, -3, 2**2000 + 1, -(10**400)])
def test_an_integer_is_read_exactly(value: int) -> None:
    assert real.to_fraction(real.exact(value)) == value
    assert real.to_fraction(real.exact(Fraction(value))) == value


def test_a_fraction_that_is_not_binary_is_refused() -> None:
    with pytest.raises(ValueError, match="1/3 is not a binary fraction"):
        real.exact(Fraction(1, 3))


@given(finite, finite, finite)
def test_sums_differences_and_products_of_inputs_are_exact(x: float, y: float, z: float) -> None:
    a, b, c = map(real.exact, (x, y, z))
    assert real.to_fraction(real.subtract(a, b)) == Fraction(x) - Fraction(y)
    assert real.to_fraction(real.add(a, b)) == Fraction(x) + Fraction(y)
    assert real.to_fraction(real.multiply(real.multiply(a, b), c)) == Fraction(x) * Fraction(y) * Fraction(z)
    assert real.to_fraction(real.magnitude(a)) == abs(Fraction(x))


@given(finite, finite, precs)
def test_a_rounded_step_has_a_relative_error_of_at_most_eta(x: float, y: float, prec: int) -> None:
    a, b = real.exact(x), real.exact(y)
    eta = Fraction(1, 2**prec)
    # 2^1500 y: so that one operand absorbs the other without being equal to it.
    for shifted in (b, libmp.mpf_shift(b, 1500), libmp.mpf_shift(b, -1500)):
        other = real.to_fraction(shifted)
        for got, want in [
            (real.add(a, shifted, prec), Fraction(x) + other),
            (real.subtract(a, shifted, prec), Fraction(x) - other),
            (real.multiply(a, shifted, prec), Fraction(x) * other),
        ]:
            assert abs(real.to_fraction(got) - want) <= eta * abs(want)
        if other:
            want = Fraction(x) / other
            assert abs(real.to_fraction(real.quotient(a, shifted, prec)) - want) <= eta * abs(want)


ARGUMENTS = [5e-324, 1e-300, 2.0**-127, 2.0**-129, 1e-20, 0.1, 0.5, np.log(2), 1.0, 2.0, 3.0, 40.0, 745.0, 1e6, 1e15]
ARGUMENTS += [2.0**53 + 2, 1e100, 1e300, 1.7e308]


@pytest.mark.parametrize("prec", PRECISIONS)
@pytest.mark.parametrize("x", ARGUMENTS)
def test_exponential_is_within_two_units(x: float, prec: int) -> None:
    got = real.exponential(real.exact(-x), prec)
    if x <= 1e100:
        assert in_units(got, lambda: arb(-x).exp(), prec) <= 2
    else:  # Arb has no room for the value itself, but for its logarithm
        _, man, exp, bc = got
        with bits(4 * prec + 4096):
            logarithm = arb((int(man), -bc)).log() + (int(exp) + bc) * arb.const_log2()
            assert abs(logarithm + arb(x)) <= 2 * arb(2) ** -prec


@given(st.floats(0, 1e4), precs)
def test_exponential_is_within_two_units_anywhere(x: float, prec: int) -> None:
    assert in_units(real.exponential(real.exact(-x), prec), lambda: arb(-x).exp(), prec) <= 2


def log1p_units(x: float, prec: int) -> float:
    """The error of log1p, in η."""
    return in_units(real.log1p(real.exact(x), prec), lambda: (1 + arb(x)).log(), prec)


LOG1P_ARGUMENTS = [x for x in ARGUMENTS if x >= 2.0**-129] + [2.0**-128, np.nextafter(2.0**-128, 1), 2.0**-64, 130000.0]


@pytest.mark.parametrize("prec", PRECISIONS)
@pytest.mark.parametrize("x", LOG1P_ARGUMENTS)
def test_log1p_is_within_three_units(x: float, prec: int) -> None:
    assert log1p_units(float(x), prec) <= 3


@given(st.floats(-200, 20), precs)
def test_log1p_is_within_three_units_anywhere(log2: float, prec: int) -> None:
    assert log1p_units(2.0**log2, prec) <= 3


def test_log1p_of_nothing_is_nothing_and_of_next_to_nothing_is_that() -> None:
    assert real.log1p(real.ZERO, 128) == real.ZERO
    tiny = real.exponential(real.exact(-1e308), 128)
    assert real.log1p(tiny, 128) == tiny


def test_log1p_is_told_from_one_that_rounds_its_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real, "log1p", lambda a, prec: libmp.mpf_log(real.add(real.ONE, a, prec), prec, "n"))
    assert log1p_units(1e-30, 128) > 2.0**20


def sum_error(terms: list[float], counts: list[int], prec: int) -> Fraction:
    """The relative error of sum_positive, in η."""
    want = sum((count * Fraction(term) for term, count in zip(terms, counts, strict=True)), Fraction(0))
    got = real.to_fraction(real.sum_positive([real.exact(x) for x in terms], counts, prec))
    return Fraction(0) if got == want else abs(got - want) / want * 2**prec


@given(st.lists(st.tuples(st.one_of(positive, st.just(0.0)), st.integers(0, 1000)), max_size=20), precs)
def test_a_sum_of_positive_terms_is_within_one_unit(terms: list[tuple[float, int]], prec: int) -> None:
    assert sum_error([x for x, _ in terms], [n for _, n in terms], prec) <= 1


@pytest.mark.parametrize("count", [1, 2, 3, 1000, 131072])
def test_the_sum_allows_for_the_number_of_terms(count: int) -> None:
    # Each of the small ones loses almost a whole truncation unit.
    small = (2.0**53 - 1) * 2.0**-170
    assert sum_error([1.0] + [small] * min(count, 500), [1] * (min(count, 500) + 1), 128) <= 1
    assert sum_error([1.0, small], [1, count], 128) <= 1


def test_a_sum_that_truncates_too_high_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = real.sum_positive
    monkeypatch.setattr(real, "sum_positive", lambda terms, counts, prec: honest(terms, counts, prec - 20))
    assert sum_error([1.0, (2.0**53 - 1) * 2.0**-170], [1, 1], 128) > 1


def test_a_sum_of_astronomically_unlike_terms() -> None:
    far = real.exponential(real.exact(-1e308), 128)
    assert real.sum_positive([far, real.ONE], [1, 1], 128) == real.ONE
    assert real.sum_positive([], [], 128) == real.ZERO
    doubled = real.sum_positive([far], [2], 128)
    with bits(256):
        assert ball(doubled) == 2 * ball(far)


@given(finite, positive, st.integers(-400, 400), precs)
def test_settled_means_what_the_analysis_takes_it_to_mean(x: float, y: float, shift: int, prec: int) -> None:
    size = Fraction(y) * Fraction(2) ** shift
    error = 32 * size / 2**prec
    settled = real.is_settled(real.exact(x), real.exact(size), prec)
    if settled:
        assert error <= max(abs(Fraction(x)) / 2**100, Fraction(1, 2**1076))
    if error <= max(abs(Fraction(x)) / 2**103, Fraction(1, 2**1079)):
        assert settled  # and it is not shy: at most three bits are given away


def test_settled_at_the_edges() -> None:
    assert real.is_settled(real.ZERO, real.ZERO, 128)
    assert not real.is_settled(real.ZERO, real.ONE, 128)
    assert real.is_settled(real.ZERO, real.ONE, 2048)
    assert real.is_settled(real.ONE, real.ONE, 128)


numerators = st.integers(-(2**300), 2**300)
exponents = st.one_of(st.integers(-1400, -700), st.integers(-400, 1100))


@given(numerators, exponents)
def test_a_pair_of_floats_is_next_to_its_value(numerator: int, exponent: int) -> None:
    value = Fraction(numerator) * Fraction(2) ** exponent
    hi, lo = real.split(real.exact(value))
    if abs(value) >= LARGEST:
        assert abs(hi) == np.inf
        assert (hi > 0) == (value > 0)
        assert lo == 0
    else:
        error = abs(Fraction(hi) + Fraction(lo) - value)
        # libmp rounds subnormal numbers twice, at 53 bits and at the last place: hence a little over half of that.
        assert error <= max(abs(value) / 2**106, Fraction(1, 2**1075) * (1 + Fraction(1, 2**52)))
        assert hi + lo == hi or abs(value) < 2.0**-1020


@pytest.mark.parametrize(
    ("value", "pair"),
    [
        (LARGEST, (np.inf, 0.0)),
        (-LARGEST, (-np.inf, 0.0)),
        (Fraction(2) ** 5000, (np.inf, 0.0)),
        (LARGEST - 1, (1.7976931348623157e308, 2.0**970)),
        (Fraction(1, 2**1075), (0.0, 0.0)),
        (Fraction(3, 2**1076), (5e-324, 0.0)),
        (Fraction(-1, 2**5000), (-0.0, -0.0)),
        (Fraction(1) + Fraction(1, 2**60), (1.0, 2.0**-60)),
    ],
)
def test_pairs_at_the_ends_of_the_range(value: Fraction, pair: tuple[float, float]) -> None:
    assert real.split(real.exact(value)) == pair


def test_pairs_of_values_that_are_none() -> None:
    hi, lo = real.split(real.NAN)
    assert np.isnan(hi)
    assert lo == 0.0
    assert real.split(real.INFINITY) == (np.inf, 0.0)


def test_precisions_double_and_end_with_an_error() -> None:
    assert list(islice(real.precisions(), 8)) == [128 * 2**i for i in range(8)]
    with pytest.raises(ArithmeticError, match="please report the inputs"):
        list(real.precisions())
