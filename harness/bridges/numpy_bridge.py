"""The bridge for NumPy, and for whatever computes on NumPy arrays (SciPy): gradients come from a declared function."""

from __future__ import annotations

import importlib.metadata
import inspect
from contextlib import suppress
from typing import Any

import numpy as np

from harness.bridges import Array, Bridge, Inputs, crossing
from harness.declaration import Implementation

__all__ = ["BRIDGE", "NumpyBridge", "gradient_options"]


class NumpyBridge(Bridge):
    """NumPy; its thread count is the BLAS library's, which is set by environment variables before it is imported."""

    framework = "numpy"
    takes_projection = True

    def native(self, array: Array) -> Array:
        """A C-contiguous copy."""
        return np.array(array, order="C", copy=True)

    def numpy(self, value: Any) -> Array:
        """The array or NumPy scalar that came back; a Python float is a float64."""
        if not isinstance(value, np.ndarray | np.generic | float):
            raise TypeError(f"returned {type(value).__name__}, not a NumPy array")
        return crossing(np.asarray(value))

    def forward(self, implementation: Implementation, inputs: Inputs) -> Any:
        """The loss."""
        # Overflow shows in the result, which is judged; a warning beside it would only be noise.
        with np.errstate(all="ignore"):
            return implementation.function(*_given(inputs), inputs.target, **inputs.options)

    def forward_backward(self, implementation: Implementation, inputs: Inputs) -> tuple[Any, Any]:
        """The loss, and the declared gradient function's result; a scalar loss takes the first upstream element.

        That of a projection stands below that of the hidden states.
        """
        loss = self.forward(implementation, inputs)
        if implementation.gradient is None:
            raise ValueError(f"{implementation.declaration.name} declares no gradient function")
        options = gradient_options(implementation, inputs)
        upstream = inputs.upstream.reshape(-1)[0] if np.ndim(loss) == 0 and inputs.upstream.size else inputs.upstream
        with np.errstate(all="ignore"):
            gradient = implementation.gradient(*_given(inputs), inputs.target, upstream, **options)
        return loss, gradient if inputs.projection is None else np.concatenate(gradient)

    def versions(self) -> dict[str, str]:
        """Versions of NumPy and, where installed, ml_dtypes, SciPy and scikit-learn."""
        found = {}
        for package in ("numpy", "ml_dtypes", "scipy", "scikit-learn"):
            with suppress(importlib.metadata.PackageNotFoundError):
                found[package] = importlib.metadata.version(package)
        return found


def _given(inputs: Inputs) -> tuple[Array, ...]:
    """What a call begins with: logits, or hidden states and projection."""
    return (inputs.logits,) if inputs.projection is None else (inputs.logits, inputs.projection)


def gradient_options(implementation: Implementation, inputs: Inputs) -> dict[str, Any]:
    """The options of the gradient function: ``reduction="none"`` may be missing from its signature."""
    options = dict(inputs.options)
    if options.get("reduction") == "none" and implementation.gradient is not None:
        parameters = inspect.signature(implementation.gradient).parameters
        if "reduction" not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            del options["reduction"]
    return options


BRIDGE = NumpyBridge
