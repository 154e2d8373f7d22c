"""The bridge for Pallas kernels: JAX's, on a GPU or TPU where there is one, and else in interpret mode on the CPU.

A framework of its own beside JAX, because what is interpreted must say so in every result. Interpret mode makes XLA
operations of a kernel's steps: it shows what the source computes, and neither races nor what a GPU's compiler makes of
it.
"""

from __future__ import annotations

from harness.bridges.jax_bridge import JaxBridge

__all__ = ["BRIDGE", "PallasBridge"]


class PallasBridge(JaxBridge):
    """Pallas through JAX: native on the device that JAX is on by default, interpreted on the CPU."""

    framework = "pallas"

    def __init__(self, threads: int = 1, device: str = "cpu") -> None:
        super().__init__(threads, device)
        if self.jax.default_backend() == "cpu":
            self.backend = "xla-interpret"
        else:
            self.device = "cuda"


BRIDGE = PallasBridge
