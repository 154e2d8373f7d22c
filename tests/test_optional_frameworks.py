"""Frameworks that few have: listed with the command that installs them, or, where they are installed, as they claim.

They run in workers only: TensorFlow may not meet other frameworks in one process.
"""

from __future__ import annotations

import numpy as np
import pytest

from harness.batch import Batch
from harness.bridges import unavailable
from harness.differential import evaluate, plan
from harness.discovery import discover
from harness.families import make_batch
from harness.grades import Outcome
from harness.worker import Workers

OPTIONAL = {
    "keras_cross_entropy": ("tensorflow", "pip install tensorflow"),
    "mlx_cross_entropy": ("mlx", "pip install 'mlx[cpu]'"),
}
FAMILIES = ("confident", "masked", "two_classes", "soft_targets_unnormalised")


@pytest.mark.parametrize("name", OPTIONAL)
def test_missing_ones_are_listed_and_installed_ones_do_as_they_claim(name: str) -> None:
    framework, command = OPTIONAL[name]
    with Workers() as workers:
        (found,) = discover([name], workers=workers)
        if unavailable(framework):
            assert not found.available
            assert found.reason == f"{framework} is not installed: {command}"
            return
        assert found.available, found.reason
        assert found.declaration is not None
        dtypes = tuple(found.declaration.grades)
        batches = [make_batch(family, "cross_entropy", dtype, 0) for dtype in dtypes for family in FAMILIES]
        results, complete = evaluate(plan([found.declaration], batches, dtypes), workers)
        assert complete
        assert [(r.family, r.dtype, r.what, r.outcome) for r in results if Outcome(r.outcome).is_failure] == []
        assert {Outcome.PASSED, Outcome.KNOWN_FAILURE} <= {Outcome(r.outcome) for r in results}
        _offset_costs_nothing(name, framework, workers)
        assert framework in workers[framework].environment()["versions"]


def _offset_costs_nothing(name: str, framework: str, workers: Workers) -> None:
    logits = np.array([[2.0, -1.0]], np.float32) + np.float32(1e6)
    batch = Batch("cross_entropy", logits, np.array([0]), np.array([-2.5], np.float32))
    output = workers[framework].call(name, batch)
    assert output.loss is not None
    assert output.gradient is not None
    assert output.loss.tolist() == pytest.approx([0.04858735], abs=4e-8)
    assert output.gradient[0].tolist() == pytest.approx([0.11856466, -0.11856466], abs=4e-7)


@pytest.mark.parametrize(("framework", "command"), OPTIONAL.values())
def test_a_missing_framework_is_said_with_its_command(
    framework: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.bridges.installed", lambda module: False)
    assert unavailable(framework) == f"{framework} is not installed: {command}"
