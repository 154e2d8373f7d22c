"""What the fast path does beyond pairs: entries that cancel, in triples, and 16-bit rows by their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest

from harness import fast
from harness.fast import (
    audit,
    blocks,
    distinct,
    exponential,
    fine,
    fine_binary,
    fine_exponential,
    fine_numpy,
    numpy_path,
    sums,
    tables,
    triple,
)
from harness.fast.audit import Referee, TruthDisagreement
from harness.fast.settle import settle
from harness.formats import FORMATS
from harness.losses import Problem, loss_named
from tests.fast_cases import BCE, CE, solve

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every number is computed here and now, by the NumPy path, and mpmath works to 500 bits."""
    monkeypatch.setenv("XENT_CACHE", "off")
    monkeypatch.setenv("XENT_FAST", "numpy")
    with mpmath.workprec(500):
        yield


def exact(words: Any, i: int) -> Fraction:
    """The sum of entry i of some arrays."""
    return sum((Fraction(float(word[i])) for word in words), Fraction(0))


def bits(error: Fraction) -> float:
    """log2 of an error; -inf for none."""
    return math.log2(error) if error else -math.inf


# The pieces, each held to the bound that docs/theory.md derives for it


def drawn_triples(rng: np.random.Generator, n: int) -> tuple[Array, Array, Array]:
    """Normalised triples over some binades."""
    a = rng.standard_normal(n) * 2.0 ** rng.integers(-9, 9, n)
    b = np.spacing(a) * rng.uniform(-0.5, 0.5, n)
    return triple.renormalised(a, b, np.spacing(b) * rng.uniform(-0.5, 0.5, n))


OPERATIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any], int]] = {
    "add": (triple.add3, lambda x, y: x + y, lambda x, y: abs(x) + abs(y), -154),
    "subtract": (triple.difference3, lambda x, y: x - y, lambda x, y: (abs(x) + abs(y)) + abs(x - y) * 2**49, -154),
    "multiply": (triple.multiply3, lambda x, y: x * y, lambda x, y: abs(x * y), -151),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("near", [False, True])
def test_operations_are_within_their_bounds(name: str, near: bool) -> None:
    operation, right, size, bound = OPERATIONS[name]
    rng = np.random.default_rng(1)
    x, y = drawn_triples(rng, 3000), drawn_triples(rng, 3000)
    if near and name == "subtract":  # they agree in up to 100 bits
        y = triple.renormalised(x[0], x[1] + np.spacing(x[1]) * rng.integers(-9, 10, 3000), x[2])
    result = operation(x, y)
    pairs = [(exact(x, i), exact(y, i), exact(result, i)) for i in range(3000)]
    assert max(bits(abs(got - right(a, b)) / size(a, b)) for a, b, got in pairs) <= bound


LOOSE: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any], int]] = {
    "add": (triple.loose_sum, *OPERATIONS["add"][1:3], -147),
    "multiply": (triple.loose_product, *OPERATIONS["multiply"][1:3], -142),
}


def drawn_loose(rng: np.random.Generator, n: int) -> tuple[Array, Array, Array]:
    """Triples whose words overlap as far as those of loose ones may."""
    a = rng.standard_normal(n) * 2.0 ** rng.integers(-9, 9, n)
    return a, a * 2.0**-48 * rng.uniform(-1, 1, n), a * 2.0**-96 * rng.uniform(-1, 1, n)


@pytest.mark.parametrize("name", LOOSE)
def test_loose_operations_are_within_their_bounds(name: str) -> None:
    operation, right, size, bound = LOOSE[name]
    rng = np.random.default_rng(18)
    x, y = drawn_loose(rng, 3000), drawn_loose(rng, 3000)
    result = operation(x, y)
    pairs = [(exact(x, i), exact(y, i), exact(result, i)) for i in range(3000)]
    worst = max(bits(abs(got - right(a, b)) / size(a, b)) for a, b, got in pairs)
    assert bound - 8 <= worst <= bound  # no bound of something else


def test_a_loose_product_with_a_float_is_within_its_bound() -> None:
    rng = np.random.default_rng(19)
    x, y = drawn_loose(rng, 3000), rng.standard_normal(3000)
    result = triple.loose_product_float(x, y)
    wants = [exact(x, i) * Fraction(float(y[i])) for i in range(3000)]
    assert -155 <= max(bits(abs(exact(result, i) - want) / abs(want)) for i, want in enumerate(wants)) <= -147


def test_renormalising_loses_nothing_and_leaves_no_overlap() -> None:
    rng = np.random.default_rng(20)
    a = rng.standard_normal(3000) * 2.0 ** rng.integers(-9, 9, 3000)
    b = a * 2.0**-40 * rng.uniform(-1, 1, 3000) * (rng.uniform(size=3000) < 0.9)
    c = a * 2.0 ** -rng.integers(90, 150, 3000).astype(float)
    b = np.where(rng.uniform(size=3000) < 0.1, -np.spacing(a) / 2, b)  # the sum rounds to a, or next to it
    words = triple.renormalised(a, b, c)
    assert [exact(words, i) for i in range(3000)] == [exact((a, b, c), i) for i in range(3000)]
    assert (abs(words[1]) <= 2.0**-52 * abs(words[0])).all()
    assert (abs(words[2]) <= 2.0**-53 * abs(words[1])).all()


def test_the_triples_of_an_exponential_are_loose() -> None:
    rng = np.random.default_rng(21)
    h = -rng.uniform(0, 1199, 30_000)
    f = (h * fine_exponential.PER_STEP + fine_exponential.ROUNDER) - fine_exponential.ROUNDER
    r = fine_exponential._reduced(h, np.spacing(h) * rng.uniform(-0.5, 0.5, 30_000), f)
    bound = 2.0**-11.52
    for word, part in zip(r, (1, 2.0**-51.9, 2.0**-97.4), strict=True):
        assert np.abs(word).max() <= part * bound
    v = fine_exponential._third(r, 0.9 * 2.0**-4.5 + 0 * h, 2.0**-57.5 * rng.uniform(-1, 1, 30_000))
    assert (np.abs(v[1]) <= 2.0**-52.6 * np.abs(v[0])).all()
    assert (np.abs(v[2]) <= 2.0**-104.6 * np.abs(v[0])).all()


def test_a_product_with_a_float_is_within_its_bound() -> None:
    rng = np.random.default_rng(2)
    x, y = drawn_triples(rng, 3000), rng.standard_normal(3000)
    result = triple.multiply3_float(x, y)
    wants = [exact(x, i) * Fraction(float(y[i])) for i in range(3000)]
    assert max(bits(abs(exact(result, i) - want) / abs(want)) for i, want in enumerate(wants)) <= -154


def test_the_exponential_is_within_its_bound() -> None:
    rng = np.random.default_rng(3)
    z = -np.concatenate([rng.uniform(0, 30, 1500), rng.uniform(0, 1199, 1500), 10 ** rng.uniform(-300, 0, 500)])
    m = np.concatenate([np.zeros(1000), rng.standard_normal(2500)])
    z, m = np.minimum(z + m, m), np.maximum(z + m, m)
    t = tables.standard()
    *p, k = fine_exponential.fine_exponential(*exponential.difference(z, m), t.high, t.low, t.third)
    worst = -math.inf
    for i in range(len(z)):
        want = mpmath.ldexp(mpmath.exp(mpmath.mpf(float(z[i])) - mpmath.mpf(float(m[i]))), -int(k[i]))
        error = abs(sum((mpmath.mpf(float(word[i])) for word in p), mpmath.mpf(0)) / want - 1)
        worst = max(worst, float(mpmath.log(error, 2)) if error else -math.inf)
    assert worst <= -152
    assert (p[0] > 0.99).all()
    assert (p[0] < 2.01).all()


def test_fine_sums_do_not_depend_on_the_order() -> None:
    rng = np.random.default_rng(4)
    a = rng.uniform(1, 2, 4000) * 2.0 ** -rng.integers(0, 250, 4000).astype(float)
    b = a * 2.0**-54 * rng.uniform(-1, 1, 4000)
    x = triple.renormalised(a, b, b * 2.0**-54)
    digits = sums.fine_digits(*x)
    assert all(part.sum() == part[::-1].sum() for part in digits)
    result = sums.fine_total(*(part.sum(keepdims=True) for part in digits))
    want = sum((exact(x, i) for i in range(4000)), Fraction(0))
    assert abs(exact(result, 0) - want) <= want / 2**152 + Fraction(4000, 2**168)


# The contract, where pairs are not enough


def softmax(z: Array) -> Array:
    """In float64."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def near_softmax(rng: np.random.Generator, v: int, distance: float, scale: float = 3.0) -> Problem:
    """Targets that differ from the softmax by so much, relatively: every entry cancels."""
    z = rng.standard_normal((3, v)) * scale
    q = softmax(z) * (1 + distance * rng.choice([-1, 1], (3, v)) * rng.uniform(0.5, 1, (3, v)))
    return loss_named(CE).problem(z, q, rng.standard_normal(3), {})


@pytest.mark.parametrize("v", [2, 17, 300, 1500])
@pytest.mark.parametrize("distance", [1e-3, 1e-7, 1e-13])
@pytest.mark.parametrize("scale", [0.1, 3.0, 10.0])
def test_targets_next_to_the_softmax_are_settled(v: int, distance: float, scale: float) -> None:
    solved, wrong = solve(CE, near_softmax(np.random.default_rng(5), v, distance, scale))
    assert wrong == []
    # Σ t_j is off by some distance too, and an entry whose own one is the same to 2^-54 cancels too much.
    assert np.isnan(solved.grad_hi).sum() <= 4 * 2.0**-53 / distance * solved.grad_hi.size


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_rounded_softmax_as_a_target_is_settled(dtype: str) -> None:
    z = np.random.default_rng(6).standard_normal((3, 400)) * 2
    problem = loss_named(CE).problem(z, FORMATS[dtype].round(softmax(z)), None, {"label_smoothing": 2.0**-30})
    solved, wrong = solve(CE, problem)
    assert wrong == []
    assert solved.settled.all()


WIDE_TARGETS: dict[str, tuple[Callable[[np.random.Generator, int], Any], dict[str, Any]]] = {
    "smoothing": (lambda rng, v: rng.integers(0, v, 2), {"label_smoothing": 0.1}),
    "soft": (lambda rng, v: rng.dirichlet(np.ones(v), 2), {}),
    "both": (lambda rng, v: rng.dirichlet(np.ones(v), 2), {"label_smoothing": 0.3}),
}


@pytest.mark.parametrize("kind", WIDE_TARGETS)
def test_wide_rows_with_many_targets_are_settled(kind: str) -> None:
    rng = np.random.default_rng(7)
    target, options = WIDE_TARGETS[kind]
    z = rng.standard_normal((2, 32_000)) * 3
    problem = loss_named(CE).problem(z, target(rng, 32_000), None, options)
    assert solve_only(problem).settled.all()


def test_a_wide_row_with_many_targets_keeps_the_contract() -> None:
    rng = np.random.default_rng(8)
    problem = loss_named(CE).problem(rng.standard_normal((1, 4000)) * 3, [17], [1.5], {"label_smoothing": 0.1})
    solved, wrong = solve(CE, problem)
    assert wrong == []
    assert solved.settled.all()


def test_what_cancels_beyond_triples_is_left_to_mpmath() -> None:
    rng = np.random.default_rng(9)
    z = rng.standard_normal((4, 100)) * 3
    problem = loss_named(CE).problem(z, softmax(z), None, {})
    solved, wrong = solve(CE, problem)
    assert wrong == []
    assert not solved.settled.any()


@pytest.mark.parametrize("distance", [1e-3, 1e-7, 1e-13])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_binary_targets_next_to_the_sigmoid_are_settled(distance: float, scale: float) -> None:
    rng = np.random.default_rng(10)
    x = rng.standard_normal((3, 200)) * scale
    with np.errstate(over="ignore"):
        s = 1 / (1 + np.exp(-x))
    t = np.clip(s * (1 + distance * rng.choice([-1, 1], x.shape) * rng.uniform(0.5, 1, x.shape)), 0, 1)
    options = {"weight": rng.uniform(0.5, 2, 200)}
    solved, wrong = solve(BCE, loss_named(BCE).problem(x, t, rng.standard_normal(x.shape), options))
    assert wrong == []
    assert solved.settled.mean() > 0.99


# Planted faults: each must be found by the comparison with mpmath, and by the referee in an ordinary call


def dropped(function: Callable[..., Any], word: int) -> Callable[..., Any]:
    """A function that loses one of its results."""

    def broken(*args: Any) -> Any:
        results = list(function(*args))
        results[word] = 0 * results[word]
        return tuple(results)

    return broken


def damaged(monkeypatch: pytest.MonkeyPatch, fault: str) -> tables.Tables:
    """Plant a fault; the tables to use with it."""
    whole = tables.standard()
    if fault == "third word of the table dropped":
        return replace(whole, third=0 * whole.third)
    if fault == "some wrong third words":
        third = whole.third.copy()
        third[::5] *= 1 + 2.0**-10
        return replace(whole, third=third)
    if fault == "third word dropped":
        for module in (fine_numpy, fine_binary):
            monkeypatch.setattr(module, "fine_exponential", dropped(fine_exponential.fine_exponential, 2))
    elif fault == "third word of a mass dropped":
        monkeypatch.setattr(fine_numpy, "fine_mass", dropped(fine.fine_mass, 2))
    elif fault == "third word of a product dropped":
        monkeypatch.setattr(fine, "multiply3", dropped(triple.multiply3, 2))
    elif fault == "reduction shortened":
        monkeypatch.setattr(fine_exponential, "STEP_4", 0.0)
    elif fault == "fourth digit dropped":
        monkeypatch.setattr(fine, "fine_digits", dropped(sums.fine_digits, 3))
    elif fault == "third digit dropped":
        monkeypatch.setattr(fine, "fine_digits", dropped(sums.fine_digits, 2))
    return whole


FAULTS = [
    "third word of the table dropped",
    "some wrong third words",
    "third word dropped",
    "third word of a mass dropped",
    "third word of a product dropped",
    "reduction shortened",
    "fourth digit dropped",
    "third digit dropped",
]


def cancelling() -> Problem:
    """A batch whose every entry cancels; the smoothing makes masses of three words."""
    rng = np.random.default_rng(11)
    z = rng.standard_normal((3, 40)) * 3
    q = softmax(z) * (1 + 1e-13 * rng.choice([-1, 1], z.shape) * rng.uniform(0.5, 1, z.shape))
    return loss_named(CE).problem(z, q, None, {"label_smoothing": 1e-16, "weight": np.full(40, 1.1)})


def test_without_a_fault_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    solved, wrong = solve(CE, cancelling(), numpy_path, damaged(monkeypatch, ""))
    assert wrong == []
    assert solved.settled.all()
    assert settle(CE, cancelling(), np.ones(3), Referee()).settled.all()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_by_the_tests(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert solve(CE, cancelling(), numpy_path, damaged(monkeypatch, fault))[1] != []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_stops_a_run(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = damaged(monkeypatch, fault)
    monkeypatch.setattr(fast, "standard", lambda: broken)
    with pytest.raises(TruthDisagreement, match=r"row \d.*the fast path gives .*, mpmath .*please report"):
        settle(CE, cancelling(), np.ones(3), Referee())


def test_a_dropped_third_word_is_found_in_a_binary_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(12).standard_normal((2, 30))
    t = 1 / (1 + np.exp(-x)) * (1 + 1e-13)
    problem = loss_named(BCE).problem(x, t, None, {})
    assert solve(BCE, problem)[1] == []
    assert solve(BCE, problem, numpy_path, damaged(monkeypatch, "third word dropped"))[1] != []


def test_a_wide_row_is_now_and_then_solved_again_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(13)
    problem = near_softmax(rng, 600, 1e-13)
    broken = damaged(monkeypatch, "third word dropped")
    monkeypatch.setattr(fast, "standard", lambda: broken)
    judge = Referee(share=1.0)
    settle(CE, problem, problem.upstream, judge)  # the sums that are checked first cannot show it
    monkeypatch.setattr(audit, "WHOLE", 1.0)
    with pytest.raises(TruthDisagreement):
        settle(CE, problem, problem.upstream, judge)


# 16-bit rows by their values


def solve_only(problem: Any) -> Any:
    """What the NumPy path settles."""
    return fast.solve(CE, problem, np.array(problem.upstream), np.zeros(problem.upstream.shape), numpy_path)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("special", [{0}, {5, 7, 4000}])
def test_a_row_is_what_its_values_say(dtype: str, special: set[int]) -> None:
    z = FORMATS[dtype].round(np.random.default_rng(14).standard_normal(20_000)).astype(np.float64)
    z[[5, 9, 11]] = -np.inf
    found = distinct.distinct(z, special)
    assert found is not None
    assert (found.values[found.place] == z).all()
    assert (found.counts == np.bincount(found.place)).all()
    assert found.place[sorted(special)].tolist() == list(range(len(special)))
    assert (found.counts[: len(special)] == 1).all()
    rest = found.values[len(special) :]
    assert len(np.unique(rest)) == len(rest)
    assert (found.place[found.members] == np.arange(len(found.values))).all()


OTHER_ROWS = {
    "float64": np.random.default_rng(15).standard_normal(20_000),
    "float32": np.random.default_rng(15).standard_normal(20_000).astype(np.float32).astype(np.float64),
    "beyond float32": np.ldexp(1.0, np.arange(20_000) % 200),
    "one long number": np.append(np.zeros(20_000), 1 + 2.0**-40),
    "not a number": np.append(np.zeros(20_000), np.nan),
    "narrow": np.zeros(1000),
}


@pytest.mark.parametrize("name", OTHER_ROWS)
def test_other_rows_are_worked_on_by_class(name: str) -> None:
    with np.errstate(over="ignore"):
        assert distinct.distinct(OTHER_ROWS[name], {0}) is None


def test_a_row_of_mostly_different_values_is_worked_on_by_class() -> None:
    z = np.unique(np.arange(1, 31_000, dtype=np.uint16).view(np.float16).astype(np.float64))
    assert distinct.distinct(z, {0}) is None


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"label_smoothing": 1.0}, {"ignore_index": 1}])
def test_working_by_value_gives_the_same_bits(
    dtype: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(16)
    z = FORMATS[dtype].round(rng.standard_normal((4, 20_000)) * 2)
    z[1, ::3] = -np.inf
    z[2, :9] = z[2].max()  # ties for the largest
    label = np.array([0, 1, 3, int(z[3].argmax())])
    problem = loss_named(CE).problem(z, label, rng.standard_normal(4), options)
    by_value = solve_only(problem)
    monkeypatch.setattr(blocks, "WIDE", 1 << 30)
    by_class = solve_only(problem)
    assert (by_value.settled == by_class.settled).all()
    assert by_class.settled.any()
    on = by_class.settled
    for a, b in zip(by_value.arrays, by_class.arrays, strict=True):
        assert (a[on].view(np.int64) == b[on].view(np.int64)).all()


def test_a_wrong_count_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = distinct.distinct

    def wrong(z: Array, special: set[int]) -> Any:
        found = right(z, special)
        assert found is not None
        return replace(found, counts=np.minimum(found.counts, 1))

    monkeypatch.setattr(blocks, "distinct", wrong)
    z = FORMATS["bfloat16"].round(np.random.default_rng(17).standard_normal((1, 10_000)))
    problem = loss_named(CE).problem(z, [3], None, {})
    with pytest.raises(TruthDisagreement):
        settle(CE, problem, problem.upstream, Referee())
