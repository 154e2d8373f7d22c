"""The bridge for TensorFlow, and for Keras on top of it: eager tensors, gradients by ``tf.GradientTape``."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from contextlib import suppress
from typing import Any

import numpy as np

from harness.bridges import Array, Bridge, Inputs, crossing
from harness.bridges.numpy_bridge import NumpyBridge
from harness.declaration import Implementation

__all__ = ["BRIDGE", "TensorflowBridge"]


class TensorflowBridge(Bridge):
    """TensorFlow, eager, on the CPU unless ``CUDA_VISIBLE_DEVICES`` is set."""

    framework = "tensorflow"
    variables = ("CUDA_VISIBLE_DEVICES", "KERAS_BACKEND", "TF_ENABLE_ONEDNN_OPTS", "TF_XLA_FLAGS")

    def __init__(self, threads: int = 1, device: str = "cpu") -> None:
        super().__init__(threads, device)
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        self.tf: Any = importlib.import_module("tensorflow")
        with suppress(RuntimeError):  # settable only before the first operation
            self.tf.config.threading.set_intra_op_parallelism_threads(threads)
            self.tf.config.threading.set_inter_op_parallelism_threads(threads)

    def native(self, array: Array) -> Any:
        """A tensor with memory of its own; bfloat16 by ``ml_dtypes`` is TensorFlow's own."""
        return self.tf.constant(np.array(array, order="C", copy=True))

    def numpy(self, value: Any) -> Array:
        """A copy of a tensor, from whatever device it is on."""
        return crossing(np.array(self._tensor(value).numpy()))

    def forward(self, implementation: Implementation, inputs: Inputs) -> Any:
        """The loss."""
        return implementation.function(inputs.logits, inputs.target, **inputs.options)

    def forward_backward(self, implementation: Implementation, inputs: Inputs) -> tuple[Any, Any]:
        """The loss, and its gradient by ``tf.GradientTape``; a scalar loss takes the first upstream element.

        Raises
        ------
        ValueError
            Where the loss has not as many elements as the upstream gradient, or does not depend on the logits.
        """
        with self.tf.GradientTape() as tape:
            tape.watch(inputs.logits)
            loss = self._tensor(implementation.function(inputs.logits, inputs.target, **inputs.options))
        upstream = self.tf.reshape(inputs.upstream, [-1])[:1] if loss.ndim == 0 else inputs.upstream
        if self.tf.size(loss) != self.tf.size(upstream):
            raise ValueError(
                f"the loss has shape {tuple(loss.shape)}, but the upstream gradient {tuple(upstream.shape)}: "
                "it must have the loss's shape"
            )
        upstream = self.tf.reshape(self.tf.cast(upstream, loss.dtype), loss.shape)
        gradient = tape.gradient(loss, inputs.logits, output_gradients=upstream)
        if gradient is None:
            raise ValueError("the loss cannot be differentiated with respect to the logits")
        return loss, self.tf.convert_to_tensor(gradient)

    def versions(self) -> dict[str, str]:
        """Versions of TensorFlow and, where installed, Keras, and of what NumPy reports."""
        found = {"tensorflow": str(self.tf.__version__)}
        with suppress(importlib.metadata.PackageNotFoundError):
            found["keras"] = importlib.metadata.version("keras")
        return found | NumpyBridge().versions()

    def _tensor(self, value: Any) -> Any:
        if not self.tf.is_tensor(value):
            raise TypeError(f"returned {type(value).__name__}, not a tf.Tensor")
        return value


BRIDGE = TensorflowBridge
