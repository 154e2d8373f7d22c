"""The compiled path: the same bits as the NumPy path, code kept on disk soundly, and nothing lost without Numba."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.fast import code_cache, numpy_path, paths, tables
from harness.formats import FORMATS
from harness.losses import loss_named
from tests.fast_cases import BCE, CE, drawn, solve

pytest.importorskip("numba")

from harness.fast.numba_path import Compiled, has_fma


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    """The path for this processor, from the test run's cache."""
    return Compiled(has_fma(), code_cache.folder())


def same_bits(a: Any, b: Any) -> bool:
    """Whether two answers agree in every bit that counts."""
    settled = (a.settled == b.settled).all()
    on = a.settled
    return bool(settled) and all(
        (x[on].view(np.int64) == y[on].view(np.int64)).all() for x, y in zip(a.arrays, b.arrays, strict=True)
    )


def differing(path: Any, seed: int, rows: int, losses: tuple[str, ...] = (CE, BCE)) -> Iterator[str]:
    """Batches on which a path does not give the NumPy path's bits; tiny low words may differ (docs/theory.md)."""
    for number, (loss, problem) in enumerate(drawn(seed, rows)):
        if loss in losses and not same_bits(solve_only(loss, problem, path), solve_only(loss, problem, numpy_path)):
            yield f"batch {number} of {loss}: {problem.logits[:2]!r}"


def solve_only(loss: str, problem: Any, path: Any, given: tables.Tables | None = None) -> Any:
    """What a path settles."""
    from harness import fast

    return fast.solve(loss, problem, np.array(problem.upstream), np.zeros(problem.upstream.shape), path, given)


def test_both_paths_give_the_same_bits(compiled: Compiled) -> None:
    assert list(differing(compiled, 20, 6))[:3] == []


@pytest.mark.parametrize("kind", ["indices", "smoothing", "soft", "weights"])
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_both_paths_give_the_same_bits_in_wide_rows(kind: str, dtype: str, compiled: Compiled) -> None:
    """The NumPy path works on these in pieces, or by their values, several rows at once."""
    rng, form = np.random.default_rng(25), FORMATS[dtype]
    z = form.round(rng.standard_normal((5, 20_000)) * [[1], [3], [0.01], [0], [300]])
    z[1, ::7] = -np.inf
    y = rng.integers(0, 20_000, 5) // 7 * 7 + 1 if kind != "soft" else form.round(rng.dirichlet(np.ones(20_000), 5))
    options: dict[str, Any] = {"smoothing": {"label_smoothing": 0.1}, "weights": {"label_smoothing": 0.2}}.get(kind, {})
    if kind == "weights":
        options["weight"] = rng.uniform(0.5, 2.0, 20_000)
    problem = loss_named(CE).problem(z, y, rng.standard_normal(5), options)
    ours = solve_only(CE, problem, numpy_path)
    assert same_bits(ours, solve_only(CE, problem, compiled))
    assert ours.settled.sum() >= 2


def test_both_paths_give_the_same_bits_where_entries_cancel(compiled: Compiled) -> None:
    rng = np.random.default_rng(24)
    z = rng.standard_normal((6, 5000)) * 3
    p = np.exp(z - z.max(axis=1, keepdims=True))
    q = p / p.sum(axis=1, keepdims=True) * (1 + 1e-12 * rng.standard_normal(z.shape))
    for target, options in ((q, {"weight": rng.uniform(0.5, 2, 5000)}), (np.arange(6), {"label_smoothing": 0.1})):
        problem = loss_named(CE).problem(z, target, None, options)
        a, b = solve_only(CE, problem, compiled), solve_only(CE, problem, numpy_path)
        assert same_bits(a, b)
        assert a.settled.any()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_processor_without_fma_gives_the_same_bits() -> None:
    assert list(differing(Compiled(fma=False), 21, 6))[:3] == []


def test_compiled_code_keeps_the_contract(compiled: Compiled) -> None:
    rng = np.random.default_rng(22)
    problem = loss_named(CE).problem(rng.standard_normal((20, 200)) * 5, rng.integers(0, 200, 20), None, {})
    solved, wrong = solve(CE, problem, compiled)
    assert wrong == []
    assert solved.settled.all()


@pytest.mark.parametrize("table", ["high", "low", "logs"])
def test_a_wrong_constant_is_found(compiled: Compiled, table: str) -> None:
    rng = np.random.default_rng(23)
    problem = loss_named(CE).problem(rng.standard_normal((2, 50)) * 5, rng.integers(0, 50, 2), None, {})
    whole = tables.standard()
    broken = replace(whole, **{table: getattr(whole, table) * (1 + 2.0**-20)})
    assert solve(CE, problem, compiled, whole)[1] == []
    assert solve(CE, problem, compiled, broken)[1] != []


# Code on disk


def written(folder: Path) -> list[str]:
    """What a stand-in for a compiler was asked to do."""
    return [path.name for path in sorted(folder.rglob("*")) if path.is_file()]


class Compiler:
    """Writes code where there is none, and reads it where there is."""

    def __init__(self) -> None:
        self.did: list[str] = []

    def __call__(self, folder: Path | None) -> str:
        if folder is None:
            self.did.append("compiled")
        elif (folder / "code").exists():
            self.did.append("read " + (folder / "code").read_text())
        else:
            self.did.append("written")
            (folder / "code").write_text("right")
        return "result"


def test_code_is_written_once_and_then_read(tmp_path: Path) -> None:
    compiler = Compiler()
    for _ in range(3):
        assert code_cache.kept(tmp_path / "place", "entry", compiler) == "result"
    assert compiler.did == ["written", "read right", "read right"]
    assert written(tmp_path) == ["code", "digests.json"]


@pytest.mark.parametrize("damage", ["changed", "cut", "list"])
def test_damaged_code_is_not_read(tmp_path: Path, damage: str) -> None:
    compiler = Compiler()
    code_cache.kept(tmp_path, "entry", compiler)
    if damage == "changed":
        (tmp_path / "entry" / "code").write_text("wrong")
    elif damage == "cut":
        (tmp_path / "entry" / "code").unlink()
    else:
        (tmp_path / "entry" / "digests.json").write_text("{")
    code_cache.kept(tmp_path, "entry", compiler)
    code_cache.kept(tmp_path, "entry", compiler)
    assert compiler.did == ["written", "written", "read right"]


def test_a_place_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    compiler = Compiler()
    assert code_cache.kept(tmp_path / "file" / "place", "entry", compiler) == "result"
    assert code_cache.kept(None, "entry", compiler) == "result"
    assert compiler.did == ["compiled", "compiled"]


def test_code_that_fails_to_load_is_compiled_again(tmp_path: Path) -> None:
    compiler = Compiler()
    code_cache.kept(tmp_path, "entry", compiler)
    failed: list[Path | None] = []

    def picky(folder: Path | None) -> str:
        if folder is not None and (folder / "code").exists():
            failed.append(folder)
            raise RuntimeError("not for this processor")
        return compiler(folder)

    assert code_cache.kept(tmp_path, "entry", picky) == "result"
    assert failed
    assert compiler.did == ["written", "written"]


# Which path


def chooser(entries: int) -> paths._Chooser:
    """One that has seen so many logits."""
    result = paths._Chooser()
    result.entries = entries
    return result


def test_small_work_never_loads_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XENT_FAST", raising=False)
    monkeypatch.setattr(code_cache, "is_warm", lambda name: True)
    small = chooser(1000)
    assert small.choose("one_target") is numpy_path
    assert small.numba is None


def test_each_entry_point_is_loaded_where_it_is_on_disk_and_compiled_where_that_pays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("XENT_FAST", raising=False)
    monkeypatch.setattr(code_cache, "is_warm", lambda name: name == "all_one_target")
    quick: Any = object()
    monkeypatch.setattr(paths, "_load", lambda: quick)
    some, many = chooser(paths.LOADING), chooser(paths.COMPILING)
    assert [some.choose(entry) is quick for entry in ("one_target", "refined")] == [True, False]
    assert [many.choose(entry) is quick for entry in ("one_target", "refined")] == [True, True]


def test_a_broken_numba_leaves_the_numpy_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise RuntimeError("no compiler")

    monkeypatch.setenv("XENT_FAST", "numba")
    monkeypatch.setattr(paths, "_load", broken)
    hopeless = chooser(10**9)
    assert [hopeless.choose("elements") for _ in range(2)] == [numpy_path, numpy_path]


def test_the_package_imports_without_numba() -> None:
    code = (
        "import sys; sys.modules['numba'] = None; sys.modules['llvmlite'] = None\n"
        "import harness, importlib.util\n"
        "print(harness.truth([[2.0, 1.0, 0.1]], [0]).loss_hi[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("0.41703"), done.stderr
