"""Exit codes, in one place, and the one clear line on standard error that goes with each that is not 0.

0: fine. 1: something is not as claimed, or got worse. 2: it could not be done as asked (bad usage, no such file). 3: a
fault of ours, or nothing was measured where there should have been something. 130: interrupted.
"""

from __future__ import annotations

import errno
import functools
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer

__all__ = [
    "FAULT",
    "INTERRUPTED",
    "NOTHING_MEASURED",
    "NOT_AS_CLAIMED",
    "REFUSED",
    "WORSE",
    "Refused",
    "command",
]

NOT_AS_CLAIMED = WORSE = 1
REFUSED = 2
FAULT = NOTHING_MEASURED = 3
INTERRUPTED = 130

_PATIENCE = 5.0
"""Seconds after an interrupt in which further ones are ignored: what was finished is being saved."""

_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)


class Refused(Exception):
    """What was asked cannot be done; the message says what was wrong, with which value, and what to do."""


def command(name: str, function: Callable[..., int]) -> Callable[..., None]:
    """The function of a command, which returns its exit status, as one that always ends in `typer.Exit` with it."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        with _interruptible():
            status = _status(name, function, *args, **kwargs)
        raise typer.Exit(status)

    return run


def _status(name: str, function: Callable[..., int], *args: Any, **kwargs: Any) -> int:
    try:
        status = function(*args, **kwargs)
    except Refused as error:
        print(f"xent {name}: {error}", file=sys.stderr)
        status = REFUSED
    except KeyboardInterrupt:
        print(f"xent {name}: interrupted", file=sys.stderr)
        status = INTERRUPTED
    except BrokenPipeError:
        status = 0
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _DISK_IS_FULL:
            print(f"xent {name}: cannot write: {error.strerror}; make room and run it again", file=sys.stderr)
            status = REFUSED
        else:
            traceback.print_exc()
            kind = type(error).__name__
            print(f"xent {name}: a fault of ours, please report it: {kind}: {error}", file=sys.stderr)
            status = FAULT
    _finish_output()
    return status


def _finish_output() -> None:
    """Flush standard output; one that nobody reads, or that has no room, is no reason for a traceback at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _interruptible() -> Iterator[None]:
    """Have SIGINT and SIGTERM raise `KeyboardInterrupt` (in the main thread, the only one that may say so)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupt = _Interrupt()
    earlier = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


class _Interrupt:
    """Ends the work, and lets a second one soon after not end the saving."""

    def __init__(self) -> None:
        self._last = -_PATIENCE

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._last < _PATIENCE:
            return
        self._last = now
        raise KeyboardInterrupt
