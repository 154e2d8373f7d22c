"""One nightly run at a time in a folder: a lock that is the process's own, and free when that dies, however it does."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["LOCK", "AlreadyRunning", "exclusive"]

LOCK = ".lock"


class AlreadyRunning(RuntimeError):
    """Another process is at work on the folder; the message says which, and what to do."""


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; what a killed run left half-written in it is removed.

    Raises
    ------
    AlreadyRunning
        While another process holds it.
    OSError
        Where the folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Opened for appending: the content is the holder's until the lock is ours. Descriptors are not inherited (PEP 446),
    # so that no worker that outlives this process keeps the lock.
    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read(40).strip() or "one that does not say which"
            raise AlreadyRunning(
                f"another xent nightly is at work on {folder} (process {holder}): wait for it, or end it"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        _sweep(folder)
        yield


def _sweep(folder: Path) -> None:
    """Remove temporary files of `write_atomically` whose writer was killed: under the lock nobody else writes here."""
    for left in folder.glob("*/.*.tmp"):
        left.unlink(missing_ok=True)
