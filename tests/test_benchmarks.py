"""The asv suite: what it times is what it says, what is missing is skipped, and asv finds it."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import accuracy, calls, compiled, gpu, harness_cost, jobs, losses, memory
from harness import compilation
from harness.compilation import CompileRequest, NothingToCompile
from harness.compiled import Compilation, CompiledKernel
from harness.declaration import implementation
from harness.machine_code import TARGETS
from tools import bench_commits

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("what", ["forward", "forward+backward"])
@pytest.mark.parametrize("name", losses.Cpu.params[0])
def test_what_is_timed_is_a_cross_entropy(name: str, what: str) -> None:
    loss, gradient = calls.prepared(name, "64x50", what)()
    assert float(np.asarray(loss).mean()) == pytest.approx(math.log(50) + 0.5, abs=0.75)
    assert (gradient is None) is (what == "forward")
    assert calls.prepared(name, "64x50", what) is calls.prepared(name, "64x50", what)


def test_a_wrong_answer_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgets_the_vocabulary(logits: Any, target: Any) -> Any:
        return np.zeros(len(target), logits.dtype)

    declare = implementation(framework="numpy", loss="cross_entropy", grade="absolute")
    wrong = declare(forgets_the_vocabulary).__xent_implementation__  # type: ignore[attr-defined]
    monkeypatch.setattr(calls, "declared", lambda name: wrong)
    with pytest.raises(RuntimeError, match="wrong_one: the loss is inaccurate"):
        calls.prepared("wrong_one", "8x50", "forward")


@pytest.mark.parametrize("name", ["keras_cross_entropy", "nobody_s_loss"])
def test_what_is_missing_is_skipped_with_the_reason(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "unavailable", lambda framework: f"{framework} is not installed: pip install it")
    with pytest.raises(NotImplementedError, match=r"pip install it|has no implementation 'nobody_s_loss'"):
        calls.declared(name)


def test_without_a_gpu_the_gpu_s_are_skipped() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        with pytest.raises(NotImplementedError, match="no CUDA device"):
            gpu.Cuda().setup("torch_naive", gpu.SHAPES[0])


def test_memory_is_the_difference_of_two_processes() -> None:
    logits = 64 * 32_000 * 4
    script = "import sys; from benchmarks import memory as m; m.FEW = '2x32000'; m.main(*sys.argv[1:])"
    command = [sys.executable, "-c", script]
    marks = [
        int(subprocess.run([*command, "numpy_shifted", shape], cwd=ROOT, capture_output=True, check=True).stdout)
        for shape in ("64x32000", "2x32000")
    ]
    assert 4 < (marks[0] - marks[1]) / logits < 9  # the logits themselves, and five times as much in the call
    with pytest.raises(RuntimeError, match="nobody"):
        memory.highest("nobody", "2x32000")


def test_accuracy_is_tracked_in_finite_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "IMPLEMENTATIONS", ("numpy_naive", "numpy_log1p", "nobody"))
    monkeypatch.setattr(accuracy, "FAMILIES", ("moderate", "overflow_edge"))
    monkeypatch.setattr(accuracy, "DTYPES", ("float32",))
    cells = accuracy.measured()
    assert set(cells) == {"numpy_naive float32", "numpy_log1p float32"}
    assert cells["numpy_log1p float32"][1] == 0 < cells["numpy_naive float32"][1]
    assert 0 < cells["numpy_log1p float32"][0] < 1000
    assert all(math.isfinite(figure) for cell in cells.values() for figure in cell)
    suite = accuracy.Accuracy()
    assert suite.track_nonfinite(cells, "numpy_naive", "float32") == cells["numpy_naive float32"][1]
    with pytest.raises(NotImplementedError, match="claims nothing, in float16"):
        suite.setup(cells, "numpy_naive", "float16")


OURS = f"{compiled.OURS}: forward fp32"
LIGER = "liger_cross_entropy: forward and gradient fp32, 32 warps"


def cells_of(
    monkeypatch: pytest.MonkeyPatch, *entries: CompiledKernel, missing: str = "liger_kernel is not installed"
) -> compiled.Cells:
    """The cells where these kernels have been compiled, and of another implementation none."""

    def run(request: CompileRequest) -> Compilation:
        chosen = tuple(e for e in entries if e.implementation in request.only)
        if not chosen:
            raise NothingToCompile(missing)
        return Compilation({}, chosen)

    monkeypatch.setattr(compilation, "run_compile", run)
    return compiled.compiled()


def test_compiled_kernels_are_tracked_and_what_is_missing_is_skipped_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = CompiledKernel(
        compiled.OURS, "forward fp32", "sm_90", True, "", 70, 12, 16, 32, {"ex2.approx.f32": 33, "x": 1}
    )
    bad = CompiledKernel(compiled.OURS, "forward fp32", "gfx942", False, "CompilationError: no")
    cells = cells_of(monkeypatch, good, bad)
    suite, none = compiled.Compiled(), compiled.WithoutCode()
    suite.setup(cells, OURS, "sm_90")
    tracks = (
        suite.track_registers,
        suite.track_spills,
        suite.track_shared,
        suite.track_approximate,
    )
    assert [track(cells, OURS, "sm_90") for track in tracks] == [70, 12, 32, 34]
    none.setup(cells, OURS)
    assert none.track_without_code(cells, OURS) == 1
    for kernel, target, reason in (
        (
            OURS,
            "gfx942",
            "forward fp32 of triton_fused_cross_entropy does not compile for gfx942: CompilationError: no",
        ),
        (OURS, "sm_80", f"{OURS} is not launched so on this target, or not in this commit"),
        (LIGER, "sm_90", "liger_kernel is not installed"),
    ):
        with pytest.raises(NotImplementedError) as caught:
            suite.setup(cells, kernel, target)
        assert str(caught.value) == reason
    with pytest.raises(NotImplementedError, match="liger_kernel is not installed"):
        none.setup(cells, LIGER)


def test_without_an_assembler_nothing_counts_as_not_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = CompiledKernel(compiled.OURS, "forward fp32", "sm_90", False, "RuntimeError: Cannot find ptxas")
    cells = cells_of(monkeypatch, entry)
    for setup in (
        lambda: compiled.Compiled().setup(cells, OURS, "sm_90"),
        lambda: compiled.WithoutCode().setup(cells, OURS),
    ):
        with pytest.raises(NotImplementedError, match="no assembler here: RuntimeError: Cannot find ptxas"):
            setup()
    monkeypatch.setitem(sys.modules, "harness.compilation", None)  # as in a commit that does not have it
    with pytest.raises(NotImplementedError, match="this commit compiles nothing"):
        compiled.Compiled().setup(compiled.compiled(), OURS, "sm_90")


def test_the_kernels_that_are_tracked_are_declared_and_their_targets_are_all() -> None:
    assert tuple(TARGETS) == compiled.TARGETS
    names = set()
    for implementation_name in {kernel.partition(":")[0] for kernel in compiled.KERNELS}:
        _, found = calls._located(implementation_name)
        module = "triton_fused" if implementation_name == compiled.OURS else implementation_name
        function = getattr(importlib.import_module(f"implementations.{module}"), found.name)
        declaration = function.__xent_implementation__.declaration
        names |= {f"{declaration.name}: {kernel.name}" for kernel in declaration.kernels}
    assert set(compiled.KERNELS) <= names
    assert {name for name in names if name.startswith(compiled.OURS)} <= set(compiled.KERNELS)


def test_the_candidate_that_vet_is_timed_on_is_right(tmp_path: Path) -> None:
    space: dict[str, Any] = {}
    exec(harness_cost.CANDIDATE, space)
    assert space["loss"](np.array([[2.0, 1.0, 0.1]]), np.array([0])) == pytest.approx([0.41703002])


def test_commits_are_benchmarked_with_today_s_benchmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a repository of its own, with a stand-in for asv that says what it was given and what it found."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    hashes = []
    for text in ("old", "new"):
        (tmp_path / "code.py").write_text(text)
        (tmp_path / "benchmarks").mkdir(exist_ok=True)
        (tmp_path / "benchmarks" / "b.py").write_text(text)
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "--quiet", "-m", text], check=True)
        done = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        hashes.append(done.stdout.strip())
    (tmp_path / "benchmarks" / "b.py").write_text("today")
    seen = []
    real = subprocess.run

    def run(command: list[str], **keywords: Any) -> Any:
        if "asv" not in command:
            return real(command, **keywords)
        folder, config = Path(keywords["cwd"]), json.loads(Path(command[command.index("--config") + 1]).read_text())
        commit = command[command.index("--set-commit-hash") + 1]
        seen.append(
            (commit, (folder / "code.py").read_text(), (folder / "benchmarks" / "b.py").read_text(), command[-1])
        )
        assert config["benchmark_dir"] == str(folder / "benchmarks")
        assert config["results_dir"] == str(tmp_path / ".asv" / "results")
        return subprocess.CompletedProcess(command, 2 if len(seen) == 1 else 0)

    monkeypatch.setattr(bench_commits, "ROOT", tmp_path)
    monkeypatch.setattr(bench_commits.subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["bench_commits.py", "HEAD~1..HEAD", "--", "--quick"])
    assert bench_commits.main() == 2
    assert seen == [(hashes[1], "new", "today", "--quick")]
    assert bench_commits.commits("HEAD~1") == [hashes[0]]
    with pytest.raises(SystemExit, match=r"'nothing\.\.here' is no range of commits here"):
        bench_commits.commits("nothing..here")
    left = real([*git, "worktree", "list"], capture_output=True, text=True, check=True).stdout
    assert len(left.splitlines()) == 1


def test_asv_accepts_the_suite(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "PATH": str(Path(sys.executable).parent) + ":/usr/bin:/bin"}
    command = [sys.executable, "-m", "asv", "check", f"--environment=existing:{sys.executable}"]
    done = subprocess.run(command, cwd=ROOT, env=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No problems found" in done.stdout


def test_the_efficiency_of_jobs_is_that_of_their_medians(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = {1: iter([10.0, 99.0, 12.0]), 2: iter([8.0, 7.5, 1.0])}
    asked: list[list[str]] = []

    def timed(number: int, given: list[str]) -> tuple[float, str]:
        asked.append(given)
        return next(seconds[number]), "digest"

    monkeypatch.setattr(jobs, "timed", timed)
    assert jobs.main(["--", "--only", "numpy_naive"]) == 0
    assert "efficiency 0.80 of 2 jobs" in capsys.readouterr().out
    assert asked == [["--only", "numpy_naive"]] * 6


def test_runs_that_differ_are_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(jobs, "timed", lambda number, given: (1.0, f"digest of {number}"))
    assert jobs.main(["--rounds", "1"]) == 1
    assert "the runs differ" in capsys.readouterr().out


def test_a_run_with_two_jobs_is_the_same_file() -> None:
    given = ["--only", "numpy_naive", "--dtype", "float32", "--family", "ties", "--seed", "3"]
    assert jobs.timed(1, given)[1] == jobs.timed(2, given)[1]
    with pytest.raises(SystemExit, match="writes no run"):
        jobs.timed(1, ["--only", "nobody_s_loss"])
