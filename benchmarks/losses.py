"""Seconds of one call of an implementation on the CPU, forward, and forward + backward: float32, one thread."""

from __future__ import annotations

from benchmarks.calls import IMPLEMENTATIONS, SHAPES, prepared


class Cpu:
    """Seconds per call; JAX through ``jax.jit``, the others eager."""

    params = (IMPLEMENTATIONS, SHAPES)
    param_names = ("implementation", "shape")
    version = "2"
    timeout = 300.0

    def setup(self, name: str, shape: str) -> None:
        self.forward = prepared(name, shape, "forward")
        self.both = prepared(name, shape, "forward+backward")

    def time_forward(self, name: str, shape: str) -> None:
        self.forward()

    def time_forward_backward(self, name: str, shape: str) -> None:
        self.both()
