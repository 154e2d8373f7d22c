"""The candidate's process: ``python -m harness.vetting.guest_main FRAMEWORK THREADS REQUESTS REPLIES LIFELINE``.

Where it stands among the machine's processes, and how its requests and replies travel.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from harness.grades import Outcome
from harness.messages import describe_exception
from harness.serving import inherited, serve
from harness.vetting.guest import Guest, failure
from harness.vetting.replies import REPLY_LIMIT
from harness.wire import Message

__all__ = ["main"]

_PR_SET_CHILD_SUBREAPER = 36


def main(arguments: list[str]) -> None:
    """Serve until the parent closes the channel."""
    framework, threads, *fds = arguments
    _keep_house()
    channel = inherited(fds, limit=REPLY_LIMIT, at_the_end=_end_children)
    guest = Guest(framework, int(threads))
    serve(
        channel,
        lambda request: _numbered(guest.answer(request), request),
        lambda request, error: _numbered(failure(Outcome.RAISED, describe_exception(error)), request),
    )


def _numbered(reply: Message, request: Message) -> Message:
    """The reply, with the number of what it answers: nothing else that comes through the pipe has it."""
    return Message({**reply.body, "id": request.body["id"]}, reply.arrays)


def _keep_house() -> None:
    """Where the system lets us: adopt what the candidate orphans, and be the first to go when memory runs out.

    Adopted orphans stay in sight of the parent, which ends them with this process.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _end_children() -> None:
    """End what the candidate has started."""
    with suppress(psutil.Error):
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                process.kill()


if __name__ == "__main__":
    main(sys.argv[1:])
