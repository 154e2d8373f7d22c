"""The bridge for Triton kernels: torch's, on a GPU where there is one, and else in Triton's interpreter on the CPU.

A framework of its own beside torch, because Triton decides at its import, for the whole process, whether kernels are
compiled or interpreted.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np

from harness.bridges import Array, FrameworkUnavailable, Inputs
from harness.bridges.torch_bridge import TorchBridge
from harness.bridges.triton_interpreter import VARIABLE, mend, refusal, version
from harness.declaration import Implementation

__all__ = ["BRIDGE", "TritonBridge"]


class TritonBridge(TorchBridge):
    """Triton through torch: on CUDA, or interpreted on the CPU without a GPU or with ``TRITON_INTERPRET=1``.

    ``"cpu"`` stands for either: whatever is asked for, kernels run where they are compiled, if that is to be had.
    """

    framework = "triton"
    variables = (VARIABLE,)

    def __init__(self, threads: int = 1, device: str = "cpu") -> None:
        super().__init__(threads, device)
        if os.environ.get(VARIABLE) != "1" and self.torch.cuda.is_available():
            self.device = "cuda"
            importlib.import_module("triton")
        else:
            self.backend = "triton-interpreter"
            mend()

    def use(self, device: str) -> None:
        """See `Bridge.use`."""
        super().use(device)
        if os.environ.get(VARIABLE) == "1":
            raise FrameworkUnavailable(f"{VARIABLE}=1 has Triton's kernels interpreted on the CPU: unset it")

    def native(self, array: Array) -> Any:
        """A contiguous tensor with memory of its own, where kernels run.

        Raises
        ------
        FrameworkUnavailable
            For bfloat16 in an interpreter that computes it wrong.
        """
        reason = refusal(array.dtype.name) if self.backend != "native" else ""
        if reason:
            raise FrameworkUnavailable(reason)
        return super().native(array)

    def forward(self, implementation: Implementation, inputs: Inputs) -> Any:
        """The loss, computed to the end."""
        with np.errstate(all="ignore"):  # the interpreter computes with NumPy, to which overflow is news
            return super().forward(implementation, inputs)

    def forward_backward(self, implementation: Implementation, inputs: Inputs) -> tuple[Any, Any]:
        """The loss and its gradient, computed to the end."""
        with np.errstate(all="ignore"):
            return super().forward_backward(implementation, inputs)

    def versions(self) -> dict[str, str]:
        """Versions of Triton, torch and what NumPy reports."""
        return {"triton": version(), **super().versions()}


BRIDGE = TritonBridge
