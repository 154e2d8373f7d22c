"""Work in a fork: a fresh copy of a process that has imported everything, whose death is only a reply.

For a process without threads of its own besides the one that waits for its parent's end (`harness.worker_main`).
"""

from __future__ import annotations

import json
import os
import signal
import warnings
from collections.abc import Callable, Mapping

from harness.grades import Outcome
from harness.wire import Message

__all__ = ["forked"]


def forked(work: Callable[[], Mapping[str, object]]) -> Message:
    """What `work`, done in a fork, returns: JSON-ready data, as a message; a failure where the fork dies of it."""
    told, tell = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the only other thread waits for the parent's end, and holds nothing
        child = os.fork()
    if child == 0:
        os.close(told)
        try:
            with os.fdopen(tell, "wb") as writing:
                writing.write(json.dumps(work()).encode())
        finally:  # never return to what the parent was doing
            os._exit(0)
    os.close(tell)
    with os.fdopen(told, "rb") as reading:
        text = reading.read()
    _, status = os.waitpid(child, 0)
    if not text:
        return Message({"failure": Outcome.RAISED, "detail": f"the process died: {_how(status)}"})
    return Message(json.loads(text))


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exited with status {os.WEXITSTATUS(status)}"
