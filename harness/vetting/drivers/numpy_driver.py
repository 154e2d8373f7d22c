"""NumPy candidates: the gradient is a function of its own, where there is one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from harness.bridges import Bridge
from harness.vetting.drivers.base import FACTORS, Array, Call, Driver, Given, NoDevice, Pull, WrongShape
from harness.vetting.layouts import numpy_view

__all__ = ["NumpyDriver"]


class NumpyDriver(Driver):
    """NumPy: the gradient is a function of its own, where there is one."""

    gradient: Callable[..., Any] | None = None

    def __init__(self, bridge: Bridge, device: str = "cpu") -> None:
        super().__init__(bridge, device)
        if device != "cpu":
            raise NoDevice("NumPy computes on the CPU only: leave --device out")

    def read(self, value: Any) -> Array:
        """A copy: the candidate may keep what it has returned, and write to it later; a longdouble one in float64."""
        if isinstance(value, np.ndarray | np.generic) and value.dtype == np.longdouble != np.float64:
            value = value.astype(np.float64)
        return super().read(value).copy()

    def view(self, array: Array, layout: str) -> Array:
        """A copy, in the layout."""
        view: Array = numpy_view(np, array.copy(), layout)
        return view

    def refill(self, native: Any, array: Array) -> Any:
        """The same array, its elements written anew."""
        native[...] = array
        return native

    def begin(self, candidate: Callable[..., Any], given: Given, call: Call) -> tuple[Any, Pull]:
        """The loss; the gradient function is called when its gradient is pulled."""
        loss = candidate(given.logits, given.target, **given.options)
        if isinstance(loss, np.ndarray) and type(loss) is not np.ndarray:  # a masked one, say, leaves NaN out of a sum
            raise WrongShape(f"returned {type(loss).__name__}, not a numpy.ndarray")
        return loss, partial(self._gradients, self.gradient if call.gradient else None, np.ndim(loss), given, call)

    def _gradients(self, gradient: Callable[..., Any] | None, axes: int, given: Given, call: Call) -> list[Any]:
        if gradient is None:
            return []
        upstream = given.upstream if axes else given.upstream.reshape(-1)[0]
        options = _accepted(gradient, given.options)
        factors = [upstream.dtype.type(factor) for factor in FACTORS[: call.backwards]]
        found = []
        for factor in factors:
            each = upstream if factor == 1 else upstream * factor
            made = gradient(given.logits, given.target, each, **options)
            found.append(made.copy() if call.backwards > 1 and isinstance(made, np.ndarray) else made)
        return found


def _accepted(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a gradient function takes: all, except a ``reduction`` of ``"none"`` that it does not name."""
    parameters = inspect.signature(function).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {
        name: value
        for name, value in options.items()
        if open_ended or name in parameters or not (name == "reduction" and value == "none")
    }
