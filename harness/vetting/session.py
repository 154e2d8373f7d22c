"""A session with a candidate: its process, watched from outside, lost and started again as often as need be.

Every call has a time limit, and the process a limit on the memory that it and its children hold. Whatever happens there
comes back as a `Reply`; nothing is unpickled, and nothing that the candidate does can raise here.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any, Self

from harness.batch import Batch
from harness.bridges import unavailable
from harness.bridges.triton_interpreter import VARIABLE
from harness.grades import Outcome
from harness.messages import batch_message
from harness.process import Child, child_environment
from harness.vetting.drivers import Call
from harness.vetting.replies import REPLY_LIMIT, Claims, Reply, failure_of, inert, read_claims, read_reply, words
from harness.vetting.source import CannotJudge, Source
from harness.vetting.watch import Watch, new_mark
from harness.wire import Message, WireClosed, WireError, WireTimeout

__all__ = ["Claims", "Rejected", "Reply", "Session"]

START_TIMEOUT = 120.0
"""Seconds that a framework may take to be imported: not the candidate's doing."""
PATIENCE = 3.0
"""So many times its limit a call may take by the clock, on a machine that gives it less than a processor."""
_IDLE = 0.1
"""A share of a processor below which a process does not compute, but wait."""
IMPORT_TIMEOUT = 20.0
"""Seconds that importing the candidate's file may always take, however short a call must be."""


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
    device : str
        ``"cpu"`` or ``"cuda"``.
    backend : str
        ``"native"`` or ``"interpret"``.
    """

    isolated = True
    """Whether the candidate runs in a process of its own."""

    def __init__(
        self,
        source: Source,
        *,
        gradient: str | None = None,
        timeout: float = 20.0,
        threads: int = 1,
        device: str = "cpu",
        backend: str = "native",
    ) -> None:
        self.source, self.gradient, self.timeout = source, gradient, timeout
        self.threads, self.device, self.backend = threads, device, backend
        self.calls = 0  # of this process
        self.asked, self.spent = 0, 0.0  # requests to call it, and seconds that they took, of all its processes
        self.deaths = 0
        self.last_death = Reply(Outcome.PASSED)
        self._child: Child | None = None
        self._watch: Watch | None = None

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables of a process that the candidate runs in, beside those of every such process."""
        interpreted = self.backend == "interpret" and self.source.framework == "torch"
        return {VARIABLE: "1"} if interpreted else {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, and whatever it has started."""
        child, watch = self._child, self._watch
        self._child = self._watch = None
        if child is not None and watch is not None:
            watch.end(child.end)

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
        reason = unavailable(self.source.framework)
        if reason:
            raise CannotJudge(reason)
        self._start()
        started = self._exchange(
            Message({"op": "start", "device": self.device, "backend": self.backend}), START_TIMEOUT
        )
        if isinstance(started, Reply):
            told = started.detail.removeprefix("NoDevice: ")
            raise CannotJudge(told if told != started.detail else f"{self.source.framework} does not start: {told}")
        source = self.source
        body = {
            "op": "load",
            "path": str(source.path),
            "folder": str(source.import_folder),
            "module": source.module,
            "name": source.name,
            "gradient": self.gradient,
        }
        loaded = self._exchange(Message(body), max(3 * self.timeout, IMPORT_TIMEOUT))
        if isinstance(loaded, Reply):
            raise self._refusal(loaded)
        return self._claims(loaded, started.body.get("flushed"))

    def _start(self) -> None:
        self.calls = 0
        mark = new_mark()
        arguments = [self.source.framework, str(self.threads)]
        environment = child_environment(self.threads) | self.variables | mark
        self._child = Child("harness.vetting.guest_main", arguments, environment, limit=REPLY_LIMIT)
        self._watch = Watch(self._child.pid, mark)

    def _refusal(self, reply: Reply) -> Rejected | CannotJudge:
        """Why there is no candidate after its file was to be imported."""
        if reply.outcome is Outcome.RAISED and reply.detail.startswith(("ModuleNotFoundError", "ImportError")):
            return CannotJudge(f"{self.source.path.name} cannot be imported: {reply.detail}")
        return Rejected(reply.outcome, f"importing {self.source.path.name}: {reply.detail}")

    def _claims(self, loaded: Message, flushed: object) -> Claims:
        label, path, absent = self.source.label, self.source.path.name, loaded.body.get("absent")
        if absent is not None:
            raise CannotJudge(f"{path}: {inert(str(absent))}")
        claims, needs = read_claims(loaded, flushed), words(loaded.body.get("needs"))
        if claims is None or needs is None:
            raise Rejected(Outcome.CRASHED, f"importing {path}: it answered in a form that is not the harness's")
        if loaded.body.get("takes_two") is not True:
            raise CannotJudge(f"{label} does not take logits and target as its first two arguments")
        if needs:
            what = f"{label} needs arguments that the contract does not give: {', '.join(needs)}"
            raise CannotJudge(f"{what}; give them defaults, or vet a function of logits and target that fills them in")
        return claims

    def call(self, batch: Batch, call: Call) -> Reply:
        """Call the candidate on copies of a batch."""
        self.calls += 1
        message = batch_message(batch, {"op": "call", "call": _plain(call)})
        return self._request(message, self.timeout, call.backwards if call.gradient else 0)

    def sequence(self, batches: Sequence[Batch], call: Call) -> Reply:
        """Call the candidate on batches of one shape in turn, in the same memory; arrays are named ``0/loss``, …."""
        self.calls += len(batches)
        arrays: dict[str, Any] = {}
        parts = []
        for turn, batch in enumerate(batches):
            message = batch_message(batch, {})
            parts.append(dict(message.body))
            arrays |= {f"{turn}/{name}": array for name, array in message.arrays.items()}
        message = Message({"op": "sequence", "call": _plain(call), "parts": parts}, arrays)
        gradients = call.backwards if call.gradient else 0
        return self._request(message, self.timeout + 0.25 * len(batches), gradients, len(batches))

    def _request(self, message: Message, timeout: float, gradients: int, calls: int | None = None) -> Reply:
        if not self._is_open():
            try:
                self.open()
            except (Rejected, CannotJudge) as error:
                detail = f"it could be imported once, but not again: {error}"
                return self._lost(Outcome.CRASHED, detail)
        start = time.monotonic()
        reply = self._exchange(message, timeout)
        self.asked, self.spent = self.asked + (calls or 1), self.spent + time.monotonic() - start
        if isinstance(reply, Reply):
            return reply
        read = read_reply(reply, gradients, calls)
        return read if read.outcome is Outcome.PASSED else self._lost(read.outcome, read.detail)

    def _is_open(self) -> bool:
        return self._child is not None

    def _exchange(self, message: Message, timeout: float) -> Message | Reply:
        """Send a request and wait for its answer; a process that does not give one is ended."""
        assert self._child is not None
        start = time.monotonic()
        number = secrets.randbits(60)
        self._child.forget_output()
        try:
            self._child.channel.send(Message({**message.body, "id": number}, message.arrays), start + timeout)
            reply = self._child.channel.receive(self._awaited(start, timeout) + timeout)
            if reply.body.get("id") != number:
                raise WireError("an answer to another request")
        except WireTimeout:
            return self._lost(Outcome.TIMED_OUT, f"did not return within {timeout:.3g} s (see --timeout)")
        except WireClosed:
            obituary = self._child.obituary()
            over = self._watch.verdict if self._watch else ""
            return self._lost(Outcome.CRASHED, over or f"the process {obituary}")
        except WireError as error:
            return self._lost(Outcome.CRASHED, f"wrote to the harness's pipe: {error}")
        except BaseException:
            self.close()
            raise
        return failure_of(reply) or reply

    def _awaited(self, start: float, timeout: float) -> float:
        """Wait until the reply begins to come; the time at which it does, of ``time.monotonic``.

        The limit is one of the clock for who sleeps and for who has a processor. Who has to share it with the rest of
        the machine may go on until it has had that many seconds of it, within reason.

        Raises
        ------
        WireClosed, WireTimeout
            Where there is none.
        """
        assert self._child is not None
        assert self._watch is not None
        had, deadline = self._watch.processor_seconds(), start + timeout
        while True:
            try:
                self._child.channel.await_reply(deadline)
            except WireTimeout:
                now = time.monotonic()
                used, passed = self._watch.processor_seconds() - had, now - start
                if used >= timeout or used < _IDLE * passed or passed >= PATIENCE * timeout:
                    raise
                deadline = min(now + max(timeout - used, 0.05 * timeout), start + PATIENCE * timeout)
            else:
                return time.monotonic()

    def _lost(self, outcome: Outcome, detail: str) -> Reply:
        self.close()
        return self._count(Reply(outcome, detail=inert(detail)))

    def _count(self, reply: Reply) -> Reply:
        self.deaths += 1
        self.last_death = reply
        return reply


def _plain(call: Call) -> dict[str, Any]:
    return {
        "options": dict(call.options),
        "gradient": call.gradient,
        "backwards": call.backwards,
        "layout": call.layout,
        "together": call.together,
        "no_grad": call.no_grad,
        "threads": call.threads,
    }
