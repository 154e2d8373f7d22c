"""The fast path keeps the contract wherever it vouches for a value; and whoever breaks it is found out."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest

import harness
from harness import certified as real
from harness import fast
from harness.families import families_for, make_batch
from harness.fast import (
    audit,
    binary_cross_entropy_with_logits,
    blocks,
    dd,
    exponential,
    logarithm,
    numpy_path,
    sums,
    tables,
)
from harness.fast.audit import Referee, TruthDisagreement
from harness.fast.settle import settle
from harness.formats import DTYPES, FORMATS
from harness.losses import loss_named
from tests.fast_cases import BCE, CE, close, drawn, faults, solve

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every number is computed here and now, by the NumPy path unless a test says otherwise."""
    monkeypatch.setenv("XENT_CACHE", "off")
    monkeypatch.setenv("XENT_FAST", "numpy")


# The pieces, each held to the bound that docs/theory.md derives for it


def worst(high: Array, low: Array, want: list[mpmath.mpf]) -> float:
    """The largest relative error of some pairs, as a power of two."""
    pairs = zip(high.tolist(), low.tolist(), want, strict=True)
    error = max(abs((mpmath.mpf(h) + mpmath.mpf(x)) / w - 1) for h, x, w in pairs)
    return float(mpmath.log(error, 2)) if error else -1074.0


@pytest.fixture(autouse=True)
def precision() -> Any:
    """mpmath, to 400 bits."""
    with mpmath.workprec(400):
        yield


def test_the_exponential_is_within_its_bound() -> None:
    rng = np.random.default_rng(1)
    z = -np.concatenate([rng.uniform(0, 30, 1500), rng.uniform(0, 1199, 1500), 10 ** rng.uniform(-300, 0, 500)])
    m = np.concatenate([np.zeros(1000), rng.standard_normal(2500)])
    z, m = np.minimum(z + m, m), np.maximum(z + m, m)
    h, rest = exponential.difference(z, m)
    t = tables.standard()
    high, low, k = exponential.exponential(h, rest, t.high, t.low)
    want = [mpmath.exp(mpmath.mpf(a) - mpmath.mpf(b)) for a, b in zip(z.tolist(), m.tolist(), strict=True)]
    want = [mpmath.ldexp(w, -n) for w, n in zip(want, k.tolist(), strict=True)]
    assert worst(high, low, want) <= -101
    assert (high > 0.99).all()
    assert (high < 2.01).all()


def test_the_logarithm_is_within_its_bound() -> None:
    rng = np.random.default_rng(2)
    edges = np.concatenate([np.arange(1, 130) / 128, 2.0 ** np.arange(-150, 20), 2.0 ** np.arange(1, 19) - 1])
    edges = np.concatenate([np.nextafter(edges, 0), edges, np.nextafter(edges, 9e9)])
    h = np.concatenate([edges, rng.uniform(0, 4, 1500), 10 ** rng.uniform(-170, 5.5, 1500)])
    rest = h * 2.0**-54 * rng.uniform(-1, 1, len(h))
    high, low = logarithm.log1p(h, rest, tables.standard().logs)
    want = [mpmath.log1p(mpmath.mpf(a) + mpmath.mpf(b)) for a, b in zip(h.tolist(), rest.tolist(), strict=True)]
    assert worst(high, low, want) <= -98


def test_sums_do_not_depend_on_the_order() -> None:
    rng = np.random.default_rng(3)
    h = rng.uniform(1, 2, 5000) * 2.0 ** -rng.integers(0, 200, 5000).astype(float)
    rest = h * 2.0**-54 * rng.uniform(-1, 1, 5000)
    digits = sums.digits(h, rest)
    assert all(part.sum() == part[::-1].sum() for part in digits)
    high, low = sums.total(*(part.sum(keepdims=True) for part in digits))
    want = sum(map(Fraction, h.tolist())) + sum(map(Fraction, rest.tolist()))
    error = abs(Fraction(float(high[0])) + Fraction(float(low[0])) - want)
    assert error <= want * Fraction(7, 2**106) + Fraction(len(h), 2**126)


@pytest.mark.parametrize(
    ("operation", "exact", "bound"),
    [
        (dd.add, lambda x, y: x + y, 3),
        (dd.multiply, lambda x, y: x * y, 7),
        (dd.divide, lambda x, y: x / y, 15),
    ],
)
def test_operations_are_within_their_bounds(operation: Any, exact: Any, bound: int) -> None:
    rng = np.random.default_rng(4)
    x, y = (rng.standard_normal(4000) * 2.0 ** rng.integers(-9, 9, 4000) for _ in range(2))
    y[:1000] = -x[:1000] * (1 + rng.integers(-4, 5, 1000) * 2.0**-52)
    xl, yl = (np.spacing(a) * rng.uniform(-0.5, 0.5, 4000) for a in (x, y))
    x, xl = dd.fast_two_sum(x, xl)
    y, yl = dd.fast_two_sum(y, yl)
    high, low = operation(x, xl, y, yl)
    parts = zip(x.tolist(), xl.tolist(), y.tolist(), yl.tolist(), strict=True)
    want = [exact(Fraction(a) + Fraction(b), Fraction(c) + Fraction(d)) for a, b, c, d in parts]
    for a, b, w in zip(high.tolist(), low.tolist(), want, strict=True):
        assert abs(Fraction(a) + Fraction(b) - w) <= (bound + Fraction(1, 2**40)) * abs(w) / 2**106


def test_scaling_rounds_once() -> None:
    rng = np.random.default_rng(5)
    h = rng.uniform(1, 2, 4000)
    rest = h * 2.0**-54 * rng.uniform(-1, 1, 4000)
    k = np.concatenate([rng.integers(-1140, -950, 3000), rng.integers(-900, 900, 1000)])
    high, low = dd.scaled(h, rest, k)
    for a, b, n, x, y in zip(*(column.tolist() for column in (h, rest, k, high, low)), strict=True):
        want = (Fraction(a) + Fraction(b)) * Fraction(2) ** n
        allowed = Fraction(1, 2**1075) * (1 + Fraction(1, 2**50)) if n < -900 else Fraction(0)
        assert abs(Fraction(x) + Fraction(y) - want) <= allowed


# The contract


def test_what_is_settled_keeps_the_contract() -> None:
    settled = entries = 0
    found: list[str] = []
    for loss, problem in drawn(6, 2):
        solved, wrong = solve(loss, problem, numpy_path)
        found += wrong
        share = (
            solved.settled if solved.settled.ndim > 1 else solved.settled[:, None] & np.ones(problem.logits.shape, bool)
        )
        settled += int(share.sum())
        entries += share.size
    assert found[:5] == []
    assert settled >= 0.75 * entries >= 75_000


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", [CE, BCE])
def test_every_family_keeps_the_contract(loss: str, dtype: str) -> None:
    found: list[str] = []
    for family in families_for(loss, dtype):
        batch = make_batch(family.name, loss, dtype, 7)
        width = batch.logits.shape[1]
        if width > 300:
            continue  # their turn comes in `test_every_wide_family_keeps_the_contract`
        some = batch.rows(slice(0, max(1, 200 // width)))
        problem = loss_named(loss).problem(some.logits, some.target, some.upstream, some.options)
        found += [f"{family.name}: {fault}" for fault in solve(loss, problem, numpy_path)[1]]
    assert found == []


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_wide_family_keeps_the_contract(dtype: str) -> None:
    found: list[str] = []
    for family in families_for(CE, dtype):
        batch = make_batch(family.name, CE, dtype, 8)
        if batch.logits.shape[1] > 300:
            some = batch.rows(slice(0, 1))
            problem = loss_named(CE).problem(some.logits, some.target, some.upstream, some.options)
            found += [f"{family.name}: {fault}" for fault in solve(CE, problem, numpy_path)[1]]
    assert found == []


def test_a_wide_row_keeps_the_contract() -> None:
    rng = np.random.default_rng(8)
    z = rng.standard_normal((1, 5_000)) * 3
    problem = loss_named(CE).problem(z, [int(z.argmin())], [1.5], {})
    solved, wrong = solve(CE, problem, numpy_path)
    assert wrong == []
    assert solved.settled.all()


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(100, 130))
def test_millions_of_values_keep_the_contract(seed: int) -> None:
    assert [fault for loss, problem in drawn(seed, 8) for fault in solve(loss, problem, numpy_path)[1]] == []


LOSS_OF_1E300 = 690.7755278982137
EDGES = {
    "one class": ([[3.0]], [0], {}),
    "all tie": ([[1e6] * 7], [2], {}),
    "tiny loss": ([[LOSS_OF_1E300, 0.0]], [0], {}),
    "subnormal loss": ([[740.0, 0.0, -3.0]], [0], {}),
    "loss below every float": ([[800.0, 0.0]], [0], {}),
    "target far below": ([[0.0, -1e300]], [1], {}),
    "target masked": ([[0.0, -np.inf]], [1], {}),
    "masked by -1e30": ([[1.0, 2.0, -1e30]], [0], {}),
    "maximum of 1e308": ([[1e308, -1e308]], [0], {}),
    "ties at 1e308": ([[1e308, 1e308, 0.0]], [1], {"weight": [1.0, 2.0**-300, 1.0]}),
    "far apart": ([[2.0**1022, -(2.0**1022)]], [1], {}),
    "neighbours at 1e300": ([[1e300, np.nextafter(1e300, 0)]], [1], {"weight": [1.0, 0.3]}),
    "a loss beyond float64": ([[1e308, -1e308]], [1], {}),
    "zero weight": ([[1.0, 2.0]], [0], {"weight": [0.0, 1.0]}),
    "huge weight": ([[1.0, 2.0]], [0], {"weight": [1e308, 1.0]}),
    "tiny weight": ([[1.0, 2.0]], [0], {"weight": [5e-324, 1.0]}),
    "not a number": ([[np.nan, 2.0]], [0], {}),
    "negative NaN": ([[-np.nan, 2.0]], [0], {}),
    "infinite": ([[np.inf, 2.0]], [0], {}),
    "all masked": ([[-np.inf, -np.inf]], [0], {}),
    "ignored": ([[np.nan, 2.0]], [-100], {}),
    "exact zero gradient": ([[1.0, 1.0]], [[0.5, 0.5]], {}),
    "soft, nearly the softmax": ([[1.0, 2.0]], [[0.2689414213699951, 0.7310585786300049]], {}),
    "no target mass": ([[1.0, 2.0]], [[0.0, 0.0]], {}),
    "one-hot mass, confident": ([[900.0, 2.0]], [[1.0, 0.0]], {}),
    "smoothing, masked": ([[1.0, -np.inf]], [0], {"label_smoothing": 0.1}),
    "a smoothing that vanishes, masked": ([[1.0, -np.inf]], [0], {"label_smoothing": 5e-324, "weight": [1.0, 0.4]}),
    "a mass that vanishes, masked": ([[1.0, -np.inf]], [[1.0, 1e-310]], {"weight": [1.0, 1e-20]}),
    "full smoothing": ([[1.0, -4.0, 0.5]], [0], {"label_smoothing": 1.0}),
}


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("upstream", [1.0, -0.0, 1e300, 5e-324, -2.5])
def test_edges_are_settled_or_left_to_mpmath(name: str, upstream: float) -> None:
    logits, target, options = EDGES[name]
    problem = loss_named(CE).problem(np.array(logits), np.array(target), np.array([upstream]), options)
    whole = settle(CE, problem, problem.upstream, Referee())
    want = problem.solve(0, problem.upstream[0])
    assert whole.settled.all()
    assert close(whole.loss_hi[0], whole.loss_lo[0], *real.split(want.losses[0])) or np.isnan(whole.loss_hi[0])
    assert np.isnan(whole.loss_hi[0]) == (want.losses[0] == real.NAN)
    for j in range(problem.logits.shape[1]):
        got, right = (whole.grad_hi[0, j], whole.grad_lo[0, j]), (want.gradient_hi[j], want.gradient_lo[j])
        assert close(*got, *right) or (np.isnan(got[0]) and np.isnan(right[0]))


@pytest.mark.parametrize(
    ("name", "settled"),
    [
        ("one class", True),
        ("tiny loss", True),
        ("subnormal loss", True),
        ("target masked", True),
        ("masked by -1e30", True),
        ("one-hot mass, confident", True),
        ("maximum of 1e308", True),
        ("target far below", True),
        ("ties at 1e308", True),
        ("far apart", True),
        ("neighbours at 1e300", True),
        ("a loss beyond float64", False),
        ("huge weight", False),
        ("tiny weight", False),
        ("not a number", False),
        ("negative NaN", False),
        ("soft, nearly the softmax", True),
        ("exact zero gradient", False),
    ],
)
def test_the_certificate_is_computed(name: str, settled: bool) -> None:
    logits, target, options = EDGES[name]
    problem = loss_named(CE).problem(np.array(logits), np.array(target), None, options)
    assert solve(CE, problem)[0].settled.tolist() == [settled]


def test_reductions_take_the_fast_path_too() -> None:
    rng = np.random.default_rng(9)
    z, y = rng.standard_normal((7, 30)) * 4, rng.integers(0, 30, 7)
    answer = harness.truth(z, y, weight=rng.uniform(0, 2, 30))
    for reduction in ("mean", "sum"):
        quick = answer.reduced(reduction, -1.5)
        slow = replace(answer, loss="").reduced(reduction, -1.5)
        assert close(quick.loss_hi, quick.loss_lo, slow.loss_hi, slow.loss_lo)
        pairs = (a.ravel().tolist() for a in (quick.grad_hi, quick.grad_lo, slow.grad_hi, slow.grad_lo))
        assert all(close(*numbers) for numbers in zip(*pairs, strict=True))


KINDS = ("indices", "smoothing", "soft", "binary")


def memory_of_a_truth(kind: str, dtype: str, shape: tuple[int, int]) -> float:
    """The peak of what a call takes, its results included, over the size of one float64 array like the gradient."""
    rng, form = np.random.default_rng(10), FORMATS[dtype]
    z = form.round(rng.standard_normal(shape) * 3)
    y = rng.integers(0, shape[1], shape[0]) if kind in KINDS[:2] else form.round(rng.dirichlet(np.ones(shape[1]), 1))
    y = y if y.ndim == 1 else np.repeat(y, shape[0], axis=0)
    options = {"label_smoothing": 0.1} if kind == "smoothing" else {}
    loss = BCE if kind == "binary" else CE
    harness.truth(z[:, :100], y % 100 if y.ndim == 1 else y[:, :100], loss=loss, **options)
    tracemalloc.start()
    try:
        answer = harness.truth(z, y, loss=loss, **options)
        return tracemalloc.get_traced_memory()[1] / answer.grad_hi.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_truth_needs_little_memory(kind: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit.referee, "owed", {CE: -1e9, BCE: -1e9})  # a row that mpmath solves, too, takes its own
    assert memory_of_a_truth(kind, dtype, (8, 32_000)) < 7.75


@pytest.mark.parametrize("kind", KINDS)
def test_one_wide_row_needs_no_more(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit.referee, "owed", {CE: -1e9, BCE: -1e9})  # mpmath has no pieces
    assert memory_of_a_truth(kind, "float64", (1, 400_000)) < 8


@pytest.mark.parametrize(
    ("kind", "module", "limit"),
    [
        ("soft", blocks, "BLOCK"),
        ("binary", binary_cross_entropy_with_logits, "_AT_ONCE"),
        ("binary", numpy_path, "_ELEMENTS"),
    ],
)
def test_work_that_is_not_cut_takes_too_much(
    kind: str, module: Any, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, limit, 1 << 40)
    if limit == "_ELEMENTS":
        monkeypatch.setattr(binary_cross_entropy_with_logits, "_AT_ONCE", 1 << 40)
    assert memory_of_a_truth(kind, "float64", (8, 32_000)) > 8


# Planted faults: each must be found by the comparison with mpmath, and by the referee in an ordinary call


def batch(width: int = 40) -> Any:
    """An ordinary batch of a cross-entropy."""
    rng = np.random.default_rng(11)
    return loss_named(CE).problem(rng.standard_normal((3, width)) * 3, rng.integers(0, width, 3), None, {})


def damaged(monkeypatch: pytest.MonkeyPatch, fault: str) -> tables.Tables:
    """Plant a fault; the tables to use with it."""
    whole = tables.standard()
    if fault == "wrong constants":
        return replace(whole, high=whole.high * (1 + 2.0**-52), low=whole.low)
    if fault == "one wrong constant":
        low = whole.low.copy()
        low[::5] += 2.0**-80
        return replace(whole, low=low)
    if fault == "wrong logarithms":
        logs = whole.logs.copy()
        logs[256:] *= 1.001
        return replace(whole, logs=logs)
    if fault == "low word dropped":
        right = exponential.exponential

        def without(*args: Any) -> Any:
            high, low, k = right(*args)
            return high, 0.0 * low, k

        monkeypatch.setattr(numpy_path, "exponential", without)
    elif fault == "low words of the table dropped":
        return replace(whole, low=0 * whole.low)
    elif fault == "reduction shortened":
        monkeypatch.setattr(exponential, "STEP_3", 0.0)
    elif fault == "difference rounded":
        monkeypatch.setattr(numpy_path, "difference", lambda z, m: (np.maximum(z - m, -1200.0), 0.0 * (z + m)))
    return whole


FAULTS = [
    "wrong constants",
    "one wrong constant",
    "wrong logarithms",
    "low word dropped",
    "low words of the table dropped",
    "reduction shortened",
    "difference rounded",
]


def test_without_a_fault_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert solve(CE, batch(), numpy_path, damaged(monkeypatch, ""))[1] == []
    assert settle(CE, batch(), batch().upstream, Referee()).settled.all()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_by_the_tests(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert solve(CE, batch(), numpy_path, damaged(monkeypatch, fault))[1] != []


@pytest.mark.parametrize("width", [40, 1000])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_stops_a_run(fault: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = damaged(monkeypatch, fault)
    monkeypatch.setattr(fast, "standard", lambda: broken)
    with pytest.raises(TruthDisagreement, match=r"row \d.*the fast path gives .*, mpmath .*please report"):
        settle(CE, batch(width), batch(width).upstream, Referee())


def test_a_fault_in_binary_cross_entropy_stops_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = damaged(monkeypatch, "low words of the table dropped")
    monkeypatch.setattr(fast, "standard", lambda: broken)
    rng = np.random.default_rng(12)
    problem = loss_named(BCE).problem(rng.standard_normal((3, 20)), rng.integers(0, 2, (3, 20)) * 1.0, None, {})
    with pytest.raises(TruthDisagreement, match=r"row \d, element \d+"):
        settle(BCE, problem, problem.upstream, Referee())


def test_the_referee_looks_at_its_share_and_always_at_the_first() -> None:
    judge = Referee(share=1 / 64)
    problem = batch(128)
    looked = []
    for _ in range(20):
        settle(CE, problem, problem.upstream, judge)
        looked.append(judge.looked_at)
    assert looked[0] == 128
    assert looked[-1] - looked[0] <= 20 * problem.logits.size / 64 + 128
    assert looked[-1] > looked[0] or 20 * problem.logits.size / 64 < 128


def test_a_wide_row_is_looked_across(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = batch(600)
    solved, _ = solve(CE, problem, numpy_path)
    Referee().look(CE, problem, solved, problem.upstream)
    for name, index in (
        ("grad_hi", (slice(None), 5)),
        ("loss_hi", slice(None)),
        ("grad_hi", (slice(None), slice(None))),
    ):
        wrong = replace(solved, **{name: getattr(solved, name).copy()})
        getattr(wrong, name)[index] *= 1 + 2.0**-52
        with pytest.raises(TruthDisagreement):
            Referee().look(CE, problem, wrong, problem.upstream)
    assert audit.FULL_ROW < 600


def test_the_fast_path_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = batch(5)
    monkeypatch.setattr(fast, "solve", lambda *args: pytest.fail("the fast path was taken"))
    monkeypatch.setenv("XENT_FAST", "off")
    assert list(faults(problem, settle(CE, problem, problem.upstream))) == []
