"""The examples, run as a user runs them: they train, diverge where asked to, repeat themselves, and can be judged."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from harness.accuracy import Request, run_accuracy
from harness.grades import Grade, Outcome
from harness.logits_file import read_logits
from harness.reference import truth

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
FRAMEWORKS = ("torch", "jax")


@dataclass(frozen=True)
class Example:
    """What one run printed, and the file that it left."""

    said: str
    path: Path

    def loss(self, step: int) -> float:
        """True mean loss of the rows of one step, in nats."""
        arrays = load_file(self.path)
        rows = arrays["step"] == step
        return float(truth(arrays["logits"][rows], arrays["labels"][rows]).loss_hi.mean())


def run(framework: str, folder: Path, name: str, *arguments: str) -> Example:
    script = str(EXAMPLES / f"digits_{framework}.py")
    command = [sys.executable, "-W", "error", script, *arguments, "-o", name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return Example(done.stdout, folder / name)


@pytest.fixture(scope="module", params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def sane(framework: str, tmp_path_factory: pytest.TempPathFactory) -> Example:
    return run(framework, tmp_path_factory.mktemp(framework), "sane.safetensors")


@pytest.fixture(scope="module")
def diverging(framework: str, tmp_path_factory: pytest.TempPathFactory) -> Example:
    return run(framework, tmp_path_factory.mktemp(framework), "diverging.safetensors", "--diverge")


def test_ten_steps_of_a_batch_are_recorded(sane: Example, diverging: Example) -> None:
    for example in (sane, diverging):
        file = read_logits(example.path)
        assert (file.dtype, file.logits.shape, file.nan_rows, file.ignored_rows) == ("float32", (1280, 10), 0, 0)
        assert np.array_equal(load_file(example.path)["step"], np.repeat(np.arange(0, 500, 50), 128))
        assert f"{example.path.name}: 1280 rows\nafter 500 steps: " in example.said


def test_the_sane_run_learns(sane: Example) -> None:
    assert sane.loss(0) == pytest.approx(np.log(10), abs=0.1)
    assert sane.loss(450) < 0.05
    assert float(sane.said.partition("500 steps: ")[2].partition("%")[0]) > 98


def test_the_other_one_diverges_and_stays_finite(diverging: Example) -> None:
    assert diverging.loss(0) == pytest.approx(np.log(10), abs=0.1)
    logits = load_file(diverging.path)["logits"][128:]
    assert min(diverging.loss(step) for step in range(50, 500, 50)) > 500
    # Beyond the exponential of every float32, and its largest beyond that of every float64.
    assert np.median(np.abs(logits).max(axis=1)) > 89
    assert np.abs(logits).max() > 710


def test_a_seed_decides_the_file(framework: str, sane: Example, tmp_path: Path) -> None:
    again, other = (run(framework, tmp_path, f"{n}.safetensors", "--steps", "101", "--seed", n) for n in "01")
    full, short = load_file(sane.path), load_file(again.path)
    assert len(short["step"]) == 3 * 128
    for name, array in short.items():
        assert np.array_equal(array, full[name][: 3 * 128])
    assert not np.array_equal(short["logits"], load_file(other.path)["logits"])


def test_what_diverges_tells_a_clipped_loss_from_a_right_one(diverging: Example) -> None:
    request = Request(only=("numpy_clipped_1e7", "numpy_log1p"), dtypes=("float32",), logits=(diverging.path,), jobs=1)
    results = {(r.implementation, r.what): r for r in run_accuracy(request).results}
    assert len(results) == 4
    for what in ("loss", "gradient"):
        right, clipped = results["numpy_log1p", what], results["numpy_clipped_1e7", what]
        assert (right.outcome, clipped.outcome) == (Outcome.PASSED, Outcome.FAILED)
        assert (right.rows, right.judged) == (1280, 1280)
        assert clipped.grade == Grade.INACCURATE
    witness = results["numpy_clipped_1e7", "loss"].witness
    assert witness is not None
    assert float.fromhex(witness["got"]) == pytest.approx(-np.log(1e-7), abs=1e-6)
    assert float.fromhex(witness["want"]) > 1000


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_example_needs_three_lines_of_ours(framework: str) -> None:
    text = (EXAMPLES / f"digits_{framework}.py").read_text()
    assert [line.strip() for line in text.splitlines() if "Recorder" in line or "record(" in line] == [
        "from harness.recorder import Recorder",
        "with Recorder(options.output, steps=range(0, options.steps, 50), seed=options.seed) as record:",
        f"record(step, logits, labels[{'batch' if framework == 'torch' else 'rows'}])",
    ]
    imported = {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if name and name.startswith("harness")} == {"harness.recorder"}
