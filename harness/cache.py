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


def cache_folder() -> Path | None:
    """Where entries live: ``$XENT_CACHE``, or the user's cache folder; None where ``XENT_CACHE=off``."""
    setting = os.environ.get("XENT_CACHE")
    if setting == "off":
        return None
    return Path(setting) if setting else platformdirs.user_cache_path("cross-entropy-harness") / "truth"


def key_of(loss: str, content: Iterable[bytes]) -> str:
    """The content address of a batch of a loss (SHA-256, hexadecimal)."""
    digest = hashlib.sha256(TRUTH_VERSION)
    for piece in (loss.encode(), *content):
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
        content = path.read_bytes()
    except OSError:
        return None
    payload = content[len(_MAGIC) + 32 :]
    if content[: len(_MAGIC) + 32] != _header(key, payload):
        with suppress(OSError):
            path.unlink()
        return None
    stream = io.BytesIO(payload)
    arrays = []
    while stream.tell() < len(payload):
        arrays.append(np.load(stream, allow_pickle=False))
    return arrays


def store(key: str, arrays: Sequence[Array]) -> None:
    """Write an entry; where that fails (a full disk, no permission) the truth is recomputed next time."""
    folder = cache_folder()
    if folder is None:
        return
    stream = io.BytesIO()
    for array in arrays:
        np.save(stream, array, allow_pickle=False)
    payload = stream.getvalue()
    path = _path(folder, key)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, _header(key, payload) + payload, durable=False)


def _header(key: str, payload: bytes) -> bytes:
    """What an entry starts with; the address is in it, so that an entry under another one's name is damaged too."""
    return _MAGIC + hashlib.sha256(key.encode() + payload).digest()


def _path(folder: Path, key: str) -> Path:
    return folder / key[:2] / f"{key[2:]}.truth"
