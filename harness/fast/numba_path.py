"""The fast path compiled by Numba: `harness.fast.loops` and all that they call, with an FMA where the processor has
one.

The functions of this package are compiled as they stand, in a namespace of their own in which the primitives of
`harness.fast.dd` are the processor's instructions. Numba's ``fastmath`` stays off: reassociation would break every
error-free transformation, and so would a contraction that the source does not ask for.
"""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from harness.fast import (
    binary,
    code_cache,
    dd,
    dense,
    exponential,
    fine,
    fine_exponential,
    fine_loops,
    logarithm,
    loops,
    softmax,
    sums,
    triple,
)
from harness.fast.tables import Tables

__all__ = ["Compiled", "has_fma"]

Array = np.ndarray[Any, Any]
Pair = tuple[Array, Array]

MODULES = (
    dd,
    triple,
    exponential,
    sums,
    logarithm,
    softmax,
    dense,
    binary,
    fine_exponential,
    fine,
    loops,
    fine_loops,
)
ENTRIES = {
    "all_one_target": loops.all_one_target,
    "all_many_targets": loops.all_many_targets,
    "all_elements": loops.all_elements,
    "all_refined": fine_loops.all_refined,
}


class Compiled:
    """The entry points of `harness.fast.numpy_path`, each compiled, or read from the disk, when it is first
    called.

    Parameters
    ----------
    fma : bool
        Whether exact products take one fused multiply-add, or Dekker's seventeen operations. Their values are the same.
    folder : Path, optional
        Where compiled code is kept; without one it is compiled in each process.
    """

    def __init__(self, fma: bool, folder: Path | None = None) -> None:
        self.names = _namespace(fma)
        self.folder = folder
        self._compiled: dict[str, Callable[..., None]] = {}

    def _entry(self, name: str) -> Callable[..., None]:
        if name not in self._compiled:
            self._compiled[name] = code_cache.kept(self.folder, name, lambda folder: self._compile(name, folder))
        return self._compiled[name]

    def _compile(self, name: str, folder: Path | None) -> Callable[..., None]:
        """One entry point, compiled for its one signature; Numba reads and writes `folder`."""
        numba = _numba()
        twin = types.FunctionType(ENTRIES[name].__code__, self.names, name)
        with _cached_in(folder):
            signature = _signatures()[name]
            function: Callable[..., None] = numba.njit(signature, error_model="numpy", cache=folder is not None)(twin)
        return function

    def one_target(
        self, z: Array, label: Array, w: Array, scale: Pair, tables: Tables, out: tuple[Array, ...], live: Array
    ) -> None:
        """See `harness.fast.numpy_path.one_target`."""
        self._entry("all_one_target")(z, label, w, *scale, tables.high, tables.low, tables.logs, *out, live)

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
        """See `harness.fast.numpy_path.many_targets`."""
        arrays = (*scale, tables.high, tables.low, tables.logs, *out, live, open_entries)
        self._entry("all_many_targets")(z, q, label, w, mixing, *arrays)

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
        """See `harness.fast.fine_numpy.refined`."""
        arrays = (*scale, tables.high, tables.low, tables.third, out[2], out[3], live, open_entries)
        self._entry("all_refined")(z, q, label, w, mixing, *arrays)

    def elements(
        self, x: Array, t: Array, w: Array, c: Array, scale: Pair, tables: Tables, out: tuple[Array, ...], live: Array
    ) -> None:
        """See `harness.fast.numpy_path.elements`."""
        certified = np.zeros_like(live)
        self._entry("all_elements")(x, t, w, c, *scale, tables.high, tables.low, tables.logs, *out, live, certified)
        np.copyto(live, certified)


def _numba(name: str = "numba") -> Any:
    """A module of Numba's or llvmlite's: an extra, imported only when it is used."""
    return importlib.import_module(name)


def has_fma() -> bool:
    """Whether this processor multiplies and adds in one rounding."""
    binding = _numba("llvmlite.binding")
    return bool(binding.get_host_cpu_features().get("fma", False)) or "aarch64" in binding.get_default_triple()


def _namespace(fma: bool) -> dict[str, Any]:
    """Every function of `MODULES` but the entries, as a Numba one: they call one another, not their Python selves."""
    numba = _numba()
    primitives = _primitives(fma)
    names: dict[str, Any] = {"np": np, "__name__": loops.__name__}
    for module in MODULES:
        for name, value in vars(module).items():
            if isinstance(value, (int, float)):
                names[name] = value
            elif isinstance(value, types.FunctionType) and value.__module__ == module.__name__ and name not in ENTRIES:
                twin = types.FunctionType(value.__code__, names, name)
                names[name] = primitives.get(name) or numba.njit(twin, forceinline=True, error_model="numpy")
    return names


def _signatures() -> dict[str, Any]:
    """The one signature of each entry: arrays are contiguous and may be written to."""
    of = _numba("numba.core.types")
    flag, whole, real = of.Array(of.boolean, 1, "C"), of.Array(of.int64, 1, "C"), of.Array(of.float64, 1, "C")
    table = of.Array(of.float64, 2, "C")
    mixing = of.UniTuple(of.float64, 4)
    constants = (real, real, real)
    return {
        "all_one_target": of.void(table, whole, real, real, real, *constants, real, real, table, table, flag),
        "all_many_targets": of.void(
            table, table, whole, real, mixing, real, real, *constants, real, real, table, table, flag, whole
        ),
        "all_refined": of.void(table, table, whole, real, mixing, real, real, *constants, table, table, flag, whole),
        "all_elements": of.void(*[real] * 6, *constants, *[real] * 4, flag, flag),
    }


@contextmanager
def _cached_in(folder: Path | None) -> Iterator[None]:
    """Numba picks the folder of its cache, one for all, when a function is declared: lend it ours for that long."""
    config = _numba("numba.core.config")
    before = config.CACHE_DIR
    if folder is not None:
        config.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        config.CACHE_DIR = before


def _primitives(fma: bool) -> dict[str, Any]:
    """The primitives of `harness.fast.dd`, as instructions."""
    numba, of, ir = _numba(), _numba("numba.core.types"), _numba("llvmlite.ir")
    intrinsic = _numba("numba.core.extending").intrinsic
    word, real = ir.IntType(64), ir.DoubleType()

    def fused(typing: Any, a: Any, b: Any, c: Any) -> Any:
        return of.float64(of.float64, of.float64, of.float64), lambda _, builder, __, args: builder.fma(*args)

    def bits_of(typing: Any, a: Any) -> Any:
        return of.int64(of.float64), lambda _, builder, __, args: builder.bitcast(args[0], word)

    def float_of(typing: Any, a: Any) -> Any:
        return of.float64(of.int64), lambda _, builder, __, args: builder.bitcast(args[0], real)

    def at(typing: Any, array: Any, i: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = builder.load(_address(context, builder, array, args))
            value.set_metadata("alias.scope", _never_written(builder.module))
            return builder.trunc(value, ir.IntType(1)) if array.dtype == of.boolean else value

        return array.dtype(array, of.int64), code

    def put(typing: Any, array: Any, i: Any, value: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data = context.get_value_as_data(builder, array.dtype, args[2])
            stored = builder.store(data, _address(context, builder, array, args))
            stored.set_metadata("noalias", _never_written(builder.module))
            return context.get_dummy_value()

        return of.none(array, of.int64, array.dtype), code

    def select(condition, a, b):  # type: ignore[no-untyped-def]
        return a if condition else b

    multiply_add: Any = intrinsic(fused)

    def exact_product(a, b):  # type: ignore[no-untyped-def]
        p = a * b
        return p, multiply_add(a, b, -p)

    dekker = types.FunctionType(dd.exact_product.__code__, vars(dd), "exact_product")
    instructions = {function.__name__: intrinsic(function) for function in (bits_of, float_of, at, put)}
    inlined = numba.njit(forceinline=True, error_model="numpy")
    return {**instructions, "select": inlined(select), "exact_product": inlined(exact_product if fma else dekker)}


def _address(context: Any, builder: Any, kind: Any, args: Any) -> Any:
    """Where element args[1] of array args[0] is."""
    array = _numba("numba.np.arrayobj").make_array(kind)(context, builder, args[0])
    return builder.gep(array.data, [args[1]], inbounds=True)


def _never_written(module: Any) -> Any:
    """Names the memory that `at` alone reads and `put` never writes.

    LLVM then vectorises table look-ups, whose bounds it cannot know, beside stores.
    """
    text = _numba("llvmlite.ir").MetaDataString
    domain = module.add_metadata([text(module, "xent")])
    return module.add_metadata([module.add_metadata([text(module, "read only"), domain])])
