"""Drivers: how a candidate of each framework is called, in its own process.

A driver makes the framework's own arrays, calls the candidate, differentiates, and reads back what came out and what
has become of the inputs. It judges nothing.
"""

from __future__ import annotations

import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.bridges import Bridge, bridge_for, triton_interpreter, unavailable
from harness.vetting.layouts import layout_of, numpy_view, torch_view

__all__ = ["FACTORS", "Call", "Driver", "Given", "NoDevice", "driver_for"]

Array = np.ndarray[Any, Any]
Pull = Callable[[], list[Any]]


FACTORS = (1.0, 1.0, -4.0)
"""What the upstream gradient is multiplied by, each time that the same result is differentiated; both are exact."""


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
    together : bool
        In a sequence, whether all losses are computed, each from inputs of its own, before the first is differentiated.
    no_grad : bool
        Whether to call with gradients switched off altogether, as an evaluation does; only torch has such a switch.
    threads : int
        How many threads the framework may use, where that can be set; 0 for as many as always.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    gradient: bool = True
    backwards: int = 1
    layout: str = "contiguous"
    together: bool = False
    no_grad: bool = False
    threads: int = 0


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
    """What came back is no array, or has the shape of no reduction, so that there is no upstream gradient for it."""


class NoDevice(RuntimeError):
    """The framework cannot compute on the device asked for."""


class Driver(ABC):
    """Calls candidates of one framework, on one device."""

    def __init__(self, bridge: Bridge, device: str = "cpu") -> None:
        self.bridge, self.device = bridge, device

    @contextmanager
    def context(self) -> Iterator[None]:
        """What surrounds everything that touches the framework's arrays; overflow is no news to anybody here.

        It is told to a function that does nothing, which is as quiet as to ignore it, and lets a candidate be seen that
        has it ignored for others too.
        """
        with np.errstate(all="call", call=_say_nothing):
            yield

    @abstractmethod
    def view(self, array: Array, layout: str) -> Any:
        """A fresh native array of the same values, in a layout."""

    @abstractmethod
    def refill(self, native: Any, array: Array) -> Any:
        """The native array, at the same address where the framework has addresses, with new values."""

    @abstractmethod
    def begin(self, candidate: Callable[..., Any], given: Given, call: Call) -> tuple[Any, Pull]:
        """The loss, and what gives its gradient as often as asked for."""

    def run(self, candidate: Callable[..., Any], given: Given, call: Call) -> tuple[Any, list[Any]]:
        """The loss, and its gradient as often as asked for."""
        loss, pull = self.begin(candidate, given, call)
        return loss, pull()

    def give(self, batch: Batch, call: Call) -> Given:
        """Inputs for one call."""

        def view(name: str, array: Array) -> Any:
            return self.view(array, layout_of(name, array.ndim, call.layout))

        options = {
            name: view(name, value) if isinstance(value, np.ndarray) else value
            for name, value in {**call.options, **batch.options}.items()
        }
        return Given(
            view("logits", batch.logits), view("target", batch.target), view("upstream", batch.upstream), options
        )

    def refresh(self, given: Given, batch: Batch) -> None:
        """Fill the inputs of an earlier call with another batch of the same shapes."""
        given.logits = self.refill(given.logits, batch.logits)
        given.target = self.refill(given.target, batch.target)
        given.upstream = self.refill(given.upstream, batch.upstream)
        for name, value in batch.options.items():
            given.options[name] = self.refill(given.options[name], value) if isinstance(value, np.ndarray) else value

    def read(self, value: Any) -> Array:
        """A native array as NumPy's.

        Raises
        ------
        WrongShape
            Where it is none.
        """
        try:
            return self.bridge.numpy(value)
        except TypeError as error:
            raise WrongShape(str(error)) from error

    @contextmanager
    def threads(self, count: int) -> Iterator[None]:
        """So many threads for a while, where the framework lets that be set; 0 for as many as there are."""
        yield

    def marked(self, given: Given, call: Call) -> list[str]:
        """What a call has left on its inputs beside their numbers, such as ``"grad of logits"``."""
        return []


def _say_nothing(kind: str, flag: int) -> None:
    """What NumPy calls on overflow and the like."""


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
        view: Array = numpy_view(np, array.copy(), layout)
        return view

    def refill(self, native: Any, array: Array) -> Any:
        native[...] = array
        return native

    def begin(self, candidate: Callable[..., Any], given: Given, call: Call) -> tuple[Any, Pull]:
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


class TorchDriver(Driver):
    """torch: gradients by autograd, with respect to a leaf in the layout asked for."""

    def __init__(self, bridge: Bridge, device: str = "cpu") -> None:
        super().__init__(bridge, device)
        self.torch: Any = vars(bridge)["torch"]
        if device == "cuda" and not self.torch.cuda.is_available():
            raise NoDevice("torch finds no CUDA device here: leave --device cuda out")

    def view(self, array: Array, layout: str) -> Any:
        return torch_view(self.torch, self.bridge.native(array).to(self.device), layout)

    def refill(self, native: Any, array: Array) -> Any:
        with self.torch.no_grad():
            native.detach().copy_(self.bridge.native(array))
        return native

    def begin(self, candidate: Callable[..., Any], given: Given, call: Call) -> tuple[Any, Pull]:
        # In a sequence the very same tensors are passed again, as a caller may do: a mark on one of them shows.
        if call.no_grad:
            with self.torch.no_grad():
                return candidate(given.logits, given.target, **given.options), list
        if not call.gradient:
            return candidate(given.logits, given.target, **given.options), list
        leaf = given.logits.requires_grad_()
        with self.torch.enable_grad():
            loss = candidate(leaf, given.target, **given.options)
        if type(loss) is not self.torch.Tensor:  # a subclass has arithmetic of its own, which nobody here has judged
            raise WrongShape(f"returned {type(loss).__name__}, not a torch.Tensor")
        if not loss.requires_grad:
            raise NoGradient("the loss does not require a gradient: autograd cannot reach the logits")
        upstream = _fit(given.upstream.to(loss.dtype), loss)
        return loss, partial(self._gradients, loss, leaf, upstream, call)

    def _gradients(self, loss: Any, leaf: Any, upstream: Any, call: Call) -> list[Any]:
        gradients = []
        for turn in range(call.backwards):
            keep = turn + 1 < call.backwards
            given = upstream if FACTORS[turn] == 1 else upstream * FACTORS[turn]
            (gradient,) = self.torch.autograd.grad(loss, leaf, given, retain_graph=keep, allow_unused=True)
            if gradient is None:
                raise NoGradient("the loss does not depend on the logits, as autograd sees it")
            # A copy where there is another to come, which may write to what this one has handed out.
            gradients.append(gradient.clone() if call.backwards > 1 else gradient)
        return gradients

    @contextmanager
    def threads(self, count: int) -> Iterator[None]:
        before = self.torch.get_num_threads()
        self.torch.set_num_threads(count or before)
        try:
            yield
        finally:
            self.torch.set_num_threads(before)

    def marked(self, given: Given, call: Call) -> list[str]:
        """What autograd reads of a tensor, and a call has no business to set on the caller's."""
        tensors = {"logits": given.logits, "target": given.target, "upstream": given.upstream, **given.options}
        found = []
        for name, tensor in tensors.items():
            if not isinstance(tensor, self.torch.Tensor):
                continue
            asked = name == "logits" and call.gradient and not call.no_grad
            found += [f"requires_grad of {name}"] * (tensor.requires_grad != asked)
            found += [f"grad of {name}"] * (tensor.is_leaf and tensor.grad is not None)
            found += [f"hooks of {name}"] * bool(tensor._backward_hooks)
        return found


class JaxDriver(Driver):
    """JAX: gradients by ``jax.vjp``; arrays have no layout and no address that a caller could choose."""

    def __init__(self, bridge: Bridge, device: str = "cpu") -> None:
        super().__init__(bridge, device)
        self.jax: Any = vars(bridge)["jax"]
        if device == "cuda":
            try:
                self.jax.devices("cuda")
            except RuntimeError:
                raise NoDevice("JAX finds no CUDA device here: leave --device cuda out") from None

    @contextmanager
    def context(self) -> Iterator[None]:
        """The same, with 64-bit types."""
        with super().context(), self.jax.enable_x64(True):
            yield

    def view(self, array: Array, layout: str) -> Any:
        return self.bridge.native(array)

    def refill(self, native: Any, array: Array) -> Any:
        return self.bridge.native(array)

    def begin(self, candidate: Callable[..., Any], given: Given, call: Call) -> tuple[Any, Pull]:
        if not call.gradient:
            loss = candidate(given.logits, given.target, **given.options)
            return self.jax.block_until_ready(loss), list
        loss, pull_back = self.jax.vjp(lambda z: candidate(z, given.target, **given.options), given.logits)
        upstream = _fit(given.upstream.astype(loss.dtype), loss)

        def gradients() -> list[Any]:
            factors = FACTORS[: call.backwards]
            given = [upstream if factor == 1 else upstream * upstream.dtype.type(factor) for factor in factors]
            found: list[Any] = self.jax.block_until_ready([pull_back(each)[0] for each in given])
            return found

        return self.jax.block_until_ready(loss), gradients


def _fit(upstream: Any, loss: Any) -> Any:
    """The upstream gradient in the loss's shape: as it is, or its first element for a scalar loss."""
    if tuple(loss.shape) == tuple(upstream.shape):
        return upstream
    if tuple(loss.shape) == ():
        return upstream.reshape(-1)[0]
    raise WrongShape(f"the loss has shape {list(loss.shape)}: expected {list(upstream.shape)}, or [] for a reduced one")


def driver_for(framework: str, threads: int, device: str = "cpu", backend: str = "native") -> Driver:
    """The driver for a framework, which this imports; with backend ``"interpret"``, Triton's interpreter too.

    Raises
    ------
    NoDevice
        Where the framework cannot compute on the device, ``"cpu"`` or ``"cuda"``, or with the backend.
    """
    if backend == "interpret" and framework == "torch":
        reason = unavailable("triton")
        if reason:
            raise NoDevice(f"--backend interpret runs Triton kernels on the CPU: {reason}")
        triton_interpreter.mend()
    kinds: dict[str, type[Driver]] = {"numpy": NumpyDriver, "torch": TorchDriver, "jax": JaxDriver}
    if device == "cuda":
        os.environ.setdefault("JAX_PLATFORMS", "cuda,cpu")  # before its bridge says that it is the CPU
    return kinds[framework](bridge_for(framework, threads), device)
