"""Times: interleaved over rounds, as ratios to a baseline of the same rounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from harness.batch import Batch
from harness.declaration import Declaration
from harness.grades import Grade, Outcome
from harness.speed import BASELINE, ROUNDS, measure_speed
from harness.worker import WorkerError, Workers

SHAPE = (4, 6)


def declared(name: str, **changes: Any) -> Declaration:
    base: dict[str, Any] = {
        "name": name,
        "framework": "torch",
        "loss": "cross_entropy",
        "grades": {"float32": Grade.ABSOLUTE},
        "devices": ("cpu",),
        "targets": ("indices",),
        "options": (),
        "has_gradient": True,
        "requires": {},
        "known_failures": (),
        "slow": False,
        "summary": "",
    }
    return Declaration(**base | changes)


class Clock:
    """Stands for all workers: takes the time that it is told to, and notes who was called with what."""

    def __init__(self, seconds: Mapping[str, list[float] | WorkerError]) -> None:
        self.seconds = seconds
        self.calls: list[tuple[str, str]] = []
        self.batches: list[Batch] = []

    def __getitem__(self, framework: str) -> Clock:
        return self

    def time(self, name: str, batch: Batch, *, what: str) -> list[float]:
        turn = self.calls.count((name, what))
        self.calls.append((name, what))
        self.batches.append(batch)
        seconds = self.seconds[name]
        if isinstance(seconds, WorkerError):
            raise seconds
        return [seconds[turn % len(seconds)]]


def measure(clock: Clock, *declarations: Declaration, rounds: int = 3, **keywords: Any) -> list[Any]:
    workers: Any = clock
    return list(measure_speed(declarations, workers, [SHAPE], 5, rounds=rounds, **keywords))


def test_ratios_are_of_the_same_round_and_the_warm_up_does_not_count() -> None:
    clock = Clock({"a": [9.0, 2.0, 6.0, 12.0], BASELINE: [9.0, 1.0, 2.0, 3.0]})
    first, second, *_ = measure(clock, declared("a"), declared(BASELINE))
    assert (first.implementation, first.seconds, first.ratio) == ("a", (2.0, 6.0, 12.0), 3.0)
    assert (second.implementation, second.seconds, second.ratio) == (BASELINE, (1.0, 2.0, 3.0), 1.0)
    assert {first.baseline, second.baseline} == {BASELINE}


def test_rounds_are_interleaved() -> None:
    clock = Clock({"a": [1.0], "b": [1.0]})
    measure(clock, declared("a"), declared("b"), rounds=2)
    forward = [name for name, what in clock.calls if what == "forward"]
    assert forward == ["a", "b"] * 3


def test_without_a_gradient_only_forward_is_timed() -> None:
    clock = Clock({"a": [1.0], "b": [1.0]})
    found = measure(clock, declared("a", has_gradient=False), declared("b"))
    assert [(t.implementation, t.what) for t in found] == [
        ("a", "forward"),
        ("b", "forward"),
        ("b", "forward+backward"),
    ]


def test_one_that_fails_is_told_and_does_not_stop_the_others() -> None:
    clock = Clock({"bad": WorkerError(Outcome.CRASHED, "killed by SIGSEGV"), "good": [1.0]})
    found = measure(clock, declared("bad"), declared("good"))
    bad, good, *_ = found
    assert (bad.seconds, bad.ratio, bad.detail) == ((), None, "killed by SIGSEGV")
    assert good.seconds == (1.0,) * 3
    assert clock.calls.count(("bad", "forward")) == 1


def test_without_torch_the_first_is_the_baseline_and_one_that_fails_leaves_no_ratios() -> None:
    assert {t.baseline for t in measure(Clock({"a": [1.0], "b": [2.0]}), declared("a"), declared("b"))} == {"a"}
    failing = Clock({"a": WorkerError(Outcome.TIMED_OUT, "did not return within 1 s"), "b": [2.0]})
    assert [t.ratio for t in measure(failing, declared("a"), declared("b"))] == [None] * 4


@pytest.mark.parametrize(
    "other",
    [
        {"loss": "binary_cross_entropy_with_logits"},
        {"grades": {"float64": Grade.ABSOLUTE}},
        {"targets": ("probabilities",)},
    ],
)
def test_only_what_takes_the_batch_is_timed(other: dict[str, Any]) -> None:
    clock = Clock({"a": [1.0]})
    found = measure(clock, declared("a"), declared("other", **other))
    assert {t.implementation for t in found} == {"a"}
    assert measure(clock, declared("other", **other)) == []


def test_the_batch_follows_from_the_seed() -> None:
    clock = Clock({"a": [1.0]})
    measure(clock, declared("a"))
    batch = clock.batches[0]
    assert batch.logits.shape == SHAPE
    assert batch.logits.dtype == np.float32
    assert batch.upstream.dtype == np.float32
    assert 0 <= batch.target.min() <= batch.target.max() < SHAPE[1]
    again = Clock({"a": [1.0]})
    measure(again, declared("a"))
    np.testing.assert_array_equal(again.batches[0].logits, batch.logits)


def test_real_workers() -> None:
    with Workers() as workers:
        declarations, reasons = workers["numpy"].describe(["implementations.numpy_shifted"])
        assert not reasons
        found = list(measure_speed(declarations, workers, [(8, 10)], 0))
    assert {t.what for t in found} == {"forward", "forward+backward"}
    for timing in found:
        assert len(timing.seconds) == ROUNDS
        assert all(0 < s < 60 for s in timing.seconds)
