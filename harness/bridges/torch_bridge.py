"""The bridge for torch: gradients by autograd, bfloat16 bit for bit through an int16 view."""

from __future__ import annotations

import importlib
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np

from harness.bridges import Array, Bridge, FrameworkUnavailable, Inputs, crossing
from harness.bridges.numpy_bridge import NumpyBridge
from harness.declaration import Implementation
from harness.formats import BFLOAT16

__all__ = ["BRIDGE", "TorchBridge"]


T = TypeVar("T")


class TorchBridge(Bridge):
    """torch, on the CPU or on CUDA."""

    framework = "torch"
    takes_projection = True

    def __init__(self, threads: int = 1, device: str = "cpu") -> None:
        self.torch: Any = importlib.import_module("torch")
        super().__init__(threads, device)
        self.torch.set_num_threads(threads)
        with suppress(RuntimeError):  # settable once per process, and only before the first parallel work
            self.torch.set_num_interop_threads(threads)

    def use(self, device: str) -> None:
        """See `Bridge.use`."""
        if not self.torch.cuda.is_available():
            raise FrameworkUnavailable(
                "torch sees no CUDA device: is there one, and its driver?"
                if self.torch.version.cuda
                else f"this torch ({self.torch.__version__}) was built without CUDA: install a build that has it"
            )

    @property
    def gpu(self) -> str:
        """See `Bridge.gpu`."""
        return str(self.torch.cuda.get_device_name()) if self.torch.cuda.is_available() else ""

    def native(self, array: Array) -> Any:
        """A contiguous tensor with memory of its own, on the bridge's device."""
        copy = np.array(array, order="C", copy=True)
        if copy.dtype.name == "bfloat16":  # torch.from_numpy does not know ml_dtypes
            tensor = self.torch.from_numpy(copy.view(np.int16)).view(self.torch.bfloat16)
        else:
            tensor = self.torch.from_numpy(copy)
        return tensor.to(self.device)

    def numpy(self, value: Any) -> Array:
        """A copy of a tensor, from whatever device it is on."""
        tensor = self._tensor(value).detach().cpu().contiguous()
        if tensor.dtype == self.torch.bfloat16:
            bits: Array = tensor.view(self.torch.int16).numpy()
            return bits.view(BFLOAT16.dtype).copy()
        return crossing(tensor.numpy()).copy()

    def forward(self, implementation: Implementation, inputs: Inputs) -> Any:
        """The loss, computed to the end."""
        given = (inputs.logits,) if inputs.projection is None else (inputs.logits, inputs.projection)
        return self._settled(implementation.function(*given, inputs.target, **inputs.options))

    def forward_backward(self, implementation: Implementation, inputs: Inputs) -> tuple[Any, Any]:
        """The loss, and its gradient by ``torch.autograd.grad``; a scalar loss takes the first upstream element.

        That of a projection stands below that of the hidden states.

        Raises
        ------
        ValueError
            Where the loss has not as many elements as the upstream gradient.
        """
        given = (inputs.logits,) if inputs.projection is None else (inputs.logits, inputs.projection)
        leaves = [tensor.detach().requires_grad_() for tensor in given]
        with self.torch.enable_grad():
            loss = self._tensor(implementation.function(*leaves, inputs.target, **inputs.options))
        upstream = inputs.upstream.reshape(-1)[:1] if loss.ndim == 0 else inputs.upstream
        if loss.numel() != upstream.numel():
            raise ValueError(
                f"the loss has shape {tuple(loss.shape)}, but the upstream gradient {tuple(upstream.shape)}: "
                "it must have the loss's shape"
            )
        upstream = upstream.to(device=loss.device, dtype=loss.dtype).reshape(loss.shape)
        gradients = self.torch.autograd.grad(loss, leaves, upstream)
        return self._settled((loss, gradients[0] if len(leaves) == 1 else self.torch.cat(gradients)))

    def versions(self) -> dict[str, str]:
        """Versions of torch and of what NumPy reports."""
        return {"torch": str(self.torch.__version__), **NumpyBridge().versions()}

    def _settled(self, result: T) -> T:
        """What was computed, waited for: CUDA returns before that, and says later what went wrong."""
        if self.device == "cuda":
            self.torch.cuda.synchronize()
        return result

    def _tensor(self, value: Any) -> Any:
        if not isinstance(value, self.torch.Tensor):
            raise TypeError(f"returned {type(value).__name__}, not a torch.Tensor")
        return value


BRIDGE = TorchBridge
