"""The judge: arrays in, grades out. Every way in which a value can be right, wrong, or beyond judgement."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.batch import Batch
from harness.bounds import gradient_bounds, loss_bounds
from harness.families import make_batch
from harness.formats import FORMATS, named
from harness.grades import Grade, Outcome
from harness.judge import judge
from harness.output import Output
from harness.reference import reference_of
from harness.witness import hexadecimal, witness

CE, BCE = "cross_entropy", "binary_cross_entropy_with_logits"
NAN, INF = float("nan"), float("inf")


def batch_of(logits, target, dtype="float32", loss=CE, upstream=None, **options):
    z = named(dtype).round(logits)
    target = np.asarray(target)
    shape = z.shape if loss == BCE else z.shape[:1]
    return Batch(
        loss=loss,
        logits=z,
        target=target if target.dtype.kind == "i" else named(dtype).round(target),
        upstream=named(dtype).round(np.ones(shape) if upstream is None else upstream),
        options={k: named(dtype).round(v) if isinstance(v, list) else v for k, v in options.items()},
        family="by_hand",
        seed=3,
    )


def right(batch, output=None):
    """The truth, rounded."""
    fmt = named(output or batch.format.arithmetic.name)
    reference = reference_of(batch)
    return Output(loss=fmt.round(reference.loss_hi), gradient=batch.format.round(reference.grad_hi))


def judged(batch, output, **reduced):
    return judge(batch, reference_of(batch), output, **reduced)


def with_loss(batch, *values):
    return Output(loss=np.array(values).astype(right(batch).loss.dtype), gradient=None)


ORDINARY = batch_of([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0]], [0, 1], upstream=[-3.0, 0.5])


@pytest.mark.parametrize("dtype", list(FORMATS))
@pytest.mark.parametrize("family", ["moderate_8", "wide", "masked", "format_maximum", "option_weight", "soft_targets"])
def test_rounded_truth_is_faithful(family, dtype):
    batch = make_batch(family, CE, dtype, 0)
    for what, judgement in judged(batch, right(batch)).items():
        assert judgement.what == what
        assert judgement.outcome is Outcome.PASSED
        assert judgement.grade is Grade.FAITHFUL
        assert judgement.judged == judgement.rows == len(batch.logits)
        assert judgement.max_ulp <= 0.5
        assert judgement.max_bound_ratio <= 0.5
        assert (judgement.nonfinite, judgement.negative, judgement.detail) == (0, 0, "")


def test_each_grade_is_the_best_whose_bound_holds_the_error():
    """One value pushed from bound to bound: just inside of each, and just outside of the last."""
    batch = batch_of([[3.0, 0.0, 0.0]], [0], "bfloat16")
    reference = reference_of(batch)
    bounds = loss_bounds(reference, named("bfloat16"), named("float32"))
    exact = reference.loss_hi[0]
    found = {}
    for grade, bound in bounds.items():
        for share in (0.95, 1.05):
            got = np.float32(exact + share * bound.value[0])
            found[grade, share] = judged(batch, with_loss(batch, got))["loss"].grade
    assert found == {
        (Grade.RELATIVE, 0.95): Grade.RELATIVE,
        (Grade.RELATIVE, 1.05): Grade.ABSOLUTE,
        (Grade.ABSOLUTE, 0.95): Grade.ABSOLUTE,
        (Grade.ABSOLUTE, 1.05): Grade.STORAGE,
        (Grade.STORAGE, 0.95): Grade.STORAGE,
        (Grade.STORAGE, 1.05): Grade.INACCURATE,
    }


def test_the_grade_is_the_worst_value_s_and_the_figures_are_those_of_the_largest_error():
    reference = reference_of(ORDINARY)
    absolute = loss_bounds(reference, named("float32"), named("float32"))[Grade.ABSOLUTE].value[1]
    output = right(ORDINARY)
    loss = output.loss.copy()
    loss[1] = np.float32(reference.loss_hi[1] + 2 * absolute)
    judgement = judged(ORDINARY, dataclasses.replace(output, loss=loss))["loss"]
    error = abs(float(loss[1]) - reference.loss_hi[1])
    assert judgement.grade is Grade.INACCURATE
    assert judgement.outcome is Outcome.PASSED  # whether the grade suffices is the caller's business
    assert judgement.grades.tolist() == [Grade.FAITHFUL.rank, Grade.INACCURATE.rank]
    assert judgement.max_abs == pytest.approx(error)
    assert judgement.max_rel == pytest.approx(error / reference.loss_hi[1])
    assert judgement.max_ulp == pytest.approx(error / 2.0**-22)
    assert judgement.max_bound_ratio == judgement.bound_ratios["absolute"] == pytest.approx(2, rel=0.05)
    assert judgement.witness["row"] == 1
    assert judgement.witness["got"] == float(loss[1]).hex()
    assert float.fromhex(judgement.witness["want"]) == reference.loss_hi[1]


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_nonfinite_value_is_inaccurate_everywhere(value):
    for size in (1.0, 1e8):  # at 1e8 the bound is vacuous: no excuse
        batch = batch_of([[size, size]], [0])
        judgement = judged(batch, with_loss(batch, value))["loss"]
        assert judgement.outcome is Outcome.NONFINITE
        assert judgement.grade is Grade.INACCURATE
        assert judgement.nonfinite == 1
        assert judgement.judged == 1
        assert judgement.max_ulp is None
        assert judgement.witness["got"] == hexadecimal(value)


def test_a_hidden_nan_is_inaccurate_and_a_shown_one_right():
    batch = batch_of([[NAN, 1.0], [0.0, 1.0]], [0, 0])
    good = right(batch)
    assert judged(batch, good)["loss"].grade is Grade.FAITHFUL
    hidden = judged(batch, with_loss(batch, 0.5, float(good.loss[1])))["loss"]
    assert (hidden.outcome, hidden.grade, hidden.nonfinite) == (Outcome.NONFINITE, Grade.INACCURATE, 1)
    assert hidden.witness["want"] == "nan"


def test_overflow_is_right_where_the_truth_rounds_to_infinity():
    """float16, [32768, −40000]: a loss of 72768 is beyond its range; 65440 is not."""
    beyond = batch_of([[32768.0, -40000.0]], [1], "float16")
    assert judged(beyond, Output(loss=np.array([INF], np.float16)))["loss"].grade is Grade.FAITHFUL
    assert judged(beyond, Output(loss=np.array([65504.0], np.float16)))["loss"].grade is Grade.INACCURATE
    inside = batch_of([[30000.0, -30000.0]], [1], "float16")
    assert judged(inside, Output(loss=np.array([INF], np.float16)))["loss"].outcome is Outcome.NONFINITE
    edge = batch_of([[32768.0, -32704.0]], [1], "float16")  # 65472, 48 below the threshold: less than 2u_o L = 64
    judgement = judged(edge, Output(loss=np.array([INF], np.float16)))["loss"]
    assert judgement.nonfinite == 0
    assert judgement.grade.meets(Grade.RELATIVE)


def test_opposite_infinity_is_never_right():
    batch = batch_of([[32768.0, -40000.0]], [1], "float16")
    assert judged(batch, Output(loss=np.array([-INF], np.float16)))["loss"].outcome is Outcome.NONFINITE


# ------------------------------------------------------------------------------------------------------------- vacuous


def test_what_no_bound_is_about_is_not_judged():
    """float32 at 1e8 with a loss of log 2: a kernel that cancels may return 0 or 8, and says nothing either way.

    At `relative` a bound exists, and is missed: the value is as good as `absolute` at most.
    """
    batch = batch_of([[1e8, 1e8]], [0])
    for got in (0.0, 8.0):
        assert judged(batch, with_loss(batch, got))["loss"].grade is Grade.ABSOLUTE
    wide = batch_of([[1e8, 1e8, 1e8]], [[0.5, 0.5, 0.0]], "bfloat16")
    bounds = gradient_bounds(reference_of(wide), named("bfloat16"), named("bfloat16"))
    assert bounds[Grade.STORAGE].vacuous[0, 0]


def test_nothing_judged_at_all():
    batch = batch_of([[-INF, 1.0]], [0])  # the target is masked: conventions differ, and no bound is about infinity
    judgement = judged(batch, with_loss(batch, 3.0))["loss"]
    assert judgement.outcome is Outcome.NOT_JUDGED
    assert judgement.grade is None
    assert (judgement.rows, judgement.judged) == (1, 0)
    assert judgement.witness is None
    assert judgement.grades.tolist() == [-1]


@pytest.mark.parametrize("level", [0.0, 100.0])
def test_a_miss_at_a_better_grade_counts_though_the_next_is_vacuous(level):
    """bfloat16 logits of 100: `storage` says nothing there, but `absolute` does, and may be what is asked for."""
    batch = batch_of([[level + 1, level, level]], [0], "bfloat16")
    off = float(reference_of(batch).loss_hi[0]) + 0.25
    judgement = judged(batch, with_loss(batch, off))["loss"]
    assert judgement.judged == 1
    assert not judgement.grade.meets(Grade.ABSOLUTE)
    assert judgement.grade is (Grade.STORAGE if level else Grade.INACCURATE)
    assert judgement.max_bound_ratio > 100


def test_a_loss_below_zero_is_wrong_where_nothing_else_can_be_said():
    batch = batch_of([[1e8, 1e8]], [0])
    judgement = judged(batch, with_loss(batch, -8.0))["loss"]
    assert judgement.grade is Grade.INACCURATE
    assert judgement.negative == 1
    assert judgement.witness["got"] == (-8.0).hex()
    # With smoothing, ℓ − Σ t_j z_j is a right form that may round to less than zero there.
    smooth = batch_of([[1e8, 1e8]], [0], label_smoothing=0.25)
    judgement = judged(smooth, with_loss(smooth, -8.0))["loss"]
    assert judgement.grade is Grade.ABSOLUTE
    assert judgement.negative == 1


@pytest.mark.parametrize(
    ("gradient", "grade"),
    [
        ([-1.0, 1.0], Grade.ABSOLUTE),  # p = 1 in place of 1/2: the sum may have lost everything
        ([0.0, 0.0], Grade.ABSOLUTE),
        ([-1.0, -0.5], Grade.INACCURATE),  # a probability below 0
        ([0.5, 0.5], Grade.INACCURATE),  # the target pushed away
        ([-1.0, 2.0], Grade.INACCURATE),  # a probability of 2
        ([-1e30, 1.0], Grade.INACCURATE),
    ],
)
@pytest.mark.parametrize("upstream", [1.0, -2.5])
def test_a_probability_outside_its_range_is_wrong_where_nothing_else_can_be_said(gradient, grade, upstream):
    batch = batch_of([[1e8, 1e8]], [0], upstream=[upstream])
    output = Output(loss=right(batch).loss, gradient=np.array([gradient], np.float32) * np.float32(upstream))
    judgement = judged(batch, output)["gradient"]
    assert judgement.grade is grade
    for reduction, scale in (("sum", -3.0), ("mean", -3.0)):
        reduced = Output(
            loss=np.float32(0.7) * np.ones(()), gradient=np.array([gradient], np.float32) * np.float32(scale)
        )
        assert judged(batch, reduced, reduction=reduction, upstream=scale)["gradient"].grade is grade


def test_the_range_of_a_weighted_row_is_its_weight():
    batch = batch_of([[1e8, 1e8], [1e8, 1e8]], [0, -100], weight=[4.0, 1.0])
    for size, grade in ((4.0, Grade.ABSOLUTE), (7.0, Grade.INACCURATE)):
        gradient = np.array([[-size, size], [0, 0]], np.float32)
        assert judged(batch, Output(loss=right(batch).loss, gradient=gradient))["gradient"].grade is grade


# ---------------------------------------------------------------------------------------------------------------- form


@pytest.mark.parametrize(
    ("loss", "gradient", "what", "outcome", "detail"),
    [
        (np.zeros(3, np.float32), None, "loss", Outcome.WRONG_SHAPE, "expected shape [2], got [3]"),
        (np.zeros((2, 1), np.float32), None, "loss", Outcome.WRONG_SHAPE, "expected shape [2], got [2, 1]"),
        (np.zeros((), np.float32), None, "loss", Outcome.WRONG_SHAPE, "expected shape [2], got []"),
        (np.zeros(2, np.float16), None, "loss", Outcome.WRONG_DTYPE, "expected float32 or wider, got float16"),
        (np.zeros(2, np.int64), None, "loss", Outcome.WRONG_DTYPE, "expected float32 or wider, got int64"),
        (np.zeros(2, np.complex64), None, "loss", Outcome.WRONG_DTYPE, "expected float32 or wider, got complex64"),
        (None, np.zeros((3, 2), np.float32), "gradient", Outcome.WRONG_SHAPE, "expected shape [2, 3], got [3, 2]"),
        (None, np.zeros((2, 3), bool), "gradient", Outcome.WRONG_DTYPE, "expected float32 or wider, got bool"),
    ],
)
def test_wrong_forms_are_named(loss, gradient, what, outcome, detail):
    judgement = judged(ORDINARY, Output(loss=loss, gradient=gradient))[what]
    assert (judgement.outcome, judgement.grade, judgement.detail) == (outcome, Grade.INACCURATE, detail)
    assert (judgement.rows, judgement.judged) == (2, 0)


@pytest.mark.parametrize(
    ("dtype", "output", "accepted"),
    [
        ("float16", "float16", True),
        ("float16", "bfloat16", False),
        ("bfloat16", "float16", False),
        ("bfloat16", "float32", True),
        ("bfloat16", "float64", True),
        ("float16", "float64", True),
        ("float32", "float64", True),
        ("float64", "float32", False),
    ],
)
def test_output_dtypes(dtype, output, accepted):
    batch = batch_of([[2.0, -1.0, 0.5]], [0], dtype)
    judgement = judged(batch, right(batch, output))["loss"]
    assert judgement.outcome is (Outcome.PASSED if accepted else Outcome.WRONG_DTYPE)
    if accepted:
        assert judgement.grade is Grade.FAITHFUL
        assert len(judgement.bound_ratios) == (2 if dtype == "float32" else 3)


def test_no_gradient_no_judgement_of_it():
    assert list(judged(ORDINARY, with_loss(ORDINARY, *right(ORDINARY).loss.tolist()))) == ["loss"]


def test_an_empty_batch_is_not_judged():
    batch = batch_of(np.zeros((0, 4)), np.zeros(0, np.int64))
    for judgement in judged(batch, right(batch)).values():
        assert (judgement.outcome, judgement.rows, judgement.judged) == (Outcome.NOT_JUDGED, 0, 0)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reduced_outputs(reduction):
    batch = batch_of([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0]], [0, -100], weight=[1.5, 1.0, 1.0])
    reduced = reference_of(batch).reduced(reduction, -2.0)
    fmt = named("float32")
    output = Output(loss=fmt.round(reduced.loss_hi), gradient=fmt.round(reduced.grad_hi))
    for judgement in judged(batch, output, reduction=reduction, upstream=-2.0).values():
        assert judgement.grade is Grade.FAITHFUL
        assert judgement.rows == 2
    wrong = Output(loss=fmt.round(reduced.loss_hi * 1.5), gradient=fmt.round(reduced.grad_hi * -1))
    for judgement in judged(batch, wrong, reduction=reduction, upstream=-2.0).values():
        assert judgement.grade is Grade.INACCURATE
        assert judgement.max_bound_ratio > 1000


def test_masked_elements_of_the_binary_loss_are_judged():
    batch = batch_of([[INF, -INF, 1.0]], [[1.0, 0.0, 1.0]], loss=BCE)
    assert judged(batch, right(batch))["loss"].grade is Grade.FAITHFUL
    loss = right(batch).loss
    loss[0, 1] = 7.0
    assert judged(batch, Output(loss=loss))["loss"].grade is Grade.INACCURATE


def test_ignored_rows_that_held_nan_are_judged():
    batch = batch_of([[NAN, 1.0], [0.0, 1.0]], [-100, 1])
    good = right(batch)
    assert judged(batch, good)["gradient"].grade is Grade.FAITHFUL
    for leak in (0.25, NAN):
        gradient = good.gradient.copy()
        gradient[0, 1] = leak
        assert judged(batch, dataclasses.replace(good, gradient=gradient))["gradient"].grade is Grade.INACCURATE


@given(data=st.data())
def test_a_worse_value_never_gets_a_better_grade(data):
    """Along one direction, error up, grade down; and the judgement's grade is the worst of its values'."""
    dtype = data.draw(st.sampled_from(list(FORMATS)))
    batch = make_batch(data.draw(st.sampled_from(["moderate_8", "confident", "two_classes", "wide"])), CE, dtype, 0)
    reference = reference_of(batch)
    good = right(batch, "float64")
    steps = sorted(data.draw(st.lists(st.floats(0, 8), min_size=2, max_size=4)))
    previous = None
    for step in steps:
        loss = good.loss.astype(np.float64) * (1 + step) + step
        judgement = judge(batch, reference, Output(loss=loss))["loss"]
        ranks = judgement.grades
        assert judgement.grade.rank == ranks.max()
        if previous is not None:
            assert (ranks[previous >= 0] >= previous[previous >= 0]).all()
        previous = ranks


# ------------------------------------------------------------------------------------------------------------- witness


@pytest.mark.parametrize("value", [1.0, -0.0, 5e-324, 1e300, NAN, INF, -INF])
def test_hexadecimal_loses_nothing(value):
    assert float.fromhex(hexadecimal(value)).hex() == float(value).hex()


def test_a_witness_holds_the_whole_row_and_its_options():
    batch = batch_of([[2.0, -1.0], [0.5, -INF]], [1, 0], "bfloat16", weight=[1.0, 0.5], label_smoothing=0.1)
    found = witness(batch, 1, 0, 0.25, 0.5, 2.0**-80)
    assert found == {
        "family": "by_hand",
        "seed": 3,
        "row": 1,
        "column": 0,
        "dtype": "bfloat16",
        "classes": 2,
        "target": 0,
        "upstream": "0x1.0000000000000p+0",
        "got": "0x1.0000000000000p-2",
        "want": "0x1.0000000000000p-1",
        "want_low": "0x1.0000000000000p-80",
        "logits": ["0x1.0000000000000p-1", "-inf"],
        "options": {"weight": ["0x1.0000000000000p+0", "0x1.0000000000000p-1"], "label_smoothing": (0.1).hex()},
    }
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("soft", [False, True])
def test_a_witness_of_a_long_row_holds_what_matters(soft):
    z = np.linspace(-1.0, 0.0, 100)[None]
    target = np.full((1, 100), 1 / 128) if soft else np.array([7])
    found = witness(batch_of(z, target), 0, 50, 1.0, 2.0, 0.0)
    kept = {"50", "96", "97", "98", "99"} | (set() if soft else {"7"})
    assert set(found["logits"]) == kept
    assert found["logits"]["99"] == (0.0).hex()
    assert found["classes"] == 100
    assert found["target"] == (dict.fromkeys(sorted(kept, key=int), (1 / 128).hex()) if soft else 7)
    json.dumps(found, allow_nan=False)


def test_flushing_is_excused_and_said():
    batch = batch_of([[0.0, -95.0]], [0])
    flushed = Output(loss=np.zeros(1, np.float32), flushed=frozenset({"float32"}))
    strictly = judged(batch, dataclasses.replace(flushed, flushed=frozenset()))["loss"]
    excused = judged(batch, flushed)["loss"]
    assert strictly.grade is Grade.ABSOLUTE
    assert excused.grade is Grade.RELATIVE
    assert excused.detail == "flush_to_zero: 1 values are as good only where subnormal results are zero"
    assert judged(ORDINARY, dataclasses.replace(right(ORDINARY), flushed=frozenset({"float32"})))["loss"].detail == ""
