"""Bounds: the vectorised code against the published table written out literally (`slow_bounds`), and its edges."""

import math

import numpy as np
import pytest
import slow_bounds as slow
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mpf

from harness.arithmetic import Arithmetic, applicable_grades
from harness.bounds import gradient_bounds, loss_bounds, reduced_gradient_bounds, reduced_loss_bounds
from harness.formats import FORMATS, named
from harness.grades import Grade
from harness.reference import truth

CE, BCE = "cross_entropy", "binary_cross_entropy_with_logits"
ETA64 = 2.0**-1074
SIXTEENTHS = st.integers(0, 16).map(lambda k: k / 16)
UPSTREAM = st.sampled_from([-3.0, -1.0, 0.25, 0.375, 1.0, 2.5, 1024.0])


@st.composite
def formats(draw):
    """An input's dtype and an output's that the contract allows for it."""
    dtype = draw(st.sampled_from(list(FORMATS)))
    wider = {"float64": ["float64"], "float32": ["float32", "float64"]}.get(dtype, [dtype, "float32", "float64"])
    return dtype, draw(st.sampled_from(wider))


@st.composite
def logits(draw, dtype, rows, classes, masks=True):
    scale = draw(st.sampled_from([1e-30, 1.0, 1.0, 10.0, 30.0, 300.0, 3e4]))
    offset = draw(st.sampled_from([0.0, 0.0, -7.0, 100.0, 3e4]))
    value = st.floats(-1.0, 1.0).map(lambda x: offset + scale * x)
    entry = st.one_of(value, value, value, st.just(offset), *([st.just(-math.inf)] if masks else []))
    drawn = [[draw(entry) for _ in range(classes)] for _ in range(rows)]
    return named(dtype).round(drawn)


@st.composite
def cross_entropies(draw):
    """dtype, output, logits, target, upstream, options and t: no mass on a masked class."""
    dtype, output = draw(formats())
    n, v = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3, 5, 8]))
    smoothing = draw(st.sampled_from([0.0, 0.0, 0.0, 0.1, 1.0]))
    z = draw(logits(dtype, n, v, masks=not smoothing))
    options = {"label_smoothing": smoothing} if smoothing else {}
    weight = [1.0] * v
    if draw(st.booleans()):
        weight = draw(st.lists(st.sampled_from([0.0, 0.25, 1.0, 1.5, 3.0]), min_size=v, max_size=v))
        options["weight"] = named(dtype).round(weight)
    masked = np.isneginf(z.astype(np.float64))
    if draw(st.booleans()):
        q = np.array([[draw(SIXTEENTHS) for _ in range(v)] for _ in range(n)])
        for row in range(n):
            q[row, masked[row]] = 0.0
            if masked[row].all():
                z[row, 0] = 1
        target = named(dtype).round(q)
    else:
        target = np.array([draw(st.integers(0, v - 1)) for _ in range(n)])
        z[np.arange(n), target] = np.where(masked[np.arange(n), target], z.dtype.type(1), z[np.arange(n), target])
        q = np.eye(v)[target]
        if draw(st.booleans()):
            options["ignore_index"] = int(draw(st.integers(0, v - 1)))
            q[target == options["ignore_index"]] = 0.0
    kept = q.any(axis=1) if target.ndim == 1 else np.ones(n, bool)
    t = [
        [
            (mpf(w) * ((1 - mpf(smoothing)) * mpf(x) + mpf(smoothing) / v)) if keep else mpf(0)
            for w, x in zip(weight, row, strict=True)
        ]
        for row, keep in zip(q.tolist(), kept, strict=True)
    ]
    upstream = named(dtype).round([draw(UPSTREAM) for _ in range(n)])
    return dtype, output, z, target, upstream, options, t


def agrees(bound, index, expected):
    """Whether a vectorised bound has the slow one's value and verdict, up to float64's rounding of it."""
    got = float(bound.value[index])
    assert got == pytest.approx(float(expected.value), rel=1e-9, abs=16 * ETA64)
    if expected.margin > 1e-9:
        assert bool(bound.vacuous[index]) == expected.vacuous


@settings(max_examples=150)
@given(case=cross_entropies())
def test_cross_entropy_bounds_are_the_table_s(case):
    dtype, output, z, target, upstream, options, t = case
    reference = truth(z, target, upstream=upstream, **options)
    losses = loss_bounds(reference, named(dtype), named(output))
    gradients = gradient_bounds(reference, named(dtype), named(output))
    assert tuple(losses) == tuple(gradients) == applicable_grades(named(dtype))
    for i, masses in enumerate(t):
        ignored = reference.problem.ignored[i]
        row = slow.Row([0.0] * z.shape[1] if ignored else z[i].tolist(), masses)
        for grade in losses:
            agrees(losses[grade], i, slow.loss_bound(row, grade, dtype, output))
            for j in range(z.shape[1]):
                expected = slow.gradient_bound(row, j, grade, dtype, output, float(upstream[i]))
                agrees(gradients[grade], (i, j), expected)


@settings(max_examples=80)
@given(case=cross_entropies(), reduction=st.sampled_from(["mean", "sum"]), scalar=UPSTREAM)
def test_reduced_bounds_are_the_table_s(case, reduction, scalar):
    dtype, output, z, target, _, options, t = case
    reference = truth(z, target, **options)
    reduced = reference.reduced(reduction, scalar)
    losses = reduced_loss_bounds(reference, reduced, reduction, named(dtype), named(output))
    gradients = reduced_gradient_bounds(reference, reduced, reduction, scalar, named(dtype), named(output))
    n = len(z)
    w = mpf(reference.problem.denominator().numerator) / reference.problem.denominator().denominator
    w = mpf(1) if reduction == "sum" else w
    ignored = reference.problem.ignored
    rows = [slow.Row([0.0] * z.shape[1] if ignored[i] else z[i].tolist(), x) for i, x in enumerate(t)]
    for grade in losses:
        c, u, _ = slow.arithmetic(grade, dtype)
        if w == 0:  # 0/0: truth is NaN, and no bound means anything
            assert losses[grade].vacuous
            assert gradients[grade].vacuous[[any(x) for x in t]].all()
            continue
        each = [slow.loss_bound(row, grade, dtype, output) for row in rows]
        total = sum(row.loss for row in rows)
        value = sum(b.value for b in each) / w + c * u * (n + 1) * total / w
        value += 2 * slow.U[output] * total / w + c * slow.ETA[output] / 2
        agrees(losses[grade], (), slow.Slow(value, any(b.vacuous for b in each), min(b.margin for b in each)))
        for i, row in enumerate(rows):
            for j in range(z.shape[1]):
                expected = slow.gradient_bound(row, j, grade, dtype, output, scalar / w, scalar)
                if reduction == "mean":
                    expected.value += c * u * (n + 1) * abs(scalar / w * row.gradient[j])
                agrees(gradients[grade], (i, j), expected)


@settings(max_examples=100)
@given(data=st.data(), form=formats())
def test_binary_bounds_are_the_table_s(data, form):
    dtype, output = form
    n, k = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))
    x = data.draw(logits(dtype, n, k, masks=False))
    t = named(dtype).round([[data.draw(SIXTEENTHS) for _ in range(k)] for _ in range(n)])
    factor = st.sampled_from([0.0, 0.5, 1.0, 3.0])
    weights = [named(dtype).round([data.draw(factor) for _ in range(k)]) for _ in range(2)]
    up = named(dtype).round([[data.draw(UPSTREAM) for _ in range(k)] for _ in range(n)])
    reference = truth(x, t, loss=BCE, upstream=up, weight=weights[0], pos_weight=weights[1])
    losses = loss_bounds(reference, named(dtype), named(output))
    gradients = gradient_bounds(reference, named(dtype), named(output))
    for i in range(n):
        for j in range(k):
            element = slow.Element(x[i, j], t[i, j], weights[0][j], weights[1][j])
            for grade in applicable_grades(named(dtype)):
                agrees(losses[grade], (i, j), element.loss_bound(grade, dtype, output))
                agrees(gradients[grade], (i, j), element.gradient_bound(grade, dtype, output, float(up[i, j])))


# -------------------------------------------------------------------------------------------------- values to look at


def test_the_one_hot_table_by_hand():
    """V = 2, z = [0, 0], y = 0, float32: L = log 2, p = 1/2, ℓ = log 2; every term can be written down."""
    u, loss, eta = 2.0**-24, math.log(2), 2.0**-149
    reference = truth(np.zeros((1, 2), np.float32), np.array([0]), upstream=np.array([-3.0], np.float32))
    loss_bound = loss_bounds(reference, named("float32"), named("float32"))
    floor = (2 + 4) * eta / 2
    assert loss_bound[Grade.RELATIVE].value[0] == pytest.approx(4 * u * (loss + 0.5 * 2) + 2 * u * loss + floor)
    assert loss_bound[Grade.ABSOLUTE].value[0] == pytest.approx(4 * u * (2 + loss) + 2 * u * loss + floor)
    gradient = gradient_bounds(reference, named("float32"), named("float32"))
    output = 4 * u * 1.5
    expected = 3 * 4 * u * 0.5 * (2 + loss) + output
    assert gradient[Grade.RELATIVE].value[0, 1] == pytest.approx(expected)
    assert gradient[Grade.RELATIVE].value[0, 0] == pytest.approx(3 * 4 * u * 0.5 * 2 + output)
    kappa = 4 * u * (2 + 2 * loss)
    assert gradient[Grade.ABSOLUTE].value[0].tolist() == pytest.approx(
        [3 * (0.5 * math.expm1(kappa) + 4 * u) + output, 3 * 0.5 * math.expm1(kappa) + output]
    )


def test_grades_of_each_format():
    assert applicable_grades(named("float32")) == (Grade.RELATIVE, Grade.ABSOLUTE)
    assert applicable_grades(named("bfloat16")) == (Grade.RELATIVE, Grade.ABSOLUTE, Grade.STORAGE)
    at = Arithmetic.at(Grade.ABSOLUTE, named("float16"))
    assert (at.constant, at.unit_roundoff, at.subnormal) == (4.0, 2.0**-24, 2.0**-149)
    at = Arithmetic.at(Grade.STORAGE, named("float16"))
    assert (at.constant, at.unit_roundoff, at.subnormal) == (2.0, 2.0**-11, 2.0**-24)


@pytest.mark.parametrize("classes", [1, 2, 3, 1000])
def test_a_sum_may_be_off_by_its_terms_or_by_their_logarithm(classes):
    at = {grade: Arithmetic.at(grade, named("float16")).sum_growth(classes) for grade in (*Grade,)[1:4]}
    assert at[Grade.ABSOLUTE] == classes
    assert at[Grade.RELATIVE] == at[Grade.STORAGE] == math.log2(classes)


@pytest.mark.parametrize("gap", [20.0, 50.3, 300.7, 700.1])
def test_a_confident_target_s_own_entry_keeps_the_conditioning_of_the_rest(gap):
    """Σ_{i≠y} p_i(…) is far below the rounding of p_y(…): taken away from the whole it would be 0 or noise."""
    for target in (np.array([0]), np.array([[1.0, 0, 0, 0, 0, 0]]), np.array([[0.5, 0.1, 0.1, 0.1, 0.1, 0.1]])):
        z = np.array([[gap, 0.1, 0.2, 0.3, 0.4, 0.5]])
        row = slow.Row(z[0].tolist(), [mpf(float(x)) for x in (np.eye(6)[0] if target.ndim == 1 else target[0])])
        bound = gradient_bounds(truth(z, target), named("float64"), named("float64"))[Grade.RELATIVE]
        expected = slow.gradient_bound(row, 0, "relative", "float64", "float64", 1.0)
        assert bound.value[0, 0] == pytest.approx(float(expected.value), rel=1e-9)


def test_a_long_soft_row_agrees_with_the_literal_sums():
    """More classes than the code takes one by one: prefix sums over the sorted row, with ties and masks."""
    rng = np.random.default_rng(5)
    z = np.round(rng.standard_normal(60) * 8, 1)
    z[7:10] = z.max()
    q = rng.integers(0, 5, 60) / 64
    z[3], q[3] = -np.inf, 0.0
    row = slow.Row(z.tolist(), [mpf(x) for x in q.tolist()])
    reference = truth(z[None], q[None])
    bounds = gradient_bounds(reference, named("float64"), named("float64"))
    for j in range(60):
        agrees(bounds[Grade.RELATIVE], (0, j), slow.gradient_bound(row, j, "relative", "float64", "float64", 1.0))


# --------------------------------------------------------------------------------------------------------------- edges


def both(reference, dtype="float32", output=None):
    output = output or dtype
    return (
        loss_bounds(reference, named(dtype), named(output)),
        gradient_bounds(reference, named(dtype), named(output)),
    )


def test_logits_too_large_for_the_arithmetic_are_vacuous_and_not_before():
    def vacuous(size, dtype, grade):
        z = named(dtype).round([[size + 1, size]])
        loss, gradient = both(truth(z, np.array([0])), dtype)
        return bool(loss[grade].vacuous[0]), bool(gradient[grade].vacuous[0, 0])

    assert vacuous(1e8, "float32", Grade.ABSOLUTE) == (True, True)
    assert vacuous(1e8, "float32", Grade.RELATIVE) == (False, False)
    assert vacuous(1e5, "float32", Grade.ABSOLUTE) == (False, False)
    assert vacuous(100.0, "bfloat16", Grade.STORAGE) == (True, True)
    assert vacuous(100.0, "bfloat16", Grade.ABSOLUTE) == (False, False)
    assert vacuous(10.0, "bfloat16", Grade.STORAGE) == (False, False)


def test_a_large_loss_is_judged_for_its_size():
    """A loss of 1e9 is known to about 1e3 in float32: a kernel that returns 0 there must not slip through."""
    loss, gradient = both(truth(np.array([[0.0, -1e9]], np.float32), np.array([1])))
    assert not loss[Grade.ABSOLUTE].vacuous[0]
    assert loss[Grade.ABSOLUTE].value[0] < 1e9 / 1e5
    assert not gradient[Grade.ABSOLUTE].vacuous[0].any()


def test_classes_masked_by_a_large_negative_number_are_judged_to_be_zero():
    loss, gradient = both(truth(np.array([[1.0, 2.0, -1e30]], np.float32), np.array([0])))
    assert not gradient[Grade.ABSOLUTE].vacuous[0, 2]
    assert gradient[Grade.ABSOLUTE].value[0, 2] < 1e-44
    assert not loss[Grade.ABSOLUTE].vacuous[0]


def test_ignored_rows_are_exact_whatever_they_hold():
    z = np.array([[1.0, 2.0], [np.nan, 1.0], [np.inf, -np.inf]], np.float32)
    for bounds in both(truth(z, np.array([0, -100, -100]))):
        for bound in bounds.values():
            assert not bound.vacuous.any()
            assert (bound.value[1:] <= 4 * 2.0**-149).all()


def test_rows_without_weight_have_only_the_floor():
    loss, gradient = both(truth(np.array([[3.0, -2.0]], np.float32), np.array([1]), weight=np.array([1.0, 0.0])))
    for bound in (*loss.values(), *gradient.values()):
        assert not bound.vacuous.any()
        assert (bound.value == 2 * 2.0**-149).all()


@pytest.mark.parametrize("row", [[np.nan, 1.0], [np.inf, 1.0], [-np.inf, -np.inf], [-np.inf, 1.0]])
def test_where_truth_is_not_finite_nothing_is_said(row):
    reference = truth(np.array([row]), np.array([0]))
    loss, gradient = both(reference, "float64")
    for grade in loss:
        assert loss[grade].vacuous[0]
        assert gradient[grade].vacuous[0].all() == np.isnan(reference.grad_hi).all()


@pytest.mark.parametrize(("x", "t"), [(np.inf, 1.0), (-np.inf, 0.0)])
def test_an_infinite_logit_with_its_own_target_has_loss_zero_and_is_judged(x, t):
    loss, gradient = both(truth(np.array([[x]]), np.array([[t]]), loss=BCE), "float64")
    for grade in loss:
        assert not loss[grade].vacuous[0, 0]
        assert loss[grade].value[0, 0] < 1e-14
        assert not gradient[grade].vacuous[0, 0]


def test_an_infinite_logit_against_its_target_has_an_infinite_loss_that_no_bound_is_about():
    loss, _ = both(truth(np.array([[np.inf]]), np.array([[0.0]]), loss=BCE), "float64")
    assert all(bound.vacuous[0, 0] for bound in loss.values())


def test_a_mean_with_a_large_denominator_may_still_round_to_a_subnormal():
    """Rows' floors shrink with W; the last division and the conversion round to the output's spacing all the same."""
    z = named("float16").round([[14.5, 0.0]] * 4)
    reference = truth(z, np.array([0] * 4), weight=named("float16").round([1000.0, 1.0]))
    reduced = reference.reduced("mean")
    bounds = reduced_loss_bounds(reference, reduced, "mean", named("float16"), named("float16"))
    rounded = float(np.float16(reduced.loss_hi))
    assert abs(rounded - reduced.loss_hi) > 2.0**-28
    assert abs(rounded - reduced.loss_hi) <= bounds[Grade.RELATIVE].value


@pytest.mark.parametrize("upstream", [-6.0, 0.3])
def test_the_gradient_of_a_mean_may_be_stored_before_the_upstream_gradient_multiplies_it(upstream):
    rng = np.random.default_rng(5)
    logits = (rng.standard_normal((64, 10)) * 4).astype(np.float16)
    reference = truth(logits, rng.integers(0, 10, 64))
    reduced = reference.reduced("mean", upstream)
    stored = reference.reduced("mean", 1.0).grad_hi.astype(np.float16)
    error = np.abs((stored * np.float16(upstream)).astype(float) - reduced.grad_hi)
    half = named("float16")
    bound = reduced_gradient_bounds(reference, reduced, "mean", upstream, half, half)[Grade.STORAGE]
    assert not bound.vacuous.any()
    assert (error <= bound.value).all()
    if abs(upstream) > 1:  # with room for what is stored after the multiplication alone it would not be
        alone = Arithmetic.at(Grade.STORAGE, half)
        scale = np.full(64, upstream / 64)
        assert (error > reference.problem.gradient_bound(alone, half, reduced.grad_hi, scale).value).any()


def test_an_empty_batch_has_empty_bounds():
    reference = truth(np.zeros((0, 3)), np.zeros(0, np.int64))
    for bounds in both(reference, "float64"):
        for bound in bounds.values():
            assert bound.value.size == bound.vacuous.size == 0


@pytest.mark.parametrize("dtype", list(FORMATS))
def test_flushing_raises_the_floor_to_a_normal_number_and_nothing_else(dtype):
    fmt = named(dtype)
    reference = truth(fmt.round([[0.0, -1.0, -2.0]]), np.array([0]))
    plain = loss_bounds(reference, fmt, fmt)[Grade.ABSOLUTE]
    flushed = loss_bounds(reference, fmt, fmt, frozenset({dtype}))[Grade.ABSOLUTE]
    raised = (4 * fmt.smallest_normal + (3 * fmt.smallest_normal if fmt.bits > 16 else 0)) - (
        4 * fmt.smallest_subnormal / 2
    )
    assert flushed.value[0] - plain.value[0] == pytest.approx(raised, rel=1e-6, abs=2.0**-52 * plain.value[0])
