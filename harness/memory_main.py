"""The child that measures memory: ``python -m harness.memory_main FRAMEWORK THREADS REQUESTS REPLIES LIFELINE``.

The framework is imported once and then left alone: every measurement is made in a fork of its own, which is a fresh
process without the price of a new import. Nothing that starts threads may run before a fork: nothing is computed here.
"""

from __future__ import annotations

import sys

from harness import worker_main
from harness.bridges.stopwatch import NotToBeTimed, Task
from harness.forked import forked
from harness.grades import Outcome
from harness.messages import batch_from, describe_exception
from harness.wire import Message
from harness.worker_main import Server

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
        _ = self.stopwatch  # imported before the fork, once for all
        return forked(lambda: self._measured(request))

    def _measured(self, request: Message) -> dict[str, object]:
        try:
            task = Task(**request.body["task"])
            peak = self.stopwatch.peak(self._implementations[request.body["name"]], batch_from(request), task)
        except NotToBeTimed as error:
            return {"failure": Outcome.UNAVAILABLE, "detail": str(error)}
        except BaseException as error:  # SystemExit too
            return {"failure": Outcome.RAISED, "detail": describe_exception(error)}
        return {"bytes": peak}


def main(arguments: list[str]) -> None:
    """Serve until the parent closes the channel."""
    worker_main.main(arguments, MemoryServer)


if __name__ == "__main__":
    main(sys.argv[1:])
