"""Watching a candidate's processes from outside: how much memory they hold together, and that none stays behind.

What a candidate starts is found in three ways: as a descendant of its process, which adopts orphans where the system
lets it (see `guest`); because it has been seen as one before; and by a *mark*, an environment variable of a random name
that every process inherits from the one that was started with it.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

import psutil

__all__ = ["MEMORY_LIMIT", "Watch", "new_mark"]

MEMORY_LIMIT = 6 << 30
"""Bytes that a candidate's processes may hold together: many times what the largest input needs."""
_SHARE = 0.6
"""The same as a share of the machine's memory, where that is less."""
_EVERY = 0.05
_ROUNDS = 10


def new_mark() -> dict[str, str]:
    """An environment variable that nobody else has, to find again whatever is started with it."""
    return {f"_{secrets.token_hex(8)}": "1"}


class Watch:
    """Watches a process and whatever it starts, and kills them all when they hold too much memory.

    Parameters
    ----------
    pid : int
        The process.
    mark : mapping
        The mark that it was started with.

    Attributes
    ----------
    verdict : str
        One line on why the processes were killed; ``""`` as long as they were not.
    """

    def __init__(self, pid: int, mark: Mapping[str, str]) -> None:
        self.verdict = ""
        self._pid, self._mark = pid, next(iter(mark))
        self._since = time.time() - 1.0  # the clock that processes are dated by ticks a hundred times a second
        self._limit = min(MEMORY_LIMIT, int(_SHARE * psutil.virtual_memory().total))
        self._family: set[psutil.Process] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-watch", daemon=True)
        self._thread.start()

    def end(self, end: Callable[[], None]) -> None:
        """End the process by `end`, and whatever it has started."""
        self._stop.set()
        self._thread.join()
        self._gather()
        end()
        for turn in range(_ROUNDS):  # what is about to start another one may be faster than one round
            _kill(self._family)
            self._family = set(self._marked())
            if not self._family:
                return
            time.sleep(0.01 * turn)

    def processor_seconds(self) -> float:
        """What the process and what it is known to have started have had of the processors, all threads together."""
        return sum(map(_computed, tuple(self._family)))

    def _run(self) -> None:
        for tick in itertools.count():
            if self._stop.wait(_EVERY):
                return
            if tick % 10 == 0:  # listing children reads every process of the machine
                self._gather()
            held = sum(map(_resident, tuple(self._family)))
            if held > self._limit:
                self.verdict = f"held {held / 2**30:.1f} GiB of memory: the limit is {self._limit / 2**30:.3g} GiB"
                _kill(self._family)
                return

    def _gather(self) -> None:
        """Add the process and its descendants to the family, which keeps those that have left it since."""
        with suppress(psutil.Error):
            root = psutil.Process(self._pid)
            self._family |= {root, *root.children(recursive=True)}

    def _marked(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.create_time() >= self._since and self._mark in process.environ():
                    yield process


def _kill(family: set[psutil.Process]) -> None:
    """Kill processes, none of which can be another one that has its number by now."""
    for process in family:
        with suppress(psutil.Error):
            process.kill()


def _computed(process: psutil.Process) -> float:
    """With what those of its children had that have ended."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
