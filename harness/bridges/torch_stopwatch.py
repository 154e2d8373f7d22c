"""The stopwatch of torch: ``torch.compile``, a backward by itself, and CUDA by events.

On CUDA every call is enclosed by a pair of events, a buffer of at least the size of the L2 cache is cleared before it,
and there is one synchronisation after all of them: the host runs ahead, and no call finds its inputs in the cache.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from harness.batch import Batch
from harness.bridges import FrameworkUnavailable, Inputs
from harness.bridges.stopwatch import Lap, NotToBeTimed, Result, Stopwatch, Task
from harness.bridges.torch_bridge import TorchBridge
from harness.declaration import Implementation

__all__ = ["STOPWATCH", "TorchStopwatch"]

_LEAST_L2 = 64 << 20
"""Bytes cleared where the device does not tell the size of its L2 cache, or tells less: the largest is 50 to 60 MB."""


class TorchStopwatch(Stopwatch[TorchBridge]):
    """torch on the CPU or on CUDA."""

    def __init__(self, bridge: TorchBridge) -> None:
        super().__init__(bridge)
        self.torch: Any = bridge.torch
        self._compiled: dict[str, Implementation] = {}

    def obstacle(self, device: str) -> str:
        """Why nothing can run on a device here; ``""`` where it can."""
        try:
            if device != "cpu":
                self.bridge.use(device)
        except FrameworkUnavailable as error:
            return str(error)
        return ""

    def laps(self, implementation: Implementation, batch: Batch, task: Task, count: int) -> Iterator[Lap]:
        """See `Stopwatch.laps`; on CUDA only the last call's result is kept, since all of them need not fit."""
        if task.device == "cpu":
            yield from super().laps(implementation, batch, task, count)
            return
        ready = self.compiled(self.checked(implementation, task), task)

        def prepare() -> Callable[[], Result]:
            inputs = self.place(self.bridge.inputs(implementation, batch), task.device)
            return self.call(ready, inputs, task)

        seconds, result = self._events(prepare, count)
        yield from map(Lap, seconds[:-1])
        yield self.lap(seconds[-1], result)

    def copies(self, batch: Batch, device: str, count: int) -> list[float]:
        """Seconds of each copy of the logits, by torch itself: with as many threads as everything else."""
        source = self.bridge.native(batch.logits).to(device)
        goal = source.clone()
        if device != "cpu":
            return self._events(lambda: lambda: (goal.copy_(source), None), count)[0]
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            goal.copy_(source)
            seconds.append(time.perf_counter() - start)
        return seconds

    def peak(self, implementation: Implementation, batch: Batch, task: Task) -> int:
        """See `Stopwatch.peak`; on CUDA as the caching allocator counts it."""
        if task.device == "cpu":
            return super().peak(implementation, batch, task)
        cuda = self.torch.cuda
        ready = self.compiled(self.checked(implementation, task), task)
        for _ in range(2):  # the first call loads kernels and workspaces
            call = self.call(ready, self.place(self.bridge.inputs(implementation, batch), task.device), task)
            cuda.synchronize()
            cuda.reset_peak_memory_stats()
            before = cuda.memory_allocated()
            result = call()
            cuda.synchronize()
            above = int(cuda.max_memory_allocated() - before)
            del call, result
        return above

    def compiled(self, implementation: Implementation, task: Task) -> Implementation:
        """Through ``torch.compile``, made once: static shapes, and whole, or it would run eager without a word."""
        if task.mode != "compiled":
            return implementation
        if task.device == "cpu":
            _need_compiler()
        name = implementation.declaration.name
        if name not in self._compiled:
            self.torch._dynamo.config.recompile_limit = max(self.torch._dynamo.config.recompile_limit, 128)
            function = self.torch.compile(implementation.function, dynamic=False, fullgraph=True)
            self._compiled[name] = replace(implementation, function=function)
        return self._compiled[name]

    def place(self, inputs: Inputs, device: str) -> Inputs:
        """The inputs on a device."""
        if device == "cpu":
            return inputs
        options = {k: v.to(device) if isinstance(v, self.torch.Tensor) else v for k, v in inputs.options.items()}
        return Inputs(inputs.logits.to(device), inputs.target.to(device), inputs.upstream.to(device), options)

    def backward(self, implementation: Implementation, inputs: Inputs) -> Callable[[], Result]:
        """``torch.autograd.grad`` of a forward made here."""
        leaf = inputs.logits.detach().requires_grad_()
        with self.torch.enable_grad():
            loss = implementation.function(leaf, inputs.target, **inputs.options)
        upstream = inputs.upstream.reshape(-1)[:1] if loss.ndim == 0 else inputs.upstream
        upstream = upstream.to(loss.dtype).reshape(loss.shape)
        return lambda: (loss, self.torch.autograd.grad(loss, leaf, upstream)[0])

    def _events(self, prepare: Callable[[], Callable[[], Result]], count: int) -> tuple[list[float], Result]:
        """Seconds of each of some calls by CUDA events, and the last result."""
        cuda = self.torch.cuda
        l2 = max(_LEAST_L2, int(getattr(cuda.get_device_properties(cuda.current_device()), "L2_cache_size", 0)))
        cache = self.torch.empty(l2, dtype=self.torch.int8, device="cuda")
        pairs = [(cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)) for _ in range(count)]
        result: Result = (None, None)
        for start, end in pairs:
            call = prepare()
            result = (None, None)  # freed before the next is made
            cache.zero_()
            start.record()
            result = call()
            end.record()
        cuda.synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in pairs], result  # elapsed_time is in milliseconds


def _need_compiler() -> None:
    """Say what is missing before Inductor does, at length.

    Raises
    ------
    NotToBeTimed
        Without a C++ compiler.
    """
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler.split()[0]) is None:
        raise NotToBeTimed(
            f"torch.compile needs a C++ compiler and {compiler!r} was not found: install one (Debian: apt install g++) "
            "or name yours in the environment variable CXX"
        )


STOPWATCH = TorchStopwatch
