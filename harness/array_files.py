"""Named arrays out of files that somebody else wrote: ``.npz``, ``.npy`` and ``.safetensors``.

Nothing is unpickled, and no size that a header claims is believed before the file is seen to hold that many bytes.
"""

from __future__ import annotations

import math
import os
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors

from harness.formats import FormatUnavailable, named

__all__ = ["ArrayFileError", "read_npy", "read_npz", "read_safetensors"]

Array = np.ndarray[Any, Any]

_SAFETENSORS_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BOOL": "?",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
}
_NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# What damaged bytes raise: in NumPy's header parser, which tokenizes and evaluates a Python literal; in the zip reader.
_DAMAGE = (
    *(ValueError, TypeError, KeyError, OverflowError, SyntaxError, tokenize.TokenError),
    *(RecursionError, MemoryError, EOFError, OSError),
)
_ZIP_DAMAGE = (*_DAMAGE, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError)


class ArrayFileError(ValueError):
    """A file that cannot be used; the message names it, says what is wrong with which value, and what to do."""


def read_npy(path: Path) -> Array:
    """The array in a ``.npy`` file, in native byte order.

    Raises
    ------
    ArrayFileError
        For a file that is missing, damaged, or holds anything but numbers.
    """
    try:
        with path.open("rb") as stream:
            return _npy(stream, os.fstat(stream.fileno()).st_size, str(path))
    except ArrayFileError:
        raise
    except _DAMAGE as error:
        raise _unreadable(path, "a .npy file", error) from error


def read_npz(path: Path, names: tuple[str, ...]) -> Mapping[str, Array]:
    """Arrays of a ``.npz`` file, compressed or not, by name.

    Raises
    ------
    ArrayFileError
        For a file that is missing or damaged, lacks one of the names (the message lists those that it has), or holds
        anything but numbers under one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            _need(path, names, list(members))
            arrays = {}
            for name in names:
                with archive.open(members[name]) as stream:
                    arrays[name] = _npy(stream, members[name].file_size, f"{path}: {name}")
            return arrays
    except ArrayFileError:
        raise
    except _ZIP_DAMAGE as error:
        raise _unreadable(path, "a .npz file", error) from error


def read_safetensors(path: Path, names: tuple[str, ...]) -> Mapping[str, Array]:
    """Arrays of a ``.safetensors`` file, by name; bfloat16 needs ``ml_dtypes``.

    Raises
    ------
    ArrayFileError
        As for `read_npz`, and for bfloat16 where ``ml_dtypes`` is not installed.
    """
    try:
        deserialize: Callable[[bytes], Any] = safetensors.deserialize
        entries = dict(deserialize(path.read_bytes()))
    except (*_DAMAGE, safetensors.SafetensorError) as error:
        raise _unreadable(path, "a .safetensors file", error) from error
    _need(path, names, list(entries))
    return {name: _tensor(f"{path}: {name}", entries[name]) for name in names}


def _tensor(what: str, entry: Mapping[str, Any]) -> Array:
    dtype = entry["dtype"]
    try:
        kind = named("bfloat16").dtype if dtype == "BF16" else np.dtype(_SAFETENSORS_DTYPES[dtype])
        array: Array = np.frombuffer(entry["data"], dtype=kind).reshape(entry["shape"])
    except FormatUnavailable as error:
        raise ArrayFileError(f"{what}: {error}") from error
    except KeyError:
        known = ", ".join((*_SAFETENSORS_DTYPES, "BF16"))
        raise ArrayFileError(f"{what}: dtype {dtype} is not supported; save it as one of {known}") from None
    return array.astype(kind.newbyteorder("="), copy=False)


def _npy(stream: IO[bytes], size: int, what: str) -> Array:
    """One array in the .npy format, from a stream said to be `size` bytes long."""
    version = np.lib.format.read_magic(stream)
    if version not in _NPY_HEADERS:
        number = ".".join(map(str, version))
        raise ArrayFileError(f"{what}: .npy format {number} is not one of numbers; save it again with numpy.save")
    with warnings.catch_warnings(action="ignore"):  # on headers that Python 2 wrote, and on damaged ones
        shape, fortran, dtype = _NPY_HEADERS[version](stream)
    _check_numbers(what, dtype)
    if any(extent < 0 for extent in shape):
        raise ArrayFileError(f"{what}: its header claims shape {list(shape)}: the file is damaged")
    claimed, left = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if claimed != left:
        raise ArrayFileError(
            f"{what}: its header claims shape {list(shape)} of {dtype} ({claimed:,} bytes), but {left:,} bytes follow: "
            "the file is truncated or damaged; copy or save it again"
        )
    content = stream.read(claimed)
    if len(content) != claimed:
        raise ArrayFileError(f"{what}: {claimed:,} bytes were promised, but {len(content):,} are there; copy it again")
    array: Array = np.frombuffer(content, dtype=dtype).reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


def _check_numbers(what: str, dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        raise ArrayFileError(f"{what}: an array of Python objects, which are never unpickled; save an array of numbers")
    if dtype.kind == "V" and dtype.itemsize == 2:
        advice = "save it as .safetensors, or as float32"
        raise ArrayFileError(f"{what}: dtype {dtype}, since NumPy's files do not hold bfloat16; {advice}")
    if dtype.kind not in "fiub":
        raise ArrayFileError(f"{what}: dtype {dtype} is not one of numbers; save floating-point or integer numbers")


def _need(path: Path, names: tuple[str, ...], present: list[str]) -> None:
    missing = [name for name in names if name not in present]
    if missing:
        found = ", ".join(sorted(present)) or "none at all"
        raise ArrayFileError(f"{path}: no array named {missing[0]!r}; it needs {' and '.join(names)}, and has {found}")


def _unreadable(path: Path, kind: str, error: BaseException) -> ArrayFileError:
    if isinstance(error, FileNotFoundError):
        return ArrayFileError(f"{path}: there is no such file; check the path")
    if isinstance(error, OSError) and error.strerror:
        return ArrayFileError(f"{path}: cannot be read: {error.strerror}")
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ArrayFileError(f"{path}: cannot be read as {kind}: {reason}; it is damaged, or of another kind")
