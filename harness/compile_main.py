"""The child that compiles: ``python -m harness.compile_main FRAMEWORK THREADS REQUESTS REPLIES LIFELINE``.

Triton is imported once, to compile and not to interpret, and so is what a kernel is in; every kernel is then compiled
in a fork of its own, so that a compiler that dies takes nothing with it.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from dataclasses import asdict

from harness import worker_main
from harness.bridges.triton_compiler import compiled
from harness.declaration import Kernel
from harness.forked import forked
from harness.grades import Outcome
from harness.machine_code import TARGETS
from harness.messages import describe_exception
from harness.wire import Message
from harness.worker_main import Server

__all__ = ["CompileServer", "main"]


class CompileServer(Server):
    """Compiles kernels; it runs none."""

    def answer(self, request: Message) -> Message:
        """The reply to a request."""
        return self._on_compile(request) if request.body["op"] == "compile" else super().answer(request)

    def _on_start(self, _: Message) -> Message:
        """Only import: the bridge would set this process to interpreting."""
        try:
            importlib.import_module("triton")
        except Exception as error:  # an installation that is there but broken raises anything
            return Message({"failure": Outcome.UNAVAILABLE, "detail": describe_exception(error)})
        return Message({"framework": "triton", "flushed": []})

    def _on_compile(self, request: Message) -> Message:
        kernel = Kernel(**request.body["kernel"])
        target = TARGETS[request.body["target"]]
        with contextlib.suppress(Exception):  # what cannot be imported says so in the fork, where it is tried again
            importlib.import_module(kernel.function.partition(":")[0])  # seconds, for a package of others' kernels

        def work() -> dict[str, object]:
            try:
                return asdict(compiled(kernel, target, request.body["cache"]))
            except BaseException as error:  # SystemExit too
                return {"failure": Outcome.RAISED, "detail": describe_exception(error)}

        return forked(work)


def main(arguments: list[str]) -> None:
    """Serve until the parent closes the channel."""
    worker_main.main(arguments, CompileServer)


if __name__ == "__main__":
    main(sys.argv[1:])
