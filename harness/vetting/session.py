"""A session with a candidate: its process, watched from outside, lost and started again as often as need be.

Every call has a time limit, and the process a limit on the memory that it and its children hold. Whatever happens there
comes back as a `Reply`; nothing is unpickled, and nothing that the candidate does can raise here.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import psutil

from harness.batch import Batch
from harness.grades import Outcome
from harness.messages import batch_message
from harness.process import Child, child_environment
from harness.vetting.drivers import Call
from harness.vetting.source import CannotJudge, Source
from harness.wire import Message, WireClosed, WireError, WireTimeout

__all__ = ["Claims", "Reply", "Session"]

Array = np.ndarray[Any, Any]

START_TIMEOUT = 120.0
MEMORY_LIMIT = 6 << 30
"""Bytes that the candidate's processes may hold together: many times what the largest input needs."""
_WATCH_EVERY = 0.05


@dataclass(frozen=True, eq=False)
class Reply:
    """What became of one call.

    Parameters
    ----------
    outcome : Outcome
        `PASSED` where arrays came back; else `RAISED`, `CRASHED`, `TIMED_OUT` or `WRONG_SHAPE`.
    arrays : mapping of str to array
        ``loss``, ``gradient`` (``gradient1``, … for further ones) and ``after/…``, the inputs as they were afterwards.
    detail : str
        One line on what went wrong.
    altered : tuple of str
        Names of the process state that the call changed.
    no_gradient : bool
        Whether the call failed only because its result cannot be differentiated.
    resident : int
        Memory of the process after the call, in bytes.
    """

    outcome: Outcome
    arrays: Mapping[str, Array] = field(default_factory=dict)
    detail: str = ""
    altered: tuple[str, ...] = ()
    no_gradient: bool = False
    resident: int = 0


@dataclass(frozen=True)
class Claims:
    """What a candidate's signature claims, what its import did to the process, and what its framework flushes to zero."""

    options: tuple[str, ...]
    altered: tuple[str, ...] = ()
    flushed: frozenset[str] = frozenset()

    @property
    def reduction(self) -> bool:
        """Whether it takes ``reduction``."""
        return "reduction" in self.options


class Rejected(Exception):
    """The candidate is rejected before its first call: it died, hung or raised while it was imported."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome


class Session:
    """One candidate in one process at a time.

    Parameters
    ----------
    source : Source
        The candidate.
    gradient : str or None
        Name of a NumPy candidate's gradient function.
    timeout : float
        Seconds that one call may take.
    threads : int
        Threads that the framework may use.
    """

    def __init__(self, source: Source, *, gradient: str | None = None, timeout: float = 20.0, threads: int = 1) -> None:
        self.source, self.gradient, self.timeout, self.threads = source, gradient, timeout, threads
        self.calls = 0
        self.deaths = 0
        self._child: Child | None = None
        self._ids = itertools.count(int(time.time_ns()))
        self._watch: _Watch | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        if self._watch is not None:
            self._watch.stop()
        if self._child is not None:
            self._child.end()
        self._child = self._watch = None

    def open(self) -> Claims:
        """Start the process, import the candidate, and read its claims.

        Raises
        ------
        CannotJudge
            Where the framework, or a module that the file imports, is not installed, or the name is not there.
        Rejected
            Where the import crashes, hangs or raises.
        """
        self.close()
        self._child = Child(
            "harness.vetting.guest", [self.source.framework, str(self.threads)], child_environment(self.threads)
        )
        self._watch = _Watch(self._child.pid)
        started = self._exchange(Message({"op": "start"}), START_TIMEOUT)
        if isinstance(started, Reply):
            raise CannotJudge(f"the {self.source.framework} framework does not start: {started.detail}")
        body = {"op": "load", "path": str(self.source.path), "name": self.source.name, "gradient": self.gradient}
        loaded = self._exchange(Message(body), max(self.timeout, 60.0))
        if isinstance(loaded, Reply):
            return self._refuse(loaded)
        needs, options = loaded.body.get("needs", []), loaded.body.get("options", [])
        if not loaded.body.get("takes_two"):
            raise CannotJudge(f"{self.source.label} does not take logits and target as its first two arguments")
        if needs:
            raise CannotJudge(f"{self.source.label} needs arguments that the contract does not give: {', '.join(needs)}")
        flushed = frozenset(map(str, started.body.get("flushed", [])))
        return Claims(tuple(map(str, options)), tuple(map(str, loaded.body.get("altered", []))), flushed)

    def _refuse(self, reply: Reply) -> Claims:
        kind, _, detail = reply.detail.partition("\0")
        if kind == "no_such_name":
            raise CannotJudge(f"{self.source.path.name} has no {self.source.name}; it has {detail or 'nothing'}")
        if kind == "not_callable":
            raise CannotJudge(f"{self.source.label} is a {detail}, not a function or nn.Module class")
        missing = reply.outcome is Outcome.RAISED and reply.detail.startswith(("ModuleNotFoundError", "ImportError"))
        if missing:
            raise CannotJudge(f"{self.source.path.name} cannot be imported: {reply.detail}")
        raise Rejected(reply.outcome, f"importing {self.source.path.name}: {reply.detail}")

    def call(self, batch: Batch, call: Call) -> Reply:
        """Call the candidate on copies of a batch."""
        self.calls += 1
        return self._request(batch_message(batch, {"op": "call", "call": _plain(call)}), self.timeout)

    def sequence(self, batches: Sequence[Batch], call: Call) -> Reply:
        """Call the candidate on batches of one shape in turn, in the same memory; arrays are named ``0/loss``, …."""
        self.calls += len(batches)
        arrays: dict[str, Array] = {}
        parts = []
        for turn, batch in enumerate(batches):
            message = batch_message(batch, {})
            parts.append(dict(message.body))
            arrays |= {f"{turn}/{name}": array for name, array in message.arrays.items()}
        message = Message({"op": "sequence", "call": _plain(call), "parts": parts}, arrays)
        return self._request(message, self.timeout + 0.25 * len(batches))

    def _request(self, message: Message, timeout: float) -> Reply:
        if self._child is None:
            try:
                self.open()
            except (Rejected, CannotJudge) as error:
                return Reply(Outcome.CRASHED, detail=f"it could be imported once, but not again: {error}")
        reply = self._exchange(message, timeout)
        if isinstance(reply, Reply):
            return reply
        altered = reply.body.get("altered", [])
        resident = reply.body.get("resident", 0)
        return Reply(
            Outcome.PASSED,
            reply.arrays,
            altered=tuple(map(str, altered)) if isinstance(altered, list) else ("(unreadable)",),
            resident=resident if isinstance(resident, int) else 0,
        )

    def _exchange(self, message: Message, timeout: float) -> Message | Reply:
        """Send a request and wait for its answer; a process that does not give one is ended."""
        assert self._child is not None
        deadline = time.monotonic() + timeout
        number = next(self._ids)
        self._child.forget_output()
        try:
            self._child.channel.send(Message({**message.body, "id": number}, message.arrays), deadline)
            reply = self._child.channel.receive(deadline)
            if reply.body.get("id") != number:
                raise WireError("an answer to another request")
        except WireTimeout:
            return self._lost(Outcome.TIMED_OUT, f"did not return within {timeout:g} s")
        except WireClosed:
            over = self._watch.verdict if self._watch else ""
            return self._lost(Outcome.CRASHED, over or f"the process {self._child.obituary()}")
        except WireError as error:
            return self._lost(Outcome.CRASHED, f"wrote to the harness's pipe: {error}")
        except BaseException:
            self.close()
            raise
        failure = reply.body.get("failure")
        if failure is None:
            return reply
        detail = str(reply.body.get("detail", ""))
        if failure == "no_gradient":
            return Reply(Outcome.RAISED, detail=detail, no_gradient=True)
        if failure in ("no_such_name", "not_callable"):
            return Reply(Outcome.RAISED, detail=f"{failure}\0{detail}")
        return Reply(Outcome.WRONG_SHAPE if failure == Outcome.WRONG_SHAPE else Outcome.RAISED, detail=detail)

    def _lost(self, outcome: Outcome, detail: str) -> Reply:
        self.deaths += 1
        self.close()
        return Reply(outcome, detail=detail)


def _plain(call: Call) -> dict[str, Any]:
    return {
        "options": dict(call.options),
        "gradient": call.gradient,
        "backwards": call.backwards,
        "layout": call.layout,
    }


class _Watch:
    """Watches the memory of a process and its children, and kills them all when they hold too much."""

    def __init__(self, pid: int) -> None:
        self.verdict = ""
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stop.set()

    def _run(self) -> None:
        family: list[psutil.Process] = []
        for tick in itertools.count():
            if self._stop.wait(_WATCH_EVERY):
                return
            try:
                if tick % 10 == 0:  # listing children reads every process of the machine
                    root = psutil.Process(self._pid)
                    family = [root, *root.children(recursive=True)]
                held = sum(_resident(process) for process in family)
            except psutil.Error:
                return
            if held > MEMORY_LIMIT:
                self.verdict = f"held {held / 2**30:.1f} GiB of memory: the limit is {MEMORY_LIMIT / 2**30:g} GiB"
                for process in reversed(family):
                    with suppress(psutil.Error):
                        process.kill()
                return


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
