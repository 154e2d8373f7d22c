"""What a loss accepts, refuses and means: inputs, options and the conventions where libraries differ."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from harness import truth
from harness.formats import DTYPES, FORMATS
from harness.losses import LOSSES, loss_named
from harness.losses.base import as_exact_real, as_exact_reals
from harness.reference import Reference

BCE = "binary_cross_entropy_with_logits"
NAN, INF = float("nan"), float("inf")
Z = [[1.0, 2.0, 3.0]]
T = [[0.25, 0.5, 0.0]]
SOFTMAX = np.exp(Z[0]) / np.exp(Z[0]).sum()
FLOATS = "float64, float32, bfloat16, float16"


def numbers(reference: Reference) -> list[bytes]:
    """Every number of a reference, for comparison bit by bit."""
    return [
        np.ascontiguousarray(getattr(reference, name)).tobytes()
        for name in ("loss_hi", "loss_lo", "grad_hi", "grad_lo")
    ]


# -------------------------------------------------------------------------------------------------- what is refused

Call = Callable[[], Any]
REFUSED: dict[str, tuple[Call, type[Exception], str]] = {
    "logits without rows": (
        lambda: truth([1.0, 2.0], [0]),
        ValueError,
        "logits: expected shape [N, V] with V at least 1, got [2]",
    ),
    "logits of three axes": (lambda: truth([[[1.0]]], [0]), ValueError, "got [1, 1, 1]"),
    "no classes": (lambda: truth(np.zeros((2, 0)), [0, 0]), ValueError, "got [2, 0]"),
    "ragged logits": (lambda: truth([[1.0, 2.0], [3.0]], [0, 0]), ValueError, "logits: not an array of numbers"),
    "ragged target": (lambda: truth(Z, [[1.0], [3.0, 1.0]]), ValueError, "target: not an array of numbers"),
    "ragged weight": (lambda: truth(Z, [0], weight=[[1.0], [3.0, 1.0]]), ValueError, "weight: not an array of numbers"),
    "text": (lambda: truth([["a"]], [0]), TypeError, f"logits: dtype <U1 is not one of {FLOATS} or an integer"),
    "booleans": (lambda: truth([[True]], [0]), TypeError, "logits: dtype bool"),
    "complex numbers": (lambda: truth([[1j]], [0]), TypeError, "logits: dtype complex128"),
    "huge integers": (lambda: truth([[2**70]], [0]), TypeError, "logits: dtype object"),
    "long doubles": (lambda: truth(np.zeros((1, 2), np.longdouble), [0]), TypeError, "logits: dtype float"),
    "integers that float64 rounds": (lambda: truth([[2**53 + 1]], [0]), ValueError, "logits: an integer beyond 2^53"),
    "the least int64": (lambda: truth([[-(2**63)]], [0]), ValueError, "logits: an integer beyond 2^53"),
    "labels that are floats": (
        lambda: truth(Z, [0.0]),
        TypeError,
        "target: class indices must be integers, got float64",
    ),
    "labels that are booleans": (
        lambda: truth(Z, [True]),
        TypeError,
        "target: class indices must be integers, got bool",
    ),
    "too many labels": (
        lambda: truth(Z, [0, 1]),
        ValueError,
        "expected class indices [1] or probabilities [1, 3], got [2]",
    ),
    "one label for all": (lambda: truth(Z, 0), ValueError, "probabilities [1, 3], got []"),
    "too few probabilities": (lambda: truth(Z, [[0.5, 0.5]]), ValueError, "or probabilities [1, 3], got [1, 2]"),
    "a label past the last": (
        lambda: truth(Z * 2, [1, 3]),
        ValueError,
        "target[1]: class 3 is outside [0, 3) and is not ignore_index -100",
    ),
    "a negative label": (lambda: truth(Z, [-1]), ValueError, "target[0]: class -1 is outside [0, 3)"),
    "-100 where another is ignored": (
        lambda: truth(Z, [-100], ignore_index=1),
        ValueError,
        "class -100 is outside [0, 3) and is not ignore_index 1",
    ),
    "an unsigned label that wraps to -100": (
        lambda: truth(Z, np.array([2**64 - 100], np.uint64)),
        ValueError,
        "class 18446744073709551516 is outside",
    ),
    "a negative probability": (lambda: truth(Z, [[0.5, -0.5, 1.0]]), ValueError, "target: -0.5 is negative"),
    "probabilities with ignore_index": (
        lambda: truth(Z, T, ignore_index=1),
        ValueError,
        "ignore_index: 1 was given with class probabilities",
    ),
    "too few weights": (lambda: truth(Z, [0], weight=[1.0]), ValueError, "weight: expected shape [3], got [1]"),
    "one weight for all": (lambda: truth(Z, [0], weight=2.0), ValueError, "weight: expected shape [3], got []"),
    "a negative weight": (lambda: truth(Z, [0], weight=[1.0, -2.0, 1.0]), ValueError, "weight: -2.0 is negative"),
    "a weight that is NaN": (lambda: truth(Z, [0], weight=[1.0, NAN, 1.0]), ValueError, "weight: nan is not finite"),
    "an infinite weight": (lambda: truth(Z, [0], weight=[1.0, INF, 1.0]), ValueError, "weight: inf is not finite"),
    "smoothing above one": (
        lambda: truth(Z, [0], label_smoothing=2),
        ValueError,
        "label_smoothing: 2.0 is outside [0, 1]",
    ),
    "smoothing below zero": (
        lambda: truth(Z, [0], label_smoothing=-0.1),
        ValueError,
        "label_smoothing: -0.1 is outside [0, 1]",
    ),
    "smoothing by NaN": (lambda: truth(Z, [0], label_smoothing=NAN), ValueError, "label_smoothing: nan is not finite"),
    "smoothing by text": (lambda: truth(Z, [0], label_smoothing="0.1"), TypeError, "label_smoothing: dtype <U3"),
    "smoothing by what float64 rounds": (
        lambda: truth(Z, [0], label_smoothing=Fraction(1, 3)),
        TypeError,
        "label_smoothing: dtype object",
    ),
    "smoothing per class": (
        lambda: truth(Z, [0], label_smoothing=[0.1, 0.2]),
        ValueError,
        "label_smoothing: expected one number, got an array of shape [2]",
    ),
    "ignoring a fraction": (lambda: truth(Z, [0], ignore_index=1.5), TypeError, "ignore_index: 1.5 is not an integer"),
    "ignoring text": (lambda: truth(Z, [0], ignore_index="x"), TypeError, "ignore_index: 'x' is not an integer"),
    "an unknown option": (
        lambda: truth(Z, [0], gamma=2),
        TypeError,
        "cross_entropy has no option 'gamma'; it has weight, ignore_index, label_smoothing",
    ),
    "an unknown option, not set": (lambda: truth(Z, [0], gamma=None), TypeError, "has no option 'gamma'"),
    "another loss's option": (lambda: truth(Z, [0], pos_weight=[1.0] * 3), TypeError, "has no option 'pos_weight'"),
    "a reduction": (lambda: truth(Z, [0], reduction="mean"), TypeError, "call .reduced('mean') or .reduced('sum')"),
    "an unknown loss": (
        lambda: truth(Z, [0], loss="nll"),
        ValueError,
        f"unknown loss 'nll': choose from cross_entropy, {BCE}",
    ),
    "too much upstream": (
        lambda: truth(Z, [0], upstream=[1.0, 2.0]),
        ValueError,
        "upstream: expected shape [1], got [2]",
    ),
    "upstream that is NaN": (lambda: truth(Z, [0], upstream=[NAN]), ValueError, "upstream: nan is not finite"),
    "infinite upstream": (lambda: truth(Z, [0], upstream=INF), ValueError, "upstream: inf is not finite"),
    "text upstream": (lambda: truth(Z, [0], upstream="x"), TypeError, "upstream: dtype <U1"),
    "ragged upstream": (
        lambda: truth(Z, [0], upstream=[[1.0], [1.0, 2.0]]),
        ValueError,
        "upstream: not an array of numbers",
    ),
    "binary: logits without rows": (
        lambda: truth([1.0], [1.0], loss=BCE),
        ValueError,
        "logits: expected shape [N, K], got [1]",
    ),
    "binary: targets of another shape": (
        lambda: truth(Z, [[1.0, 0.0]], loss=BCE),
        ValueError,
        "target: expected shape [1, 3], got [1, 2]",
    ),
    "binary: a target above one": (
        lambda: truth(Z, [[1.0, 0.0, 1.5]], loss=BCE),
        ValueError,
        "target: 1.5 is outside [0, 1]",
    ),
    "binary: a target below zero": (
        lambda: truth(Z, [[1.0, 0.0, -0.5]], loss=BCE),
        ValueError,
        "target: -0.5 is outside [0, 1]",
    ),
    "binary: too few positive weights": (
        lambda: truth(Z, T, loss=BCE, pos_weight=[1.0, 2.0]),
        ValueError,
        "pos_weight: shape [2] does not broadcast to [1, 3]",
    ),
    "binary: a negative positive weight": (
        lambda: truth(Z, T, loss=BCE, pos_weight=[1.0, 2.0, -1.0]),
        ValueError,
        "pos_weight: -1.0 is negative",
    ),
    "binary: a weight that is NaN": (
        lambda: truth(Z, T, loss=BCE, weight=NAN),
        ValueError,
        "weight: nan is not finite",
    ),
    "binary: weights of more rows": (
        lambda: truth(Z, T, loss=BCE, weight=np.ones((2, 3))),
        ValueError,
        "weight: shape [2, 3] does not broadcast to [1, 3]",
    ),
    "binary: too little upstream": (
        lambda: truth(Z, T, loss=BCE, upstream=np.ones((1, 2))),
        ValueError,
        "upstream: shape [1, 2] does not broadcast to [1, 3]",
    ),
    "binary: the other loss's option": (
        lambda: truth(Z, T, loss=BCE, ignore_index=1),
        TypeError,
        f"{BCE} has no option 'ignore_index'; it has weight, pos_weight",
    ),
    "reduced by nothing": (
        lambda: truth(Z, [0]).reduced("none"),
        ValueError,
        "reduction: 'none' is neither 'mean' nor 'sum'",
    ),
    "reduced, NaN upstream": (lambda: truth(Z, [0]).reduced("sum", NAN), ValueError, "upstream: nan is not finite"),
    "reduced, upstream per row": (
        lambda: truth(Z, [0]).reduced("sum", [1.0, 2.0]),
        ValueError,
        "upstream: expected one number, got an array of shape [2]",
    ),  # type: ignore[arg-type]
    "reduced, text upstream": (lambda: truth(Z, [0]).reduced("sum", "x"), TypeError, "upstream: dtype <U1"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_and_why(name: str) -> None:
    call, kind, message = REFUSED[name]
    with pytest.raises(kind) as caught:
        call()
    assert message in str(caught.value)


# ------------------------------------------------------------------------------------------------- what is accepted


@pytest.mark.parametrize("dtype", [*DTYPES, "int8", "uint8", "int64", ">f4", ">f8"])
def test_numbers_of_any_kind_are_read_as_what_they_are(dtype: str) -> None:
    kind = FORMATS[dtype].dtype if dtype in FORMATS else np.dtype(dtype)
    logits = np.array([[3, 1, 2], [0, 5, 1]]).astype(kind)
    got = truth(logits, [0, 2], weight=np.array([1, 2, 0]).astype(kind), upstream=np.array([2, 3]).astype(kind))
    want = truth([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]], [0, 2], weight=[1.0, 2.0, 0.0], upstream=[2.0, 3.0])
    assert numbers(got) == numbers(want)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int32", "uint64", ">i4"])
def test_labels_of_any_integer_type(kind: str) -> None:
    assert numbers(truth(Z * 3, np.array([0, 2, 1]).astype(kind))) == numbers(truth(Z * 3, [0, 2, 1]))
    ignored = truth(Z * 3, np.array([0, 2, 1]).astype(kind), ignore_index=2)
    assert ignored.loss_hi[1] == 0
    assert ignored.loss_hi[0] > 0


def test_probabilities_may_be_integers() -> None:
    assert numbers(truth(Z, [[0, 1, 0]])) == numbers(truth(Z, [1]))


def test_scalars_of_any_kind() -> None:
    for eighth in (0.125, np.float32(0.125), np.array(0.125), FORMATS["bfloat16"].dtype.type(0.125)):
        assert numbers(truth(Z, [1], label_smoothing=eighth)) == numbers(truth(Z, [1], label_smoothing=0.125))
    assert truth(Z, [1], ignore_index=np.int8(1)).loss_hi[0] == 0
    assert truth(Z, [1], ignore_index=2**70).loss_hi[0] > 0


def test_options_that_are_none_are_not_given() -> None:
    plain = truth(Z, [1])
    assert numbers(truth(Z, [1], weight=None, label_smoothing=None, ignore_index=None, upstream=None)) == numbers(plain)
    binary = truth(Z, T, loss=BCE)
    assert numbers(truth(Z, T, loss=BCE, weight=None, pos_weight=None)) == numbers(binary)


def test_views_of_any_layout() -> None:
    wide = np.arange(24.0).reshape(4, 6) / 7
    assert numbers(truth(wide[::2, ::3], [0, 1])) == numbers(truth(wide[::2, ::3].copy(), [0, 1]))
    assert numbers(truth(wide.T, [0, 1, 2, 3, 0, 1])) == numbers(truth(wide.T.copy(), [0, 1, 2, 3, 0, 1]))
    same = np.broadcast_to(np.array([1.0, 2.0]), (3, 2))
    assert numbers(truth(same, [0, 1, 0])) == numbers(truth(same.copy(), [0, 1, 0]))


def test_upstream_may_be_one_number() -> None:
    assert numbers(truth(Z * 2, [0, 1], upstream=-3.0)) == numbers(truth(Z * 2, [0, 1], upstream=[-3.0, -3.0]))
    row, column = truth(Z, T, loss=BCE, weight=0.5), truth(Z, T, loss=BCE, weight=[[0.5]])
    assert numbers(row) == numbers(column) == numbers(truth(Z, T, loss=BCE, weight=np.full((1, 3), 0.5)))


def test_the_losses_are_found_by_name() -> None:
    assert list(LOSSES) == ["cross_entropy", BCE, "linear_cross_entropy"]
    for name, loss in LOSSES.items():
        assert loss_named(name) is loss
        assert loss.output_shape(np.zeros((2, 3))) == ((2, 3) if loss.elementwise else (2,))


def test_exact_reals() -> None:
    assert as_exact_reals("x", [1, 2]).dtype == np.float64
    assert as_exact_reals("x", np.zeros((0, 3), np.int8)).shape == (0, 3)
    assert as_exact_reals("x", [NAN, INF])[1] == INF
    assert as_exact_real("x", 2**53) == 2.0**53
    with pytest.raises(ValueError, match="x: inf is not finite"):
        as_exact_reals("x", [1.0, INF, NAN], finite=True)


# --------------------------------------------------------------------------------------------- cross-entropy: meaning


def test_the_row_loss_and_gradient_of_the_formulas() -> None:
    weight, q, epsilon = np.array([0.5, 2.0, 3.0]), np.array([0.25, 0.5, 0.75]), 0.125
    t = weight * ((1 - epsilon) * q + epsilon / 3)
    normaliser = np.log(np.exp(Z[0]).sum())
    got = truth(Z, [q], weight=weight, label_smoothing=epsilon, upstream=[-2.0])
    assert got.loss_hi == pytest.approx((t * (normaliser - Z[0])).sum(), rel=1e-13)
    assert got.grad_hi[0] == pytest.approx(-2 * (t.sum() * SOFTMAX - t), rel=1e-13)


def test_an_index_is_a_one_hot_distribution() -> None:
    for options in (
        {},
        {"weight": [0.3, 0.1, 7.0]},
        {"label_smoothing": 0.1},
        {"weight": [0.3, 0.1, 7], "label_smoothing": 1.0},
    ):
        assert numbers(truth(Z, [2], **options)) == numbers(truth(Z, [[0.0, 0.0, 1.0]], **options))


def test_an_ignored_row_counts_for_nothing_whatever_it_holds() -> None:
    logits = [[1.0, 2.0], [NAN, INF], [-INF, -INF], [1.0, 2.0]]
    got = truth(logits, [1, -100, -100, 0])
    assert got.loss_hi[1:3].tolist() == [0.0, 0.0]
    assert not got.grad_hi[1:3].any()
    alone = truth([logits[0], logits[3]], [1, 0])
    for reduction in ("mean", "sum"):
        mine, theirs = got.reduced(reduction, -2.0), alone.reduced(reduction, -2.0)
        assert (mine.loss_hi, mine.loss_lo) == (theirs.loss_hi, theirs.loss_lo)
        assert mine.grad_hi.tolist() == [theirs.grad_hi[0].tolist(), [0.0, 0.0], [0.0, 0.0], theirs.grad_hi[1].tolist()]


def test_the_ignored_index_may_be_a_class() -> None:
    got = truth(Z * 2, [1, 0], ignore_index=1)
    assert got.loss_hi[0] == 0
    assert got.loss_hi[1] == truth(Z, [0]).loss_hi[0]


UNDEFINED = {"NaN": [NAN, 1.0, 2.0], "+inf": [INF, 1.0, 2.0], "two +inf": [INF, INF, 0.0], "all masked": [-INF] * 3}


@pytest.mark.parametrize("target", [[1], [[0.0, 1.0, 0.0]], [[0.0, 0.0, 0.0]]], ids=["index", "soft", "no mass"])
@pytest.mark.parametrize("name", UNDEFINED)
def test_rows_without_a_loss_are_nan(name: str, target: Any) -> None:
    got = truth([UNDEFINED[name]], target)
    assert np.isnan(got.loss_hi).all()
    assert np.isnan(got.grad_hi).all()
    assert not got.loss_lo.any()
    assert not got.grad_lo.any()


@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_target_that_is_not_finite_gives_nan(bad: float) -> None:
    got = truth(Z, [[0.0, bad, 1.0]])
    assert np.isnan(got.loss_hi).all()
    assert np.isnan(got.grad_hi).all()


def test_a_row_without_a_loss_leaves_the_others_alone() -> None:
    got = truth([[NAN, 1.0, 2.0], *Z], [0, 1])
    assert np.isnan(got.grad_hi[0]).all()
    assert got.grad_hi[1].tolist() == truth(Z, [1]).grad_hi[0].tolist()


def test_a_masked_class_is_not_there() -> None:
    got, without = truth([[1.0, -INF, 2.0, 3.0]], [0]), truth(Z, [0])
    assert got.loss_hi[0] == without.loss_hi[0]
    assert np.delete(got.grad_hi[0], 1).tolist() == without.grad_hi[0].tolist()
    assert got.grad_hi[0, 1] == 0
    soft = truth([[1.0, -INF, 2.0, 3.0]], [[0.5, 0.0, 0.25, 0.25]])
    assert soft.loss_hi[0] == truth(Z, [[0.5, 0.25, 0.25]]).loss_hi[0]
    assert soft.grad_hi[0, 1] == 0


@pytest.mark.parametrize(
    ("target", "options", "t"),
    [
        ([1], {}, [0, 1, 0, 0]),
        ([1], {"weight": [1.0, 3.0, 1.0, 1.0]}, [0, 3, 0, 0]),
        ([[0.5, 0.25, 0.25, 0.0]], {}, [0.5, 0.25, 0.25, 0]),
        ([0], {"label_smoothing": 0.5}, [0.625, 0.125, 0.125, 0.125]),
    ],
    ids=["index", "weighted", "soft", "smoothing"],
)
def test_a_target_on_a_masked_class_costs_infinity(target: Any, options: Any, t: list[float]) -> None:
    got = truth([[1.0, -INF, 2.0, 3.0]], target, **options)
    assert got.loss_hi[0] == INF
    assert got.loss_lo[0] == 0
    p = np.insert(SOFTMAX, 1, 0.0)
    assert got.grad_hi[0] == pytest.approx(sum(t) * p - np.array(t), rel=1e-13, abs=1e-16)
    assert got.grad_hi[0, 1] == -t[1]


def test_a_weight_of_zero_takes_the_mass_off_a_masked_class() -> None:
    got = truth([[1.0, -INF, 2.0]], [1], weight=[1.0, 0.0, 1.0])
    assert got.loss_hi[0] == 0
    assert not got.grad_hi.any()
    smoothed = truth([[1.0, -INF, 2.0]], [0], weight=[1.0, 0.0, 1.0], label_smoothing=0.5)
    assert np.isfinite(smoothed.loss_hi[0])


def test_weights_that_are_all_zero() -> None:
    got = truth(Z * 2, [0, 1], weight=[0.0] * 3, label_smoothing=0.1)
    assert not got.loss_hi.any()
    assert not got.grad_hi.any()
    assert got.reduced("sum").loss_hi == 0
    assert np.isnan(got.reduced("mean").loss_hi)
    assert np.isnan(got.reduced("mean").grad_hi).all()
    assert truth(Z, T, weight=[0.0] * 3).reduced("mean").loss_hi == 0  # probabilities: divided by N


def test_no_target_mass_no_loss() -> None:
    got = truth(Z, [[0.0, 0.0, 0.0]])
    assert got.loss_hi[0] == 0
    assert not got.grad_hi.any()


def test_what_a_mean_divides_by() -> None:
    weight = [0.5, 2.0, 0.25]
    assert truth(Z * 3, [0, 1, -100], weight=weight).problem.denominator() == Fraction(5, 2)
    assert truth(Z * 3, [0, 1, -100]).problem.denominator() == 2
    assert truth(Z * 3, [0, 1, 1], weight=weight, label_smoothing=0.3).problem.denominator() == Fraction(9, 2)
    assert truth(Z * 2, T * 2, weight=weight).problem.denominator() == 2
    assert truth(Z * 2, T * 2, loss=BCE, weight=0.5).problem.denominator() == 6
    assert truth(Z * 3, [0, 1, -100]).problem.counted.tolist() == [True, True, False]


# --------------------------------------------------------------------------------------- binary cross-entropy: meaning


def test_the_element_loss_and_gradient_of_the_formulas() -> None:
    x, t = np.array([[1.5, -2.0]]), np.array([[0.25, 1.0]])
    w, c = np.array([[0.5, 3.0]]), np.array([4.0, 0.1])
    sigma = 1 / (1 + np.exp(-x))
    got = truth(x, t, loss=BCE, weight=w, pos_weight=c, upstream=[[-2.0, 3.0]])
    assert got.loss_hi == pytest.approx(w * (c * t * np.log1p(np.exp(-x)) + (1 - t) * np.log1p(np.exp(x))), rel=1e-13)
    assert got.grad_hi == pytest.approx(
        np.array([[-2.0, 3.0]]) * w * ((1 - t) * sigma - c * t * (1 - sigma)), rel=1e-13
    )


@pytest.mark.parametrize(
    ("x", "t", "options", "loss", "gradient"),
    [
        (INF, 1.0, {}, 0.0, 0.0),
        (INF, 0.0, {}, INF, 1.0),
        (INF, 0.25, {"weight": 2.0}, INF, 1.5),
        (-INF, 0.0, {}, 0.0, 0.0),
        (-INF, 1.0, {"pos_weight": 3.0}, INF, -3.0),
        (-INF, 1.0, {"pos_weight": 0.0}, 0.0, 0.0),
        (INF, 0.0, {"weight": 0.0}, 0.0, 0.0),
        (NAN, 0.5, {}, NAN, NAN),
        (0.5, NAN, {}, NAN, NAN),
        (1e308, 0.0, {"weight": 1e308}, INF, 1e308),
    ],
)
def test_binary_at_infinity(x: float, t: float, options: Any, loss: float, gradient: float) -> None:
    got = truth([[x, 1.0]], [[t, 1.0]], loss=BCE, **options)
    assert np.array_equal(got.loss_hi[0, 0], loss, equal_nan=True)
    assert np.array_equal(got.grad_hi[0, 0], gradient, equal_nan=True)
    assert (got.loss_lo[0, 0], got.grad_lo[0, 0]) == (0.0, 0.0)
    assert np.isfinite(got.loss_hi[0, 1])


def test_binary_targets_of_the_logistic_function_cost_no_gradient_at_zero() -> None:
    got = truth([[0.0, 0.0]], [[0.5, 0.25]], loss=BCE, pos_weight=[1.0, 3.0])
    assert got.grad_hi.tolist() == [[0.0, 0.0]]
    assert got.loss_hi[0] == pytest.approx([np.log(2), 1.5 * np.log(2)])
