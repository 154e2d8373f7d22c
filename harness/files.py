"""Files written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["write_atomically"]


def write_atomically(path: Path, content: bytes | Sequence[bytes | memoryview], *, durable: bool = True) -> None:
    """Write a file through a temporary name in the same folder, so that a reader sees the old content or the new.

    ``content`` may come in pieces, which are written one after the other.

    ``durable`` waits until the content is on the disk, so that a power cut loses nothing: tens of milliseconds.

    A symbolic link stays one: the file that it leads to is written. A pipe or a device, such as ``/dev/stdout``, is
    written to as it is: replacing it would take it away from everyone else.

    Raises
    ------
    OSError
        Where the folder is missing or not writable, or the disk is full; nothing is left behind, and an earlier file of
        that name is untouched.
    """
    pieces = [content] if isinstance(content, bytes) else content
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            file.writelines(pieces)
        return
    path = path.resolve()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(pieces)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
