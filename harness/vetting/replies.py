"""What a candidate's process may say: replies and claims, read from messages that need not be what they should be.

A candidate can write to the pipe by itself. So nothing is believed here beyond its form: each part is checked for its
type, text is cut to one line, and a reply that lacks what was asked for is no reply.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.grades import Outcome
from harness.messages import one_line
from harness.wire import Message

__all__ = ["REPLY_LIMIT", "Claims", "Reply", "failure_of", "inert", "read_claims", "read_reply", "words"]

Array = np.ndarray[Any, Any]

DEFAULTS: Mapping[str, Any] = {"weight": None, "pos_weight": None, "ignore_index": -100, "label_smoothing": 0.0}
"""torch's defaults of the options that a batch need not have; ``reduction`` is always given."""
REPLY_LIMIT = 1 << 30
"""Bytes of arrays in one message, either way: several times what the largest input and everything about it take."""


@dataclass(frozen=True, eq=False)
class Reply:
    """What became of one call.

    Parameters
    ----------
    outcome : Outcome
        `PASSED` where arrays came back; else `RAISED`, `CRASHED`, `TIMED_OUT` or `WRONG_SHAPE`.
    arrays : mapping of str to array
        ``loss``, ``gradient`` (``gradient1``, … for further ones) and ``after/…``, the inputs as they were afterwards;
        the last only, where a call raised.
    detail : str
        One line on what went wrong.
    altered : tuple of str
        Names of the process state that the call changed.
    no_gradient : bool
        Whether the call failed only because its result cannot be differentiated.
    resident : int
        Memory of the process after the call, in bytes.
    files, threads : int
        How many files it has open after the call, and how many threads.
    marked : tuple of str
        What the call left on its inputs beside their numbers.
    """

    outcome: Outcome
    arrays: Mapping[str, Array] = field(default_factory=dict)
    detail: str = ""
    altered: tuple[str, ...] = ()
    no_gradient: bool = False
    resident: int = 0
    files: int = 0
    threads: int = 0
    marked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claims:
    """What a candidate's signature claims, what its import did to the process, what its framework flushes to zero.

    ``unset`` are those of the claimed options that have no default, and have to be given at every call.
    """

    options: tuple[str, ...]
    altered: tuple[str, ...] = ()
    flushed: frozenset[str] = frozenset()
    unset: tuple[str, ...] = ()

    @property
    def given(self) -> dict[str, Any]:
        """The options to give where a batch has none of them, at what torch has for their defaults."""
        return {name: DEFAULTS[name] for name in self.unset if name in DEFAULTS}

    @property
    def reduction(self) -> bool:
        """Whether it takes ``reduction``."""
        return "reduction" in self.options


def read_reply(message: Message, gradients: int, calls: int | None = None) -> Reply:
    """The reply to a call that asked for so many gradients, or to a sequence of so many calls."""
    each = ["loss", *(f"gradient{turn or ''}" for turn in range(gradients))]
    needed = each if calls is None else [f"{turn}/{name}" for turn in range(calls) for name in each]
    missing = next((name for name in needed if name not in message.arrays), None)
    if missing is not None:
        return Reply(Outcome.CRASHED, detail=f"answered without the {missing} that was asked for")
    altered, marked = words(message.body.get("altered")), words(message.body.get("marked", []))
    resident, files, threads = (message.body.get(name, 0) for name in ("resident", "files", "threads"))
    counted = type(resident) is int and type(files) is int and type(threads) is int
    if altered is None or marked is None or not counted or "resident" not in message.body:
        return Reply(Outcome.CRASHED, detail="answered in a form that is not the harness's")
    return Reply(Outcome.PASSED, message.arrays, "", altered, False, resident, files, threads, marked)


def failure_of(message: Message) -> Reply | None:
    """The failure that a message reports, if it reports one."""
    failure = message.body.get("failure")
    if failure is None:
        return None
    detail = inert(str(message.body.get("detail", "")))
    if failure == "no_gradient":
        return Reply(Outcome.RAISED, detail=detail, no_gradient=True)
    outcome = Outcome.WRONG_SHAPE if failure == Outcome.WRONG_SHAPE else Outcome.RAISED
    return Reply(outcome, message.arrays, detail)


def read_claims(loaded: Message, flushed: object) -> Claims | None:
    """The claims that a message states, or None where it does not state them as it should."""
    options, altered = words(loaded.body.get("options")), words(loaded.body.get("altered"))
    unset = words(loaded.body.get("unset", []))
    if options is None or altered is None or unset is None:
        return None
    return Claims(options, altered, frozenset(words(flushed) or ()), unset)


def words(value: object) -> tuple[str, ...] | None:
    """A list of short strings as a tuple; None for anything else."""
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        return None
    return tuple(inert(entry, 100) for entry in value[:100])


def inert(text: str, limit: int = 400) -> str:
    """A stranger's text on one line, with nothing in it that a terminal or a file format would act upon."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in one_line(text, limit))
