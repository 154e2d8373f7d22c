"""Triton's interpreter, mended from outside: bfloat16, libdevice and autotuning on a machine without a GPU.

With ``TRITON_INTERPRET=1`` Triton runs a kernel's Python source on NumPy arrays, one program after the other. In the
versions below it keeps bfloat16 as raw 16-bit integers: arithmetic that is not upcast first works on the *bits*, and a
store from float32 truncates. Here bfloat16 becomes ml_dtypes' type, whose every operation rounds to nearest even.
Functions of libdevice, which the interpreter has none of, become NumPy's; autotuning, which needs a device to measure
on, takes the first configuration.

The mend reaches into Triton's private parts, so that it is made for the versions that it was tested with and for no
other: there bfloat16 is refused, and nothing is changed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

__all__ = ["MENDED", "VARIABLE", "lacks_gpu", "mend", "refusal", "version"]

VARIABLE = "TRITON_INTERPRET"
"""The environment variable that Triton reads when it is imported: one process per mode."""
MENDED = ("3.7.1", "3.9.0")
"""The versions that the mend was tested with."""

_LIBDEVICE: dict[str, Callable[..., Any]] = {
    "abs": np.abs,
    "ceil": np.ceil,
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "fast_dividef": np.divide,
    "fast_expf": np.exp,
    "fast_logf": np.log,
    "fdiv_rn": np.divide,
    "floor": np.floor,
    "div_rn": np.divide,
    "fma": lambda x, y, z: _fused(x, y, z),
    "isinf": np.isinf,
    "isnan": np.isnan,
    "log": np.log,
    "log1p": np.log1p,
    "log2": np.log2,
    "pow": np.power,
    "rint": np.rint,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sqrt": np.sqrt,
    "tanh": np.tanh,
}
"""The functions of libdevice that losses use, as NumPy computes them in the argument's own format."""


def version() -> str:
    """The installed version of Triton, less its local label; ``""`` where there is none."""
    try:
        return importlib.metadata.version("triton").partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return ""


def refusal(dtype: str) -> str:
    """Why the interpreter cannot be trusted with a dtype, and what to do about it; ``""`` where it can."""
    found = version()
    if dtype != "bfloat16" or found in MENDED:
        return ""
    return (
        f"the interpreter of Triton {found} computes bfloat16 on raw bits, and this version can mend that of "
        f"{' and '.join(MENDED)} only: pip install triton=={MENDED[-1]}"
    )


def lacks_gpu(detail: str) -> str:
    """What to do about an exception by which Triton says that it lacks a GPU, or its memory; ``""`` for others."""
    if "active drivers" in detail:
        return "Triton finds no GPU here: --backend interpret runs its kernels in Triton's interpreter, on the CPU"
    if "accessed from Triton (cpu tensor?)" in detail:
        return "Triton was given arrays on the CPU: --device cuda makes them on the GPU; --backend interpret needs none"
    return ""


def mend() -> None:
    """Import Triton in interpreter mode and mend it, if it is one of the versions that can be.

    Must come before anything else imports Triton: a kernel is an interpreted one or not from its decorator on.

    Raises
    ------
    RuntimeError
        Where Triton has been imported in the other mode before.
    """
    os.environ[VARIABLE] = "1"
    interpreter: Any = importlib.import_module("triton.runtime.interpreter")
    if not importlib.import_module("triton").knobs.runtime.interpret:
        raise RuntimeError(f"Triton has been imported to compile kernels already: set {VARIABLE}=1 before")
    if version() in MENDED and not hasattr(interpreter, "_mended_from_outside"):
        interpreter._mended_from_outside = True
        _mend_bfloat16(interpreter)
        _mend_rounding(interpreter)
        _mend_libdevice(interpreter)
        _mend_autotuning()
        _mend_scalars(interpreter)
        _mend_launches(interpreter)


def _mend_bfloat16(interpreter: Any) -> None:
    """Keep bfloat16 as ml_dtypes' type everywhere; bits only where memory is read and written."""
    tl, builder = interpreter.tl, interpreter.InterpreterBuilder
    bfloat16: Any = np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    bits = np.dtype(np.uint16)
    plain_dtype, plain_cast, plain_fp_to_fp = interpreter._get_np_dtype, builder.cast_impl, builder.create_fp_to_fp
    plain_load, plain_store, plain_sum = (
        interpreter._interpreter.load,
        interpreter._interpreter.store,
        _sum_of(interpreter),
    )
    handle = interpreter.TensorHandle
    known: dict[str, Any] = {}  # Triton makes a table of them anew each time, a tenth of a small launch's time

    def numpy_dtype(kind: Any) -> Any:
        element = kind.element_ty if isinstance(kind, tl.block_type) else kind
        if element.name not in known:
            known[element.name] = bfloat16 if element == tl.bfloat16 else plain_dtype(element)
        return known[element.name]

    def cast(self: Any, source: Any, kind: Any) -> Any:
        if tl.bfloat16 not in (source.dtype.scalar, kind.scalar):
            return plain_cast(self, source, kind)
        return handle(source.data.astype(numpy_dtype(kind.scalar)), kind.scalar)

    def float_to_float(self: Any, source: Any, kind: Any, rounding: Any) -> Any:
        wide = {source.dtype.scalar, kind.scalar} <= {tl.bfloat16, tl.float16, tl.float32, tl.float64}
        if wide and tl.bfloat16 in (source.dtype.scalar, kind.scalar) and rounding != interpreter._ir.ROUNDING_MODE.RTZ:
            return cast(self, source, kind)
        return plain_fp_to_fp(self, source, kind, rounding)

    def load(pointers: Any, mask: Any, other: Any, dtype: Any) -> Any:
        if dtype != bfloat16:
            return plain_load(pointers, mask, other, dtype)
        return plain_load(pointers, mask, _contiguous(other, bfloat16).view(bits), bits).view(bfloat16)

    def store(pointers: Any, value: Any, mask: Any) -> Any:
        given = _contiguous(value, bfloat16).view(bits) if value.dtype == bfloat16 else value
        return plain_store(pointers, given, mask)

    def dot(self: Any, a: Any, b: Any, d: Any, precision: Any, imprecise: Any) -> Any:
        wide = [handle(x.data.astype(np.float32), tl.float32) if x.data.dtype == bfloat16 else x for x in (a, b)]
        return plain_dot(self, *wide, d, precision, imprecise)

    def rounded_sum(self: Any, given: Any) -> Any:
        if given.handle.data.dtype != bfloat16:
            return plain_sum(self, given)
        return self.to_tensor(_sum_by_halves(given.handle.data, self.axis, self.keep_dims), given.dtype)

    def atomic(self: Any, operation: Any, pointer: Any, value: Any, *rest: Any) -> Any:
        if value.data.dtype == bfloat16:
            raise NotImplementedError("atomic operations on bfloat16 are not interpreted")
        return plain_atomic(self, operation, pointer, value, *rest)

    plain_dot, plain_atomic = builder.create_dot, builder.create_atomic_rmw
    interpreter._get_np_dtype = numpy_dtype
    interpreter._interpreter = _Memory(interpreter._interpreter, load, store)
    interpreter.ReduceOps.sum = rounded_sum
    builder.cast_impl, builder.create_fp_to_fp = cast, float_to_float
    builder.create_dot, builder.create_atomic_rmw = dot, atomic
    builder.get_bf16 = lambda self, value: handle(np.array([value], dtype=np.float32).astype(bfloat16), tl.bfloat16)


class _Memory:
    """Triton's own memory functions, less the two that bfloat16 passes through."""

    def __init__(self, plain: Any, load: Callable[..., Any], store: Callable[..., Any]) -> None:
        self._plain, self.load, self.store = plain, load, store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)


def _sum_of(interpreter: Any) -> Callable[..., Any]:
    plain: Callable[..., Any] = interpreter.ReduceOps.sum
    return plain


def _contiguous(array: Any, dtype: Any) -> Any:
    return np.ascontiguousarray(array, dtype=dtype)


def _sum_by_halves(data: Any, axis: int | None, keep: bool) -> Any:
    """A sum whose every addition rounds to the array's own format, as a tree: no GPU adds one after the other."""
    terms = data.reshape(-1) if axis is None else np.moveaxis(data, axis, -1)
    while terms.shape[-1] > 1:
        if terms.shape[-1] % 2:
            terms = np.concatenate([terms, np.zeros_like(terms[..., :1])], axis=-1)
        terms = terms[..., ::2] + terms[..., 1::2]
    total = terms[..., 0]
    if not keep:
        return total
    return total.reshape((1,) * data.ndim) if axis is None else np.expand_dims(total, axis)


def _mend_rounding(interpreter: Any) -> None:
    """What 3.7.1 has otherwise than 3.9.0 and every GPU: an fma that rounds once, and a maximum that leaves NaN out."""
    builder = interpreter.InterpreterBuilder
    if version() != "3.7.1":
        return
    handle = interpreter.TensorHandle
    builder.create_fma = lambda self, x, y, z: handle(_fused(x.data, y.data, z.data), z.dtype.scalar)
    builder.create_minnumf = lambda self, lhs, rhs: self.binary_op(lhs, rhs, np.fmin)
    builder.create_maxnumf = lambda self, lhs, rhs: self.binary_op(lhs, rhs, np.fmax)


def _fused(x: Any, y: Any, z: Any) -> Any:
    """x·y + z, rounded once to the format of z: up to float32 the product is exact in float64.

    The sum in float64 is rounded before it is narrowed, which is another result in one case of some 2^29. In float64
    itself the product is computed in the platform's ``longdouble``, and may be rounded twice.
    """
    wide = np.longdouble if z.dtype == np.float64 else np.float64
    return (x.astype(wide) * y.astype(wide) + z.astype(wide)).astype(z.dtype)


def _mend_libdevice(interpreter: Any) -> None:
    """Functions that compute, in place of stubs that return nothing or ask for a device."""
    tl = interpreter.tl

    def interpreted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, _semantic: Any = None) -> Any:
            given = [interpreter.interpreter_semantic.to_tensor(a) for a in arguments]
            if any(g.dtype not in (tl.float32, tl.float64) for g in given):
                raise TypeError(
                    f"libdevice.{name} takes float32 and float64, not {', '.join(str(g.dtype) for g in given)}"
                )
            with np.errstate(all="ignore"):
                value = function(*(g.handle.data for g in given))
            first = given[0]
            if value.dtype == np.bool_:
                kind = tl.block_type(tl.int32, first.shape) if first.type.is_block() else tl.int32
                return tl.tensor(interpreter.TensorHandle(value.astype(np.int32), tl.int32), kind)
            return tl.tensor(interpreter.TensorHandle(value, first.dtype), first.type)

        call.__name__ = name
        return call

    for path in ("triton.language.extra.libdevice", "triton.language.extra.cuda.libdevice"):
        with suppress(ImportError):
            module = importlib.import_module(path)
            for name, function in _LIBDEVICE.items():
                if hasattr(module, name):
                    setattr(module, name, interpreted(name, function))


def _mend_autotuning() -> None:
    """Take the first configuration: there is no device to measure the others on."""
    tuner: Any = importlib.import_module("triton.runtime.autotuner").Autotuner
    tuner._bench = lambda self, *arguments, config, **meta: [1.0, 1.0, 1.0]
    tuner.check_disk_cache = lambda self, key, configs, benchmark: benchmark()


def _mend_scalars(interpreter: Any) -> None:
    """Make a scalar of float32 of a Python float that a launch passes, as the compiler does; it stays a float else."""
    tl, plain = interpreter.tl, interpreter._implicit_cvt

    def convert(argument: Any) -> Any:
        if not isinstance(argument, float):
            return plain(argument)
        return tl.tensor(interpreter.TensorHandle(np.array([argument], dtype=np.float32), tl.float32), tl.float32)

    interpreter._implicit_cvt = convert


def _mend_launches(interpreter: Any) -> None:
    """Patch the language once per launch, and copy nothing back to where it is: most of a small launch's time.

    Triton patches it again for every function that a kernel calls, ``tl.sum`` too. Arrays on the CPU are not copied for
    a launch, and copying them onto themselves would make every page of a huge, mostly untouched allocation real.
    """
    tl, plain = interpreter.tl, interpreter._patch_lang
    plain_restore = interpreter.GridExecutor._restore_args_dev
    everything = types.FunctionType((lambda: None).__code__, {"tl": tl, "core": tl.core})

    def patch(function: Any) -> Any:
        if not tl.core.is_builtin(tl.core.load):  # a launch is under way
            return interpreter._LangPatchScope()
        scope, rest = plain(function), plain(everything)
        scope._changes.extend(rest._changes)
        return scope

    def restore(self: Any, device: Any, host: Any, keywords: Any, host_keywords: Any) -> None:
        kinds = {str(a.device.type) for a in (*device, *keywords.values()) if hasattr(a, "data_ptr")}
        if kinds != {"cpu"} or any(isinstance(a, tuple) or not _is_plain(a) for a in (*device, *keywords.values())):
            plain_restore(self, device, host, keywords, host_keywords)

    interpreter._patch_lang = patch
    interpreter.GridExecutor._restore_args_dev = restore


def _is_plain(argument: Any) -> bool:
    """Whether an argument is a tensor or a scalar, and not something that may hold tensors in its turn."""
    return hasattr(argument, "untyped_storage") or not hasattr(argument, "base")
