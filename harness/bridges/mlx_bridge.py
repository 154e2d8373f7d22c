"""The bridge for MLX: lazy arrays, evaluated before they are handed on; gradients by ``mx.vjp``."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np

from harness.bridges import Array, Bridge, Inputs, crossing
from harness.bridges.numpy_bridge import NumpyBridge
from harness.declaration import Implementation
from harness.formats import BFLOAT16, Format

__all__ = ["BRIDGE", "MlxBridge"]


class MlxBridge(Bridge):
    """MLX on the CPU, in one thread: a stream is one."""

    framework = "mlx"

    def __init__(self, threads: int = 1, device: str = "cpu") -> None:
        super().__init__(threads, device)
        self.mx: Any = importlib.import_module("mlx.core")
        self.mx.set_default_device(self.mx.cpu)

    def native(self, array: Array) -> Any:
        """An array with memory of its own. The dtype is said, or float64 would silently become float32."""
        copy = np.array(array, order="C", copy=True)
        if copy.dtype.name == "bfloat16":
            return self.mx.array(copy.view(np.uint16)).view(self.mx.bfloat16)
        name = {"bool": "bool_"}.get(copy.dtype.name, copy.dtype.name)
        return self.mx.array(copy, dtype=getattr(self.mx, name))

    def numpy(self, value: Any) -> Array:
        """A copy of an array."""
        array = self._array(value)
        if array.dtype == self.mx.bfloat16:
            return np.array(array.view(self.mx.uint16)).view(BFLOAT16.dtype)
        return crossing(np.array(array))

    def subnormal(self, form: Format) -> Any:
        """Half of a format's smallest normal number, by the exponential: MLX flushes it, though not a product."""
        return self.mx.exp(self.native(form.round([math.log(form.smallest_normal / 2)])))

    def forward(self, implementation: Implementation, inputs: Inputs) -> Any:
        """The loss."""
        loss = self._array(implementation.function(inputs.logits, inputs.target, **inputs.options))
        self.mx.eval(loss)
        return loss

    def forward_backward(self, implementation: Implementation, inputs: Inputs) -> tuple[Any, Any]:
        """The loss, and its gradient by ``mx.vjp``; a scalar loss takes the first upstream element.

        Raises
        ------
        ValueError
            Where the loss has not as many elements as the upstream gradient.
        """

        def loss_of(logits: Any) -> Any:
            return self._array(implementation.function(logits, inputs.target, **inputs.options))

        like = loss_of(inputs.logits)
        upstream = inputs.upstream.reshape(-1)[:1] if like.ndim == 0 else inputs.upstream
        if like.size != upstream.size:
            raise ValueError(
                f"the loss has shape {like.shape}, but the upstream gradient {upstream.shape}: "
                "it must have the loss's shape"
            )
        cotangent = upstream.astype(like.dtype).reshape(like.shape)
        (loss,), (gradient,) = self.mx.vjp(loss_of, [inputs.logits], [cotangent])
        self.mx.eval(loss, gradient)
        return loss, gradient

    def versions(self) -> dict[str, str]:
        """Versions of MLX and of what NumPy reports."""
        return {"mlx": str(self.mx.__version__), **NumpyBridge().versions()}

    def _array(self, value: Any) -> Any:
        if not isinstance(value, self.mx.array):
            raise TypeError(f"returned {type(value).__name__}, not an mx.array")
        return value


BRIDGE = MlxBridge
