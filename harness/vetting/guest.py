"""What the candidate's process does: loads one candidate, and calls it as asked.

It knows no truth, no bounds and no verdict; everything that it says is taken by the parent as the candidate's own word.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from harness.batch import Batch
from harness.declaration import OPTIONS
from harness.grades import Outcome
from harness.messages import batch_from, describe_exception
from harness.vetting.drivers import Call, Driver, Given, NoGradient, NumpyDriver, WrongShape, driver_for
from harness.vetting.state import VALUES, Restorer, changed, snapshot
from harness.wire import Message

__all__ = ["Guest", "failure", "signature_of"]


class Guest:
    """Answers the requests of one parent about one candidate."""

    def __init__(self, framework: str, threads: int) -> None:
        self.framework, self.threads = framework, threads
        self.driver: Driver | None = None
        self.candidate: Callable[..., Any] | None = None
        self.is_class = False
        self.restorer = Restorer()

    def answer(self, request: Message) -> Message:
        """The reply to a request: whatever goes wrong is a reply, too."""
        handlers = {"start": self.start, "load": self.load, "call": self.call, "sequence": self.sequence}
        try:
            return handlers[request.body["op"]](request)
        except BaseException as error:  # SystemExit too: the candidate ends the process only by force
            return self._failed(error)

    def _failed(self, error: BaseException) -> Message:
        """The reply to a request that has ended with an exception of the candidate's."""
        if isinstance(error, NoGradient):
            return failure("no_gradient", str(error))
        if isinstance(error, WrongShape):
            return failure(Outcome.WRONG_SHAPE, str(error))
        if self.is_foreign(error):
            raise error
        return failure(Outcome.RAISED, describe_exception(error))

    def is_foreign(self, error: BaseException) -> bool:
        """Whether an exception is not the candidate's doing, and not to be answered."""
        return False

    def start(self, request: Message) -> Message:
        """Import the framework."""
        importlib.import_module("numpy.testing")  # so that it is seen when the candidate's file patches it
        body = request.body
        self.driver = driver_for(self.framework, self.threads, body.get("device", "cpu"), body.get("backend", "native"))
        self.driver.settle()
        self.restorer = Restorer()
        return Message({"framework": self.framework, "flushed": sorted(self.driver.bridge.flushed)})

    def load(self, request: Message) -> Message:
        """Import the candidate's file and say what the candidate claims."""
        body = request.body
        driver = self._ready()
        # As every call: JAX with 64-bit types, which many a file switches on by itself.
        with driver.context(), driver.threads(self.threads + 1):  # a file that sets them to one changes them, too
            before = snapshot()
            module = _import(body["path"], body["folder"], body["module"])
            altered = [name for name in changed(before, snapshot()) if name in VALUES]
        self.restorer = Restorer()  # what importing a file does to filters and the like is its own affair
        found = getattr(module, body["name"], None)
        if found is None:
            has = ", ".join(sorted(name for name in vars(module) if not name.startswith("_"))[:20])
            return Message({"absent": f"has no {body['name']}; it has {has or 'nothing'}"})
        if not callable(found):
            return Message({"absent": f"{body['name']} is a {type(found).__name__}, not a function or nn.Module class"})
        gradient = getattr(module, body["gradient"], None) if body["gradient"] else None
        if body["gradient"] and not callable(gradient):
            return Message({"absent": f"has no function {body['gradient']}, which --gradient names"})
        self.take(found, gradient)
        return Message({**signature_of(found, self.is_class), "altered": altered})

    def take(self, candidate: Callable[..., Any], gradient: Callable[..., Any] | None) -> None:
        """Serve this candidate from now on; a gradient function of its own is NumPy's affair alone."""
        self.candidate, self.is_class = candidate, inspect.isclass(candidate)
        if isinstance(self.driver, NumpyDriver):
            self.driver.gradient = gradient

    def call(self, request: Message) -> Message:
        """Call the candidate once on fresh inputs."""
        driver = self._ready()
        call = _call_of(request)
        with driver.context(), driver.threads(call.threads):
            given = driver.give(batch_from(request), call)
            candidate = self._prepared(given, call)
            before = self._settled()
            try:
                seconds, arrays, marked = self._called(driver, candidate, given, call)
            except BaseException as error:  # what it did to its inputs may be why
                return Message(self._failed(error).body, _afterwards(driver, given))
            altered = changed(before, snapshot())
            arrays |= _afterwards(driver, given)
            body = {"seconds": seconds, "altered": altered, "marked": marked, **_held()}
        return Message(body, arrays)

    def sequence(self, request: Message) -> Message:
        """Call the candidate on several batches of one shape, one after the other, in the same memory."""
        driver = self._ready()
        call = _call_of(request)
        arrays: dict[str, Any] = {}
        seconds = 0.0
        batches = _batches_of(request)
        if call.together:
            return self._together(driver, batches, call)
        with driver.context():
            given = driver.give(batches[0], call)
            candidate = self._prepared(given, call)  # one instance for all, which may keep something from call to call
            before = self._settled()
            for turn, batch in enumerate(batches):
                if turn:
                    driver.refresh(given, batch)
                    if batch.options and self.is_class:  # it was made for those before
                        candidate = self._prepared(given, call)
                each, found, _ = self._called(driver, candidate, given, call)
                arrays |= {f"{turn}/{name}": array for name, array in found.items()}
                seconds += each
            altered = changed(before, snapshot())
        return Message({"seconds": seconds, "altered": altered, **_held()}, arrays)

    def _together(self, driver: Driver, batches: list[Batch], call: Call) -> Message:
        """Call the candidate on all batches before the first result is differentiated."""
        arrays: dict[str, Any] = {}
        pulls = []
        with driver.context():
            all_given = [driver.give(batch, call) for batch in batches]
            candidate = self._prepared(all_given[0], call)
            before = self._settled()
            start = time.perf_counter()
            for given in all_given:
                options = {} if self.is_class else given.options
                pulls.append(driver.begin(candidate, Given(given.logits, given.target, given.upstream, options), call))
            pulled = [pull() for _, pull in pulls]  # all of them before the first is read: no two share their memory
            seconds = time.perf_counter() - start
            for turn, ((loss, _), gradients) in enumerate(zip(pulls, pulled, strict=True)):
                arrays[f"{turn}/loss"] = driver.read(loss)
                for each, gradient in enumerate(gradients):
                    arrays[f"{turn}/gradient{each or ''}"] = driver.read(gradient)
            altered = changed(before, snapshot())
        return Message({"seconds": seconds, "altered": altered, **_held()}, arrays)

    def _settled(self) -> dict[str, Any]:
        """The state before a call, with what earlier calls did undone, so that each call's doing shows."""
        self.restorer.restore()
        return snapshot()

    def _called(
        self, driver: Driver, candidate: Callable[..., Any], given: Given, call: Call
    ) -> tuple[float, dict[str, Any], list[str]]:
        """The seconds that one call took, the arrays that came out of it, and what it left on its inputs."""
        arguments = Given(given.logits, given.target, given.upstream, {} if self.is_class else given.options)
        start = time.perf_counter()
        loss, gradients = driver.run(candidate, arguments, call)
        seconds = time.perf_counter() - start
        arrays = {"loss": driver.read(loss)}
        arrays |= {f"gradient{turn or ''}": driver.read(gradient) for turn, gradient in enumerate(gradients)}
        return seconds, arrays, driver.marked(arguments, call)

    def _prepared(self, given: Given, call: Call) -> Callable[..., Any]:
        """The function to call; an ``nn.Module`` class gets the options when made, and is told of an evaluation."""
        assert self.candidate is not None
        if not self.is_class:
            return self.candidate
        made: Callable[..., Any] = self.candidate(**given.options)
        if call.no_grad and hasattr(made, "eval"):
            made.eval()
        return made

    def _ready(self) -> Driver:
        assert self.driver is not None
        return self.driver


def signature_of(found: Callable[..., Any], is_class: bool) -> dict[str, Any]:
    """What the signature claims, and what keeps it from being called; one that cannot be read claims nothing."""
    try:
        parameters = list(inspect.signature(found).parameters.values())
    except (TypeError, ValueError):  # a function written in C
        return {"options": [], "needs": [], "takes_two": True, "unset": []}
    given = parameters if is_class else parameters[2:]
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    options = [p for p in given if p.name in OPTIONS and p.kind in named]
    bare = [p for p in given if p.default is p.empty and p.kind not in variadic]
    takes_two = is_class or len([p for p in parameters if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]) >= 2
    takes_two |= any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return {
        "options": [p.name for p in options],
        "needs": [p.name for p in bare if p not in options],
        "takes_two": takes_two,
        "unset": [p.name for p in bare if p in options and p.name != "reduction"],  # which is always given
    }


def _call_of(request: Message) -> Call:
    body = request.body
    return Call(
        options=body["call"]["options"],
        gradient=body["call"]["gradient"],
        backwards=body["call"]["backwards"],
        layout=body["call"]["layout"],
        together=body["call"]["together"],
        no_grad=body["call"]["no_grad"],
        threads=body["call"]["threads"],
    )


def _batches_of(request: Message) -> list[Batch]:
    parts = request.body["parts"]
    prefixed: list[dict[str, Any]] = [{} for _ in parts]
    for key, array in request.arrays.items():
        turn, _, name = key.partition("/")
        prefixed[int(turn)][name] = array
    return [batch_from(Message(body, arrays)) for body, arrays in zip(parts, prefixed, strict=True)]


def _import(path: str, folder: str, module: str) -> Any:
    """The candidate's module, its folder importable, as if it were run where it lies."""
    sys.path.insert(0, folder)
    if module:
        return importlib.import_module(module)
    stem = Path(path).stem
    name = stem if stem not in sys.modules else f"{stem}_"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{Path(path).name} is not a Python file")
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    spec.loader.exec_module(made)
    return made


def _afterwards(driver: Driver, given: Given) -> dict[str, Any]:
    """The inputs of a call as they are after it."""
    inputs = {"logits": given.logits, "target": given.target, "upstream": given.upstream}
    inputs |= {name: value for name, value in given.options.items() if _is_array(value)}
    return {f"after/{name}": driver.read(value) for name, value in inputs.items()}


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, np.generic)


def _held() -> dict[str, int]:
    """What the process holds: bytes of memory, and how many files and threads."""
    process = _this_process()
    return {
        "resident": int(process.memory_info().rss),
        "files": process.num_fds() if hasattr(process, "num_fds") else 0,
        "threads": process.num_threads(),
    }


@cache
def _this_process() -> psutil.Process:
    return psutil.Process()


def failure(kind: str, detail: str) -> Message:
    """The reply that says what went wrong, of some kind."""
    return Message({"failure": str(kind), "detail": detail})
