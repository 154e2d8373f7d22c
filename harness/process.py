"""A child process to talk to: spawned (never forked), with a `Channel` of its own beside the standard streams.

It owns everything about the process that is not the conversation: its environment and file descriptors, what it prints
(the end of standard error is kept for crash reports), how it died, and that nothing of it is left behind. The child
starts a session of its own, so that whatever it started in its turn ends with it, and Ctrl-C reaches the parent only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from harness.messages import one_line
from harness.wire import LIMIT, Channel

__all__ = ["Child", "child_environment"]

_TAIL = 4096
_GRACE = 5.0

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "PJRT_NPROC",  # the thread pools of XLA's CPU client
)
# glibc returns freed memory to the system at thresholds that it adapts while it runs, which makes one and the same call
# take either of two times, up to a factor of three apart. Fixed thresholds end that.
MALLOC_VARIABLES = {
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_TOP_PAD_": "16777216",
}


def child_environment(threads: int) -> dict[str, str]:
    """The environment of a child: the parent's, with its import path, the thread counts, and a steady allocator.

    An allocator setting that the user has made stands.
    """
    path = os.pathsep.join(str(Path.cwd()) if entry == "" else entry for entry in sys.path)
    return {**MALLOC_VARIABLES, **os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads)), "PYTHONPATH": path}


class Child:
    """One spawned ``python -m MODULE`` and the channel to it.

    The module is run with `arguments`, then three file descriptors: to read requests from, to write replies to, and a
    *lifeline* on which nothing is ever written; it ends when the parent does, and the child must then end too.

    Parameters
    ----------
    module : str
        What to run.
    arguments : sequence of str
        Its first arguments.
    environment : mapping
        Its environment variables.
    limit : int
        Most bytes of arrays in one message, either way.

    Raises
    ------
    OSError
        Where no process can be started.
    """

    def __init__(
        self, module: str, arguments: Sequence[str], environment: Mapping[str, str], *, limit: int = LIMIT
    ) -> None:
        request_read, request_write = os.pipe()
        reply_read, reply_write = os.pipe()
        life_read, life_write = os.pipe()
        theirs, ours = (request_read, reply_write, life_read), (reply_read, request_write, life_write)
        try:
            # -P: the import path is the parent's, which PYTHONPATH carries, and not the current folder besides.
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *arguments, *map(str, theirs)],
                pass_fds=theirs,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
                env=environment,
            )
        except BaseException:
            for fd in ours:
                os.close(fd)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        self._process = process
        self._stderr = _Tail(process.stderr)
        self.channel = Channel(reply_read, request_write, limit=limit, alive=lambda: process.poll() is None)
        # A finalizer, so that a child whose owner is forgotten ends too; nothing in it may refer to `self`.
        self._end = weakref.finalize(self, _end, process, self.channel, life_write, self._stderr, os.getpid())

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def obituary(self) -> str:
        """End a process whose channel has closed, and say on one line how it died.

        That is the signal or the exit status, and the last line of standard error since `forget_output`.
        """
        try:
            status = self._process.wait(_GRACE)
            how = f"killed by {_signal_name(-status)}" if status < 0 else f"exited with status {status}"
        except subprocess.TimeoutExpired:
            how = "closed its side of the pipe but did not exit"
        self.end()  # what it started may hold standard error open, which can be read to its end afterwards
        last = self._stderr.last_line()
        return one_line(f"{how}: {last}" if last else how)

    def forget_output(self) -> None:
        """Forget what the process has printed so far: it says nothing about the next request."""
        self._stderr.clear()

    def end(self) -> None:
        """Kill the process and whatever it started, and reap it; more than once does no harm."""
        self._end()


class _Tail:
    """Reads a stream to its end in a thread, so that the writer never blocks, and keeps its last few kilobytes."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        assert stream is not None
        self._stream = stream
        self._bytes = b""
        self._thread = threading.Thread(target=self._drain, name="worker-stderr", daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        with self._stream as stream:
            while chunk := os.read(stream.fileno(), 1 << 16):
                self._bytes = (self._bytes + chunk)[-_TAIL:]

    def join(self) -> None:
        """Wait until everything is read; not for ever, since a stray grandchild may hold the stream open."""
        self._thread.join(1.0)

    def clear(self) -> None:
        self._bytes = b""

    def last_line(self) -> str:
        lines = self._bytes.decode(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "")


def _end(process: subprocess.Popen[bytes], channel: Channel, lifeline: int, stderr: _Tail, owner: int) -> None:
    channel.close()
    os.close(lifeline)
    if os.getpid() != owner:  # in a fork of the parent these descriptors are copies, and the process is not its child
        return
    # PermissionError is what macOS says of a group that consists of zombies.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    stderr.join()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
