"""What the harness itself costs: truth beside plain mpmath, and ``xent vet`` from its start to its verdict."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

os.environ["XENT_CACHE"] = "off"  # truth is to be solved, not read

import harness
from harness.losses import loss_named

ROWS, CLASSES = 8, 32_000
PLAIN_CLASSES = 2_000

CANDIDATE = """\
import numpy as np


def loss(logits, target):
    top = logits.max(axis=1, keepdims=True)
    return np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0] - logits[np.arange(len(target)), target]
"""


def batch(rows: int, classes: int) -> tuple[Any, Any]:
    """Logits [rows, classes] in float32, and labels."""
    rng = np.random.default_rng(0)
    return (rng.standard_normal((rows, classes)) * 3).astype(np.float32), rng.integers(0, classes, rows)


def plain() -> None:
    """One row's first classes by mpmath alone: what the fast path is there to spare."""
    logits, target = batch(1, PLAIN_CLASSES)
    problem = loss_named("cross_entropy").problem(logits, target, None, {})
    problem.solve(0, problem.upstream[0])


class Truth:
    """Loss and gradient, certified."""

    version = "1"
    timeout = 300.0

    def setup(self) -> None:
        if not hasattr(Truth, "given"):
            Truth.given = batch(ROWS, CLASSES)  # type: ignore[attr-defined]
            harness.truth(*Truth.given)  # type: ignore[attr-defined] # what is compiled is compiled now

    def time_truth_8x32000(self) -> None:
        harness.truth(*Truth.given)  # type: ignore[attr-defined]

    def time_mpmath_1x2000(self) -> None:
        plain()

    def track_truth_over_mpmath(self) -> float:
        """Time per logit of truth, over that of mpmath alone."""
        fast = _seconds(self.time_truth_8x32000, 5) / (ROWS * CLASSES)
        return fast / (_seconds(plain, 3) / PLAIN_CLASSES)

    track_truth_over_mpmath.unit = "ratio"  # type: ignore[attr-defined]


class Vet:
    """Seconds of ``xent vet --quick`` on a correct NumPy candidate, from the start of the process."""

    version = "1"
    timeout = 600.0
    unit = "seconds"

    def track_vet(self) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "candidate.py"
            file.write_text(CANDIDATE)
            script = "from harness.cli import main; main()"
            command = [sys.executable, "-c", script, "vet", f"{file}:loss", "--quick", "--dtype", "float64"]
            start = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            seconds = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f"vet ended with {done.returncode}: {done.stdout[-300:]} {done.stderr[-300:]}")
        return {"samples": [seconds], "number": 1}


def _seconds(call: Callable[[], object], count: int) -> float:
    """The shortest of some calls."""
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)
