"""Our Pallas kernel in interpret mode: its claim, its label, and the values that other forms lose."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest

from harness.batch import Batch
from harness.bridges import unavailable
from harness.bridges.stopwatch import Task
from harness.differential import evaluate, plan
from harness.discovery import discover
from harness.families import families_for, make_batch
from harness.grades import Grade, Outcome
from harness.worker import WorkerError, Workers

pytestmark = pytest.mark.skipif(bool(unavailable("pallas")), reason="pip install jax")

NAME = "pallas_fused_cross_entropy"
FAMILIES = ("confident", "tail_mass", "masked", "options_combined", "soft_targets")


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with pytest.MonkeyPatch.context() as patch, Workers() as made:
        patch.setenv("JAX_PLATFORMS", "cpu")  # where there is a GPU, too
        discover([NAME], workers=made)
        yield made


def batch_of(logits: np.ndarray, target: np.ndarray, **options: object) -> Batch:
    rows = len(target) if options.pop("reduction", "none") == "none" else 1
    return Batch("cross_entropy", logits, target, np.ones(rows, logits.dtype), options)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.long)])
def test_it_keeps_its_claim_interpreted_and_every_result_says_so(workers: Workers, dtype: str) -> None:
    (found,) = discover([NAME], workers=workers)
    assert found.declaration is not None, found.reason
    assert (found.declaration.backend, found.declaration.device) == ("xla-interpret", "cpu")
    assert set(found.declaration.grades.values()) == {Grade.RELATIVE}
    batches = [make_batch(name, "cross_entropy", dtype, 0) for name in FAMILIES]
    results, complete = evaluate(plan([found.declaration], batches, (dtype,)), workers)
    assert complete
    assert {r.backend for r in results} == {"xla-interpret"}
    assert {r.outcome for r in results if r.family == "soft_targets"} == {str(Outcome.SKIPPED)}
    assert {r.outcome for r in results if r.family != "soft_targets"} == {str(Outcome.PASSED)}
    assert len(results) == 2 * len(batches)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_it_keeps_its_claim_on_every_family(workers: Workers, dtype: str) -> None:
    (found,) = discover([NAME], workers=workers)
    assert found.declaration is not None
    batches = [make_batch(family.name, "cross_entropy", dtype, 0) for family in families_for("cross_entropy", dtype)]
    results, complete = evaluate(plan([found.declaration], batches, (dtype,)), workers)
    assert complete
    wrong = [(r.family, r.what, r.detail) for r in results if r.outcome not in (Outcome.PASSED, Outcome.SKIPPED)]
    assert wrong == []


def test_a_tail_of_classes_and_rows_counts_once_and_small_losses_survive(workers: Workers) -> None:
    logits = np.zeros((11, 37), np.float32)  # neither is a multiple of a block
    logits[:, 36] = 20.0
    output = workers["pallas"].call(NAME, batch_of(logits, np.full(11, 36)))
    assert (output.outcome, output.backend) == (Outcome.PASSED, "xla-interpret")
    assert output.loss is not None
    assert output.gradient is not None
    others = 36 * np.exp(-20.0)  # 7.4e-8: 1 + others is not to be had in float32
    np.testing.assert_allclose(output.loss, np.full(11, np.log1p(others)), rtol=1e-6)
    np.testing.assert_allclose(output.gradient[:, 36], np.full(11, -others / (1 + others)), rtol=1e-6)
    np.testing.assert_allclose(output.gradient[:, :36], np.exp(-20.0) / (1 + others), rtol=1e-6)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_options_are_those_of_the_contract(workers: Workers, reduction: str) -> None:
    rng = np.random.default_rng(7)
    logits, weight = rng.normal(0, 3, (9, 33)), rng.uniform(0.5, 2, 33)
    target = rng.integers(0, 33, 9)
    target[4] = 5
    options = {"weight": weight, "ignore_index": 5, "label_smoothing": 0.1}
    batch = batch_of(logits, target, reduction=reduction, **options)
    output = workers["pallas"].call(NAME, batch, reduction=reduction)
    kept = target != 5
    lse = np.log(np.exp(logits).sum(axis=1, keepdims=True))
    q = (0.9 * np.eye(33)[target] + 0.1 / 33) * weight
    losses = (q * (lse - logits)).sum(axis=1) * kept
    gradients = (q.sum(axis=1, keepdims=True) * np.exp(logits - lse) - q) * kept[:, None]
    over = weight[target[kept]].sum() if reduction == "mean" else 1.0
    assert output.outcome is Outcome.PASSED, output.detail
    want = losses if reduction == "none" else losses.sum() / over
    np.testing.assert_allclose(output.loss, want, rtol=1e-12)
    np.testing.assert_allclose(output.gradient, gradients / over, rtol=1e-11, atol=1e-15)


def test_what_counts_for_nothing_and_what_is_no_class(workers: Workers) -> None:
    logits = np.zeros((3, 4), np.float32)
    logits[0] = np.nan
    output = workers["pallas"].call(NAME, batch_of(logits, np.array([-100, 1, 4])))
    assert output.loss is not None
    assert output.gradient is not None
    np.testing.assert_allclose(output.loss, [0, np.log(4), np.nan], rtol=1e-6)
    np.testing.assert_allclose(output.gradient[:2], [[0, 0, 0, 0], [0.25, -0.75, 0.25, 0.25]], rtol=1e-6)
    assert np.isnan(output.gradient[2]).all()


@pytest.mark.parametrize(
    ("logits", "reduction", "told"),
    [(np.zeros((2, 3, 4), np.float32), "none", r"\[N, V\]"), (np.zeros((2, 3), np.float32), "median", "is unknown")],
)
def test_what_makes_no_sense_is_refused(workers: Workers, logits: np.ndarray, reduction: str, told: str) -> None:
    output = workers["pallas"].call(NAME, batch_of(logits, np.array([0, 1])), reduction=reduction)
    assert output.outcome is Outcome.RAISED
    assert re.search(told, output.detail)


def test_an_interpreter_is_not_timed(workers: Workers) -> None:
    batch = batch_of(np.zeros((2, 3), np.float32), np.array([0, 1]))
    with pytest.raises(WorkerError, match="an interpreter's time says nothing") as caught:
        workers["pallas"].time(NAME, batch, Task())
    assert caught.value.outcome is Outcome.UNAVAILABLE
