"""The bridge for JAX, and for what is built on it (optax): 64-bit types by context, gradients by ``jax.vjp``.

Without 64-bit types JAX makes float32 of float64 and int32 of int64 and says nothing, so whatever touches an array here
runs inside ``jax.enable_x64(True)``. Results are waited for: JAX returns before it has computed, on the CPU too.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.bridges import Array, Bridge, FrameworkUnavailable, Inputs, crossing
from harness.bridges.numpy_bridge import NumpyBridge
from harness.cache import cache_folder
from harness.declaration import Implementation
from harness.environment import cpu_name
from harness.formats import Format
from harness.messages import describe_exception

__all__ = ["BRIDGE", "JaxBridge", "kept_programs"]

KEPT_SHAPES = 8
"""JAX keeps all that it compiles, some 10 MB for one implementation and shape: after so many shapes it is let go."""


class JaxBridge(Bridge):
    """JAX, on the CPU unless CUDA is asked for, or ``JAX_PLATFORMS`` names another device.

    XLA reads its settings once, when it is first used in a process: a thread count that comes later changes nothing.
    Compiled programs are kept on disk, beside the truth, since compiling takes most of the time of a run; with
    ``XENT_CACHE=off``, or a ``JAX_COMPILATION_CACHE_DIR`` of the user's own, nothing is changed about that.
    """

    framework = "jax"
    variables = ("JAX_PLATFORMS", "XLA_FLAGS")

    def __init__(self, threads: int = 1, device: str = "cpu") -> None:
        os.environ.setdefault("JAX_PLATFORMS", device)
        os.environ["PJRT_NPROC"] = str(threads)
        self.jax: Any = importlib.import_module("jax")
        super().__init__(threads, device)
        self._shapes: set[tuple[Any, ...]] = set()
        self._keep_compiled_programs()

    def use(self, device: str) -> None:
        """See `Bridge.use`."""
        try:
            found = self.jax.default_backend()
        except Exception as error:  # an AssertionError where the plugin for CUDA is missing
            why = describe_exception(error)
            raise FrameworkUnavailable(f"JAX finds no CUDA device ({why}): see jax[cuda13] and the driver") from None
        if found != "gpu":
            raise FrameworkUnavailable(f"JAX is on the {found} here: unset JAX_PLATFORMS, or set it to cuda")

    @property
    def gpu(self) -> str:
        """See `Bridge.gpu`."""
        return str(self.jax.devices()[0].device_kind) if self.jax.default_backend() == "gpu" else ""

    def native(self, array: Array) -> Any:
        """A copy on JAX's default device; bfloat16 by ``ml_dtypes`` is JAX's own."""
        with self._wide():
            return self.jax.numpy.array(array, copy=True)

    def numpy(self, value: Any) -> Array:
        """A copy of an array, from whatever device it is on."""
        return crossing(np.array(self._array(value)))

    def subnormal(self, form: Format) -> Any:
        """Half of a format's smallest normal number, as XLA computes it."""
        with self._wide():
            return super().subnormal(form)

    def inputs(self, implementation: Implementation, batch: Batch, reduction: str = "none") -> Inputs:
        """See `Bridge.inputs`; compiled programs are let go when too many shapes have been seen."""
        shape = (*batch.logits.shape, batch.dtype)
        if shape not in self._shapes and len(self._shapes) >= KEPT_SHAPES:
            self.jax.clear_caches()
            self._shapes.clear()
        self._shapes.add(shape)
        return super().inputs(implementation, batch, reduction)

    def forward(self, implementation: Implementation, inputs: Inputs) -> Any:
        """The loss."""
        with self._wide():
            loss = self._array(implementation.function(inputs.logits, inputs.target, **inputs.options))
            return loss.block_until_ready()

    def forward_backward(self, implementation: Implementation, inputs: Inputs) -> tuple[Any, Any]:
        """The loss, and its gradient by ``jax.vjp``; a scalar loss takes the first upstream element.

        Raises
        ------
        ValueError
            Where the loss has not as many elements as the upstream gradient.
        """

        def loss_of(logits: Any) -> Any:
            return self._array(implementation.function(logits, inputs.target, **inputs.options))

        with self._wide():
            loss, pull = self.jax.vjp(loss_of, inputs.logits)
            upstream = inputs.upstream.reshape(-1)[:1] if loss.ndim == 0 else inputs.upstream
            if loss.size != upstream.size:
                raise ValueError(
                    f"the loss has shape {loss.shape}, but the upstream gradient {upstream.shape}: "
                    "it must have the loss's shape"
                )
            (gradient,) = pull(upstream.astype(loss.dtype).reshape(loss.shape))
            return loss.block_until_ready(), gradient.block_until_ready()

    def versions(self) -> dict[str, str]:
        """Versions of JAX, jaxlib and, where installed, optax, and of what NumPy reports."""
        found = {"jax": str(self.jax.__version__)}
        for package in ("jaxlib", "optax"):
            with suppress(importlib.metadata.PackageNotFoundError):
                found[package] = importlib.metadata.version(package)
        return found | NumpyBridge().versions()

    def _keep_compiled_programs(self) -> None:
        """Have XLA keep its programs on disk."""
        for name, value in kept_programs("xla").items():
            self.jax.config.update(name, value)

    def _wide(self) -> Any:
        """A context in which float64 and int64 are what they say."""
        return self.jax.enable_x64(True)

    def _array(self, value: Any) -> Any:
        if not isinstance(value, self.jax.Array):
            raise TypeError(f"returned {type(value).__name__}, not a jax.Array")
        return value


def kept_programs(name: str) -> dict[str, Any]:
    """Settings of JAX, for ``jax.config`` or in capitals for the environment, that keep compiled programs on disk.

    They live beside the truth, in a folder of that name and of this processor: they run on no other. None where
    ``XENT_CACHE=off``, or where the user has a ``JAX_COMPILATION_CACHE_DIR``.
    """
    folder = cache_folder()
    if folder is None or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return {}
    processor = hashlib.sha256(_processor().encode()).hexdigest()[:16]
    return {
        "jax_compilation_cache_dir": str(folder / name / processor),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }


def _processor() -> str:
    """The processor and the instructions that it has, as far as the system tells: caches travel between machines."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return f"{cpu_name()} {line}"
    return cpu_name()


BRIDGE = JaxBridge
