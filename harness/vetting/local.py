"""A session in this very process, for a candidate that no other process could import: a closure, a nested function.

It answers as `Session` does, but protects from nothing: a crash is a crash of everything, a hang is noticed only once
it is over, and memory is not watched. A verdict that rests on it says so, as the deviation ``not_isolated``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from harness.bridges import unavailable
from harness.grades import Outcome
from harness.vetting.guest import Guest, signature_of
from harness.vetting.replies import Claims, Reply, failure_of
from harness.vetting.session import Session
from harness.vetting.source import CannotJudge, Source
from harness.vetting.state import Restorer
from harness.wire import Message

__all__ = ["LocalSession"]


class LocalSession(Session):
    """A candidate in this process.

    Parameters
    ----------
    source : Source
        Where its code is, for messages.
    candidate : callable
        The function or class itself.
    gradient : callable or None
        A NumPy candidate's gradient function.
    timeout : float
        Seconds that one call may take; one that takes longer is not interrupted, but counts as timed out.
    """

    isolated = False

    def __init__(
        self,
        source: Source,
        candidate: Callable[..., Any],
        *,
        gradient: Callable[..., Any] | None = None,
        timeout: float = 20.0,
    ) -> None:
        super().__init__(source, timeout=timeout)
        self._candidate, self._gradient = candidate, gradient
        self._guest: _LocalGuest | None = None
        self._environment: dict[str, str] = {}
        self._restorer: Restorer | None = None

    def open(self) -> Claims:
        """Read the candidate's claims.

        Raises
        ------
        CannotJudge
            Where the framework is missing, or the signature is not that of a candidate.
        """
        reason = unavailable(self.source.framework)
        if reason:
            raise CannotJudge(reason)
        self._environment = dict(os.environ)  # a bridge sets its framework's variables
        torch = sys.modules.get("torch")
        threads = torch.get_num_threads() if torch else 1
        guest = _LocalGuest(self.source.framework, threads)
        started = guest.answer(Message({"op": "start"}))
        failed = failure_of(started)
        if failed is not None:
            raise CannotJudge(f"{self.source.framework} does not start: {failed.detail}")
        self._restorer = Restorer()
        guest.take(self._candidate, self._gradient)
        self._guest = guest
        signature = {**signature_of(self._candidate, guest.is_class), "altered": []}
        return self._claims(Message(signature), started.body["flushed"])

    def close(self) -> None:
        """Put back what of this process's state has been changed."""
        if self._guest is None:
            return
        if self._guest.driver is not None:
            self._guest.driver.unsettle()
        self._guest = None
        if self._restorer is not None:
            self._restorer.restore()
        for name in set(os.environ) - set(self._environment):
            del os.environ[name]
        os.environ.update(self._environment)

    def _is_open(self) -> bool:
        return self._guest is not None

    def _exchange(self, message: Message, timeout: float) -> Message | Reply:
        assert self._guest is not None
        start = time.monotonic()
        reply = self._guest.answer(message)
        taken = time.monotonic() - start
        if taken > timeout:
            return self._count(Reply(Outcome.TIMED_OUT, detail=f"took {taken:.3g} s: the limit is {timeout:.3g} s"))
        return failure_of(reply) or reply

    def _lost(self, outcome: Outcome, detail: str) -> Reply:
        return self._count(Reply(outcome, detail=detail))


class _LocalGuest(Guest):
    """The guest's work in the house itself: Ctrl-C, and a test runner's own exceptions, go through to it."""

    def is_foreign(self, error: BaseException) -> bool:
        return not isinstance(error, Exception | SystemExit)
