"""The stopwatch in the worker: each call on inputs of its own, results handed on, and what cannot be timed refused."""

from __future__ import annotations

import functools
import gc
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from harness.batch import Batch
from harness.bridges import Bridge, bridge_for, resident
from harness.bridges.stopwatch import MODES, WHAT, NotToBeTimed, Stopwatch, Task, stopwatch_for
from harness.declaration import Implementation, implementation
from harness.reference import truth

ROWS, CLASSES = 6, 5


def declared(function: Callable[..., Any], framework: str, **claims: Any) -> Implementation:
    found: Implementation = implementation(framework=framework, loss="cross_entropy", grade="absolute", **claims)(
        function
    ).__xent_implementation__  # type: ignore[attr-defined]
    return found


def make_batch() -> Batch:
    rng = np.random.default_rng(3)
    upstream = np.resize(np.array([-2.0, 0.75]), ROWS)
    return Batch("cross_entropy", rng.standard_normal((ROWS, CLASSES)), rng.integers(0, CLASSES, ROWS), upstream)


def numpy_loss(logits, target):
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(target)), target]


def numpy_gradient(logits, target, upstream):
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    p[np.arange(len(target)), target] -= 1
    return p * upstream[:, None]


def torch_loss(logits, target):
    import torch

    return torch.logsumexp(logits, 1) - logits.gather(1, target[:, None])[:, 0]


def jax_loss(logits, target):
    import jax

    return jax.nn.logsumexp(logits, axis=1) - logits[jax.numpy.arange(len(target)), target]


MADE: dict[str, Callable[[], Implementation]] = {
    "numpy": lambda: declared(numpy_loss, "numpy", gradient=numpy_gradient),
    "torch": lambda: declared(torch_loss, "torch"),
    "jax": lambda: declared(jax_loss, "jax"),
}


@functools.cache
def watch(framework: str) -> Stopwatch[Bridge]:
    return stopwatch_for(bridge_for(framework))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("framework", MADE)
def test_what_is_timed_is_the_loss_and_its_gradient(framework: str, what: str, mode: str) -> None:
    if mode == "compiled" and (framework == "numpy" or (framework == "torch" and not shutil.which("g++"))):
        with pytest.raises(NotToBeTimed, match=r"no compiler|C\+\+ compiler"):
            list(watch(framework).laps(MADE[framework](), make_batch(), Task(what, mode), 1))
        return
    batch = make_batch()
    want = truth(batch.logits, batch.target, upstream=batch.upstream)
    laps = list(watch(framework).laps(MADE[framework](), batch, Task(what, mode), 2))
    assert len(laps) == 2
    for lap in laps:
        assert 0 < lap.seconds < 300
        assert lap.loss is not None
        np.testing.assert_allclose(lap.loss, want.loss_hi, rtol=1e-13)
        if what == "forward":
            assert lap.gradient is None
        else:
            assert lap.gradient is not None
            np.testing.assert_allclose(lap.gradient, want.grad_hi, rtol=1e-12, atol=1e-15)


def test_each_call_has_inputs_of_its_own_and_the_collector_is_off() -> None:
    seen, collecting = [], []

    def scribbling(logits, target):
        collecting.append(gc.isenabled())
        loss = numpy_loss(logits, target)
        seen.append(logits.copy())
        logits[...] = 0
        return loss

    batch = make_batch()
    laps = list(watch("numpy").laps(declared(scribbling, "numpy"), batch, Task(), 3))
    assert all((logits == batch.logits).all() for logits in seen)
    assert len({lap.loss.tobytes() for lap in laps if lap.loss is not None}) == 1
    assert collecting == [False] * 3
    assert gc.isenabled()


def test_the_clock_is_around_the_call_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("harness.bridges.stopwatch.time.perf_counter", lambda: now[0])

    def slow(logits, target):
        now[0] += 2.0
        return numpy_loss(logits, target)

    def slower(logits, target, upstream):
        now[0] += 5.0
        return numpy_gradient(logits, target, upstream)

    stopwatch, found = watch("numpy"), declared(slow, "numpy", gradient=slower)
    for what, seconds in (("forward", 2.0), ("backward", 5.0), ("forward+backward", 7.0)):
        assert [lap.seconds for lap in stopwatch.laps(found, make_batch(), Task(what), 2)] == [seconds] * 2


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (Task("backward"), "numpy_loss has no gradient: time 'forward'"),
        (Task("forward+backward"), "numpy_loss has no gradient: time 'forward'"),
        (Task(device="cuda"), "xent runs numpy on the CPU only"),
        (Task(mode="compiled"), "numpy has no compiler: time it eager"),
    ],
)
def test_what_cannot_be_timed_is_refused_with_the_reason(task: Task, reason: str) -> None:
    with pytest.raises(NotToBeTimed, match=reason):
        list(watch("numpy").laps(declared(numpy_loss, "numpy"), make_batch(), task, 1))


@pytest.mark.parametrize("word", [{"what": "sideways"}, {"mode": "lazy"}, {"device": "abacus"}])
def test_a_task_of_words_that_are_none_is_refused(word: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=f"cannot time '{next(iter(word.values()))}': choose from"):
        Task(**word)


def test_without_a_compiler_torch_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(NotToBeTimed, match="'no-such-compiler' was not found: install one"):
        list(watch("torch").laps(MADE["torch"](), make_batch(), Task(mode="compiled"), 1))


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_copies_take_time(framework: str) -> None:
    assert all(0 < seconds < 10 for seconds in watch(framework).copies(make_batch(), "cpu", 4))


# --------------------------------------------------------------------------------------------------- CUDA, acted out


class Events:
    """Stands for ``torch.cuda``: a device whose calls take the milliseconds that they are told to."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.now = 0.0
        self.allocated, self.peak = 100, 100

    def Event(self, *, enable_timing: bool) -> Any:
        events = self

        class Event:
            at = 0.0

            def record(self) -> None:
                events.log.append("record")
                self.at = events.now

            def elapsed_time(self, end: Any) -> float:
                return float(end.at - self.at)

        return Event()

    def synchronize(self) -> None:
        self.log.append("synchronize")

    def current_device(self) -> int:
        return 0

    def get_device_properties(self, _: int) -> Any:
        return type("Properties", (), {"L2_cache_size": 1 << 10})

    def is_available(self) -> bool:
        return True


def test_cuda_events_enclose_the_call_and_the_cache_is_cleared_before(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Events()
    stopwatch: Any = watch("torch")
    cleared: list[int] = []

    class Buffer:
        def zero_(self) -> None:
            cuda.log.append("clear")
            cuda.now += 100.0

    class Torch:
        int8 = "int8"

        @staticmethod
        def empty(size: int, **_: Any) -> Buffer:
            cleared.append(size)
            return Buffer()

    Torch.cuda = cuda  # type: ignore[attr-defined]
    monkeypatch.setattr(stopwatch, "torch", Torch)

    def prepare() -> Callable[[], tuple[str, None]]:
        cuda.now += 50.0  # a copy to the device: not the call's

        def call() -> tuple[str, None]:
            cuda.log.append("call")
            cuda.now += 3.0
            return "loss", None

        return call

    seconds, result = stopwatch._events(prepare, 3)
    assert seconds == [0.003] * 3
    assert result == ("loss", None)
    assert cuda.log == ["clear", "record", "call", "record"] * 3 + ["synchronize"]
    assert cleared[0] >= 60e6


def test_a_torch_without_a_device_says_so() -> None:
    torch = pytest.importorskip("torch")
    reason = watch("torch").obstacle("cuda")
    assert (reason == "") is torch.cuda.is_available()
    if reason:
        assert "CUDA" in reason


# -------------------------------------------------------------------------------------------------------------- memory


def test_peak_memory_counts_what_a_call_holds_at_its_height() -> None:
    size = 48 << 20  # beyond what malloc ever keeps for itself: 32 MiB

    def prepare() -> Callable[[], Any]:
        return lambda: np.ones(size, np.uint8)

    def twice() -> Callable[[], Any]:
        return lambda: (np.ones(size, np.uint8), np.ones(size, np.uint8))

    assert resident.peak_above(prepare) == pytest.approx(size, rel=0.15)
    assert resident.peak_above(twice) == pytest.approx(2 * size, rel=0.15)
    assert resident.peak_above(lambda: lambda: None) < size / 20


def test_where_the_mark_cannot_be_set_back_the_first_call_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    marks = iter([1000, 1700])
    monkeypatch.setattr(resident, "_can_reset", lambda: False)
    monkeypatch.setattr(resident, "_highest", lambda call: (call(), next(marks))[1])
    calls = []
    assert resident.peak_above(lambda: lambda: calls.append(1)) == 700
    assert calls == [1]
