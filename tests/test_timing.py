"""The timing core: turns, ratios, budgets, and that a wrong answer has no speed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from harness.bridges.stopwatch import Task
from harness.declaration import Declaration
from harness.grades import Grade, Outcome
from harness.reference import reference_of
from harness.run import Timing
from harness.timed import Timed, digest, timed_from, timed_message
from harness.timing import BASELINE, Budget, Checker, MemoryWorkers, measure_speed, plan, speed_batch
from harness.timing.check import CHECKED_LOGITS
from harness.timing.measure import OVER
from harness.timing.rounds import take_turns
from harness.wire import Message, WireError
from harness.worker import WorkerError, Workers

SHAPE = (4, 6)
RIGHT, WRONG, NAN = "right", "wrong", "nan"


def declared(name: str, **changes: Any) -> Declaration:
    base: dict[str, Any] = {
        "name": name,
        "framework": "torch",
        "loss": "cross_entropy",
        "grades": {"float32": Grade.ABSOLUTE},
        "devices": ("cpu",),
        "targets": ("indices",),
        "options": (),
    }
    return Declaration(**base | changes)


class Clock:
    """Stands for all workers: takes the time that it is told to, gives right or wrong results, and notes the calls."""

    def __init__(
        self,
        seconds: Mapping[str, list[float] | WorkerError | WireError],
        results: Mapping[str, list[str]] | None = None,
    ) -> None:
        self.seconds, self.results = seconds, results or {}
        self.calls: list[tuple[str, Task, int]] = []
        self.sent = 0
        self.backend = "native"

    def __getitem__(self, framework: str) -> Clock:
        return self

    def time(self, name: str, batch: Any, task: Task, *, repeats: int, known: Any) -> Timed:
        turn = sum(called == name for called, _, _ in self.calls)
        self.calls.append((name, task, repeats))
        seconds = self.seconds[name]
        if isinstance(seconds, Exception):
            raise seconds
        arrays = self._arrays(batch, task, self._result(name, turn))
        names = {what: digest(array) for what, array in arrays.items()}
        unknown = {names[what]: array for what, array in arrays.items() if names[what] not in known}
        self.sent += len(unknown)
        took = seconds[min(turn, len(seconds) - 1)]
        return Timed((took,) * repeats, (names,) * repeats, unknown, self.backend)

    def copies(self, batch: Any, *, device: str, repeats: int) -> list[float]:
        return [0.25] * repeats

    def _result(self, name: str, turn: int) -> str:
        results = self.results.get(name, [RIGHT])
        return results[min(turn, len(results) - 1)]

    @staticmethod
    def _arrays(batch: Any, task: Task, result: str) -> dict[str, Any]:
        reference = reference_of(batch)
        loss = reference.loss_hi.astype(batch.logits.dtype)
        gradient = reference.grad_hi.astype(batch.logits.dtype)
        if result == WRONG:
            loss = loss * np.float32(1.01)
            gradient = gradient * np.float32(1.01)
        if result == NAN:
            loss[1], gradient[1, 1] = np.nan, np.nan
        return {"loss": loss} if task.what == "forward" else {"loss": loss, "gradient": gradient}


def measure(clock: Clock, *declarations: Declaration, rounds: int = 3, **keywords: Any) -> list[Timing]:
    workers: Any = clock
    groups = plan(list(declarations), [SHAPE], seed=5, **keywords)
    steps = measure_speed(groups, workers, Budget(1e9), least=rounds, most=rounds)
    return [timing for step in steps for timing in step.timings]


# ---------------------------------------------------------------------------------------------------------------- turns


def test_ratios_are_of_the_same_round_and_the_warm_up_does_not_count() -> None:
    clock = Clock({"a": [9.0, 2.0, 6.0, 12.0], BASELINE: [9.0, 1.0, 2.0, 3.0]})
    first, second, *_ = measure(clock, declared("a"), declared(BASELINE))
    assert (first.implementation, first.seconds, first.ratio) == ("a", (2.0, 6.0, 12.0), 3.0)
    assert (second.implementation, second.seconds, second.ratio) == (BASELINE, (1.0, 2.0, 3.0), 1.0)
    assert {first.baseline, second.baseline} == {BASELINE}
    assert (first.outcome, first.detail, first.grade) == ("passed", "", "faithful")


def test_in_every_round_all_take_part_in_an_order_drawn_anew() -> None:
    clock = Clock({name: [1.0] for name in "abcdef"})
    measure(clock, *map(declared, "abcdef"), rounds=4, whats=("forward",))
    names = "".join(name for name, _, _ in clock.calls)
    rounds = [names[i : i + 6] for i in range(0, len(names), 6)]
    assert len(rounds) == 5
    assert {"".join(sorted(order)) for order in rounds} == {"abcdef"}
    assert len(set(rounds[1:])) > 1


def test_short_calls_are_made_several_times_in_a_round() -> None:
    clock = Clock({"short": [1e-4], "long": [1.0]})
    measure(clock, declared("short"), declared("long"), rounds=1, whats=("forward",))
    assert [(name, repeats) for name, _, repeats in clock.calls[:2]] == [("short", 2), ("long", 2)]
    assert sorted((name, repeats) for name, _, repeats in clock.calls[2:]) == [("long", 1), ("short", 20)]


def test_without_a_gradient_only_forward_is_timed() -> None:
    clock = Clock({"a": [1.0], "b": [1.0]})
    found = measure(clock, declared("a", has_gradient=False), declared("b"))
    assert [(t.implementation, t.what) for t in found] == [
        ("a", "forward"),
        ("b", "forward"),
        ("b", "forward+backward"),
    ]


def test_bandwidth_is_of_the_bytes_that_must_be_moved_over_a_copy() -> None:
    """The copy reads and writes in 0.25 s; a forward that reads in 0.125 s is as fast, and so is 0.25 s for both."""
    found = measure(Clock({"a": [0.125]}), declared("a"))
    assert [(t.what, t.bandwidth) for t in found] == [("forward", 1.0), ("forward+backward", 2.0)]
    assert found[0].copy_seconds == (0.25,) * 3


def test_the_baseline_takes_part_eager_beside_compiled_ones() -> None:
    clock = Clock({"a": [1.0], BASELINE: [2.0]})
    found = measure(clock, declared("a"), declared(BASELINE), modes=("compiled",), whats=("forward",))
    assert [(t.implementation, t.mode, t.ratio) for t in found] == [
        (BASELINE, "eager", 1.0),
        ("a", "compiled", 0.5),
        (BASELINE, "compiled", 1.0),
    ]


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
    assert {t.implementation for t in measure(clock, declared("a"), declared("other", **other))} == {"a"}
    assert measure(clock, declared("other", **other)) == []


# ---------------------------------------------------------------------------------------------- a wrong answer has none


def test_a_wrong_answer_has_no_speed() -> None:
    clock = Clock({"bad": [0.1], "good": [1.0]}, {"bad": [WRONG]})
    bad, good, *_ = measure(clock, declared("bad"), declared("good"))
    assert (bad.seconds, bad.ratio, bad.bandwidth, bad.outcome, bad.grade) == ((), None, None, "failed", "inaccurate")
    assert "the loss is inaccurate" in bad.detail
    assert "times the absolute bound" in bad.detail
    assert good.seconds == (1.0,) * 3


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_an_answer_that_goes_wrong_in_a_later_round_takes_the_speed_back(turn: int) -> None:
    clock = Clock({"late": [1.0], "good": [1.0]}, {"late": [RIGHT] * turn + [WRONG]})
    late, *_ = measure(clock, declared("late"), declared("good"), whats=("forward+backward",))
    assert (late.seconds, late.outcome) == ((), "failed")


def test_one_that_is_not_finite_has_no_speed() -> None:
    (found,) = measure(Clock({"a": [1.0]}, {"a": [NAN]}), declared("a"), whats=("forward",))
    assert (found.outcome, found.detail, found.seconds) == ("nonfinite", "the loss is not finite everywhere", ())


def test_a_result_is_sent_and_judged_once() -> None:
    clock = Clock({"a": [1.0], "b": [1.0]})
    measure(clock, declared("a"), declared("b"), rounds=3)
    assert clock.sent == 2  # one loss, one gradient, for eight calls of each


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (WorkerError(Outcome.CRASHED, "killed by SIGSEGV"), "crashed"),
        (WorkerError(Outcome.UNAVAILABLE, "numpy has no compiler"), "unavailable"),
        (WireError("arrays of 9 bytes: the limit is 8"), "skipped"),
    ],
)
def test_one_that_fails_is_told_and_does_not_stop_the_others(error: Any, outcome: str) -> None:
    clock = Clock({"bad": error, "good": [1.0]})
    bad, good, *_ = measure(clock, declared("bad"), declared("good"))
    assert (bad.seconds, bad.ratio, bad.detail, bad.outcome) == ((), None, str(error), outcome)
    assert good.seconds == (1.0,) * 3
    assert sum(name == "bad" for name, _, _ in clock.calls) == 2


def test_what_ran_in_an_interpreter_has_no_speed() -> None:
    clock = Clock({"a": [1.0]})
    clock.backend = "triton-interpreter"
    (found,) = measure(clock, declared("a"), whats=("forward",))
    assert (found.seconds, found.outcome) == ((), "skipped")
    assert "triton-interpreter" in found.detail


def arrays_of(batch: Any, **changes: Any) -> Timed:
    arrays = {**Clock._arrays(batch, Task("forward+backward"), RIGHT), **changes}
    names = {what: digest(array) for what, array in arrays.items()}
    return Timed((1.0,), (names,), {names[what]: array for what, array in arrays.items()})


def test_of_a_large_batch_rows_are_judged_and_the_others_must_be_finite() -> None:
    batch = speed_batch((40, CHECKED_LOGITS // 8), "float32", 0)
    checker = Checker(batch)
    assert len(checker._rows) == 8
    assert {0, 39} <= set(checker._rows.tolist())
    right = arrays_of(batch)
    assert checker(right, declared("a")).outcome is Outcome.PASSED
    (judged, unjudged) = int(checker._rows[3]), next(i for i in range(40) if i not in checker._rows)
    for row, value, outcome in ((judged, 9.0, Outcome.FAILED), (unjudged, np.inf, Outcome.NONFINITE)):
        loss = Clock._arrays(batch, Task(), RIGHT)["loss"]
        loss[row] = value
        assert checker(arrays_of(batch, loss=loss), declared("a")).outcome is outcome


def test_a_wrong_shape_is_told() -> None:
    batch = speed_batch(SHAPE, "float32", 0)
    verdict = Checker(batch)(arrays_of(batch, loss=np.zeros((4, 1), "f4")), declared("a"))
    assert verdict.outcome is Outcome.WRONG_SHAPE
    assert "expected shape [4], got [4, 1]" in verdict.detail


def test_a_mean_is_judged_as_one() -> None:
    batch = speed_batch(SHAPE, "float32", 0)
    reduced = reference_of(batch).reduced("mean", float(batch.upstream[0]))
    right = {"loss": np.float32(reduced.loss_hi).reshape(()), "gradient": reduced.grad_hi.astype("f4")}
    assert Checker(batch)(arrays_of(batch, **right), declared("a")).outcome is Outcome.PASSED
    wrong = {**right, "gradient": (reduced.grad_hi * 1.01).astype("f4")}
    assert Checker(batch)(arrays_of(batch, **wrong), declared("a")).outcome is Outcome.FAILED


def test_in_16_bits_the_gate_is_storage() -> None:
    batch = speed_batch((8, 50), "bfloat16", 0)
    reference = reference_of(batch)
    rounded = {"loss": reference.loss_hi.astype(ml_dtypes.bfloat16)}
    rounded["gradient"] = (reference.grad_hi * 1.002).astype(ml_dtypes.bfloat16)
    verdict = Checker(batch)(arrays_of(batch, **rounded), declared("a"))
    assert verdict.outcome is Outcome.PASSED


# --------------------------------------------------------------------------------------------------------------- budget


class Ticking:
    """A clock that a fake worker moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 3), (5.0, 4), (1e9, 6)])
def test_rounds_are_taken_while_there_is_time(seconds: float, rounds: int) -> None:
    ticking = Ticking()

    class Slow(Clock):
        def time(self, *args: Any, **keywords: Any) -> Timed:
            ticking.now += 1.0
            return super().time(*args, **keywords)

    (group,) = plan([declared("a")], [SHAPE], whats=("forward",))
    workers: Any = Slow({"a": [1.0]})
    laps, copies = take_turns(group, workers, Checker(group.batch), seconds=seconds, least=3, most=6, clock=ticking)
    assert len(laps["a"].seconds) == len(copies) == rounds


def test_what_has_not_begun_in_time_is_told() -> None:
    ticking = Ticking()

    class Slow(Clock):
        def time(self, *args: Any, **keywords: Any) -> Timed:
            ticking.now += 10.0
            return super().time(*args, **keywords)

    workers: Any = Slow({"a": [1.0]})
    steps = list(measure_speed(plan([declared("a")], [SHAPE]), workers, Budget(5.0, ticking)))
    (first,), (second,) = (step.timings for step in steps)
    assert (first.outcome, second.outcome, second.detail, second.seconds) == ("passed", "skipped", OVER, ())
    assert steps[-1].share == 1.0


def test_memory_is_measured_on_the_largest_shape_and_the_last_of_what() -> None:
    groups = plan([declared("a")], [(4, 6), (9, 9), (2, 3)], memory=True)
    assert [(g.shape, g.what) for g in groups if g.weighed] == [((9, 9), "forward+backward")]
    assert not any(g.weighed for g in plan([declared("a")], [(4, 6)]))


def test_peaks_are_multiples_of_the_logits() -> None:
    class Scales:
        def __getitem__(self, framework: str) -> Scales:
            return self

        def peak(self, name: str, batch: Any, task: Task) -> int:
            if name == "b":
                raise WorkerError(Outcome.CRASHED, "killed by SIGKILL")
            return 3 * batch.logits.nbytes

    workers: Any = Clock({"a": [1.0], "b": [1.0]})
    memory: Any = Scales()
    groups = plan([declared("a"), declared("b")], [SHAPE], whats=("forward",), memory=True)
    (step,) = measure_speed(groups, workers, Budget(1e9), memory=memory, least=1, most=1)
    a, b = step.timings
    assert (a.memory, a.peak_bytes) == (3.0, 3 * 4 * 6 * 4)
    assert (b.memory, b.peak_bytes, b.outcome, b.ratio) == (None, None, "passed", 1.0)
    assert b.detail == "memory: killed by SIGKILL"


# ----------------------------------------------------------------------------------------------------- batches, digests


def test_the_batch_follows_from_seed_and_shape() -> None:
    batch = speed_batch((5, 7), "float32", 3)
    assert batch.logits.shape == (5, 7)
    assert (batch.logits.dtype, batch.upstream.dtype) == (np.float32, np.float32)
    assert 0 <= batch.target.min() <= batch.target.max() < 7
    assert 1.0 not in batch.upstream
    np.testing.assert_array_equal(speed_batch((5, 7), "float32", 3).logits, batch.logits)
    assert not np.array_equal(speed_batch((5, 7), "float32", 4).logits, batch.logits)
    wide = speed_batch((5, 7), "float64", 3).logits
    np.testing.assert_array_equal(wide.astype("f4"), batch.logits)


@pytest.mark.parametrize("other", [[1.0, 2.5], [[1.0, 2.0]], [1.0, 2.0, 0.0]])
def test_a_digest_names_bits_shape_and_dtype(other: list[Any]) -> None:
    one = np.array([1.0, 2.0])
    assert digest(one) == digest(one.copy()) != digest(np.array(other))
    assert digest(one) != digest(one.astype("f4"))
    assert digest(np.array([0.0])) != digest(np.array([-0.0]))
    assert len(digest(one)) == len(hashlib.sha256().hexdigest())


def test_known_results_do_not_cross_again() -> None:
    from harness.bridges.stopwatch import Lap

    laps = [Lap(0.5, np.ones(3), np.zeros((3, 2))), Lap(0.25, np.ones(3), np.zeros((3, 2))), Lap(0.125)]
    message = timed_message(laps, known=[digest(np.ones(3))])
    timed = timed_from(Message(dict(message.body), message.arrays), frozenset({"float32"}))
    assert timed.seconds == (0.5, 0.25, 0.125)
    assert len(timed.digests) == 2
    assert list(timed.arrays) == [digest(np.zeros((3, 2)))]
    assert timed.flushed == {"float32"}


# --------------------------------------------------------------------------------------------------------- real workers

MISCHIEF = """
import os
import numpy as np
from harness.declaration import implementation

def gradient(z, y, u):
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    return p * u[:, None]

@implementation(framework="numpy", loss="cross_entropy", grade="absolute", gradient=gradient)
def plain(z, y):
    return np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y]

@implementation(framework="numpy", loss="cross_entropy", grade="absolute")
def forgets_the_vocabulary(z, y):
    return np.zeros(len(y), z.dtype)

@implementation(framework="numpy", loss="cross_entropy", grade="absolute")
def greedy(z, y):
    spare = [np.ones(z.shape, z.dtype) for _ in range(5)]
    return plain(z, y) + 0 * spare[0][:, 0]

@implementation(framework="numpy", loss="cross_entropy", grade="absolute")
def leaves(z, y):
    os._exit(3)
"""


@pytest.fixture
def mischief(tmp_path: Path) -> Path:
    path = tmp_path / "mischief.py"
    path.write_text(MISCHIEF)
    return path


def test_real_workers(mischief: Path) -> None:
    with Workers() as workers:
        declarations, reasons = workers["numpy"].describe([mischief])
        assert not reasons
        groups = plan(declarations, [(64, 50)], seed=1)
        steps = list(measure_speed(groups, workers, Budget(60.0), least=3, most=3))
    found = {(t.implementation, t.what): t for step in steps for t in step.timings}
    plain = found["plain", "forward+backward"]
    assert len(plain.seconds) == len(plain.copy_seconds) == 3
    assert all(0 < s < 60 for s in plain.seconds)
    assert plain.bandwidth is not None
    assert found["forgets_the_vocabulary", "forward"].outcome == "failed"
    assert found["leaves", "forward"].outcome == "crashed"
    assert "exited with status 3" in found["leaves", "forward"].detail


def test_real_memory_is_measured_in_a_process_of_its_own(mischief: Path) -> None:
    batch = speed_batch((64, 32_000), "float32", 0)
    with MemoryWorkers() as memory:
        worker = memory["numpy"]
        worker.describe([mischief])
        plain = worker.peak("plain", batch, Task()) / batch.logits.nbytes
        greedy = worker.peak("greedy", batch, Task()) / batch.logits.nbytes
        assert plain == pytest.approx(1.0, abs=0.2)  # the exponentials
        assert greedy - plain == pytest.approx(5.0, abs=0.3)
        with pytest.raises(WorkerError, match="the process died: exited with status 3"):
            worker.peak("leaves", batch, Task())
        with pytest.raises(WorkerError, match="has no compiler") as caught:
            worker.peak("plain", batch, Task(mode="compiled"))
        assert caught.value.outcome is Outcome.UNAVAILABLE
        assert worker.peak("plain", replace(batch), Task()) / batch.logits.nbytes == pytest.approx(1.0, abs=0.2)


def test_a_contender_is_named_with_its_mode() -> None:
    (group,) = plan([declared("a")], [SHAPE], whats=("forward",), modes=("eager", "compiled"))
    assert [c.name for c in group.contenders] == ["a", "a (compiled)"]
    assert group.label == "forward 4 × 6 float32"
