"""Truth on disk, addressed by content: the same batch, read as exact reals, is solved once per machine.

An entry is a digest, of the address and the arrays, followed by the arrays. Entries are written under a temporary name
and renamed, so that processes that write the same one at once cannot disturb each other; one that does not match its
digest is thrown away and recomputed.
A cache that cannot be read or written costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from harness.files import write_atomically

__all__ = ["cache_folder", "key_of", "load", "store"]

Array = np.ndarray[Any, Any]

TRUTH_VERSION = b"truth 2"
"""Counts up when the way truth is computed changes in a way that could change its values."""

_MAGIC = b"xent truth\n"

_AT_ONCE = 1 << 20
"""Bytes of an entry that are read at once to check it: what it holds may be large."""


def cache_folder() -> Path | None:
    """Where entries live: ``$XENT_CACHE``, or the user's cache folder; None where ``XENT_CACHE=off``."""
    setting = os.environ.get("XENT_CACHE")
    if setting == "off":
        return None
    return Path(setting) if setting else platformdirs.user_cache_path("cross-entropy-harness") / "truth"


def key_of(loss: str, content: Iterable[bytes]) -> str:
    """The content address of a batch of a loss (SHA-256, hexadecimal)."""
    digest = hashlib.sha256(TRUTH_VERSION)
    for piece in chain((loss.encode(),), content):  # one at a time: each may be as large as the batch
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece)
    return digest.hexdigest()


def load(key: str) -> list[Array] | None:
    """The arrays of an entry, or None where there is no sound one; a damaged entry is deleted."""
    folder = cache_folder()
    if folder is None:
        return None
    path = _path(folder, key)
    try:
        with path.open("rb") as file:
            head = file.read(len(_MAGIC) + 32)
            if head == _header(key, iter(lambda: file.read(_AT_ONCE), b"")):
                end = file.tell()
                file.seek(len(head))
                arrays = []
                while file.tell() < end:
                    arrays.append(np.load(file, allow_pickle=False))
                return arrays
    except OSError:
        return None
    with suppress(OSError):
        path.unlink()
    return None


def store(key: str, arrays: Sequence[Array]) -> None:
    """Write an entry; where that fails (a full disk, no permission) the truth is recomputed next time."""
    folder = cache_folder()
    if folder is None:
        return
    pieces = [piece for array in arrays for piece in _saved(np.ascontiguousarray(array))]
    path = _path(folder, key)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, [_header(key, pieces), *pieces], durable=False)


def _saved(array: Array) -> tuple[bytes, memoryview]:
    """What `numpy.save` writes, without a copy of the numbers: truths may be large."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    return head.getvalue(), array.reshape(-1).view(np.uint8).data


def _header(key: str, payload: Iterable[bytes | memoryview]) -> bytes:
    """What an entry starts with; the address is in it, so that an entry under another one's name is damaged too."""
    digest = hashlib.sha256(key.encode())
    for piece in payload:
        digest.update(piece)
    return _MAGIC + digest.digest()


def _path(folder: Path, key: str) -> Path:
    return folder / key[:2] / f"{key[2:]}.truth"
