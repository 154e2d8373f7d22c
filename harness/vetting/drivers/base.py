"""What every driver has in common: what it is given, how it is asked, and what it answers with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.bridges import Bridge
from harness.vetting.layouts import layout_of

__all__ = ["FACTORS", "Array", "Call", "Driver", "Given", "NoDevice", "NoGradient", "Pull", "WrongShape", "fit"]

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

    fewest_threads = 1
    """Threads that the framework is to have, whoever asks for fewer."""

    def __init__(self, bridge: Bridge, device: str = "cpu") -> None:
        self.bridge, self.device = bridge, device

    def settle(self) -> None:  # noqa: B027 (most have nothing to set)
        """Set in the whole process what `context` can set for its own thread only."""

    def unsettle(self) -> None:  # noqa: B027 (most have nothing to set)
        """Take back what `settle` has set."""

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


def fit(upstream: Any, loss: Any) -> Any:
    """The upstream gradient in the loss's shape: as it is, or its first element for a scalar loss."""
    if tuple(loss.shape) == tuple(upstream.shape):
        return upstream
    if tuple(loss.shape) == ():
        return upstream.reshape(-1)[0]
    raise WrongShape(f"the loss has shape {list(loss.shape)}: expected {list(upstream.shape)}, or [] for a reduced one")
