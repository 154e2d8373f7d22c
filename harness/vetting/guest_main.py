"""The candidate's process: ``python -m harness.vetting.guest_main FRAMEWORK THREADS REQUESTS REPLIES LIFELINE``.

Where it stands among the machine's processes, and how its requests and replies travel.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

import psutil

from harness.grades import Outcome
from harness.messages import describe_exception
from harness.vetting.guest import Guest, failure
from harness.vetting.replies import REPLY_LIMIT
from harness.wire import Channel, Message, WireClosed, WireError

__all__ = ["main"]

_PR_SET_CHILD_SUBREAPER = 36


def main(arguments: list[str]) -> None:
    """Serve until the parent closes the channel."""
    framework, threads, *fds = arguments
    requests, replies, lifeline = map(int, fds)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for fd in (requests, replies, lifeline):
        os.set_inheritable(fd, False)
    _keep_house()
    _die_with(lifeline)
    channel = Channel(requests, replies, limit=REPLY_LIMIT)
    guest = Guest(framework, int(threads))
    serving = os.getpid()
    while True:
        try:
            request = channel.receive()
        except WireClosed:
            os._exit(0)
        reply = guest.answer(request)
        if os.getpid() != serving:  # a fork that the candidate let return
            os._exit(0)
        number = {"id": request.body["id"]}
        try:
            channel.send(Message({**reply.body, **number}, reply.arrays))
        except WireClosed:
            os._exit(0)
        except WireError as error:  # too large: nothing has been written yet
            channel.send(Message({**failure(Outcome.RAISED, describe_exception(error)).body, **number}))
        del request, reply


def _keep_house() -> None:
    """Where the system lets us: adopt what the candidate orphans, and be the first to go when memory runs out.

    Adopted orphans stay in sight of the parent, which ends them with this process.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _die_with(lifeline: int) -> None:
    """Exit when the parent does, whatever this process is doing, and take along what the candidate has started."""

    def wait() -> None:
        with suppress(OSError):
            os.read(lifeline, 1)
        with suppress(psutil.Error):
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    process.kill()
        os._exit(0)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1:])
