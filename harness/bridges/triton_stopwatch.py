"""The stopwatch of Triton kernels: torch's, on CUDA. The time of an interpreter says nothing about a kernel."""

from __future__ import annotations

from harness.bridges.torch_stopwatch import TorchStopwatch

__all__ = ["STOPWATCH", "TritonStopwatch"]


class TritonStopwatch(TorchStopwatch):
    """Triton kernels on CUDA by events."""

    def obstacle(self, device: str) -> str:
        """Why nothing can run on a device here; ``""`` where it can."""
        if device == "cpu" or self.bridge.backend != "native":
            return "Triton kernels are only interpreted here, and an interpreter's time says nothing: --device cuda"
        return super().obstacle(device)


STOPWATCH = TritonStopwatch
