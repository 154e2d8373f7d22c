"""Bridges: one per framework, each turning batches into the framework's own arrays and what comes back into NumPy's.

A bridge is one file, ``<framework>_bridge.py``, that defines ``BRIDGE``, a subclass of `Bridge`; nothing else has to
know of it. The framework is imported when its bridge is, and only there: never in the process that judges.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from harness.batch import Batch
from harness.declaration import Implementation
from harness.formats import FORMATS, Format, FormatUnavailable
from harness.wire import WIRE_DTYPES

__all__ = ["Bridge", "FrameworkUnavailable", "Inputs", "Returned", "bridge_for", "frameworks", "unavailable"]

Array = np.ndarray[Any, Any]

_PIP = {"mlx": "'mlx[cpu]'"}
"""What pip calls a framework, where that is not its name."""
_BESIDE = {"triton": "torch"}
"""What a framework is used through, and needs beside itself."""
_PART_OF = {"pallas": "jax"}
"""What a framework comes with, that is no package by itself."""


class FrameworkUnavailable(ImportError):
    """A framework that is not installed, or has no bridge; the message says what to do."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """A batch in a framework's own arrays; `options` are all the keywords of the call, ``reduction`` included.

    With a `projection` (``linear_cross_entropy``), `logits` are the hidden states.
    """

    logits: Any
    target: Any
    upstream: Any
    options: Mapping[str, Any]
    projection: Any = None


@dataclass(frozen=True, eq=False)
class Returned:
    """What one call gave back: the loss, the gradient or None, and the wall-clock in seconds."""

    loss: Array
    gradient: Array | None
    seconds: float


class Bridge(ABC):
    """A framework seen from the harness.

    Parameters
    ----------
    threads : int
        How many threads the framework may use; one makes sums reproducible.
    device : str
        Where implementations are to get their inputs: ``"cpu"`` or ``"cuda"``.

    Raises
    ------
    FrameworkUnavailable
        Where the framework cannot use that device here.
    """

    framework: ClassVar[str]
    variables: ClassVar[tuple[str, ...]] = ()
    """Environment variables, beside the thread counts, that decide what the framework does: a run records them."""
    takes_projection: ClassVar[bool] = False
    """Whether it can call implementations of ``linear_cross_entropy``, which take a projection too."""
    backend: str = "native"
    """``"native"`` for code that runs as it would in use, else the name of what interprets it."""
    device: str = "cpu"
    """Where implementations get their inputs: ``"cpu"`` or ``"cuda"``."""

    def __init__(self, threads: int = 1, device: str = "cpu") -> None:
        self.threads, self.device = threads, device
        if device != "cpu":
            self.use(device)

    def use(self, device: str) -> None:
        """Get ready for a device other than the CPU; here, where there is none.

        Raises
        ------
        FrameworkUnavailable
            Where the framework cannot use it here.
        """
        raise FrameworkUnavailable(f"xent runs {self.framework} on the CPU only: leave --device {device} out")

    @abstractmethod
    def native(self, array: Array) -> Any:
        """A *copy* of an array (any dtype that crosses the wire, any shape) as the framework's own."""

    @abstractmethod
    def numpy(self, value: Any) -> Array:
        """What an implementation returned, as a NumPy array of the same shape and dtype (bfloat16 by ``ml_dtypes``).

        Raises
        ------
        TypeError
            For what is not one of the framework's arrays, or of a dtype that does not cross the wire.
        """

    @abstractmethod
    def forward(self, implementation: Implementation, inputs: Inputs) -> Any:
        """The loss, as the implementation returned it, computed to the end (not merely enqueued)."""

    @abstractmethod
    def forward_backward(self, implementation: Implementation, inputs: Inputs) -> tuple[Any, Any]:
        """The loss and its gradient with respect to the logits times the upstream gradient, computed to the end."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Version by package name."""

    @property
    def gpu(self) -> str:
        """The name of the GPU that the framework would use, or ``""`` for none."""
        return ""

    @cached_property
    def flushed(self) -> frozenset[str]:
        """The formats whose subnormal results the framework flushes to zero, found out by computing one of each."""
        found = set()
        for name, form in FORMATS.items():
            with suppress(FormatUnavailable, TypeError, ValueError):  # a dtype that is not to be had here
                if not self.numpy(self.subnormal(form)).astype(np.float64).any():
                    found.add(name)
        return frozenset(found)

    def subnormal(self, form: Format) -> Any:
        """Half of a format's smallest normal number, as the framework's own arithmetic makes it: [1]."""
        return self.native(form.round([form.smallest_normal])) * self.native(form.round([0.5]))

    def inputs(self, implementation: Implementation, batch: Batch, reduction: str = "none") -> Inputs:
        """Fresh inputs for an implementation: ``reduction`` is passed if it is claimed, the batch's options always.

        Raises
        ------
        TypeError
            For an option that the implementation does not claim, or a projection that this bridge cannot pass on.
        """
        claimed = implementation.declaration.options
        if batch.projection is not None and not self.takes_projection:
            raise TypeError(f"xent cannot pass a projection to {self.framework}: {batch.loss} is for torch and numpy")
        for name in batch.options:
            if name not in claimed:
                raise TypeError(f"{implementation.declaration.name} does not claim {name!r}: leave it out of the batch")
        options = {k: self.native(v) if isinstance(v, np.ndarray) else v for k, v in batch.options.items()}
        if "reduction" in claimed:
            options["reduction"] = reduction
        projection = None if batch.projection is None else self.native(batch.projection)
        logits, target, upstream = map(self.native, (batch.logits, batch.target, batch.upstream))
        return Inputs(logits, target, upstream, options, projection)

    def call(
        self, implementation: Implementation, batch: Batch, *, gradient: bool = True, reduction: str = "none"
    ) -> Returned:
        """Call an implementation once, on copies; the gradient is None if not asked for or not to be had."""
        inputs = self.inputs(implementation, batch, reduction)
        differentiate = gradient and implementation.declaration.has_gradient
        start = time.perf_counter()
        if differentiate:
            loss, slope = self.forward_backward(implementation, inputs)
        else:
            loss, slope = self.forward(implementation, inputs), None
        seconds = time.perf_counter() - start
        return Returned(self.numpy(loss), self.numpy(slope) if differentiate else None, seconds)


def crossing(array: Array) -> Array:
    """The array, if its dtype crosses the wire.

    Raises
    ------
    TypeError
        If it does not.
    """
    if array.dtype.name not in WIRE_DTYPES:
        raise TypeError(f"returned an array of dtype {array.dtype}, which is none of {', '.join(WIRE_DTYPES)}")
    return array


def frameworks() -> tuple[str, ...]:
    """The frameworks that there is a bridge for, installed or not."""
    suffix = "_bridge"
    return tuple(sorted(m.name.removesuffix(suffix) for m in pkgutil.iter_modules(__path__) if m.name.endswith(suffix)))


def unavailable(framework: str) -> str:
    """Why a framework cannot be used, with what to do about it, or ``""`` where it can; nothing is imported."""
    if framework not in frameworks():
        return f"there is no bridge for framework {framework!r}: choose from {', '.join(frameworks())}"
    package = _PART_OF.get(framework, framework)
    needed = [name for name in (package, _BESIDE.get(package, package)) if not installed(name)]
    return f"{needed[0]} is not installed: pip install {_PIP.get(needed[0], needed[0])}" if needed else ""


def installed(module: str) -> bool:
    """Whether a module's top-level package can be found; nothing is imported."""
    try:
        return importlib.util.find_spec(module.partition(".")[0]) is not None
    except ValueError:  # an entry of sys.modules without a spec: None stands for "not to be imported"
        return False


def bridge_for(framework: str, threads: int = 1, device: str = "cpu") -> Bridge:
    """The bridge for a framework, which this imports.

    Raises
    ------
    FrameworkUnavailable
        Where there is no such bridge, the framework is not installed, or it cannot use the device.
    """
    reason = unavailable(framework)
    if reason:
        raise FrameworkUnavailable(reason)
    bridge: Bridge = importlib.import_module(f"{__name__}.{framework}_bridge").BRIDGE(threads, device)
    return bridge
