"""The hunt: finds what is planted, repeats itself, ends well, and claims nothing that is not so."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hunt_toys import toys

from benchmarks.hunt import CASES, Case, main, rate, search
from harness import cli
from harness.batch import Batch
from harness.breeding import Breeder, Child, Island
from harness.declaration import Declaration
from harness.discovery import discover
from harness.evaluation import Candidate, Evaluator, HuntError
from harness.families.base import BCE, CROSS_ENTROPY
from harness.formats import DTYPES, FLOAT32, FORMATS
from harness.grades import Grade
from harness.hunt import CLASSES, NEARBY, Hunt, HuntProgress, _nearby, hunt
from harness.output import Output
from harness.parts import PARTS, apply
from harness.reference import reference_of, truth
from harness.rows import RandomDice, Row, batch_of, cross, random_row, resize, rows_of
from harness.scoring import Metric, bound_of, score
from harness.worker import Worker, Workers
from harness.worst_case import WorstCase

SMALL = (2, 8)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Worker, dict[str, Declaration]]]:
    with toys(tmp_path_factory.mktemp("toys")) as found:
        yield found


def request(evaluations: int = 600, **changes: object) -> Hunt:
    plain = Hunt("float32", seconds=float("inf"), evaluations=evaluations, starts=("random",), classes=SMALL)
    return replace(plain, **changes)  # type: ignore[arg-type]


def worst(toy: tuple[Worker, dict[str, Declaration]], name: str, asked: Hunt) -> WorstCase:
    worker, declarations = toy
    found = hunt(asked, declarations[name], worker).worst
    assert found is not None
    return found


# Parts and rows


@pytest.mark.parametrize("loss", [CROSS_ENTROPY, BCE])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PARTS)
def test_a_part_gives_exact_rows_that_the_losses_accept(name: str, dtype: str, loss: str) -> None:
    form, dice = FORMATS[dtype], RandomDice(np.random.default_rng(3))
    for classes in (1, 2, 8):
        for _ in range(20):
            row = random_row(dice, loss, classes, form)
            before = row.logits.copy()
            changed = apply(PARTS[name], dice, row, form)
            assert np.array_equal(row.logits, before), "the parent is untouched"
            again = apply(PARTS[name], dice, changed, form)
            for made in (changed, again):
                assert made.logits.shape == (classes,)
                assert np.array_equal(form.round(made.logits).astype(np.float64), made.logits)
                assert not np.isnan(made.logits).any()
                assert not np.isposinf(made.logits).any()
                assert loss != BCE or np.isfinite(made.logits).all()
                assert np.isfinite(made.logits[made.label])
                if made.target is not None:
                    assert ((made.target >= 0) & (made.target <= 1)).all()


@pytest.mark.parametrize("name", sorted(set(PARTS) - {"mask"}))
def test_a_part_changes_something(name: str) -> None:
    dice = RandomDice(np.random.default_rng(1))
    row = random_row(dice, CROSS_ENTROPY, 8, FLOAT32)
    assert any(apply(PARTS[name], dice, row, FLOAT32).key != row.key for _ in range(20))


def test_rows_survive_a_batch() -> None:
    dice = RandomDice(np.random.default_rng(2))
    for loss in (CROSS_ENTROPY, BCE):
        rows = [replace(random_row(dice, loss, 8, FLOAT32), upstream=-1.5) for _ in range(5)]
        back = rows_of(batch_of(rows, loss, FLOAT32))
        labels = [row.label if loss == CROSS_ENTROPY else 0 for row in rows]
        assert [row.key for row in back] == [replace(r, label=y).key for r, y in zip(rows, labels, strict=True)]


def test_rows_that_the_parts_cannot_work_on_are_left_out() -> None:
    z = np.array([[0.0, 1.0], [np.nan, 0.0], [np.inf, 0.0], [-np.inf, 0.0], [-np.inf, 2.0]], dtype=np.float32)
    batch = Batch(CROSS_ENTROPY, z, np.array([0, 0, 0, 0, 1]), np.ones(5, np.float32))
    assert [row.logits.tolist() for row in rows_of(batch)] == [[0.0, 1.0], [-np.inf, 2.0]]
    assert rows_of(replace(batch, options={"label_smoothing": 0.1})) == []
    assert rows_of(replace(batch, target=z)) == []


def test_crossing_and_resizing_keep_the_label_free() -> None:
    dice = RandomDice(np.random.default_rng(4))
    one, other = Row(np.arange(4.0), 2), Row(np.array([9.0, -np.inf, -np.inf, 7.0]), 0)
    for _ in range(30):
        child = cross(dice, one, other)
        assert np.isfinite(child.logits[child.label])
        for classes in (2, 4, 9):
            assert resize(dice, child, classes).logits.shape == (classes,)
            assert resize(dice, child, classes).logits[0] == child.logits[child.label]


# Scores


def scored(metric: Metric, z: list[list[float]], got: list[float], grade: Grade = Grade.ABSOLUTE) -> np.ndarray:
    logits = np.array(z, dtype=np.float32)
    batch = Batch(CROSS_ENTROPY, logits, np.zeros(len(z), dtype=np.int64), np.ones(len(z), dtype=np.float32))
    output = Output(loss=np.array(got, dtype=np.float32))
    return score(metric, "loss", reference_of(batch), output, FLOAT32, grade).score


def test_scores_by_each_metric() -> None:
    z, got = [[0.0, 0.0]], [0.75]
    error = 0.75 - np.log(2)
    assert scored(Metric.ABSOLUTE, z, got)[0] == pytest.approx(error)
    assert scored(Metric.ULP, z, got)[0] == pytest.approx(error * 2.0**24)
    assert scored(Metric.MIXED, z, got)[0] == pytest.approx(error / (1 + np.log(2)))
    # c u (V + |l| + |z_y|) + 2 u L with c = 4, l = L = log 2
    bound = 2.0**-24 * (4 * (2 + np.log(2)) + 2 * np.log(2))
    assert scored(Metric.BOUND_RATIO, z, got)[0] == pytest.approx(error / bound, rel=1e-6)
    assert scored(Metric.NEGATIVITY, z, got)[0] == -0.75
    assert scored(Metric.NEGATIVITY, z, [-0.25])[0] == 0.25


def test_what_is_not_judged_does_not_count() -> None:
    huge = [[1e8, 1e8]]  # the absolute bound is vacuous, the relative one is not
    assert scored(Metric.BOUND_RATIO, huge, [0.0])[0] == -np.inf
    assert scored(Metric.BOUND_RATIO, huge, [0.0], Grade.RELATIVE)[0] > 1e5
    assert scored(Metric.ULP, huge, [0.0])[0] > 1e6
    assert scored(Metric.NEGATIVITY, huge, [-3.0])[0] == 3.0


def test_what_is_not_finite_is_worst() -> None:
    for metric in Metric:
        assert scored(metric, [[0.0, 0.0], [1.0, 0.0]], [np.nan, np.inf]).tolist() == [np.inf, np.inf]


def test_the_bound_is_that_of_the_claim() -> None:
    claims = {"float64": Grade.FAITHFUL, "float32": Grade.RELATIVE, "bfloat16": Grade.STORAGE}
    declared = Declaration("x", "numpy", CROSS_ENTROPY, claims | {"float16": Grade.INACCURATE})
    assert [bound_of(declared, d) for d in DTYPES] == [
        {"float64": Grade.RELATIVE, "float32": Grade.RELATIVE, "bfloat16": Grade.STORAGE}.get(d, Grade.ABSOLUTE)
        for d in DTYPES
    ]


# Breeding


def test_a_population_keeps_the_best_and_no_copies() -> None:
    def candidate(value: float, logit: float) -> Candidate:
        return Candidate(Row(np.array([logit, 0.0]), 0), value, 0, 0.0, 0.0, 0.0, 0.0, 0.0)

    island = Island(2, [])
    island.add([candidate(float(i % 40), float(i % 40)) for i in range(80)])
    assert [c.score for c in island.population] == [float(39 - i) for i in range(24)]
    island.add([candidate(100.0, 100.0 + i) for i in range(9)] + [candidate(-np.inf, 7.5)])
    assert [c.score for c in island.population][:5] == [100.0, 100.0, 100.0, 39.0, 38.0]
    assert (island.score, island.stale) == (100.0, 0)
    island.add([candidate(5.0, 99.0)])
    assert island.stale == 1


def test_parts_that_gain_are_drawn_more_often() -> None:
    breeder = Breeder(np.random.default_rng(0), CROSS_ENTROPY, FLOAT32)
    row = Row(np.zeros(2), 0)
    for _ in range(200):
        for name in PARTS:
            breeder.learn(Child(row, (name,), 1.0), 2.0 if name == "offset" else 0.5)
    drawn = [name for _ in range(300) for name in breeder._parts()]
    assert drawn.count("offset") > 0.5 * len(drawn)
    assert len(set(drawn)) > 5, "the others keep a chance"


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_nearby_is_of_the_format_and_near(dtype: str) -> None:
    form = FORMATS[dtype]
    z = form.round(np.array([1.0, -np.inf, -3.5, 0.0, form.largest])).astype(np.float64)
    breeder = Breeder(np.random.default_rng(7), CROSS_ENTROPY, form)
    found = breeder.nearby([Child(Row(z, 2)), Child(Row(z[::-1].copy(), 0))], 40)
    assert found.shape == (2, 41, 5)
    assert (found[0, 0] == z).all()
    assert (found[1, 0] == z[::-1]).all()
    rounded = form.round(found[0]).astype(np.float64)
    assert np.isneginf(rounded[:, 1]).all()
    assert np.isfinite(np.delete(rounded, 1, axis=1)).all()
    assert (abs(rounded[:, 0] - 1) <= 1).all(), "at most 2^(p-1) numbers away"
    moved = (rounded != z).sum(axis=1)
    assert (moved[2::2] <= 1).all()
    assert moved[1::2].max() > 1
    assert len(np.unique(rounded, axis=0)) > 20


def test_the_worst_variant_of_each_row_counts(toy: tuple[Worker, dict[str, Declaration]]) -> None:
    worker, declarations = toy
    evaluator = Evaluator(declarations["toy_offset_fault"], worker, FLOAT32, "loss", Metric.ULP)
    rows = [Row(np.array([1.0, 0.0]), 0), Row(np.array([2.0, 1.0]), 1)]
    variants = np.array([[[1.0, 0.0], [0.5, 0.0], [99.0, 89.0]], [[2.0, 1.0], [2.0, 1.0], [2.0, 1.0]]])
    first, second = evaluator.worst_of(rows, variants)
    assert evaluator.evaluations == 6
    assert first.row.logits.tolist() == [99.0, 89.0]
    assert first.row.label == 0
    assert first.score > 4000 > second.score
    assert second.row is rows[1], "of equal ones the row itself"
    assert first.hi == pytest.approx(np.log1p(np.exp(-10.0)))
    assert second.hi == pytest.approx(np.log1p(np.exp(1.0)))


# The hunt


def test_a_hunt_looks_closer_once_it_knows_where(
    toy: tuple[Worker, dict[str, Declaration]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.hunt.FIRST_LOOK", 100)
    seen: list[int] = []
    worker, declarations = toy
    hunt(request(9000), declarations["toy_right"], worker, lambda p: seen.append(p.evaluations))
    sizes = np.diff([0, *seen])
    assert sizes[:3].tolist() == [48, 48, 48]
    assert set(sizes[3:].tolist()) == {48 * (1 + NEARBY)}
    slow = Evaluator(declarations["toy_right"], worker, FLOAT32, "loss", Metric.ULP)
    slow.evaluations, slow.calling = 1000, 2.0
    assert _nearby(slow, request(seconds=60.0, evaluations=None)) == 0
    slow.calling = 0.5
    assert _nearby(slow, request(seconds=60.0, evaluations=None)) == NEARBY


def test_the_truth_of_a_hunt_is_mpmath_s(toy: tuple[Worker, dict[str, Declaration]]) -> None:
    worker, declarations = toy
    quick, slow = (
        rate(declarations["toy_right"], worker, fast=fast, evaluations=300, seed=3, dtype="float32")
        for fast in (True, False)
    )
    assert (quick.rows, quick.worst) == (slow.rows, slow.worst)


def test_the_same_seed_and_evaluations_find_the_same(toy: tuple[Worker, dict[str, Declaration]]) -> None:
    asked = request(700, starts=("random", "families"), seed=5)
    one, two = (worst(toy, "toy_offset_fault", asked) for _ in range(2))
    assert one == two
    assert one.found["evaluations"] >= 700
    assert worst(toy, "toy_offset_fault", replace(asked, seed=6)).logits != one.logits


def test_it_finds_a_planted_fault_that_random_rows_do_not(toy: tuple[Worker, dict[str, Declaration]]) -> None:
    worker, declarations = toy
    for seed in range(2):
        case = worst(toy, "toy_offset_fault", request(2000, seed=seed))
        assert case.ulp > 4000, "a thousandth is at least 2^23 / 1000 ulp off"
        assert min(case.reals) > 50
        planted = Case("toy_offset_fault", "float32", Metric.ULP, 4000.0, "")
        normal = search(
            "normal", planted, declarations["toy_offset_fault"], worker, seconds=60.0, seed=seed, evaluations=3000
        )
        assert normal.rows >= 3000
        assert normal.best < 2
        assert normal.failed_after is None


def test_a_right_one_is_found_to_be_right(toy: tuple[Worker, dict[str, Declaration]]) -> None:
    assert worst(toy, "toy_right", request(800)).ulp < 1
    assert worst(toy, "toy_right", request(400, metric=Metric.NEGATIVITY)).value <= 0


def test_it_finds_a_negative_loss(toy: tuple[Worker, dict[str, Declaration]]) -> None:
    case = worst(toy, "toy_negative", request(1500, metric=Metric.NEGATIVITY))
    assert case.value > 0.4
    assert float.fromhex(case.got) == -case.value
    assert float.fromhex(case.want) > 40


def test_it_ends_at_what_is_not_finite(toy: tuple[Worker, dict[str, Declaration]]) -> None:
    case = worst(toy, "toy_overflow", request(10**6))
    assert case.value == np.inf
    assert case.got in ("inf", "nan", "-inf")
    assert case.found["evaluations"] < 20_000


def test_an_implementation_of_means_is_called_row_by_row(toy: tuple[Worker, dict[str, Declaration]]) -> None:
    case = worst(toy, "toy_mean", request(200))
    assert 0 < case.ulp < 1


@pytest.mark.parametrize(
    ("name", "what", "message"),
    [
        ("toy_raises", "loss", r"toy_raises in float32: raised: ValueError: no logit above 30, please, on \["),
        ("toy_wrong_shape", "loss", r"expected shape \[48\], got \[48, 1\]"),
        ("toy_right", "gradient", "toy_right has no gradient: hunt its loss"),
    ],
)
def test_what_cannot_be_hunted_says_why(
    toy: tuple[Worker, dict[str, Declaration]], name: str, what: str, message: str
) -> None:
    with pytest.raises(HuntError, match=message):
        worst(toy, name, request(4000, what=what))


def test_an_interrupt_keeps_the_worst_so_far(toy: tuple[Worker, dict[str, Declaration]]) -> None:
    worker, declarations = toy
    seen: list[HuntProgress] = []

    def show(progress: HuntProgress) -> None:
        seen.append(progress)
        if len(seen) == 5:
            raise KeyboardInterrupt

    found = hunt(request(10**6), declarations["toy_right"], worker, show)
    assert (found.complete, len(seen)) == (False, 5)
    assert found.evaluations == seen[-1].evaluations
    assert found.worst is not None
    assert found.worst.value == max(progress.best for progress in seen)


def test_time_is_what_is_spent(toy: tuple[Worker, dict[str, Declaration]]) -> None:
    worker, declarations = toy
    shares: list[float] = []
    found = hunt(
        request(seconds=1.0, evaluations=None), declarations["toy_right"], worker, lambda p: shares.append(p.share)
    )
    assert 1.0 <= found.seconds < 20.0
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_the_cache_is_left_alone(
    toy: tuple[Worker, dict[str, Declaration]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XENT_CACHE", str(tmp_path))
    worst(toy, "toy_right", request(50))
    assert list(tmp_path.rglob("*.truth")) == []
    assert os.environ["XENT_CACHE"] == str(tmp_path)


def test_a_worst_case_is_what_it_says(toy: tuple[Worker, dict[str, Declaration]]) -> None:
    worker, declarations = toy
    case = worst(toy, "toy_offset_fault", request(500))
    solved = truth(case.reals[None], [case.target])
    assert (case.want, case.want_low) == (solved.loss_hi[0].hex(), solved.loss_lo[0].hex())
    again = Evaluator(declarations["toy_offset_fault"], worker, FLOAT32, "loss", Metric.ULP)
    assert isinstance(case.target, int)
    (candidate,) = again([Row(case.reals, case.target)])
    assert (candidate.score, candidate.got) == (case.value, float.fromhex(case.got))


def test_gradients_and_element_wise_losses() -> None:
    with Workers() as workers:
        found = {f.name: f for f in discover(["numpy_shifted", "numpy_bce_with_logits"], workers=workers)}
        for name, what in (("numpy_shifted", "gradient"), ("numpy_bce_with_logits", "loss")):
            declaration = found[name].declaration
            assert declaration is not None
            asked = request(300, what=what, metric=Metric.BOUND_RATIO)
            case = hunt(asked, declaration, workers["numpy"]).worst
            assert case is not None
            assert 0 < case.value < 1
            assert case.column is not None
            assert (case.targets is None) == (what == "gradient")
            assert len(case.logits) in (SMALL if what == "gradient" else (8,))
            options = {} if what == "loss" else {"upstream": [float.fromhex(case.upstream)]}
            target = case.target if case.targets is None else case.targets
            solved = truth(case.reals[None], np.array([target]), loss=declaration.loss, **options)
            hi = (solved.loss_hi if what == "loss" else solved.grad_hi)[0, case.column]
            assert case.want == hi.hex()


# The two failures that every framework's own tests miss: seen from standard normal rows alone


@pytest.mark.parametrize(
    ("name", "metric", "least"),
    [
        ("torch_cross_entropy", Metric.ULP, 2.0**23),
        ("numpy_lse_minus_target", Metric.MIXED, 0.1),
        ("optax_integer_labels", Metric.MIXED, 0.1),
    ],
)
def test_known_failures_are_found_from_random_rows(name: str, metric: Metric, least: float) -> None:
    with Workers() as workers:
        (found,) = discover([name], workers=workers)
        assert found.declaration is not None, found.reason
        case = hunt(request(2000, metric=metric), found.declaration, workers[found.framework]).worst
        assert case is not None
        assert case.value >= least
        assert float.fromhex(case.got) == pytest.approx(0.0, abs=float.fromhex(case.want) / 2)


def test_the_benchmark_compares_the_three_searches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seconds", "0.2", "--seeds", "1", "--only", "numpy_log1p"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "numpy_log1p float64 loss, bound_ratio: as near to its proven bound as can be"
    assert [line.split()[0] for line in lines] == ["normal", "parts", "hunt"]
    assert main(["--only", "nothing"]) == 2
    assert {case.implementation for case in CASES} >= {"torch_cross_entropy", "optax_integer_labels"}


# The command


@pytest.fixture
def xent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["xent", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        out, err = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, out, err

    return run


def test_the_command_prints_a_family(xent: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    arguments = ("numpy_shifted", "--dtype", "float32", "--evaluations", 300, "--json", file)
    status, out, err = xent("hunt", *arguments)
    assert (status, err) == (0, "")
    assert "numpy_shifted float32 loss: ulp " in out
    assert "def worst_numpy_shifted_float32_loss(rng: np.random.Generator, form: Format) -> Draw:" in out
    data = json.loads(file.read_text())
    assert {key: data[key] for key in ("schema", "implementation", "what", "metric", "seed")} == {
        "schema": 1,
        "implementation": "numpy_shifted",
        "what": "loss",
        "metric": "ulp",
        "seed": 0,
    }
    (only,) = data["hunts"]
    assert (only["dtype"], only["complete"]) == ("float32", True)
    assert f"ulp {WorstCase.from_json(only['worst']).value:.6g}" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["numpy_shiftd"], "no implementation is called 'numpy_shiftd': did you mean numpy_shifted"),
        (["numpy_*"], "implementations: hunt one at a time"),
        (["numpy_shifted", "--dtype", "float16"], "numpy_shifted does not claim float16: choose from float64, float32"),
        (["numpy_shifted", "--dtype", "float8"], "--dtype 'float8': choose from float64"),
        (["numpy_shifted", "--what", "weight"], "--what 'weight': choose from loss, gradient"),
        (["numpy_shifted", "--from", "memory"], "--from 'memory': choose from random, families, worst"),
        (["numpy_shifted", "--metric", "beauty"], "'beauty' is not one of"),
        (["numpy_shifted", "--json", "nowhere/found.json"], "there is no folder"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_2(
    xent: Callable[..., tuple[int, str, str]], arguments: list[str], message: str
) -> None:
    status, out, err = xent("hunt", *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_interrupted_is_130_and_prints_and_keeps_the_worst(
    xent: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = sys.modules["harness.cli.hunt"].hunt  # type: ignore[attr-defined]

    def cut(asked: Hunt, declaration: Declaration, worker: Worker, show: object) -> object:
        def stop(progress: HuntProgress) -> None:
            if progress.evaluations > 400:
                raise KeyboardInterrupt

        return whole(asked, declaration, worker, stop)

    monkeypatch.setattr("harness.cli.hunt.hunt", cut)
    monkeypatch.setattr("harness.worst_case.FOLDER", tmp_path)
    status, out, err = xent("hunt", "numpy_shifted", "--keep", "--json", tmp_path / "found.txt")
    assert status == 130
    assert err == "xent hunt: interrupted; the worst so far is above\n"
    assert out.count("@family(") == 1, "the dtypes after it are not begun"
    assert "1 kept; float64 loss ulp" in out
    assert json.loads((tmp_path / "found.txt").read_text())["hunts"][0]["complete"] is False
    assert (tmp_path / "numpy_shifted.json").exists()


def test_the_populations_of_the_default_hold_small_and_large() -> None:
    assert CLASSES == (2, 3, 8, 10, 64, 1000)
