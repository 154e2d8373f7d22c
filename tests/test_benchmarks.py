"""The asv suite: what it times is what it says, what is missing is skipped, and asv finds it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import accuracy, calls, gpu, harness_cost, losses, memory
from harness.declaration import implementation
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
