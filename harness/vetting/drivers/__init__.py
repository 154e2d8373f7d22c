"""Drivers: how a candidate of each framework is called, in its own process.

A driver makes the framework's own arrays, calls the candidate, differentiates, and reads back what came out and what
has become of the inputs. It judges nothing.
"""

from __future__ import annotations

import os

from harness.bridges import bridge_for, triton_interpreter, unavailable
from harness.vetting.drivers.base import FACTORS, Call, Driver, Given, NoDevice, NoGradient, WrongShape
from harness.vetting.drivers.jax_driver import JaxDriver
from harness.vetting.drivers.numpy_driver import NumpyDriver
from harness.vetting.drivers.torch_driver import TorchDriver

__all__ = [
    "FACTORS",
    "Call",
    "Driver",
    "Given",
    "JaxDriver",
    "NoDevice",
    "NoGradient",
    "NumpyDriver",
    "WrongShape",
    "driver_for",
]


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
    kind = kinds[framework]
    return kind(bridge_for(framework, max(threads, kind.fewest_threads)), device)
