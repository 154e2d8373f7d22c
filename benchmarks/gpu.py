"""Seconds of one call on a CUDA device, by events: samples, so that asv has their spread and can test differences.

An event pair is around each call, a buffer of at least the size of the L2 cache is cleared before it, and there is one
synchronisation at the end. Where there is no GPU, each benchmark is skipped.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from benchmarks.calls import prepared

SHAPES = ("4096x10", "8192x1000", "8192x32000", "16384x131072")
CALLS, WARM = 50, 5
_L2 = 64 << 20


class Cuda:
    """Seconds per call, float32."""

    params = (("torch_cross_entropy", "torch_logsumexp_gather", "torch_naive"), SHAPES)
    param_names = ("implementation", "shape")
    version = "1"
    timeout = 600.0
    unit = "seconds"

    def setup(self, name: str, shape: str) -> None:
        _need_device(shape)
        prepared(name, SHAPES[0], "forward", "cuda")

    def track_forward(self, name: str, shape: str) -> dict[str, Any]:
        return _samples(name, shape, "forward")

    def track_forward_backward(self, name: str, shape: str) -> dict[str, Any]:
        return _samples(name, shape, "forward+backward")


class CudaMemory:
    """Bytes at the height of one call, forward + backward, as the caching allocator counts them, inputs left out."""

    params = Cuda.params
    param_names = Cuda.param_names
    version = "1"
    timeout = 600.0
    unit = "bytes"
    setup = Cuda.setup

    def track_peak(self, name: str, shape: str) -> int:
        cuda = importlib.import_module("torch").cuda
        call = prepared(name, shape, "forward+backward", "cuda")
        cuda.synchronize()
        cuda.reset_peak_memory_stats()
        before = cuda.memory_allocated()
        call()
        cuda.synchronize()
        return int(cuda.max_memory_allocated() - before)


def _need_device(shape: str) -> None:
    """Skip what cannot run: without a device, or where the logits, their gradient and two like them do not fit."""
    if importlib.util.find_spec("torch") is None:
        raise NotImplementedError("torch is not installed: pip install torch")
    cuda = importlib.import_module("torch").cuda
    if not cuda.is_available():
        raise NotImplementedError("torch sees no CUDA device here")
    rows, classes = map(int, shape.split("x"))
    free, _ = cuda.mem_get_info()
    if 5 * 4 * rows * classes > free:
        raise NotImplementedError(f"{shape} needs about {20 * rows * classes >> 30} GB, and {free >> 30} GB are free")


def _samples(name: str, shape: str, what: str) -> dict[str, Any]:
    torch: Any = importlib.import_module("torch")
    call = prepared(name, shape, what, "cuda")
    for _ in range(WARM):
        call()
    l2 = int(getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0))
    cache = torch.empty(max(_L2, l2), dtype=torch.int8, device="cuda")
    pairs = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(CALLS)]
    for start, end in pairs:
        cache.zero_()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return {"samples": [start.elapsed_time(end) / 1e3 for start, end in pairs], "number": 1}
