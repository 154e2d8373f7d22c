"""The child that measures memory: ``python -m harness.memory_main FRAMEWORK THREADS REQUESTS REPLIES LIFELINE``.

The framework is imported once and then left alone: every measurement is made in a fork of its own, which is a fresh
process without the price of a new import. Nothing that starts threads may run before a fork: nothing is computed here.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings

from harness.bridges.stopwatch import NotToBeTimed, Task
from harness.grades import Outcome
from harness.messages import batch_from, describe_exception
from harness.wire import Message
from harness.worker_main import Server, serve

__all__ = ["MemoryServer", "main"]


class MemoryServer(Server):
    """Answers what a `Server` does, and how much memory a call takes."""

    def answer(self, request: Message) -> Message:
        """The reply to a request."""
        return self._on_memory(request) if request.body["op"] == "memory" else super().answer(request)

    def _on_start(self, _: Message) -> Message:
        """Only import: which formats are flushed would be found out by computing."""
        try:
            return Message({"framework": self.bridge.framework, "flushed": []})
        except Exception as error:  # an installation that is there but broken raises anything
            return Message({"failure": Outcome.UNAVAILABLE, "detail": describe_exception(error)})

    def _on_memory(self, request: Message) -> Message:
        told, tell = os.pipe()
        _ = self.stopwatch  # imported before the fork, once for all
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the only other thread waits for the parent's end, and holds nothing
            child = os.fork()
        if child == 0:
            os.close(told)
            self._measure(request, tell)
            os._exit(0)
        os.close(tell)
        with os.fdopen(told, "rb") as reading:
            text = reading.read()
        _, status = os.waitpid(child, 0)
        if not text:
            return Message({"failure": Outcome.RAISED, "detail": f"the process died: {_how(status)}"})
        return Message(json.loads(text))

    def _measure(self, request: Message, tell: int) -> None:
        """In the fork: measure, say it, and never return to what the parent was doing."""
        body: dict[str, object]
        try:
            task = Task(**request.body["task"])
            peak = self.stopwatch.peak(self._implementations[request.body["name"]], batch_from(request), task)
            body = {"bytes": peak}
        except NotToBeTimed as error:
            body = {"failure": Outcome.UNAVAILABLE, "detail": str(error)}
        except BaseException as error:  # SystemExit too
            body = {"failure": Outcome.RAISED, "detail": describe_exception(error)}
        os.write(tell, json.dumps(body).encode())


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exited with status {os.WEXITSTATUS(status)}"


def main(arguments: list[str]) -> None:
    """Serve until the parent closes the channel."""
    serve(MemoryServer, arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
