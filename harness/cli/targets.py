"""Files that a command is asked to write: refused before the work, where that can be known."""

from __future__ import annotations

import tempfile
from pathlib import Path

from harness.cli.exits import Refused
from harness.files import write_atomically

__all__ = ["must_be_writable", "write"]


def must_be_writable(path: Path) -> None:
    """Refuse now what would fail after minutes of work.

    Raises
    ------
    Refused
        For a folder, a device, or a folder that is missing or does not take a file.
    """
    parent = path.absolute().parent
    if path.is_dir():
        raise Refused(f"cannot write {path}: it is a folder; name a file")
    if path.exists() and not path.is_file():
        raise Refused(f"cannot write {path}: it is not a regular file; name another")
    if not parent.is_dir():
        raise Refused(f"cannot write {path}: there is no folder {parent}; make it first")
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise Refused(f"cannot write {path}: {error.strerror}; name a file elsewhere") from error


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises
    ------
    Refused
        Where it cannot be written.
    """
    must_be_writable(path)
    try:
        write_atomically(path, content)
    except OSError as error:
        raise Refused(f"cannot write {path}: {error.strerror}") from error
