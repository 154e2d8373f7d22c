"""The accuracy run: what a request selects, what a run records, and that the same request gives the same results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from harness import accuracy, cache
from harness.accuracy import NothingToDo, Progress, Request, run_accuracy
from harness.discovery import DiscoveryError
from harness.families import UnknownFamily
from harness.formats import BFLOAT16
from harness.logits_file import LogitsFileError
from harness.run import Run, Timing
from harness.timing import Step

SMALL = Request(
    only=("numpy_shifted", "numpy_naive", "numpy_bce_with_logits"),
    families=("two_classes", "moderate_2", "overflow_edge", "option_label_smoothing", "soft_targets"),
    jobs=1,
)


def changed(**changes: Any) -> Request:
    return Request(**{**SMALL.__dict__, **changes})


@pytest.fixture(scope="module")
def small() -> Run:
    return run_accuracy(SMALL)


def results(run: Run) -> Any:
    return run.to_json()["results"]


# ----------------------------------------------------------------------------------------------------------- what it is


KEYS = {
    *("implementation", "framework", "dtype", "device", "backend", "family", "what", "rows", "judged", "grade"),
    *("outcome", "max_ulp", "max_abs", "max_rel", "max_bound_ratio", "nonfinite", "witness"),
}


def test_the_file_has_what_others_rely_on(small: Run, tmp_path: Path) -> None:
    small.save(tmp_path / "run.json")

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    data = json.loads((tmp_path / "run.json").read_text(), parse_constant=refuse)
    assert data["schema"] == 1
    assert data["complete"] is True
    environment = data["environment"]
    assert {"versions", "cpu", "threads", "commit", "seed"} <= environment.keys()
    assert (environment["threads"], environment["seed"]) == (1, 0)
    assert environment["workers"]["numpy"]["threads"] == 1
    assert environment["request"]["families"] == list(SMALL.families)
    for result in data["results"]:
        assert result.keys() >= KEYS
        assert (result["framework"], result["device"], result["backend"]) == ("numpy", "cpu", "native")
        assert result["what"] in ("loss", "gradient")
        if result["outcome"] == "passed":
            assert result["judged"] > 0
            assert isinstance(result["max_ulp"], float)
            assert result["witness"]["got"]
    assert Run.load(tmp_path / "run.json").to_json() == small.to_json()


def test_there_is_one_result_for_each_cell(small: Run) -> None:
    cells = [(r.implementation, r.dtype, r.family, r.what) for r in small.results]
    assert len(set(cells)) == len(cells)
    softmax = [(name, family) for name in ("numpy_naive", "numpy_shifted") for family in SMALL.families]
    sigmoid = [
        ("numpy_bce_with_logits", f) for f in SMALL.families if "binary" in " ".join(small.families[f]["losses"])
    ]
    want = {
        (name, dtype, family, what)
        for name, family in [*softmax, *sigmoid]
        for dtype in ("float64", "float32")
        for what in ("loss", "gradient")
    }
    assert set(cells) == want


def test_what_an_implementation_does_not_claim_is_there_as_skipped(small: Run) -> None:
    skipped = {(r.implementation, r.family): r.detail for r in small.results if r.outcome == "skipped"}
    assert skipped["numpy_naive", "option_label_smoothing"] == "does not claim label_smoothing"
    assert ("numpy_shifted", "option_label_smoothing") not in skipped


def test_naive_is_not_finite_on_the_overflow_edge_and_that_is_known(small: Run) -> None:
    found = {
        r.dtype: r
        for r in small.results
        if (r.implementation, r.family, r.what) == ("numpy_naive", "overflow_edge", "loss")
    }
    assert {r.outcome for r in found.values()} == {"known_failure"}
    assert all(r.nonfinite > 0 for r in found.values())


def test_the_run_describes_its_families_and_implementations(small: Run) -> None:
    assert list(small.families) == list(dict.fromkeys(r.family for r in small.results if r.family in small.families))
    assert set(small.families) == set(SMALL.families)
    assert all(about["breaks"] and about["source"] for about in small.families.values())
    assert {e["name"]: e["available"] for e in small.implementations} == dict.fromkeys(SMALL.only, True)


# ------------------------------------------------------------------------------------------------------- the same again


@pytest.mark.parametrize("jobs", [2, 4])
def test_results_do_not_depend_on_the_number_of_jobs(
    small: Run, jobs: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XENT_CACHE", str(tmp_path))
    assert results(run_accuracy(changed(jobs=jobs))) == results(small)


def test_results_do_not_depend_on_the_cache(small: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XENT_CACHE", "off")
    assert results(run_accuracy(SMALL)) == results(small)
    monkeypatch.setenv("XENT_CACHE", str(tmp_path))
    run_accuracy(SMALL)
    entries = sorted(tmp_path.rglob("*.truth"))
    assert entries
    for damage, entry in enumerate(entries):
        content = bytearray(entry.read_bytes())
        if damage % 3 == 0:
            content[len(content) // 2] ^= 1
        entry.write_bytes(content[: len(content) // 2] if damage % 3 == 1 else content)
    assert results(run_accuracy(SMALL)) == results(small)
    assert cache.cache_folder() == tmp_path


def test_another_seed_is_another_run(small: Run) -> None:
    other = run_accuracy(changed(seed=1))
    assert other.environment["seed"] == 1
    assert [r.family for r in other.results] == [r.family for r in small.results]
    assert results(other) != results(small)


# ----------------------------------------------------------------------------------------------------- what is selected


def test_dtypes(small: Run) -> None:
    run = run_accuracy(changed(dtypes=("float32",)))
    assert results(run) == [r for r in results(small) if r["dtype"] == "float32"]


def test_quick_leaves_out_large_batches() -> None:
    families = ("two_classes", "uniform_128256")
    run = run_accuracy(changed(only=("numpy_shifted",), families=families, dtypes=("float32",), quick=True))
    assert {r.family for r in run.results} == {"two_classes"}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"only": ("numpy_shiftet",)}, DiscoveryError, "did you mean numpy_shifted"),
        ({"families": ("tiez",)}, UnknownFamily, "did you mean ties"),
        ({"dtypes": ("float23",)}, NothingToDo, "unknown dtype 'float23': choose from float64, float32"),
        ({"dtypes": ("bfloat16",)}, NothingToDo, "--only numpy_shifted --only numpy_naive"),
        ({"only": ("numpy_naive",), "families": ("option_weight",)}, NothingToDo, "--family option_weight"),
        ({"only": ("numpy_bce*",), "families": ("uniform_128256",), "quick": True}, NothingToDo, "--quick"),
        ({"logits": (Path("missing.npz"),)}, LogitsFileError, "missing.npz: there is no such file"),
    ],
)
def test_a_request_that_selects_nothing_says_why(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        run_accuracy(changed(**changes))
    assert message in str(caught.value)


def test_where_nothing_can_run_the_reasons_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = accuracy.Found(
        "torch_one", "torch", "cross_entropy", "m", reason="torch is not installed: pip install torch"
    )
    monkeypatch.setattr(accuracy, "discover", lambda *_, **__: [found, found])
    with pytest.raises(NothingToDo, match=r"^nothing can run here: torch is not installed: pip install torch$"):
        run_accuracy(SMALL)


# ----------------------------------------------------------------------------------------------------------- own logits


def own(folder: Path, logits: Any, labels: Any, name: str = "mine.npz") -> Path:
    path = folder / name
    if name.endswith(".safetensors"):
        safetensors.numpy.save_file({"logits": logits, "labels": labels}, path)
    else:
        np.savez(path, logits=logits, labels=labels)
    return path


ONE: dict[str, Any] = {"only": ("numpy_shifted", "numpy_naive"), "families": ()}
WITH_TORCH = ONE | {"only": (*ONE["only"], "torch_cross_entropy")}
LABELS = np.array([0, 2, -100])
LOGITS = np.array([[1.0, 2.0, 3.0], [0.1, 1e5, -7.0], [0.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("dtype", "dtypes"),
    [
        ("float64", ["float64"]),
        ("float32", ["float64", "float32"]),
        ("bfloat16", ["float64", "float32", "bfloat16"]),
    ],
)
def test_a_file_is_judged_in_every_dtype_that_holds_it(dtype: str, dtypes: list[str], tmp_path: Path) -> None:
    kind: Any = BFLOAT16.dtype if dtype == "bfloat16" else dtype
    name = "mine.safetensors" if dtype == "bfloat16" else "mine.npz"
    wanted = WITH_TORCH if dtype == "bfloat16" else ONE
    run = run_accuracy(changed(**wanted, logits=(own(tmp_path, LOGITS.astype(kind), LABELS, name),)))
    assert list(dict.fromkeys(r.dtype for r in run.results)) == dtypes
    assert {r.family for r in run.results} == {"file/mine"}
    assert run.families["file/mine"]["losses"] == ["cross_entropy"]
    assert {r.outcome for r in run.results if r.implementation != "numpy_naive"} == {"passed"}
    # It has an ignored row, which the naive form does not know of.
    assert {r.detail for r in run.results if r.implementation == "numpy_naive"} == {"does not claim ignore_index"}


def test_a_dtype_that_is_asked_for_is_rounded_to(tmp_path: Path) -> None:
    third = np.array([[1 / 3, 2.0, 1e5]])
    path = own(tmp_path, third, np.array([0]))
    run = run_accuracy(changed(**ONE, logits=(path,), dtypes=("float32",)))
    witness = run.results[0].witness
    assert witness is not None
    assert witness["logits"] == [float(z).hex() for z in third.astype("float32")[0]]
    with pytest.raises(LogitsFileError, match="beyond float16's largest number"):
        run_accuracy(changed(**WITH_TORCH, logits=(path,), dtypes=("float16",)))


def test_files_come_beside_families_that_are_named(tmp_path: Path) -> None:
    run = run_accuracy(changed(**ONE | {"families": ("two_classes",)}, logits=(own(tmp_path, LOGITS, LABELS),)))
    assert {r.family for r in run.results} == {"file/mine", "two_classes"}


def test_a_nan_in_the_logits_must_come_out_as_nan(tmp_path: Path) -> None:
    logits = LOGITS.copy()
    logits[0, 1] = np.nan
    run = run_accuracy(
        changed(**ONE | {"only": ("numpy_shifted",)}, logits=(own(tmp_path, logits, np.array([0, 2, 1])),))
    )
    loss, gradient = run.results
    assert (loss.outcome, gradient.outcome) == ("passed", "passed")
    assert loss.nonfinite == gradient.nonfinite == 0
    json.dumps(run.to_json(), allow_nan=False)


# ----------------------------------------------------------------------------------------------------------- on the way


def test_progress_counts_every_cell_and_reaches_the_end() -> None:
    seen: list[tuple[int, int, float]] = []
    run = run_accuracy(SMALL, lambda p: seen.append((p.done, p.total, p.share)))
    cells = len({(r.implementation, r.dtype, r.family) for r in run.results})
    assert [done for done, _, _ in seen] == list(range(1, cells + 1))
    assert {total for _, total, _ in seen} == {cells}
    shares = [share for _, _, share in seen]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


def interrupt_after(cells: int) -> Callable[[Progress], None]:
    def show(progress: Progress) -> None:
        if progress.done > cells:
            raise KeyboardInterrupt

    return show


def test_an_interrupt_leaves_what_was_finished(small: Run) -> None:
    run = run_accuracy(SMALL, interrupt_after(5))
    assert not run.complete
    assert len(run.results) == 10
    assert all(r in small.results for r in run.results)


def test_speed_comes_with_the_results_and_its_interrupt_does_not_cost_them(
    small: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy, "SPEED_SHAPES", ((4, 5),))
    run = run_accuracy(changed(speed=True))
    assert {(t.implementation, t.what) for t in run.timings} == {
        (name, what) for name in ("numpy_naive", "numpy_shifted") for what in ("forward", "forward+backward")
    }
    first = run.timings[0]

    def interrupted(groups: Any, *_: Any, **__: Any) -> Any:
        yield Step(groups[0], (first,), 0.1)
        raise KeyboardInterrupt

    monkeypatch.setattr(accuracy, "measure_speed", interrupted)
    run = run_accuracy(changed(speed=True))
    timings: tuple[Timing, ...] = run.timings
    assert (timings, run.complete) == ((first,), False)
    assert results(run) == results(small)


def test_no_worker_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[accuracy.Workers] = []

    class Noted(accuracy.Workers):
        def __init__(self, **keywords: Any) -> None:
            super().__init__(**keywords)
            made.append(self)

    monkeypatch.setattr(accuracy, "Workers", Noted)
    monkeypatch.setattr(accuracy, "SPEED_SHAPES", ((4, 5),))
    run_accuracy(changed(speed=True))
    assert made[0]["numpy"].pid is None


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_everything_is_as_claimed_and_the_same_again() -> None:
    first = run_accuracy(Request(jobs=2))
    assert first.complete
    assert {r.outcome for r in first.results} <= {"passed", "known_failure", "skipped", "not_judged"}
    assert results(run_accuracy(Request(jobs=1))) == results(first)
