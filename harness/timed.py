"""What timed calls gave back, on its way from a worker: their seconds, and the digests of their results.

A result crosses only once: the parent says which digests it has judged, and gets the arrays of the others. So every
result can be checked, at the price of a hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.bridges.stopwatch import Lap
from harness.wire import Message

__all__ = ["Timed", "digest", "timed_from", "timed_message"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Timed:
    """The calls of one request.

    Parameters
    ----------
    seconds : tuple of float
        Of each call.
    digests : tuple of mapping
        For each result that was kept (of every call on the CPU, of the last on CUDA), the digest of ``"loss"`` and,
        where there is one, of ``"gradient"``.
    arrays : mapping of str to array
        By digest, those that the caller did not know.
    backend : str
        ``"native"``, or the interpreter that the calls ran in.
    flushed : frozenset of str
        The formats whose subnormal results the framework flushes to zero: see `harness.output.Output`.
    """

    seconds: tuple[float, ...]
    digests: tuple[Mapping[str, str], ...] = ()
    arrays: Mapping[str, Array] = field(default_factory=dict)
    backend: str = "native"
    flushed: frozenset[str] = frozenset()


def digest(array: Array) -> str:
    """A name for an array that another has only with the same bits, shape and dtype."""
    told = hashlib.sha256(f"{array.dtype.name} {array.shape} ".encode())
    told.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return told.hexdigest()


def timed_message(laps: Iterable[Lap], known: Collection[str], backend: str = "native") -> Message:
    """The reply about some calls; of those results that are not known, the arrays too."""
    seconds: list[float] = []
    digests: list[dict[str, str]] = []
    arrays: dict[str, Array] = {}
    for lap in laps:
        seconds.append(lap.seconds)
        kept = {what: array for what in ("loss", "gradient") if (array := getattr(lap, what)) is not None}
        names = {what: digest(array) for what, array in kept.items()}
        arrays |= {names[what]: array for what, array in kept.items() if names[what] not in known}
        if names:
            digests.append(names)
    return Message({"seconds": seconds, "digests": digests, "backend": backend}, arrays)


def timed_from(message: Message, flushed: frozenset[str] = frozenset()) -> Timed:
    """The inverse of `timed_message`."""
    body = message.body
    return Timed(
        tuple(map(float, body["seconds"])),
        tuple({str(what): str(name) for what, name in entry.items()} for entry in body["digests"]),
        message.arrays,
        str(body["backend"]),
        flushed,
    )
