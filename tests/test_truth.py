"""`harness.truth` against a second method, against closed forms, and against itself with faults planted in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import certified as real
from harness import truth
from harness.formats import DTYPES, FORMATS
from harness.losses.exact_softmax import Softmax
from harness.reference import Reference
from tests.arb_oracle import (
    Claim,
    Element,
    Row,
    claims_of_elements,
    claims_of_rows,
    exact_scale,
    faults,
    gradient_claims,
    total,
)
from tests.arb_oracle import real as ball
from tests.truth_cases import Case, binary_cross_entropies, cross_entropies, rounded, softmax

BCE = "binary_cross_entropy_with_logits"
LARGEST = 1.7976931348623157e308

short = settings(max_examples=250, suppress_health_check=list(HealthCheck))
long = settings(max_examples=5_000, suppress_health_check=list(HealthCheck))
scalars = st.one_of(st.sampled_from([1.0, -2.5, 1e300, -1e-300, 0.0, 5e-324]), st.floats(-4, 4))
reductions = st.sampled_from(["mean", "sum"])


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every number is computed here and now."""
    monkeypatch.setenv("XENT_CACHE", "off")


def value(hi: Any, lo: Any) -> Fraction:
    """The number that a pair stands for."""
    return Fraction(np.asarray(hi).item()) + Fraction(np.asarray(lo).item())


def near(hi: Any, lo: Any, want: Any) -> bool:
    """Whether a pair meets the contract, where mpmath's value is good to 200 bits."""
    with mpmath.workprec(300):
        got, want = mpmath.mpf(float(hi)) + mpmath.mpf(float(lo)), mpmath.mpf(want)
        return bool(abs(got - want) <= max(abs(want) * mpmath.mpf(2) ** -90, mpmath.mpf(2) ** -1074))


# --------------------------------------------------------------------------------------------------- the second method


def cross_entropy_faults(case: Case) -> list[str]:
    """What Arb has against the truth of a cross-entropy."""
    reference = truth(case.logits, case.target, upstream=case.upstream, **case.options)
    return faults(claims_of_rows(reference, case.rows(), case.upstream.astype(np.float64)))


def binary_faults(case: Case) -> list[str]:
    """What Arb has against the truth of a binary cross-entropy."""
    reference = truth(case.logits, case.target, loss=BCE, upstream=case.upstream, **case.options)
    return faults(claims_of_elements(reference, case.elements(), case.upstream.astype(np.float64)))


def denominator(case: Case) -> Fraction:
    """W: the sum of the targets' weights over the rows that count; the number of rows, or elements, otherwise."""
    if case.target.ndim == 2:
        return Fraction(len(case.target))
    counted = [row for row in case.rows() if not row.ignored]
    return sum((Fraction(1 if row.weight is None else row.weight[row.label]) for row in counted), Fraction(0))


def reduced_faults(case: Case, reduction: str, upstream: float) -> list[str]:
    """What Arb has against a reduced cross-entropy; a mean over nothing is judged elsewhere."""
    rows = case.rows()
    divisor = denominator(case) if reduction == "mean" else Fraction(1)
    if divisor == 0:
        return []
    reduced = truth(case.logits, case.target, upstream=case.upstream, **case.options).reduced(reduction, upstream)
    claims = [Claim("loss", reduced.loss_hi, reduced.loss_lo, lambda: total([row.loss() for row in rows], divisor))]
    scale = exact_scale(upstream) / divisor
    for i, row in enumerate(rows):
        claims += gradient_claims(reduced, i, len(row.logits), lambda row=row: row.gradient(scale))
    return faults(claims)


def reduced_binary_faults(case: Case, reduction: str, upstream: float) -> list[str]:
    """What Arb has against a reduced binary cross-entropy."""
    rows = case.elements()
    divisor = Fraction(case.logits.size if reduction == "mean" else 1)
    reduced = truth(case.logits, case.target, loss=BCE, upstream=case.upstream, **case.options).reduced(
        reduction, upstream
    )
    losses = lambda: total([element.loss() for row in rows for element in row], divisor)  # noqa: E731
    claims = [Claim("loss", reduced.loss_hi, reduced.loss_lo, losses)]
    scale = exact_scale(upstream) / divisor
    for i, row in enumerate(rows):
        claims += gradient_claims(reduced, i, len(row), lambda row=row: [x.gradient(scale) for x in row])
    return faults(claims)


@short
@given(cross_entropies())
def test_cross_entropy_is_what_arb_says(case: Case) -> None:
    assert cross_entropy_faults(case) == []


@short
@given(cross_entropies(soft=True))
def test_cross_entropy_of_soft_targets_is_what_arb_says(case: Case) -> None:
    assert cross_entropy_faults(case) == []


@short
@given(binary_cross_entropies())
def test_binary_cross_entropy_is_what_arb_says(case: Case) -> None:
    assert binary_faults(case) == []


@short
@given(cross_entropies(most_rows=4), reductions, scalars)
def test_reduced_cross_entropy_is_what_arb_says(case: Case, reduction: str, upstream: float) -> None:
    assert reduced_faults(case, reduction, upstream) == []


@short
@given(binary_cross_entropies(), reductions, scalars)
def test_reduced_binary_cross_entropy_is_what_arb_says(case: Case, reduction: str, upstream: float) -> None:
    assert reduced_binary_faults(case, reduction, upstream) == []


@pytest.mark.long
@pytest.mark.timeout(1200)
@long
@given(cross_entropies(most_rows=3), reductions, scalars)
def test_cross_entropy_is_what_arb_says_after_a_long_search(case: Case, reduction: str, upstream: float) -> None:
    assert cross_entropy_faults(case) == []
    assert reduced_faults(case, reduction, upstream) == []


@pytest.mark.long
@pytest.mark.timeout(1200)
@long
@given(binary_cross_entropies(), reductions, scalars)
def test_binary_cross_entropy_is_what_arb_says_after_a_long_search(case: Case, reduction: str, upstream: float) -> None:
    assert binary_faults(case) == []
    assert reduced_binary_faults(case, reduction, upstream) == []


def row_faults(row: Row, upstream: float = 1.0) -> list[str]:
    """What Arb has against the truth of one row of float64."""
    target = np.array([row.given]) if row.label < 0 else np.array([row.label])
    options: dict[str, Any] = {"label_smoothing": row.smoothing}
    if row.weight is not None:
        options["weight"] = np.array(row.weight)
    reference = truth(np.array([row.logits]), target, upstream=np.array([upstream]), **options)
    return faults(claims_of_rows(reference, [row], [upstream]))


EXTREME_ROWS = {
    "the whole range of logits, weights and upstream": (Row([LARGEST, -LARGEST], 0, weight=[LARGEST] * 2), LARGEST),
    "the same, lost": (Row([LARGEST, -LARGEST, 0], 1, weight=[LARGEST] * 3, smoothing=0.1), LARGEST),
    "a smoothing of nearly nothing": (
        Row([LARGEST, -LARGEST, 0, 5e-324], 1, weight=[LARGEST] * 3 + [5e-324], smoothing=1e-300),
        -LARGEST,
    ),
    "huge targets, near tie at the top": (
        Row([LARGEST, np.nextafter(LARGEST, 0), 0, 5e-324], given=[LARGEST] * 4, weight=[LARGEST] * 3 + [5e-324]),
        -LARGEST,
    ),
    "cancellation over 3,000 bits": (Row([0, 5e-324], given=[LARGEST] * 2, weight=[LARGEST] * 2), LARGEST),
    "cancellation, with integers between": (
        Row([0, 5e-324, 5, -7, 100, -400], 0, smoothing=1.0),
        1.0,
    ),
    "cancellation among unlike magnitudes": (
        Row([0, 5e-324, 1, 2, 1000, 1e300], given=[LARGEST] * 6, weight=[LARGEST] * 6),
        LARGEST,
    ),
    "tied but for a class that is not there": (Row([0, 0, -1e300], given=[0.5, 0.5, 0.0]), LARGEST),
    "tied but for a class of probability 5e-324": (Row([0, 0, -745.0], given=[0.5, 0.5, 5e-324]), LARGEST),
    "thirds that are not thirds": (Row([3, 3, 3], given=[1 / 3] * 3), 1e300),
    "an ulp of a third": (Row([-5, -5 + 1e-15, -5], 0, smoothing=1.0), 1.0),
    "the largest gap that still counts": (Row([0, -744.0], 0), 1e300),
    "a loss of twice the largest number, beside a mask": (Row([LARGEST, -LARGEST, -np.inf], 1), 1.0),
    "weights that do not meet": (Row([1.0, 2.0], 0, weight=[5e-324, LARGEST], smoothing=0.5), 5e-324),
}


@pytest.mark.parametrize("name", EXTREME_ROWS)
def test_extreme_rows(name: str) -> None:
    row, upstream = EXTREME_ROWS[name]
    start = time.process_time()
    assert row_faults(row, upstream) == []
    assert time.process_time() - start < 10


@pytest.mark.parametrize("dtype", DTYPES)
def test_targets_that_are_the_softmax_itself(dtype: str) -> None:
    # Only the rounding of the softmax is left of the gradient: it must still be right to 2^-90 of that.
    fmt = FORMATS[dtype]
    logits = rounded(fmt, np.random.default_rng(7).normal(0, 3, (8, 6)))
    target = rounded(fmt, softmax(logits.astype(np.float64)))
    reference = truth(logits, target)
    assert np.abs(reference.grad_hi).max() < 4 * fmt.unit_roundoff
    assert np.abs(reference.grad_hi).min() > 0
    assert faults(claims_of_rows(reference, Case(logits, target, np.ones(8), {}).rows())) == []


def test_a_binary_gradient_that_cancels_at_zero() -> None:
    # Once off by 1.5e-22 of itself: w c t was rounded to 128 bits where no certificate looked.
    c = (1 - 0.3) / 0.3
    reference = truth([[0.0]], [[0.3]], loss=BCE, weight=[[0.1]], pos_weight=[[c]])
    exact = (Fraction(0.1) * (1 - Fraction(0.3)) - Fraction(0.1) * Fraction(c) * Fraction(0.3)) / 2
    assert abs(value(reference.grad_hi, reference.grad_lo) - exact) <= abs(exact) / 2**90
    assert exact != 0


def test_a_binary_gradient_that_is_zero_at_zero() -> None:
    # w c t = w (1 - t) with 159 bits in either product.
    t, w = 1 / 3, 0.1
    even = truth([[0.0, 0.0]], [[0.5, 2**-52]], loss=BCE, weight=[[w, w]], pos_weight=[[1.0, 2.0**52 - 1]])
    assert even.grad_hi.tolist() == [[0.0, 0.0]]
    assert even.grad_lo.tolist() == [[0.0, 0.0]]
    odd = truth([[0.0]], [[t]], loss=BCE, weight=[[w]], pos_weight=[[2.0]])
    assert value(odd.grad_hi, odd.grad_lo) == (Fraction(w) * (1 - 3 * Fraction(t))) / 2


# -------------------------------------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("base", [0.0, 1e6, -1e300, 5e-324])
@pytest.mark.parametrize("v", [1, 2, 3, 7, 1000, 131072])
def test_ties_lose_the_logarithm_of_their_number(v: int, base: float) -> None:
    reference = truth(np.full((1, v), base), [0])
    with mpmath.workprec(300):
        assert near(reference.loss_hi[0], reference.loss_lo[0], mpmath.log(v))
        assert near(reference.grad_hi[0, -1], reference.grad_lo[0, -1], mpmath.mpf(1) / v - (v == 1))
        assert near(reference.grad_hi[0, 0], reference.grad_lo[0, 0], mpmath.mpf(1) / v - 1)


@pytest.mark.parametrize("gap", [5e-324, 1e-30, 0.5, 20.0, 40.0, 87.5, 690.0, 708.5, 744.0])
def test_two_classes_lose_log1p_of_exp_of_minus_their_gap(gap: float) -> None:
    reference = truth([[gap, 0.0], [gap, 0.0]], [0, 1])
    with mpmath.workprec(2500):
        small = mpmath.exp(-mpmath.mpf(gap))
        tail, p = mpmath.log1p(small), small / (1 + small)
        assert near(reference.loss_hi[0], reference.loss_lo[0], tail)
        assert near(reference.loss_hi[1], reference.loss_lo[1], tail + gap)
        for row, j, want in [(0, 0, -p), (0, 1, p), (1, 0, 1 - p), (1, 1, p - 1)]:
            assert near(reference.grad_hi[row, j], reference.grad_lo[row, j], want)


def test_forty_against_two_zeros() -> None:
    reference = truth([[40.0, 0.0, 0.0]], [0])
    with mpmath.workprec(300):
        tail = 2 * mpmath.exp(-40)
        assert near(reference.loss_hi[0], reference.loss_lo[0], mpmath.log1p(tail))
        assert near(reference.grad_hi[0, 0], reference.grad_lo[0, 0], -tail / (1 + tail))
        assert near(reference.grad_hi[0, 1], reference.grad_lo[0, 1], mpmath.exp(-40) / (1 + tail))


def test_a_loss_of_1e_300_and_one_of_2e300() -> None:
    reference = truth([[690.7755278982137, 0.0], [1e300, -1e300]], [0, 1])
    assert reference.loss_hi.tolist() == [pytest.approx(1e-300, rel=1e-12), 2e300]
    with mpmath.workprec(2500):
        want = mpmath.log1p(mpmath.exp(-mpmath.mpf(690.7755278982137)))
        assert near(reference.loss_hi[0], reference.loss_lo[0], want)
    assert value(reference.loss_hi[1], reference.loss_lo[1]) == 2 * Fraction(1e300)


def test_a_loss_beyond_the_range_is_infinite_and_its_gradient_finite() -> None:
    reference = truth([[1.5e308, -1.5e308]], [1])
    assert (reference.loss_hi[0], reference.loss_lo[0]) == (np.inf, 0.0)
    assert reference.grad_hi.tolist() == [[1.0, -1.0]]


def test_a_gradient_beyond_the_range_is_infinite() -> None:
    reference = truth([[0.0, 0.0]], [0], weight=[1e200, 1.0], upstream=[1e200])
    assert reference.grad_hi.tolist() == [[-np.inf, np.inf]]
    assert reference.grad_lo.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("v", [1, 2, 4, 64])
def test_a_uniform_target_of_ties_has_no_gradient(v: int) -> None:
    soft = truth(np.full((1, v), 3.7), np.full((1, v), 1 / v))
    smoothed = truth(np.full((1, v), 3.7), [0], label_smoothing=1.0)
    for reference in (soft, smoothed):
        assert not reference.grad_hi.any()
        assert not reference.grad_lo.any()


def test_one_class_is_certain() -> None:
    for target in ([0, 0], [[1.0], [0.25]]):
        reference = truth([[3.0], [-1e300]], target, weight=[0.3])
        assert reference.loss_hi.tolist() == [0.0, 0.0]
        assert reference.grad_hi.tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize("x", [0.0, 1e-300, 0.3, 20.0, 690.0, 1e300])
def test_a_binary_loss_is_softplus(x: float) -> None:
    reference = truth([[x, x, -x, -x]], [[0.0, 1.0, 0.0, 1.0]], loss=BCE)
    with mpmath.workprec(2500):
        small = mpmath.exp(-mpmath.mpf(x)) if x < 1e4 else mpmath.mpf(0)
        tail = mpmath.log1p(small)
        for j, want in enumerate([tail + x, tail, tail, tail + x]):
            assert near(reference.loss_hi[0, j], reference.loss_lo[0, j], want)
        for j, want in enumerate([1 / (1 + small), -small / (1 + small), small / (1 + small), -1 / (1 + small)]):
            assert near(reference.grad_hi[0, j], reference.grad_lo[0, j], want)


def test_the_formats_hold_the_numbers_that_they_hold() -> None:
    # Read in its own format, 0.1 is another number in each.
    for dtype in DTYPES:
        fmt = FORMATS[dtype]
        row = fmt.round([[0.1, 2.3, -1.7]])
        same = row.astype(np.float64)
        got, want = truth(row, [1], weight=row[0] ** 2), truth(same, [1], weight=(row[0] ** 2).astype(np.float64))
        assert got.loss_hi.tolist() == want.loss_hi.tolist()
        assert got.grad_hi.tolist() == want.grad_hi.tolist()
        assert got.grad_lo.tolist() == want.grad_lo.tolist()


# ---------------------------------------------------------------------------------------------------------- reductions


def test_a_mean_of_subnormal_losses() -> None:
    rows = [Row([740.0 + i, 0.0], 0) for i in range(4)]
    reference = truth([row.logits for row in rows], [0] * 4)
    for reduction, divisor in (("mean", 4), ("sum", 1)):
        reduced = reference.reduced(reduction)
        want = lambda divisor=divisor: total([row.loss() for row in rows], Fraction(divisor))  # noqa: E731
        assert Claim("loss", reduced.loss_hi, reduced.loss_lo, want).fault() == ""
    # Weighted up, what is below float64's range in each row is not lost in their sum.
    heavy = truth([[800.0, 0.0]] * 3, [0] * 3, weight=[1e300, 1.0])
    assert heavy.loss_hi[0] > 0
    assert heavy.reduced("sum").loss_hi == pytest.approx(3 * heavy.loss_hi[0], rel=1e-15)


def test_what_each_row_cannot_show_their_sum_can() -> None:
    # 2,000 losses of 2^-1075.3 each round to nothing or to 5e-324; the sum is right to 2^-90.
    row = Row([745.3, 0.0], 0)
    reduced = truth([row.logits] * 2000, [0] * 2000).reduced("sum")
    assert Claim("loss", reduced.loss_hi, reduced.loss_lo, lambda: 2000 * row.loss()).fault() == ""


def test_a_mean_that_fits_of_rows_that_do_not() -> None:
    rows = [Row([LARGEST, -LARGEST], 1), Row([0.0, 0.0], 0), Row([0.0, 0.0], 0), Row([0.0, 0.0], 0)]
    reference = truth([row.logits for row in rows], [row.label for row in rows])
    assert reference.loss_hi[0] == np.inf
    reduced = reference.reduced("mean")
    assert reduced.loss_hi == LARGEST / 2
    assert reference.reduced("sum").loss_hi == np.inf
    want = lambda: total([row.loss() for row in rows], Fraction(4))  # noqa: E731
    assert Claim("loss", reduced.loss_hi, reduced.loss_lo, want).fault() == ""


def test_a_gradient_that_fits_only_once_it_is_scaled() -> None:
    row = Row([0.0, 1.0], 0, weight=[1e300, 1.0])
    reduced = truth([row.logits], [0], weight=row.weight).reduced("sum", 1e-320)
    scale = exact_scale(1e-320)
    assert faults(gradient_claims(reduced, 0, 2, lambda: row.gradient(scale))) == []
    other = truth([row.logits], [0], weight=row.weight).reduced("mean", LARGEST)
    assert faults(gradient_claims(other, 0, 2, lambda: row.gradient(exact_scale(LARGEST) / Fraction(1e300)))) == []


def test_an_infinite_row_makes_the_sum_infinite_and_a_nan_wins() -> None:
    logits = np.array([[0.0, -np.inf], [0.0, 1.0], [np.nan, 1.0]])
    two, three = truth(logits[:2], [1, 0]), truth(logits, [1, 0, 0])
    assert two.reduced("mean").loss_hi == np.inf
    assert two.reduced("sum").loss_hi == np.inf
    assert two.reduced("mean").grad_hi[0].tolist() == [0.5, -0.5]
    assert np.isnan(three.reduced("sum").loss_hi)
    assert np.isfinite(three.reduced("sum").grad_hi[:2]).all()


def test_a_mean_divides_by_the_weights_of_the_targets_as_exact_reals() -> None:
    weight, labels = [0.1, 0.2, 0.7], [0, 1, 2, 0, -100]
    logits = np.random.default_rng(3).normal(size=(5, 3))
    rows = [Row(z.tolist(), max(y, 0), weight=weight, ignored=y < 0) for z, y in zip(logits, labels, strict=True)]
    reduced = truth(logits, labels, weight=weight).reduced("mean")
    divisor = 2 * Fraction(0.1) + Fraction(0.2) + Fraction(0.7)
    want = lambda: total([row.loss() for row in rows], divisor)  # noqa: E731
    assert Claim("loss", reduced.loss_hi, reduced.loss_lo, want).fault() == ""
    # The float64 sum of the weights would be a relative 2^-54 off.
    assert Fraction(0.1 + 0.2 + 0.7 + 0.1) != divisor


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_mean_over_nothing_is_nan(reduction: str) -> None:
    empty = 0.0 if reduction == "sum" else np.nan
    cases = [
        truth(np.zeros((0, 3)), np.zeros(0, np.int64)),
        truth(np.zeros((0, 3)), np.zeros((0, 3))),
        truth(np.zeros((0, 3)), np.zeros((0, 3)), loss=BCE),
        truth(np.zeros((2, 0)), np.zeros((2, 0)), loss=BCE),
        truth([[1.0, np.nan]], [-100]),
        truth([[1.0, 2.0]], [0], weight=[0.0, 1.0]),
    ]
    for reference in cases:
        reduced = reference.reduced(reduction)
        assert np.array_equal(reduced.loss_hi, empty, equal_nan=True)
        assert reduced.grad_hi.shape == reference.grad_hi.shape
        assert not np.asarray(reduced.grad_lo).any()
    assert cases[4].reduced(reduction).grad_hi.tolist() == [[0.0, 0.0]]
    last = cases[5].reduced(reduction).grad_hi
    assert np.array_equal(last, [[empty, empty]], equal_nan=True)


# ----------------------------------------------------------------------------------------------- size, speed, settings


@pytest.mark.parametrize("kind", ["any bits", pytest.param("normal", marks=pytest.mark.long)])
def test_the_largest_vocabulary_in_seconds(kind: str) -> None:
    v, rng = 131072, np.random.default_rng(5)
    z = rng.normal(size=v)
    if kind == "any bits":
        z = np.frombuffer(rng.bytes(8 * v)).copy()
        z[~np.isfinite(z)] = 0.0
    start = time.process_time()
    reference = truth(z[None], [3])
    assert time.process_time() - start < 60
    row = Row(z.tolist(), 3)
    assert Claim("loss", float(reference.loss_hi[0]), float(reference.loss_lo[0]), row.loss).fault() == ""
    # The gradient's entries sum to zero, and each is within 2^-90 of itself: of 2 in all.
    residue = sum(map(value, reference.grad_hi[0], reference.grad_lo[0]), Fraction(0))
    assert abs(residue) <= Fraction(4, 2**90)


def test_without_gmpy2_the_numbers_are_the_same() -> None:
    code = (
        "import json, numpy as np, mpmath, harness\n"
        "rng = np.random.default_rng(1)\n"
        "z = np.concatenate([rng.normal(size=(4, 9)), 600 * rng.normal(size=(4, 9)), np.eye(4, 9) * 1e-300])\n"
        "t = np.exp(z - z.max(1, keepdims=True)); t /= t.sum(1, keepdims=True)\n"
        "r = harness.truth(z, t, label_smoothing=1e-9)\n"
        "b = harness.truth(z, t, loss='binary_cross_entropy_with_logits')\n"
        "f = [np.asarray(x).tobytes().hex() for s in (r, b) for x in (s.loss_hi, s.loss_lo, s.grad_hi, s.grad_lo)]\n"
        "print(json.dumps([mpmath.libmp.BACKEND, f]))\n"
    )
    outputs = []
    for variable in ("MPMATH_NOGMPY", "NO_SUCH_VARIABLE"):
        environment = os.environ | {variable: "1", "XENT_CACHE": "off"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True, text=True)
        outputs.append(json.loads(done.stdout))
    assert outputs[0][0] == "python"
    assert outputs[0][1] == outputs[1][1]


@pytest.mark.parametrize(("prec", "dps"), [(10, None), (None, 5)])
def test_the_precision_that_mpmath_is_set_to_does_not_matter(prec: int | None, dps: int | None) -> None:
    want = truth([[1.0, 2.0, 0.3]], [0])
    with mpmath.workprec(prec) if prec else mpmath.workdps(dps):
        got = truth([[1.0, 2.0, 0.3]], [0])
    assert (got.loss_hi[0], got.loss_lo[0]) == (want.loss_hi[0], want.loss_lo[0])


def test_inputs_are_left_alone() -> None:
    arrays = {"logits": np.array([[1.0, -np.inf, 3.0]]), "target": np.array([2]), "weight": np.array([1.0, 2.0, 0.5])}
    before = {name: array.copy() for name, array in arrays.items()}
    for array in arrays.values():
        array.flags.writeable = False
    truth(arrays["logits"], arrays["target"], weight=arrays["weight"]).reduced("mean", -2.0)
    assert all(np.array_equal(arrays[name], before[name]) for name in arrays)


# ------------------------------------------------------------------------------------------------------ planted faults


def probes() -> list[str]:
    """What Arb has against the truth of some rows that between them exercise every step of it."""
    rng = np.random.default_rng(11)
    found = row_faults(Row([40.0, 0.0, 0.0], 0)) + row_faults(Row([70.0, 0.0, 1.0], 0)) + row_faults(Row([0.0] * 5, 2))
    for v in (2, 3, 7):
        z = rng.normal(0, 3, v)
        found += row_faults(Row(z.tolist(), 0)) + row_faults(Row(z.tolist(), int(z.argmax())))
        found += row_faults(Row(z.tolist(), given=softmax(z).tolist()))
        found += row_faults(Row([*z.tolist(), -np.inf], 0, weight=[0.3] * (v + 1)))
    found += row_faults(Row([0.0, -1e-305], given=[0.5, 0.5]))
    found += row_faults(Row([0.0, 1.0, 1.0, -2.0], 1, smoothing=0.1))
    for k in range(30, 48):  # cancellation by about k bits
        z = rng.normal(size=2)
        found += row_faults(Row(z.tolist(), given=(softmax(z) + 2.0**-k * np.array([1, -1])).tolist()))
    return found


honest_softmax = Softmax.of.__func__  # type: ignore[attr-defined]
Planted = Callable[[pytest.MonkeyPatch], None]


def _softmax_with(change: Callable[[Any], Any]) -> Planted:
    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        def of(cls: Any, row: Any, prec: int) -> Any:
            return change(honest_softmax(cls, row, prec))

        monkeypatch.setattr(Softmax, "of", classmethod(of))

    return plant


def _certified_with(name: str, faulty: Any) -> Planted:
    return lambda monkeypatch: monkeypatch.setattr(real, name, faulty)


def _pivot_by_subtraction(s: Any) -> Any:
    """R as S - 1, after S was rounded."""
    return replace(s, beyond_top=real.subtract(s.total, real.ONE))


def _pivot_in_the_sum(s: Any) -> Any:
    beyond = real.add(s.beyond_top, real.ONE, s.prec)
    return replace(s, beyond_top=beyond, total=real.add(s.total, real.ONE, s.prec), log_sum=real.log1p(beyond, 128))


def _logarithm_of_the_rounded_sum(s: Any) -> Any:
    return replace(s, log_sum=real.log1p(real.subtract(s.total, real.ONE), 128))


honest_exponential, honest_split, honest_sum = real.exponential, real.split, real.sum_positive

FAULTS: dict[str, Planted] = {
    "the pivot's exponential is in the tail": _softmax_with(_pivot_in_the_sum),
    "the tail is what is left of the rounded sum": _softmax_with(_pivot_by_subtraction),
    "the logarithm is taken of the rounded sum": _softmax_with(_logarithm_of_the_rounded_sum),
    "every row counts as tied": _softmax_with(lambda s: replace(s, tied=True)),
    "a lower target precision": _certified_with("RELATIVE_BITS", 80),
    "a floor that is reached too early": _certified_with("ABSOLUTE_FLOOR", -1000),
    "a certificate that never asks": _certified_with("is_settled", lambda value, size, prec: True),
    "a certificate blind to cancellation": _certified_with(
        "is_settled", lambda value, size, prec: real.top_exponent(value) - prec <= real.top_exponent(value) - 100
    ),
    "a sum cut at the wrong unit": _certified_with(
        "sum_positive", lambda terms, counts, prec: honest_sum(terms, counts, prec - 50)
    ),
    "counts that are not counted": _certified_with(
        "sum_positive", lambda terms, counts, prec: honest_sum(terms, [min(c, 1) for c in counts], prec)
    ),
    "exponentials in double precision": _certified_with("exponential", lambda a, prec: honest_exponential(a, 53)),
    "exponentials that are off by a few hundred units": _certified_with(
        "exponential", lambda a, prec: honest_exponential(a, prec - 40)
    ),
    "a pair without its second half": _certified_with("split", lambda x: (honest_split(x)[0], 0.0)),
}


def test_the_probes_find_nothing_where_nothing_is_planted() -> None:
    assert probes() == []


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XENT_FAST", "off")  # the faults are in mpmath's way; the other's are in tests/test_fast_path.py
    FAULTS[name](monkeypatch)
    assert probes()


def test_the_oracle_refutes_what_is_just_beyond_the_contract() -> None:
    # 1 + 2^-90 (1 ± 2^-20) against 1; and an ulp below nothing.
    for error, right in [(2.0**-90 * (1 - 2.0**-20), True), (2.0**-90 * (1 + 2.0**-20), False)]:
        assert (Claim("x", 1.0, error, lambda: ball(1)).fault() == "") is right
        assert (Claim("x", 1.0, -error, lambda: ball(1)).fault() == "") is right
    assert Claim("x", 5e-324, 0.0, lambda: ball(0)).fault() == ""
    assert "is off by" in Claim("x", 1e-323, 0.0, lambda: ball(0)).fault()
    assert "is not" in Claim("x", np.inf, 0.0, lambda: ball(1)).fault()
    assert "is not" in Claim("x", np.nan, 0.0, lambda: ball(1)).fault()
    assert "is not nan" in Claim("x", 1.0, 0.0, Row([np.nan], 0).loss).fault()
    assert "is not inf" in Claim("x", 1.0, 0.0, Element(np.inf, 0.0).loss).fault()


def test_a_reference_is_of_the_shape_that_it_says() -> None:
    reference: Reference = truth(np.zeros((3, 4)), [0, 1, 2])
    assert (reference.loss_hi.shape, reference.grad_hi.shape) == ((3,), (3, 4))
    elementwise: Reference = truth(np.zeros((3, 4)), np.zeros((3, 4)), loss=BCE)
    assert (elementwise.loss_lo.shape, elementwise.grad_lo.shape) == ((3, 4), (3, 4))
    shapes: Sequence[Any] = [reference.loss_hi, reference.loss_lo, reference.grad_hi, reference.grad_lo]
    assert all(array.dtype == np.float64 for array in shapes)
