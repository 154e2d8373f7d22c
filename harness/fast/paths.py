"""The two paths, compiled and NumPy, and which one to take."""

from __future__ import annotations

import importlib.util
import os
from typing import Any, Protocol, cast

import numpy as np

from harness.fast import code_cache, numpy_path
from harness.fast.tables import Tables

__all__ = ["Path", "best", "own"]

Array = np.ndarray[Any, Any]
Pair = tuple[Array, Array]

LOADING, COMPILING = 100_000, 10_000_000
"""Logits after which compiled code pays: NumPy takes about half a microsecond for one."""


class Path(Protocol):
    """The entry points; see `harness.fast.numpy_path`. They write to `out`, and clear `live` where nothing holds."""

    def one_target(
        self, z: Array, label: Array, w: Array, scale: Pair, tables: Tables, out: tuple[Array, ...], live: Array
    ) -> None:
        """Cross-entropy with one target class."""

    def many_targets(
        self,
        z: Array,
        q: Array,
        label: Array,
        w: Array,
        mixing: tuple[float, float, float, float],
        scale: Pair,
        tables: Tables,
        out: tuple[Array, ...],
        live: Array,
        open_entries: Array,
    ) -> None:
        """Cross-entropy with target masses."""

    def refined(
        self,
        z: Array,
        q: Array,
        label: Array,
        w: Array,
        mixing: tuple[float, float, float, float],
        scale: Pair,
        tables: Tables,
        out: tuple[Array, ...],
        live: Array,
        open_entries: Array,
    ) -> None:
        """What `many_targets` left open, once more in triples; see `harness.fast.fine_numpy`."""

    def elements(
        self, x: Array, t: Array, w: Array, c: Array, scale: Pair, tables: Tables, out: tuple[Array, ...], live: Array
    ) -> None:
        """Binary cross-entropy with logits."""


def own(array: Array) -> Array:
    """An array as compiled code takes it: contiguous and writable; copied only where it is not."""
    return np.require(array, requirements=["C", "W"])


class _Chooser:
    """Takes NumPy until so much was solved that Numba would have paid: importing and loading it takes about a second,
    compiling some seconds for each entry point. Both paths give the same bits, so that this decides nothing but the
    time.
    """

    def __init__(self) -> None:
        self.entries = 0
        self.numba: Path | None = None
        self.hopeless = importlib.util.find_spec("numba") is None

    def choose(self, entry: str) -> Path:
        """The path for a call of an entry point, after so many `entries`."""
        setting = os.environ.get("XENT_FAST", "auto")
        if setting == "numpy" or self.hopeless or (setting != "numba" and not self._pays(entry)):
            return cast(Path, numpy_path)
        if self.numba is None:
            try:
                self.numba = _load()
            except Exception:  # whatever is wrong with Numba here, the truth can do without
                self.hopeless = True
                return cast(Path, numpy_path)
        return self.numba

    def _pays(self, entry: str) -> bool:
        """Whether loading, or else compiling, takes less time than what was solved would have taken without."""
        return self.entries >= COMPILING or (self.entries >= LOADING and code_cache.is_warm(f"all_{entry}"))


def _load() -> Path:
    from harness.fast.numba_path import Compiled, has_fma

    return Compiled(has_fma(), code_cache.folder())


_chooser = _Chooser()


class _Best:
    """The entry points, each from the path that is best for it."""

    def __getattr__(self, entry: str) -> Any:
        return getattr(_chooser.choose(entry), entry)


def best(entries: int) -> Path:
    """The path to take for a call with so many logits; ``XENT_FAST=numpy`` or ``numba`` decides it."""
    _chooser.entries += entries
    return cast(Path, _Best())
