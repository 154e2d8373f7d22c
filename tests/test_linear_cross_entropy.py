"""The loss `linear_cross_entropy`: truth against Arb and differences, bounds on both sides, and who refuses it.

Largest ratios on the right side, over all its families and seeds 0 to 2: .19 of `absolute` in float32 and float64, .47
in 16 bits computed in float32, .36 of `storage`; .13 and .47 of `relative`. Smallest on the wrong side, each fault on
the families meant for it: 1,400 in float32, 18 in 16 bits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
from flint import arb, ctx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import implementations.numpy_linear_log1p as log1p_form
import implementations.torch_linear_cross_entropy as torch_forms
import implementations.torch_linear_then_cross_entropy as torch_calls
from harness import truth
from harness.accuracy import Request, run_accuracy
from harness.batch import Batch
from harness.bridges import bridge_for
from harness.families import families_for, make_batch
from harness.formats import DTYPES, FORMATS, named
from harness.grades import Grade
from harness.judge import judge
from harness.losses import linear_cross_entropy, loss_of_logits
from harness.losses.exact_products import Integers, dot, weighted_sums
from harness.output import Output
from harness.reference import Reference, reference_of
from harness.testing import parametrize_with_checks
from harness.witness import witness
from tests.arb_oracle import Claim, Row, Value, faults, real, total
from tests.commands import call
from tests.truth_cases import factors, numbers, rounded, upstreams

Array = np.ndarray[Any, Any]
LINEAR = "linear_cross_entropy"
FAMILIES = [entry.name for entry in families_for(LINEAR, "float32")]


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every number is computed here and now."""
    monkeypatch.setenv("XENT_CACHE", "off")


# --------------------------------------------------------------------------------------------------- truth, against Arb


class Layer:
    """A batch in Arb: logits are balls around h Wᵀ + b, and all else follows from the formulas."""

    def __init__(self, h: Array, w: Array, target: Array, options: dict[str, Any]) -> None:
        self.h, self.w = h.astype(np.float64).tolist(), w.astype(np.float64).tolist()
        self.bias = np.asarray(options.get("linear_bias", np.zeros(len(w)))).astype(np.float64).tolist()
        weight = options.get("weight")
        masses = None if weight is None else np.asarray(weight).astype(np.float64).tolist()
        smoothing, ignore = options.get("label_smoothing", 0.0), options.get("ignore_index", -100)
        zeros = [0.0] * len(w)
        if target.ndim == 1:
            rows = [Row(zeros, max(int(y), 0), (), masses, smoothing, bool(y == ignore)) for y in target]
        else:
            rows = [Row(zeros, -1, q.astype(np.float64).tolist(), masses, smoothing) for q in target]
        self.rows = rows

    def logits(self, n: int) -> list[Value]:
        products = [sum((arb(a) * arb(b) for a, b in zip(self.h[n], row, strict=True)), arb(0)) for row in self.w]
        return [product + arb(b) for product, b in zip(products, self.bias, strict=True)]

    def shifted(self, n: int) -> tuple[list[Value], Value]:
        """z - m for the middle of some class's ball m, and Σ exp(z - m)."""
        z = self.logits(n)
        high = max(z, key=lambda ball: ball.mid())
        d = [x - high for x in z]
        return d, sum((x.exp() for x in d), arb(0))

    def loss(self, n: int) -> Value:
        if self.rows[n].ignored:
            return arb(0)
        d, s = self.shifted(n)
        return sum((real(t) * (s.log() - x) for t, x in zip(self.rows[n].masses(), d, strict=True) if t), arb(0))

    def slopes(self, n: int) -> list[Value]:
        if self.rows[n].ignored:
            return [arb(0)] * len(self.w)
        d, s = self.shifted(n)
        masses = self.rows[n].masses()
        mass = real(sum(masses, Fraction(0)))
        return [mass * x.exp() / s - real(t) for x, t in zip(d, masses, strict=True)]

    def gradient(self, scales: list[Fraction]) -> list[list[Value]]:
        """[N + V, D]."""
        g = [[x * real(scale) for x in self.slopes(n)] for n, scale in enumerate(scales)]
        features = range(len(self.w[0]))
        hidden = [
            [sum((x * arb(row[d]) for x, row in zip(gn, self.w, strict=True)), arb(0)) for d in features] for gn in g
        ]
        projection = [
            [sum((g[n][v] * arb(self.h[n][d]) for n in range(len(g))), arb(0)) for d in features]
            for v in range(len(self.w))
        ]
        return hidden + projection


def gradient_claims(layer: Layer, hi: Array, lo: Array, scales: list[Fraction]) -> list[Claim]:
    known: dict[int, Any] = {}

    def entry(i: int, j: int) -> Value:
        if ctx.prec not in known:
            known[ctx.prec] = layer.gradient(scales)
        return known[ctx.prec][i][j]

    return [
        Claim(f"gradient[{i}, {j}]", float(hi[i, j]), float(lo[i, j]), lambda i=i, j=j: entry(i, j))
        for i, j in np.ndindex(hi.shape)
    ]


def claims(layer: Layer, reference: Reference, upstream: Array) -> list[Claim]:
    losses = [
        Claim(f"loss[{n}]", float(reference.loss_hi[n]), float(reference.loss_lo[n]), lambda n=n: layer.loss(n))
        for n in range(len(layer.h))
    ]
    scales = [Fraction(float(u)) for u in upstream]
    return losses + gradient_claims(layer, reference.grad_hi, reference.grad_lo, scales)


@st.composite
def layers(draw: st.DrawFn) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
    """Hidden states, projection, target, upstream and options of any format; products that cancel, ties, extremes."""
    fmt = FORMATS[draw(st.sampled_from(DTYPES))]
    n, v, d = draw(st.integers(1, 2)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    kind = draw(st.sampled_from(["any", "moderate", "cancelling", "equal rows"]))
    entry = numbers(fmt) if kind == "any" else st.floats(-4, 4)
    h = np.array([[draw(entry) for _ in range(d)] for _ in range(n)])
    w = np.array([[draw(entry) for _ in range(d)] for _ in range(v)])
    if kind == "cancelling" and d > 1:
        h[:, 1], w[:, 1] = h[:, 0], -w[:, 0] * (1 + 2.0 ** -draw(st.integers(3, 40)))
    elif kind == "equal rows":
        w[:] = w[0]
    options: dict[str, Any] = {}
    if draw(st.booleans()):
        target = rounded(fmt, [[draw(factors(fmt)) for _ in range(v)] for _ in range(n)])
    else:
        target = np.array([draw(st.integers(0, v - 1)) for _ in range(n)])
        if draw(st.booleans()):
            options["ignore_index"] = draw(st.sampled_from([-100, 0]))
            target[0] = options["ignore_index"]
    if draw(st.booleans()):
        options["weight"] = rounded(fmt, [draw(factors(fmt)) for _ in range(v)])
    if draw(st.booleans()):
        options["label_smoothing"] = draw(st.sampled_from([0.1, 1.0]))
    if draw(st.booleans()):
        options["linear_bias"] = rounded(fmt, [draw(entry) for _ in range(v)])
    up = rounded(fmt, [draw(upstreams(fmt)) for _ in range(n)])
    return rounded(fmt, h), rounded(fmt, w), target, up, options


short = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@short
@given(case=layers())
def test_truth_meets_the_contract_by_arb(case: Any) -> None:
    h, w, target, up, options = case
    reference = truth(h, target, loss=LINEAR, projection=w, upstream=up, **options)
    assert faults(claims(Layer(h, w, target, options), reference, up.astype(np.float64))) == []


@short
@given(case=layers(), reduction=st.sampled_from(["mean", "sum"]), scale=st.sampled_from([1.0, -2.5, 3e-300]))
def test_reduced_truth_meets_the_contract_by_arb(case: Any, reduction: str, scale: float) -> None:
    h, w, target, up, options = case
    reference = truth(h, target, loss=LINEAR, projection=w, upstream=up, **options)
    layer = Layer(h, w, target, options)
    divisor = reference.problem.denominator() if reduction == "mean" else Fraction(1)
    reduced = reference.reduced(reduction, scale)
    if divisor == 0:
        assert np.isnan(reduced.loss_hi)
        return
    losses = lambda: total([layer.loss(n) for n in range(len(h))], divisor)  # noqa: E731
    found = [Claim("loss", reduced.loss_hi, reduced.loss_lo, losses)]
    found += gradient_claims(layer, reduced.grad_hi, reduced.grad_lo, [Fraction(scale) / divisor] * len(h))
    assert faults(found) == []


# ------------------------------------------------------------------------------------- truth, by hand and by difference

SMALL = make_batch("linear_random", LINEAR, "float64", 4)
SMALL = replace(SMALL, logits=SMALL.logits[:3, :4], target=SMALL.target[:3] % 5, upstream=SMALL.upstream[:3])
SMALL = replace(SMALL, projection=None if SMALL.projection is None else SMALL.projection[:5, :4])


def total_loss(batch: Batch, h: Any, w: Any) -> Any:
    """Σ upstream_n loss_n, in mpmath, from the textbook formula."""
    found = mpmath.mpf(0)
    for n, y in enumerate(batch.target.tolist()):
        z = [mpmath.fsum(a * b for a, b in zip(h[n], row, strict=True)) for row in w]
        found += mpmath.mpf(float(batch.upstream[n])) * (mpmath.log(mpmath.fsum(map(mpmath.exp, z))) - z[y])
    return found


def test_the_gradients_are_the_differences_of_the_scaled_losses() -> None:
    reference, step = reference_of(SMALL), mpmath.mpf(2) ** -60
    assert SMALL.projection is not None
    assert reference.grad_hi.shape == SMALL.gradient_shape == (8, 4)
    with mpmath.workprec(300):
        stacked = [[mpmath.mpf(x) for x in row] for row in np.concatenate([SMALL.logits, SMALL.projection]).tolist()]
        for i, j in np.ndindex(8, 4):
            ends = []
            for sign in (1, -1):
                moved = [list(row) for row in stacked]
                moved[i][j] += sign * step
                ends.append(total_loss(SMALL, moved[:3], moved[3:]))
            slope = (ends[0] - ends[1]) / (2 * step)
            got = mpmath.mpf(float(reference.grad_hi[i, j])) + mpmath.mpf(float(reference.grad_lo[i, j]))
            # The difference is off by step² / 6 of a third derivative, less than 1000 here; the rest is the contract.
            assert abs(got - slope) < 1000 * step**2 + abs(slope) * mpmath.mpf(2) ** -90


def test_a_case_that_can_be_solved_by_hand() -> None:
    """z = (log 3, 0) by two features: p = (3/4, 1/4) but for the rounding of log 3, which the bias takes back."""
    log3 = float(np.log(3.0))
    found = truth([[1.0, 1.0]], [1], loss=LINEAR, projection=[[log3, 1.0], [1.0, 0.0]], linear_bias=[-1.0, -1.0])
    p = 1 / (1 + np.exp(-log3))
    assert found.loss_hi[0] == pytest.approx(np.log(4.0), rel=1e-15)
    np.testing.assert_allclose(found.grad_hi, [[p * (log3 - 1), p], [p, p], [-p, -p]], rtol=4e-16)


def test_logits_that_float64_has_no_room_for_are_exact() -> None:
    """1e300 · 1e300 − 1e300 · 1e300 + 2 · 1, in either class; and a gap of 1e600."""
    found = truth([[1e300, 1e300, 2.0]], [0], loss=LINEAR, projection=[[1e300, -1e300, 1.0], [0.0, 0.0, 2.0]])
    assert found.loss_hi[0] == pytest.approx(np.log1p(np.exp(2.0)))
    far = truth([[1e300]], [0], loss=LINEAR, projection=[[-1e300], [0.0]])
    assert (far.loss_hi[0], far.grad_hi[0, 0]) == (np.inf, 1e300)


def test_a_direction_that_no_class_is_told_by_has_gradient_zero() -> None:
    found = truth([[1.0, 0.3]], [0], loss=LINEAR, projection=[[0.1, 0.7], [2.0, 0.7], [-1.0, 0.7]])
    assert found.grad_hi[0, 1] == found.grad_lo[0, 1] == 0.0


def test_what_an_ignored_row_holds_is_nothing_to_anybody_and_a_nan_that_counts_is_to_all() -> None:
    w = [[1.0, 2.0], [0.5, -1.0]]
    alone = truth([[1.0, -1.0]], [1], loss=LINEAR, projection=w)
    ignored = truth([[np.nan, np.inf], [1.0, -1.0]], [-100, 1], loss=LINEAR, projection=w)
    assert (ignored.loss_hi[0], ignored.loss_hi[1]) == (0.0, alone.loss_hi[0])
    np.testing.assert_array_equal(ignored.grad_hi, np.concatenate([[[0.0, 0.0]], alone.grad_hi]))
    counted = truth([[np.nan, 1.0], [1.0, -1.0]], [0, 1], loss=LINEAR, projection=w)
    assert np.isnan(counted.loss_hi).tolist() == [True, False]
    assert np.isnan(counted.grad_hi).all(axis=1).tolist() == [True, False, True, True]


def test_a_mean_over_nothing_is_undefined_and_so_is_a_gradient_that_anything_flows_to() -> None:
    w = [[1.0], [0.5]]
    ignored = truth([[1.0]], [-100], loss=LINEAR, projection=w).reduced("mean")
    assert np.isnan(ignored.loss_hi)
    assert (ignored.grad_hi == 0).all()
    weightless = truth([[1.0]], [0], loss=LINEAR, projection=w, weight=[0.0, 1.0]).reduced("mean")
    assert np.isnan(weightless.grad_hi).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"projection": None}, "projection: linear_cross_entropy needs one"),
        ({"projection": [[1.0]]}, "expected [N, D] and [V, D] with V at least 1, got [1, 2] and [1, 1]"),
        ({"projection": [[1.0, np.inf]]}, "projection: inf is not finite"),
        ({"linear_bias": [1.0]}, "linear_bias: expected shape [2], got [1]"),
        ({"weight": [1.0]}, "weight: expected shape [2]"),
    ],
)
def test_what_is_not_a_layer_is_refused(changed: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"projection": [[1.0, 2.0], [0.5, -1.0]], **changed}
    with pytest.raises(ValueError, match=re.escape(message)):
        truth([[1.0, -1.0]], [1], loss=LINEAR, **given)


def test_other_losses_have_no_projection() -> None:
    with pytest.raises(TypeError, match="cross_entropy has no option 'projection'"):
        truth([[1.0]], [0], projection=[[1.0]])


@given(st.lists(st.tuples(numbers(FORMATS["float64"]), numbers(FORMATS["float64"])), min_size=1, max_size=5))
@short
def test_dot_products_are_exact(pairs: list[tuple[float, float]]) -> None:
    a, b = (Integers.of(np.array(column)) for column in zip(*pairs, strict=True))
    sign, man, exponent, _ = dot(a, b)
    got = Fraction(int(man)) * Fraction(2) ** exponent * (-1 if sign else 1)
    assert got == sum((Fraction(x) * Fraction(y) for x, y in pairs), Fraction(0))


def test_truth_notices_a_faulty_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks above can fail: logits rounded to float64, coefficients cut to 64 bits, rows taken for one another."""
    h = np.array([[1.0, 2.0**-53], [1.0, 1.0]])
    w, target, up = np.array([[1.0, 1.0], [0.5, 3.0]]), np.array([0, 1]), np.array([1.0, -2.0])

    def found() -> list[str]:
        reference = truth(h, target, loss=LINEAR, projection=w, upstream=up)
        return faults(claims(Layer(h, w, target, {}), reference, up))

    assert found() == []
    with monkeypatch.context() as patch:
        from harness import certified

        patch.setattr(linear_cross_entropy, "dot", lambda a, b: certified.exact(certified.split(dot(a, b))[0]))
        assert any(text.startswith("loss[0]") for text in found())
    with monkeypatch.context() as patch:
        patch.setattr(linear_cross_entropy, "weighted_sums", lambda c, s, a, prec: weighted_sums(c, s, a, prec - 128))
        assert any(text.startswith("gradient") for text in found())
    with monkeypatch.context() as patch:
        patch.setattr(linear_cross_entropy._Factor, "of_row", lambda self, row: self.numerators[0])
        assert any(text.startswith("gradient[2") for text in found())


# ------------------------------------------------------------------------------------------------ bounds, on both sides


def in_process(function: Callable[..., Any]) -> Callable[[Batch], Output]:
    implementation = function.__xent_implementation__  # type: ignore[attr-defined]
    bridge = bridge_for(implementation.declaration.framework)

    def style(batch: Batch) -> Output:
        returned = bridge.call(implementation, batch)
        return Output(returned.loss, returned.gradient)

    return style


def wide(batch: Batch) -> Batch:
    """The batch in the arithmetic that is expected of its format."""
    form = batch.format.arithmetic
    options = {k: form.round(v) if isinstance(v, np.ndarray) else v for k, v in batch.options.items()}
    target = form.round(batch.target) if batch.target.ndim == 2 else batch.target
    assert batch.projection is not None
    arrays = {name: form.round(getattr(batch, name)) for name in ("logits", "upstream", "projection")}
    return replace(batch, target=target, options=options, **arrays)


Change = Callable[[Batch, Array], Array]
"""Of a batch and an array (logits, gradient of the logits) what a fault makes of it."""


def by_hand(
    *, logits: Change | None = None, slopes: Change | None = None, for_projection: Change | None = None
) -> Callable[[Batch], Output]:
    """The log1p form in the arithmetic expected, unreduced, with one of its steps changed."""

    def style(batch: Batch) -> Output:
        x = wide(batch)
        assert x.projection is not None
        z = log1p_form._logits(x.logits, x.projection, x.options.get("linear_bias"))
        z = z if logits is None else logits(x, z)
        rest = {name: value for name, value in x.options.items() if name != "linear_bias"}
        loss = log1p_form.log1p_form.numpy_log1p(z, x.target, reduction="none", **rest)
        g = log1p_form.log1p_form._gradient(z, x.target, x.upstream, reduction="none", **rest)
        g = g if slopes is None else slopes(x, g)
        other = g if for_projection is None else for_projection(x, g)
        gradient = np.concatenate([g @ x.projection, other.T @ x.logits])
        return Output(batch.format.round(loss), batch.format.round(gradient))

    return style


def summed_one_by_one(batch: Batch, _: Array) -> Array:
    """Logits added up in one chain, the last feature first: the longest one of roundings."""
    assert batch.projection is not None
    z = np.zeros((len(batch.logits), batch.classes), dtype=batch.logits.dtype)
    for d in reversed(range(batch.logits.shape[1])):
        z = z + batch.logits[:, d : d + 1] * batch.projection[:, d]
    return z + batch.options.get("linear_bias", z.dtype.type(0))


def summed_in(name: str) -> Change:
    def change(batch: Batch, _: Array) -> Array:
        assert batch.projection is not None
        form, z = named(name), np.zeros((len(batch.logits), batch.classes))
        for d in range(batch.logits.shape[1]):
            z = form.round(z + batch.logits[:, d : d + 1] * batch.projection[:, d]).astype(np.float64)
        return np.asarray(z.astype(batch.logits.dtype))

    return change


def without_features(batch: Batch, _: Array) -> Array:
    assert batch.projection is not None
    whole = batch.logits.shape[1] // 32 * 32
    return np.asarray(batch.logits[:, :whole] @ batch.projection[:, :whole].T)


def without_classes(batch: Batch, z: Array) -> Array:
    masked = z.copy()
    masked[:, z.shape[1] // 128 * 128 :] = -1e4
    masked[np.arange(len(z)), batch.target] = z[np.arange(len(z)), batch.target]
    return masked


def thresholded(batch: Batch, g: Array) -> Array:
    """What cut cross-entropy does with ``filter_eps``, entry by entry: bfloat16's ε / 32."""
    return np.asarray(np.where(np.abs(g) < 2.0**-12, 0, g))


def upstream_of_the_first(batch: Batch, g: Array) -> Array:
    return np.asarray(g / batch.upstream[:, None] * batch.upstream[0])


def with_ignored_rows(batch: Batch, g: Array) -> Array:
    """Ignored rows add what their labels, taken for an index from the end, would owe."""
    changed = g.copy()
    changed[batch.target == batch.options["ignore_index"], -1] = -1.0
    return changed


RIGHT = {
    "torch whole": in_process(torch_forms.torch_linear_cross_entropy),
    "torch in chunks": in_process(torch_forms.torch_linear_cross_entropy_chunked),
    "torch, two calls": in_process(torch_calls.torch_linear_then_cross_entropy),
    "log1p": by_hand(),
    "log1p, one by one": by_hand(logits=summed_one_by_one),
}
WRONG = {
    "logits summed in bfloat16": (("linear_cancellation",), by_hand(logits=summed_in("bfloat16"))),
    "last block of features dropped": (("linear_partial_block",), by_hand(logits=without_features)),
    "last block of classes dropped": (("linear_partial_block",), by_hand(logits=without_classes)),
    "projection's gradient not scaled": (
        ("linear_random", "linear_near_ties"),
        by_hand(for_projection=upstream_of_the_first),
    ),
    "small gradients dropped": (("linear_confident", "linear_many_small"), by_hand(slopes=thresholded)),
    "ignored rows in the projection's gradient": (("linear_ignore_index",), by_hand(for_projection=with_ignored_rows)),
}


BY_ABSOLUTE = "small gradients dropped"
"""In 16 bits `storage` admits what is below half an ulp of one: other grades do not."""


def claimed(batch: Batch, name: str) -> bool:
    return name != "torch in chunks" or (batch.target.ndim == 1 and "label_smoothing" not in batch.options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RIGHT)
def test_right_code_stays_well_within(name: str, dtype: str) -> None:
    for family in FAMILIES:
        batch = make_batch(family, LINEAR, dtype, 0)
        if not claimed(batch, name):
            continue
        narrow = "storage" if batch.format.bits == 16 and name.startswith("torch") else "absolute"
        for what, judgement in judge(batch, reference_of(batch), RIGHT[name](batch)).items():
            told = f"{name}, {family}, {dtype}, {what}: {judgement.bound_ratios}"
            assert judgement.nonfinite == 0, told
            assert judgement.judged == judgement.rows, told
            assert judgement.bound_ratios[narrow] <= 0.75, told
            if name.startswith("log1p"):
                assert judgement.bound_ratios["relative"] <= 0.75, told


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", WRONG)
def test_wrong_code_is_far_beyond(name: str, dtype: str) -> None:
    families, style = WRONG[name]
    worst = 0.0
    for family in families:
        batch = make_batch(family, LINEAR, dtype, 0)
        gate = "storage" if batch.format.bits == 16 and name != BY_ABSOLUTE else "absolute"
        judged = judge(batch, reference_of(batch), style(batch))
        worst = max(worst, *(judgement.bound_ratios[gate] for judgement in judged.values()))
    assert worst > {"absolute": 100.0, "storage": 10.0}[gate]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_mean_that_counts_ignored_rows_is_far_beyond_and_the_right_one_within(dtype: str) -> None:
    batch = make_batch("linear_ignore_index", LINEAR, dtype, 0)
    reference, rows = reference_of(batch), len(batch.logits)
    kept = int((batch.target != -100).sum())
    implementation = torch_calls.torch_linear_then_cross_entropy.__xent_implementation__
    mean = bridge_for("torch").call(implementation, batch, reduction="mean")
    upstream = float(batch.upstream[0])
    assert mean.gradient is not None
    right = judge(batch, reference, Output(mean.loss, mean.gradient), reduction="mean", upstream=upstream)
    assert all(judgement.bound_ratios["absolute"] < 0.75 for judgement in right.values())
    share = kept / rows
    form = batch.format
    faulty = Output(form.round(mean.loss * share), form.round(mean.gradient * share))
    wrong = judge(batch, reference, faulty, reduction="mean", upstream=upstream)
    assert all(judgement.grade is Grade.INACCURATE for judgement in wrong.values())
    assert all(judgement.bound_ratios["absolute"] > 100 for judgement in wrong.values())


def test_a_negative_loss_is_not_impossible_where_two_dot_products_may_differ() -> None:
    """Where the bound says nothing, neither does the sign: log-sum-exp and target logit come of products apart."""
    batch = make_batch("linear_confident", LINEAR, "float64", 0)
    batch = replace(batch, logits=batch.logits * 1e18)
    reference = reference_of(batch)
    judged = judge(batch, reference, Output(np.full(12, -1.0)))["loss"]
    assert judged.judged < 12
    assert (judged.grades[reference.loss_hi == 0] == -1).all() if judged.grades is not None else False


def test_a_gradient_of_another_shape_is_refused() -> None:
    batch = make_batch("linear_one_feature", LINEAR, "float32", 0)
    output = RIGHT["log1p"](batch)
    assert output.gradient is not None
    judged = judge(batch, reference_of(batch), replace(output, gradient=output.gradient[:12]))["gradient"]
    assert judged.detail == "expected shape [17, 1], got [12, 1]"


# ------------------------------------------------------------------------------------------ families, witness, refusals


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_batch_is_well_formed_small_and_exact_in_its_dtype(name: str, dtype: str) -> None:
    batch = make_batch(name, LINEAR, dtype, 3)
    again = make_batch(name, LINEAR, dtype, 3)
    assert batch.projection is not None
    assert again.projection is not None
    assert batch.projection.dtype == batch.logits.dtype == named(dtype).dtype
    assert batch.projection.tobytes() == again.projection.tobytes()
    assert batch.logits.shape[1] == batch.projection.shape[1]
    assert batch.upstream.shape == (len(batch.logits),)
    assert batch.logits.size * batch.classes <= 32_000
    assert np.isfinite(batch.logits.astype(np.float64)).all()
    if batch.target.ndim == 1:
        counted = batch.target[batch.target != -100]
        assert ((counted >= 0) & (counted < batch.classes)).all()


def test_cancelling_products_are_far_larger_than_the_logits() -> None:
    for dtype in DTYPES:
        batch = make_batch("linear_cancellation", LINEAR, dtype, 0)
        assert batch.projection is not None
        h, w = batch.logits.astype(np.float64), batch.projection.astype(np.float64)
        assert np.median((abs(h) @ abs(w).T) / abs(h @ w.T)) > 30


def test_the_witness_shows_the_input_whose_gradient_is_wrong() -> None:
    batch = make_batch("linear_random", LINEAR, "float32", 0)
    assert batch.projection is not None
    hidden = witness(batch, 3, 5, 1.0, 2.0, 0.0)
    assert (hidden["of"], hidden["row"], hidden["target"]) == ("hidden", 3, int(batch.target[3]))
    assert hidden["hidden"]["5"] == float(batch.logits[3, 5]).hex()
    of_class = witness(batch, 12 + 7, 5, 1.0, 2.0, 0.0)
    assert (of_class["of"], of_class["row"], of_class["target"]) == ("projection", 7, None)
    assert of_class["projection"]["5"] == float(batch.projection[7, 5]).hex()


def test_what_works_on_logits_alone_refuses_it() -> None:
    with pytest.raises(ValueError, match="takes a projection beside its first two inputs"):
        loss_of_logits(LINEAR)
    with pytest.raises(ValueError, match="takes a projection"):
        parametrize_with_checks(lambda h, w, y: h, framework="numpy", loss=LINEAR)


def test_a_framework_that_cannot_pass_a_projection_says_so() -> None:
    class Elsewhere(type(bridge_for("numpy"))):  # type: ignore[misc]
        framework = "jax"
        takes_projection = False

    implementation = log1p_form.numpy_linear_log1p.__xent_implementation__
    batch = make_batch("linear_one_feature", LINEAR, "float32", 0)
    with pytest.raises(TypeError, match="cannot pass a projection to jax"):
        Elsewhere().call(implementation, batch)


# ------------------------------------------------------------------------------------------------ on the command line


def test_xent_truth_reads_hidden_states_and_projection(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arrays = {"hidden": [[1.0, -1.0]], "projection": [[1.0, 2.0], [0.5, 3.0]], "target": [1], "linear_bias": [0.5, 1.0]}
    np.savez(tmp_path / "layer.npz", **arrays)  # type: ignore[arg-type]
    out = tmp_path / "truth.npz"
    done = call(monkeypatch, capsys, "truth", tmp_path / "layer.npz", "--loss", LINEAR, "-o", out)
    assert (done.status, done.err) == (0, "")
    want = truth([[1.0, -1.0]], [1], loss=LINEAR, projection=arrays["projection"], linear_bias=[0.5, 1.0])
    with np.load(out) as found:
        assert found["grad_hi"].shape == (3, 2)
        np.testing.assert_array_equal(found["grad_hi"], want.grad_hi)
        np.testing.assert_array_equal(found["loss_lo"], want.loss_lo)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vet", "candidate.py:loss", "--loss", LINEAR), "takes a projection beside its first two inputs"),
        (
            ("hunt", "numpy_linear_log1p", "--seconds", "1"),
            "numpy_linear_log1p cannot be hunted: linear_cross_entropy takes",
        ),
        (
            ("speed", "--only", "numpy_linear_log1p"),
            "indices was asked for, but numpy_linear_log1p (linear_cross",
        ),
    ],
)
def test_commands_for_losses_of_logits_say_that_they_are(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("candidate.py").write_text("import numpy\n\n\ndef loss(hidden, projection, target): ...\n")
    done = call(monkeypatch, capsys, *arguments)
    assert done.status == 2
    assert message in done.err


def test_an_accuracy_run_judges_it_through_workers() -> None:
    run = run_accuracy(
        Request(only=("numpy_linear_log1p",), families=("linear_options", "moderate"), dtypes=("float32",))
    )
    assert {(r.family, r.what, r.rows, r.judged, r.outcome) for r in run.results} == {
        ("linear_options", "loss", 12, 12, "passed"),
        ("linear_options", "gradient", 22, 22, "passed"),
    }
    (loss, gradient) = run.results
    assert loss.witness is not None
    assert gradient.witness is not None
    assert gradient.witness["of"] in ("hidden", "projection")
