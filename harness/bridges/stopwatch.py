"""The stopwatch: how long one call of an implementation takes, and how much memory, in the process where it runs.

Every call gets inputs of its own, converted before the clock starts, so that an implementation that overwrites them
spoils nothing; what it gives back is handed on, so that it can be judged. What a framework does in its own way (other
devices, a compiler, a backward by itself) stands in ``<framework>_stopwatch.py``, where there is one.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from harness.batch import Batch
from harness.bridges import Array, Bridge, Inputs
from harness.bridges.resident import peak_above
from harness.declaration import Implementation

__all__ = ["DEVICES", "MODES", "WHAT", "Lap", "NotToBeTimed", "Result", "Stopwatch", "Task", "stopwatch_for"]

WHAT = ("forward", "backward", "forward+backward")
"""What can be timed: the loss, its gradient once the loss is there, or both."""
MODES = ("eager", "compiled")
"""As the implementation stands, or through the framework's compiler."""
DEVICES = ("cpu", "cuda")

Result = tuple[Any, Any]
"""The loss (for a backward, that of the forward before it) and the gradient, or None, in the framework's arrays."""


class NotToBeTimed(ValueError):
    """Something that cannot be timed here; the message says why, and what to do."""


@dataclass(frozen=True)
class Task:
    """What to time: one of `WHAT`, one of `MODES`, one of `DEVICES`."""

    what: str = "forward"
    mode: str = "eager"
    device: str = "cpu"

    def __post_init__(self) -> None:
        for value, known in ((self.what, WHAT), (self.mode, MODES), (self.device, DEVICES)):
            if value not in known:
                raise ValueError(f"cannot time {value!r}: choose from {', '.join(known)}")

    def to_json(self) -> dict[str, str]:
        """The task as JSON-ready data, the inverse of ``Task(**data)``."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Lap:
    """One timed call: its seconds, and the loss and gradient that it gave back (None: not asked for, or not kept)."""

    seconds: float
    loss: Array | None = None
    gradient: Array | None = None


B = TypeVar("B", bound=Bridge)


class Stopwatch(Generic[B]):
    """Times the calls of one framework: wall-clock on the CPU, eager, with the garbage collector off."""

    def __init__(self, bridge: B) -> None:
        self.bridge = bridge

    def obstacle(self, device: str) -> str:
        """Why nothing can run on a device here; ``""`` where it can."""
        return "" if device == "cpu" else f"xent runs {self.bridge.framework} on the CPU only: use --device cpu"

    def laps(self, implementation: Implementation, batch: Batch, task: Task, count: int) -> Iterator[Lap]:
        """Time some calls, one after the other.

        Raises
        ------
        NotToBeTimed
            For a task that cannot be done here, or a backward where there is no gradient.
        """
        ready = self.compiled(self.checked(implementation, task), task)
        with _no_collection():
            for _ in range(count):
                inputs = self.place(self.bridge.inputs(implementation, batch), task.device)
                call = self.call(ready, inputs, task)
                start = time.perf_counter()
                result = call()
                seconds = time.perf_counter() - start
                yield self.lap(seconds, result)
                del inputs, call, result

    def copies(self, batch: Batch, device: str, count: int) -> list[float]:
        """Seconds of each of some copies of the logits to memory that is there already: the machine's own limit."""
        source = np.array(batch.logits, copy=True)
        goal = np.array(batch.logits, copy=True)
        seconds = []
        with _no_collection():
            for _ in range(count):
                start = time.perf_counter()
                np.copyto(goal, source)
                seconds.append(time.perf_counter() - start)
        return seconds

    def peak(self, implementation: Implementation, batch: Batch, task: Task) -> int:
        """Bytes at the height of one call above what was there before it, results included and inputs not.

        To be asked in a fresh process: what another call has left in it would be used again, and not be counted.
        """
        ready = self.compiled(self.checked(implementation, task), task)
        return peak_above(
            lambda: self.call(ready, self.place(self.bridge.inputs(implementation, batch), task.device), task)
        )

    def checked(self, implementation: Implementation, task: Task) -> Implementation:
        """The implementation, if the task can be done with it here.

        Raises
        ------
        NotToBeTimed
            If it cannot.
        """
        declaration = implementation.declaration
        if task.what != "forward" and not declaration.has_gradient:
            raise NotToBeTimed(f"{declaration.name} has no gradient: time 'forward'")
        reason = self.obstacle(task.device)
        if not reason and task.device not in declaration.devices:
            reason = f"{declaration.name} runs on {', '.join(declaration.devices)} only"
        if reason:
            raise NotToBeTimed(reason)
        return implementation

    def compiled(self, implementation: Implementation, task: Task) -> Implementation:
        """The implementation to be called: through the compiler, where the task says so and there is one."""
        if task.mode == "compiled":
            raise NotToBeTimed(f"{self.bridge.framework} has no compiler: time it eager")
        return implementation

    def place(self, inputs: Inputs, device: str) -> Inputs:
        """The inputs on a device."""
        return inputs

    def call(self, implementation: Implementation, inputs: Inputs, task: Task) -> Callable[[], Result]:
        """What the clock is around; what has to be there before (a forward, for the backward) is done here."""
        if task.what == "forward":
            return lambda: (self.bridge.forward(implementation, inputs), None)
        if task.what == "backward":
            return self.backward(implementation, inputs)
        return lambda: self.bridge.forward_backward(implementation, inputs)

    def backward(self, implementation: Implementation, inputs: Inputs) -> Callable[[], Result]:
        """The backward of a forward that this makes."""
        raise NotToBeTimed(f"{self.bridge.framework} gives no backward by itself: time 'forward+backward'")

    def lap(self, seconds: float, result: Result) -> Lap:
        """A timed call's result as plain arrays."""
        loss, gradient = (None if value is None else self.bridge.numpy(value) for value in result)
        return Lap(seconds, loss, gradient)


def stopwatch_for(bridge: B) -> Stopwatch[B]:
    """The stopwatch of a bridge's framework."""
    name = f"harness.bridges.{bridge.framework}_stopwatch"
    if importlib.util.find_spec(name) is None:
        return Stopwatch(bridge)
    made: Stopwatch[B] = importlib.import_module(name).STOPWATCH(bridge)
    return made


@contextmanager
def _no_collection() -> Iterator[None]:
    """The garbage collector run once, and then off."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
