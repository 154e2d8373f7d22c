"""The stopwatch of Pallas kernels: JAX's, on a device. The time of an interpreter says nothing about a kernel."""

from __future__ import annotations

from harness.bridges.jax_stopwatch import JaxStopwatch

__all__ = ["STOPWATCH", "PallasStopwatch"]


class PallasStopwatch(JaxStopwatch):
    """Pallas kernels where they are compiled."""

    def obstacle(self, device: str) -> str:
        """Why nothing can run on a device here; ``""`` where it can."""
        if self.bridge.backend != "native":
            return (
                "Pallas kernels are only interpreted here, and an interpreter's time says nothing: JAX_PLATFORMS=cuda"
            )
        return super().obstacle(device)


STOPWATCH = PallasStopwatch
