"""Process state: what a candidate must leave as it found it. Runs in the candidate's process.

A snapshot is a mapping from a name to something comparable; two snapshots taken around a call differ exactly in what
the call has changed. Only modules that are loaded already are asked, so that taking one imports nothing.
"""

from __future__ import annotations

import gc
import operator
import os
import random
import signal
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["VALUES", "Restorer", "changed", "snapshot"]

VALUES = (
    "denormals",
    "torch denormals",
    "default dtype",
    "default device",
    "grad mode",
    "autocast",
    "thread count",
    "torch seed",
    "numpy error state",
    "patched functions",
)
"""What alters values elsewhere in the process: it may not change even while the candidate is imported."""

_JAX_SETTINGS = (
    "jax_enable_x64",
    "jax_debug_nans",
    "jax_disable_jit",
    "jax_default_device",
    "jax_numpy_rank_promotion",
)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGABRT, signal.SIGSEGV, signal.SIGFPE)
_TINY = 2.2250738585072014e-308

_WATCHED = (
    ("torch", "allclose"),
    ("torch", "equal"),
    ("torch.autograd", "grad"),
    ("torch.testing", "assert_close"),
    ("numpy", "allclose"),
    ("numpy", "asarray"),
    ("numpy", "array_equal"),
    ("numpy.testing", "assert_allclose"),
    ("time", "time"),
    ("time", "perf_counter"),
    ("time", "monotonic"),
    ("json", "dumps"),
    ("os", "read"),
    ("os", "write"),
    ("os", "readv"),
    ("hashlib", "sha256"),
)
_WATCHED_WHOLE = ("builtins", "math", "numpy", "torch", "torch.nn.functional", "jax.nn", "jax.numpy", "jax.lax")
"""Modules whose every function is watched: what others compute losses with. Of torch the tensors' methods, too."""
_NOT_WATCHED = (("torch", "manual_seed"),)
"""What torch itself wraps when its compiler is imported, as checkpointing does."""


def snapshot() -> dict[str, Any]:
    """The state of this process, by name."""
    errors = dict(np.geterr())
    with np.errstate(all="ignore"):
        denormals = [_TINY * 0.5 != 0.0, bool(np.float32(1e-38) * np.float32(0.1) != 0)]
    state: dict[str, Any] = {
        "denormals": denormals,
        "numpy error state": errors,
        "numpy random state": _of_numpy(np.random.get_state()),
        "random state": random.getstate(),
        "warnings filters": [str(entry) for entry in warnings.filters],
        "recursion limit": sys.getrecursionlimit(),
        "working folder": _working_folder(),
        "environment variables": dict(os.environ),
        "garbage collector": gc.isenabled(),
        "trace function": [id(sys.gettrace()), id(sys.getprofile())],
        "signal handlers": {name: id(signal.getsignal(name)) for name in _SIGNALS},
    }
    if "torch" in sys.modules:
        state |= _torch(sys.modules["torch"])
    if "jax" in sys.modules and hasattr(sys.modules["jax"], "config"):
        config = sys.modules["jax"].config
        state["default dtype"] = bool(getattr(config, "jax_enable_x64", False))
        state["matmul precision"] = str(getattr(config, "jax_default_matmul_precision", None))
        state["JAX settings"] = {name: _globally(config, name) for name in _JAX_SETTINGS}
    state["patched functions"] = _Functions()  # last: a default dtype, say, which has a name of its own, shows here too
    return state


class _Functions:
    """What the watched names stand for: the namespaces as they are, which copies fast and takes no hash of anything."""

    def __init__(self) -> None:
        loaded = sys.modules
        self._spaces: dict[str, dict[str, Any]] = {
            name: vars(loaded[name]).copy() for name in _WATCHED_WHOLE if name in loaded
        }
        # A method that hides one of a base class is a change, one of a new name is not.
        methods: dict[str, Any] = {}
        for kind in getattr(getattr(loaded.get("torch"), "Tensor", None), "__mro__", ())[-2::-1]:
            methods.update(vars(kind))
        self._spaces["torch.Tensor"] = methods
        for module, name in _WATCHED:
            if module in loaded:
                self._spaces.setdefault(module, {})[name] = getattr(loaded[module], name, None)

    def differ(self, later: _Functions) -> bool:
        """Whether a name that stood for something to call stands for another object later, or for none."""
        return any(self._space_differs(space, names, later) for space, names in self._spaces.items())

    def _space_differs(self, space: str, names: dict[str, Any], later: _Functions) -> bool:
        now = later._spaces.get(space, {})
        if all(map(operator.is_, names.values(), map(now.get, names))):  # as a rule, and fast
            return False
        return any(
            now.get(name) is not value and (space, name) not in _NOT_WATCHED
            for name, value in names.items()
            if callable(value) or space == "torch.Tensor"
        )


class Restorer:
    """Puts state back as it was when this was made, so that each call's own doing shows, and not only the first one's.

    Random generators are not put back but moved on: a call that seeds one afresh would leave it as the last call did.
    """

    def __init__(self) -> None:
        self._filters = list(warnings.filters)
        self._folder = _working_folder()
        self._torch = sys.modules.get("torch")
        if self._torch is not None:
            self._grad, self._dtype = self._torch.is_grad_enabled(), self._torch.get_default_dtype()

    def restore(self) -> None:
        """Put back what can be, and move the random generators on."""
        if list(warnings.filters) != self._filters:
            warnings.filters[:] = self._filters  # type: ignore[index]
            getattr(warnings, "_filters_mutated", int)()  # what each module has cached of them is void
        if self._folder and _working_folder() != self._folder:
            os.chdir(self._folder)
        random.random()
        np.random.random_sample()
        if self._torch is not None:
            self._torch.set_grad_enabled(self._grad)
            self._torch.set_default_dtype(self._dtype)
            self._torch.rand(1)


def _globally(config: Any, name: str) -> str:
    """A setting of JAX's as it is for all threads, whatever context this one is in."""
    holders: Mapping[str, Any] = getattr(config, "_value_holders", {})
    value = getattr(holders.get(name), "get_global", lambda: getattr(config, name, None))()
    return str(value)


def _torch(torch: Any) -> dict[str, Any]:
    probe = torch.tensor([_TINY], dtype=torch.float64)
    return {
        "torch denormals": bool((probe * 0.5 != 0).item()),
        "default dtype": str(torch.get_default_dtype()),
        "grad mode": [torch.is_grad_enabled(), torch.is_inference_mode_enabled()],
        "anomaly mode": torch.is_anomaly_enabled(),
        "torch seed": torch.initial_seed(),
        "torch random state": torch.get_rng_state().numpy().tobytes(),
        "thread count": torch.get_num_threads(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "default device": str(torch.get_default_device()),
        "backend switches": [
            str(getattr(backend, switch, None))
            for backend in (torch.backends.mkldnn, torch.backends.cudnn, torch.backends.cuda.matmul)
            for switch in ("enabled", "deterministic", "benchmark", "allow_tf32")
        ],
    }


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The names of what differs or has gone; what is there only afterwards has come with a module that was imported."""
    return [name for name in before if name not in after or _differs(before[name], after[name])]


def _working_folder() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # it has been deleted
        return ""


def _differs(a: Any, b: Any) -> bool:
    if isinstance(a, _Functions) and isinstance(b, _Functions):
        return a.differ(b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return any(key not in b or a[key] != b[key] for key in a)
    return bool(a != b)


def _of_numpy(state: Any) -> tuple[Any, ...]:
    """The global generator's state, its array as bytes: to print one takes milliseconds."""
    name, keys, *rest = state
    return name, keys.tobytes(), *rest
