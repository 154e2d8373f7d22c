"""Workers, the child's side: ``python -m harness.worker_main FRAMEWORK THREADS REQUESTS REPLIES LIFELINE``.

Reads requests from one inherited file descriptor and answers each on another, until the parent closes them or dies. The
standard streams are left to the implementations, which may print what they like.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import platform
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from harness.batch import Batch
from harness.bridges import Bridge, FrameworkUnavailable, bridge_for, unavailable
from harness.bridges.stopwatch import DEVICES, NotToBeTimed, Stopwatch, Task, stopwatch_for
from harness.declaration import Declaration, Implementation
from harness.grades import Outcome
from harness.messages import batch_from, describe_exception
from harness.process import MALLOC_VARIABLES, THREAD_VARIABLES
from harness.scan import installing, requirements
from harness.serving import inherited, serve
from harness.timed import timed_message
from harness.wire import Message, WireError

__all__ = ["Server", "main"]

_KEPT_BATCHES = 8
_KEPT_BYTES = 1 << 30


class Server:
    """Answers the requests of one parent, for one framework."""

    def __init__(self, framework: str, threads: int) -> None:
        self._framework, self._threads, self._device = framework, threads, "cpu"
        self._bridge: Bridge | None = None
        self._stopwatch: Stopwatch[Bridge] | None = None
        self._implementations: dict[str, Implementation] = {}
        self._batches: OrderedDict[int, Batch] = OrderedDict()

    def answer(self, request: Message) -> Message:
        """The reply to a request: whatever goes wrong is a reply, too."""
        handlers: dict[str, Callable[[Message], Message]] = {
            "start": self._on_start,
            "load": self._on_load,
            "call": self._on_call,
            "keep": self._on_keep,
            "time": self._on_time,
            "copies": self._on_copies,
            "environment": self._on_environment,
        }
        try:
            return handlers[request.body["op"]](request)
        except (NotToBeTimed, FrameworkUnavailable) as error:
            return _failure(Outcome.UNAVAILABLE, str(error))
        except BaseException as error:  # SystemExit too: nothing that an implementation raises may end the worker
            return _failure(Outcome.RAISED, describe_exception(error))

    @property
    def bridge(self) -> Bridge:
        """The framework, imported when first asked for."""
        if self._bridge is None:
            self._bridge = bridge_for(self._framework, self._threads, self._device)
        return self._bridge

    @property
    def stopwatch(self) -> Stopwatch[Bridge]:
        """The framework's stopwatch; what has been imported by now is no business of the garbage collector any more."""
        if self._stopwatch is None:
            self._stopwatch = stopwatch_for(self.bridge)
            gc.collect()
            gc.freeze()
        return self._stopwatch

    def _on_start(self, request: Message) -> Message:
        self._device = request.body["device"]
        try:
            return Message({"framework": self.bridge.framework, "flushed": sorted(self.bridge.flushed)})
        except FrameworkUnavailable as error:
            return _failure(Outcome.UNAVAILABLE, str(error))
        except Exception as error:  # an installation that is there but broken raises anything
            return _failure(Outcome.UNAVAILABLE, describe_exception(error))

    def _on_load(self, request: Message) -> Message:
        source = request.body["source"]
        try:
            module = _imported(source)
        except ImportError as error:
            return _failure(Outcome.UNAVAILABLE, _import_advice(error, source))
        found = [
            declared
            for value in vars(module).values()
            if isinstance(declared := getattr(value, "__xent_implementation__", None), Implementation)
            and declared.declaration.framework == self._framework
            and declared.function.__module__ == module.__name__  # not one that it imports from elsewhere
        ]
        found = [replace(entry, declaration=self._placed(entry.declaration)) for entry in found]
        self._implementations.update({entry.declaration.name: entry for entry in found})
        return Message({"declarations": [entry.declaration.to_json() for entry in found]})

    def _placed(self, declaration: Declaration) -> Declaration:
        return replace(declaration, backend=self.bridge.backend, device=self.bridge.device)

    def _on_call(self, request: Message) -> Message:
        returned = self.bridge.call(
            self._implementations[request.body["name"]],
            batch_from(request),
            gradient=request.body["gradient"],
            reduction=request.body["reduction"],
        )
        arrays = {"loss": returned.loss}
        if returned.gradient is not None:
            arrays["gradient"] = returned.gradient
        return Message({"backend": self.bridge.backend, "seconds": returned.seconds}, arrays)

    def _on_keep(self, request: Message) -> Message:
        self._batches[request.body["batch"]] = batch_from(request)
        while len(self._batches) > 1 and (
            len(self._batches) > _KEPT_BATCHES or sum(b.logits.nbytes for b in self._batches.values()) > _KEPT_BYTES
        ):
            self._batches.popitem(last=False)
        return Message({})

    def _on_time(self, request: Message) -> Message:
        body = request.body
        batch = self._kept(body["batch"])
        if batch is None:
            return Message({"missing": True})
        implementation = self._implementations[body["name"]]
        laps = self.stopwatch.laps(implementation, batch, Task(**body["task"]), body["repeats"])
        return timed_message(laps, frozenset(body["known"]))

    def _on_copies(self, request: Message) -> Message:
        body = request.body
        batch = self._kept(body["batch"])
        if batch is None:
            return Message({"missing": True})
        return Message({"seconds": self.stopwatch.copies(batch, body["device"], body["repeats"])})

    def _kept(self, number: int) -> Batch | None:
        """A batch that was sent, unless it was dropped since."""
        if number in self._batches:
            self._batches.move_to_end(number)
        return self._batches.get(number)

    def _on_environment(self, _: Message) -> Message:
        names = (*THREAD_VARIABLES, *MALLOC_VARIABLES, *self.bridge.variables)
        environment = {
            "framework": self._framework,
            "python": platform.python_version(),
            "versions": self.bridge.versions(),
            "threads": self._threads,
            "flushed": sorted(self.bridge.flushed),
            "devices": {device: self.stopwatch.obstacle(device) for device in DEVICES},
            "variables": {name: os.environ[name] for name in names if name in os.environ},
        }
        if self.bridge.gpu:
            environment["gpu"] = self.bridge.gpu
        return Message({"environment": environment})


def _failure(outcome: Outcome, detail: str) -> Message:
    return Message({"failure": outcome, "detail": detail})


def _imported(source: str) -> ModuleType:
    """The module that a source stands for: ``module:NAME`` or ``file:PATH``."""
    kind, _, where = source.partition(":")
    if kind == "module":
        return importlib.import_module(where)
    path = Path(where)
    name = f"{path.stem}@{path.parent}"  # no import statement can spell it, so that no module is shadowed
    if name in sys.modules:
        return sys.modules[name]
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # a file may import its neighbours, as when it is run by itself
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_advice(error: ImportError, source: str) -> str:
    """Why a module cannot be imported, with the pip command where its source or the framework tells one."""
    missing = (error.name or "").partition(".")[0]
    needed = requirements(source)
    if missing in needed:
        return f"{describe_exception(error)}: {installing(needed[missing])}"
    reason = unavailable(missing) if isinstance(error, ModuleNotFoundError) else ""
    return reason if "pip install" in reason else describe_exception(error)


def main(arguments: list[str], make: Callable[[str, int], Server] = Server) -> None:
    """Answer one parent until it closes the channel; the arguments are those of the command line."""
    framework, threads, *fds = arguments
    channel = inherited(fds)
    serve(channel, make(framework, int(threads)).answer, _unsendable)


def _unsendable(request: Message, error: WireError) -> Message:
    return _failure(Outcome.RAISED, describe_exception(error))


if __name__ == "__main__":
    main(sys.argv[1:])
