"""The candidate's process: ``python -m harness.vetting.guest FRAMEWORK THREADS REQUESTS REPLIES LIFELINE``.

Loads one candidate and calls it as asked. It knows no truth, no bounds and no verdict; everything that it says is taken
by the parent as the candidate's own word.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.declaration import OPTIONS
from harness.grades import Outcome
from harness.messages import batch_from, describe_exception
from harness.vetting.drivers import Call, Driver, Given, NoGradient, NumpyDriver, WrongShape, driver_for
from harness.vetting.state import VALUES, changed, snapshot
from harness.wire import Channel, Message, WireClosed, WireError
from harness.worker_main import die_with

__all__ = ["main"]

_SEQUENCE = "{}/{}"


class Guest:
    """Answers the requests of one parent about one candidate."""

    def __init__(self, framework: str, threads: int) -> None:
        self.framework, self.threads = framework, threads
        self.driver: Driver | None = None
        self.candidate: Callable[..., Any] | None = None
        self.is_module = False

    def answer(self, request: Message) -> Message:
        """The reply to a request: whatever goes wrong is a reply, too."""
        handlers = {"start": self.start, "load": self.load, "call": self.call, "sequence": self.sequence}
        try:
            return handlers[request.body["op"]](request)
        except NoGradient as error:
            return _failure("no_gradient", str(error))
        except WrongShape as error:
            return _failure(Outcome.WRONG_SHAPE, str(error))
        except BaseException as error:  # SystemExit too: the candidate ends the process only by force
            return _failure(Outcome.RAISED, describe_exception(error))

    def start(self, _: Message) -> Message:
        """Import the framework."""
        self.driver = driver_for(self.framework, self.threads)
        return Message({"framework": self.framework, "flushed": sorted(self.driver.bridge.flushed)})

    def load(self, request: Message) -> Message:
        """Import the candidate's file and say what the candidate claims."""
        body = request.body
        before = snapshot()
        module = _import_file(Path(body["path"]))
        altered = [name for name in changed(before, snapshot()) if name in VALUES]
        if not hasattr(module, body["name"]):
            return _failure("no_such_name", ", ".join(sorted(n for n in vars(module) if not n.startswith("_"))[:20]))
        found = getattr(module, body["name"])
        if not callable(found):
            return _failure("not_callable", type(found).__name__)
        self.is_module = inspect.isclass(found)
        self.candidate = found
        if body.get("gradient"):
            if not callable(getattr(module, body["gradient"], None)):
                return _failure("no_such_name", f"{body['gradient']} (named by --gradient)")
            if isinstance(self.driver, NumpyDriver):
                self.driver.gradient = getattr(module, body["gradient"])
        return Message({**_signature(found, self.is_module), "altered": altered})

    def call(self, request: Message) -> Message:
        """Call the candidate once on fresh inputs."""
        driver = self._ready()
        call = _call_of(request)
        with driver.context():
            given = driver.give(batch_from(request), call)
            return self._called(driver, given, call)

    def sequence(self, request: Message) -> Message:
        """Call the candidate on several batches of one shape, one after the other, in the same memory."""
        driver = self._ready()
        call = _call_of(request)
        arrays: dict[str, Any] = {}
        seconds = []
        with driver.context():
            given: Given | None = None
            for turn, batch in enumerate(_batches_of(request)):
                if given is None:
                    given = driver.give(batch, call)
                else:
                    driver.refresh(given, batch)
                reply = self._called(driver, given, call, inspect_state=False)
                arrays |= {_SEQUENCE.format(turn, name): array for name, array in reply.arrays.items()}
                seconds.append(reply.body["seconds"])
        return Message({"seconds": sum(seconds), "resident": _resident()}, arrays)

    def _called(self, driver: Driver, given: Given, call: Call, inspect_state: bool = True) -> Message:
        candidate = self._prepared(given)
        arguments = Given(given.logits, given.target, given.upstream, {} if self.is_module else given.options)
        before = snapshot() if inspect_state else {}
        start = time.perf_counter()
        loss, gradients = driver.run(candidate, arguments, call)
        seconds = time.perf_counter() - start
        altered = changed(before, snapshot()) if inspect_state else []
        arrays = {"loss": driver.read(loss)}
        arrays |= {f"gradient{turn or ''}": driver.read(gradient) for turn, gradient in enumerate(gradients)}
        if inspect_state:
            arrays |= {"after/logits": driver.read(given.logits), "after/upstream": driver.read(given.upstream)}
            arrays["after/target"] = driver.read(given.target)
            arrays |= {
                f"after/{name}": driver.read(value) for name, value in given.options.items() if _is_array(value)
            }
        return Message({"seconds": seconds, "altered": altered, "resident": _resident()}, arrays)

    def _prepared(self, given: Given) -> Callable[..., Any]:
        """The function to call; an ``nn.Module`` class gets the options at construction."""
        assert self.candidate is not None
        return self.candidate(**given.options) if self.is_module else self.candidate

    def _ready(self) -> Driver:
        assert self.driver is not None
        return self.driver


def _signature(found: Callable[..., Any], is_module: bool) -> dict[str, Any]:
    """What the signature claims, and what keeps it from being called."""
    parameters = list(inspect.signature(found).parameters.values())
    given = parameters if is_module else parameters[2:]
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    needs = [
        p.name for p in given if p.default is p.empty and p.kind not in variadic and (is_module or p.name not in OPTIONS)
    ]
    takes_two = is_module or len([p for p in parameters if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]) >= 2
    takes_two |= any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return {
        "options": [p.name for p in given if p.name in OPTIONS and p.kind is not p.POSITIONAL_ONLY],
        "needs": needs,
        "takes_two": takes_two,
    }


def _call_of(request: Message) -> Call:
    body = request.body
    return Call(
        options=body["call"]["options"],
        gradient=body["call"]["gradient"],
        backwards=body["call"]["backwards"],
        layout=body["call"]["layout"],
    )


def _batches_of(request: Message) -> list[Batch]:
    parts = request.body["parts"]
    prefixed: list[dict[str, Any]] = [{} for _ in parts]
    for key, array in request.arrays.items():
        turn, _, name = key.partition("/")
        prefixed[int(turn)][name] = array
    return [batch_from(Message(body, arrays)) for body, arrays in zip(parts, prefixed, strict=True)]


def _import_file(path: Path) -> Any:
    """The candidate's module, under its own name, its folder importable, as if it were run where it lies."""
    sys.path.insert(0, str(path.parent))
    name = path.stem if path.stem not in sys.modules else f"{path.stem}_"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, np.generic)


def _resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def _failure(kind: str, detail: str) -> Message:
    return Message({"failure": str(kind), "detail": detail})


def main(arguments: list[str]) -> None:
    """Serve until the parent closes the channel."""
    framework, threads, *fds = arguments
    requests, replies, lifeline = map(int, fds)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for fd in (requests, replies, lifeline):
        os.set_inheritable(fd, False)
    die_with(lifeline)
    channel = Channel(requests, replies)
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
        reply = Message({**reply.body, "id": request.body["id"]}, reply.arrays)
        try:
            channel.send(reply)
        except WireClosed:
            os._exit(0)
        except WireError as error:
            channel.send(_failure(Outcome.RAISED, describe_exception(error)))


if __name__ == "__main__":
    main(sys.argv[1:])
