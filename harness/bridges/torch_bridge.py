"""The bridge for torch: gradients by autograd, bfloat16 bit for bit through an int16 view."""

from __future__ import annotations

import importlib
from contextlib import suppress
from typing import Any

import numpy as np

from harness.bridges import Array, Bridge, Inputs, crossing
from harness.bridges.numpy_bridge import NumpyBridge
from harness.declaration import Implementation
from harness.formats import BFLOAT16

__all__ = ["BRIDGE", "TorchBridge"]


class TorchBridge(Bridge):
    """torch on the CPU."""

    framework = "torch"

    def __init__(self, threads: int = 1) -> None:
        super().__init__(threads)
        self.torch: Any = importlib.import_module("torch")
        self.torch.set_num_threads(threads)
        with suppress(RuntimeError):  # settable once per process, and only before the first parallel work
            self.torch.set_num_interop_threads(threads)

    def native(self, array: Array) -> Any:
        """A contiguous tensor with memory of its own."""
        copy = np.array(array, order="C", copy=True)
        if copy.dtype.name == "bfloat16":  # torch.from_numpy does not know ml_dtypes
            return self.torch.from_numpy(copy.view(np.int16)).view(self.torch.bfloat16)
        return self.torch.from_numpy(copy)

    def numpy(self, value: Any) -> Array:
        """A copy of a tensor, from whatever device it is on."""
        tensor = self._tensor(value).detach().cpu().contiguous()
        if tensor.dtype == self.torch.bfloat16:
            bits: Array = tensor.view(self.torch.int16).numpy()
            return bits.view(BFLOAT16.dtype).copy()
        return crossing(tensor.numpy()).copy()

    def forward(self, implementation: Implementation, inputs: Inputs) -> Any:
        """The loss."""
        return implementation.function(inputs.logits, inputs.target, **inputs.options)

    def forward_backward(self, implementation: Implementation, inputs: Inputs) -> tuple[Any, Any]:
        """The loss, and its gradient by ``torch.autograd.grad``; a scalar loss takes the first upstream element.

        Raises
        ------
        ValueError
            Where the loss has not as many elements as the upstream gradient.
        """
        leaf = inputs.logits.detach().requires_grad_()
        with self.torch.enable_grad():
            loss = self._tensor(implementation.function(leaf, inputs.target, **inputs.options))
        upstream = inputs.upstream.reshape(-1)[:1] if loss.ndim == 0 else inputs.upstream
        if loss.numel() != upstream.numel():
            raise ValueError(
                f"the loss has shape {tuple(loss.shape)}, but the upstream gradient {tuple(upstream.shape)}: "
                "it must have the loss's shape"
            )
        upstream = upstream.to(device=loss.device, dtype=loss.dtype).reshape(loss.shape)
        (gradient,) = self.torch.autograd.grad(loss, leaf, upstream)
        return loss, gradient

    def versions(self) -> dict[str, str]:
        """Versions of torch and of what NumPy reports."""
        return {"torch": str(self.torch.__version__), **NumpyBridge().versions()}

    def _tensor(self, value: Any) -> Any:
        if not isinstance(value, self.torch.Tensor):
            raise TypeError(f"returned {type(value).__name__}, not a torch.Tensor")
        return value


BRIDGE = TorchBridge
