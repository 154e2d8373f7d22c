"""Drivers: how a candidate of each framework is called, in its own process.

A driver makes the framework's own arrays, calls the candidate, differentiates, and reads back what came out and what has
become of the inputs. It judges nothing.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.bridges import Bridge, bridge_for
from harness.vetting.layouts import numpy_view, torch_view

__all__ = ["Call", "Driver", "Given", "driver_for"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Call:
    """How a candidate is to be called on a batch.

    Parameters
    ----------
    options : mapping
        Its keyword arguments that are not arrays, ``reduction`` among them where it is claimed.
    gradient : bool
        Whether to differentiate.
    backwards : int
        How often to differentiate the same result.
    layout : str
        The memory layout of the inputs.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    gradient: bool = True
    backwards: int = 1
    layout: str = "contiguous"


@dataclass(eq=False)
class Given:
    """The framework's own inputs of one call, kept so that they can be read again afterwards, or filled anew."""

    logits: Any
    target: Any
    upstream: Any
    options: dict[str, Any]


class NoGradient(TypeError):
    """The result cannot be differentiated with respect to the logits."""


class WrongShape(ValueError):
    """The result's shape is that of no reduction, so that there is no upstream gradient for it."""


class Driver(ABC):
    """Calls candidates of one framework."""

    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge

    def context(self) -> AbstractContextManager[Any]:
        """What surrounds everything that touches the framework's arrays."""
        return nullcontext()

    @abstractmethod
    def view(self, array: Array, layout: str) -> Any:
        """A fresh native array of the same values, in a layout."""

    @abstractmethod
    def refill(self, native: Any, array: Array) -> Any:
        """The native array, at the same address where the framework has addresses, with new values."""

    @abstractmethod
    def run(self, candidate: Callable[..., Any], given: Given, call: Call) -> tuple[Any, list[Any]]:
        """The loss, and its gradient as often as asked for."""

    def give(self, batch: Batch, call: Call) -> Given:
        """Inputs for one call."""
        options = {
            name: self.view(value, call.layout if call.layout != "expanded" else "contiguous")
            if isinstance(value, np.ndarray)
            else value
            for name, value in {**batch.options, **call.options}.items()
        }
        plain = "contiguous" if call.layout == "expanded" else call.layout
        return Given(
            self.view(batch.logits, call.layout),
            self.view(batch.target, plain if batch.target.ndim == 1 else call.layout),
            self.view(batch.upstream, plain),
            options,
        )

    def refresh(self, given: Given, batch: Batch) -> None:
        """Fill the inputs of an earlier call with another batch of the same shapes."""
        given.logits = self.refill(given.logits, batch.logits)
        given.target = self.refill(given.target, batch.target)
        given.upstream = self.refill(given.upstream, batch.upstream)
        for name, value in batch.options.items():
            given.options[name] = self.refill(given.options[name], value) if isinstance(value, np.ndarray) else value

    def read(self, value: Any) -> Array:
        """A native array as NumPy's."""
        return self.bridge.numpy(value)


class NumpyDriver(Driver):
    """NumPy: the gradient is a function of its own, where there is one."""

    gradient: Callable[..., Any] | None = None

    def view(self, array: Array, layout: str) -> Array:
        view: Array = numpy_view(np, array.copy(), layout)
        return view

    def refill(self, native: Any, array: Array) -> Any:
        native[...] = array
        return native

    def run(self, candidate: Callable[..., Any], given: Given, call: Call) -> tuple[Any, list[Any]]:
        with np.errstate(all="ignore"):
            loss = candidate(given.logits, given.target, **given.options)
            if self.gradient is None or not call.gradient:
                return loss, []
            upstream = given.upstream
            if np.ndim(loss) == 0:
                upstream = upstream.reshape(-1)[0]
            options = _accepted(self.gradient, given.options)
            return loss, [
                self.gradient(given.logits, given.target, upstream, **options) for _ in range(call.backwards)
            ]


def _accepted(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a gradient function takes: all, except a ``reduction`` of ``"none"`` that it does not name."""
    parameters = inspect.signature(function).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {
        name: value
        for name, value in options.items()
        if open_ended or name in parameters or not (name == "reduction" and value == "none")
    }


class TorchDriver(Driver):
    """torch: gradients by autograd, with respect to a leaf in the layout asked for."""

    def __init__(self, bridge: Bridge) -> None:
        super().__init__(bridge)
        self.torch: Any = vars(bridge)["torch"]

    def view(self, array: Array, layout: str) -> Any:
        return torch_view(self.torch, self.bridge.native(array), layout)

    def refill(self, native: Any, array: Array) -> Any:
        with self.torch.no_grad():
            native.detach().copy_(self.bridge.native(array))
        return native

    def run(self, candidate: Callable[..., Any], given: Given, call: Call) -> tuple[Any, list[Any]]:
        given.logits = given.logits.detach()
        if not call.gradient:
            return candidate(given.logits, given.target, **given.options), []
        leaf = given.logits.requires_grad_()
        with self.torch.enable_grad():
            loss = candidate(leaf, given.target, **given.options)
        if not isinstance(loss, self.torch.Tensor):
            raise TypeError(f"returned {type(loss).__name__}, not a torch.Tensor")
        if not loss.requires_grad:
            raise NoGradient("the loss does not require a gradient: autograd cannot reach the logits")
        upstream = _fit(given.upstream.to(loss.dtype), loss)
        gradients = []
        for turn in range(call.backwards):
            keep = turn + 1 < call.backwards
            (gradient,) = self.torch.autograd.grad(loss, leaf, upstream, retain_graph=keep, allow_unused=True)
            if gradient is None:
                raise NoGradient("the loss does not depend on the logits, as autograd sees it")
            gradients.append(gradient)
        return loss, gradients


class JaxDriver(Driver):
    """JAX: gradients by ``jax.vjp``; arrays have no layout and no address that a caller could choose."""

    def __init__(self, bridge: Bridge) -> None:
        super().__init__(bridge)
        self.jax: Any = vars(bridge)["jax"]

    def context(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self.jax.enable_x64(True)
        return context

    def view(self, array: Array, layout: str) -> Any:
        return self.bridge.native(array)

    def refill(self, native: Any, array: Array) -> Any:
        return self.bridge.native(array)

    def run(self, candidate: Callable[..., Any], given: Given, call: Call) -> tuple[Any, list[Any]]:
        if not call.gradient:
            loss = candidate(given.logits, given.target, **given.options)
            return self.jax.block_until_ready(loss), []
        loss, pull_back = self.jax.vjp(lambda z: candidate(z, given.target, **given.options), given.logits)
        upstream = _fit(given.upstream.astype(loss.dtype), loss)
        gradients = [pull_back(upstream)[0] for _ in range(call.backwards)]
        return self.jax.block_until_ready(loss), self.jax.block_until_ready(gradients)


def _fit(upstream: Any, loss: Any) -> Any:
    """The upstream gradient in the loss's shape: as it is, or its first element for a scalar loss."""
    if tuple(loss.shape) == tuple(upstream.shape):
        return upstream
    if tuple(loss.shape) == ():
        return upstream.reshape(-1)[0]
    raise WrongShape(f"the loss has shape {list(loss.shape)}: expected {list(upstream.shape)}, or [] for a reduced one")


def driver_for(framework: str, threads: int) -> Driver:
    """The driver for a framework, which this imports."""
    kinds: dict[str, type[Driver]] = {"numpy": NumpyDriver, "torch": TorchDriver, "jax": JaxDriver}
    return kinds[framework](bridge_for(framework, threads))
