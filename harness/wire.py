"""The wire: messages between the harness and a worker process, as length-prefixed frames over a pair of pipes.

A frame is a fixed prefix (magic, header length, payload length), a UTF-8 JSON header, and the raw bytes of the arrays
that the header lists by name, dtype and shape. Nothing is ever unpickled, and every size is checked against a limit
before anything is allocated for it, so that the other side need not be trusted.
"""

from __future__ import annotations

import json
import math
import os
import select
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.formats import FORMATS, FormatUnavailable

__all__ = ["LIMIT", "WIRE_DTYPES", "Channel", "Message", "WireClosed", "WireError", "WireTimeout"]

Array = np.ndarray[Any, Any]

WIRE_DTYPES = (*FORMATS, "int64", "bool")
"""Names of the dtypes that cross the wire."""
LIMIT = 1 << 32
"""Default limit on the arrays of one frame, in bytes."""
HEADER_LIMIT = 1 << 24
"""Limit on a frame's JSON header, in bytes."""

_MAGIC = b"xent"
_PREFIX = struct.Struct("!4sIQ")
_CHUNK = 1 << 24
_HEARTBEAT = 0.1


class WireError(RuntimeError):
    """A message that cannot be sent, or a frame that is not one; the message says what is wrong with it."""


class WireClosed(WireError):
    """The other side closed its end, or died."""


class WireTimeout(WireError):
    """The deadline passed before the whole frame had."""


@dataclass(frozen=True, eq=False)
class Message:
    """One message: a JSON object, and arrays of any shape by name (dtypes: `WIRE_DTYPES`)."""

    body: Mapping[str, Any]
    arrays: Mapping[str, Array] = field(default_factory=dict)


class Channel:
    """Both directions of a conversation, over two file descriptors that the channel owns from then on.

    Parameters
    ----------
    read_fd, write_fd : int
        Ends of two pipes.
    limit : int
        Most bytes of arrays in one frame, in either direction.
    alive : callable, optional
        Says whether the other side still lives. Asked while waiting, because a pipe that a grandchild inherited stays
        open after the process at its end has died.
    """

    def __init__(
        self, read_fd: int, write_fd: int, *, limit: int = LIMIT, alive: Callable[[], bool] | None = None
    ) -> None:
        self._read_fd, self._write_fd = read_fd, write_fd
        self._limit, self._alive = limit, alive
        self._open = True
        for fd in (read_fd, write_fd):
            os.set_blocking(fd, False)

    def send(self, message: Message, deadline: float | None = None) -> None:
        """Send a message; nothing is written unless the whole of it may be.

        Raises
        ------
        WireError
            For a body that is not JSON, a dtype that does not cross, or arrays over the limit.
        WireClosed, WireTimeout
            Where the other side is gone, or does not read until `deadline` (of ``time.monotonic``, in seconds).
        """
        for part in _frame(message, self._limit):
            self._write(part, deadline)

    def receive(self, deadline: float | None = None) -> Message:
        """Wait for the next message; its arrays belong to the caller and are writable.

        Raises
        ------
        WireError
            For a frame that is malformed or over the limit; the channel is of no use afterwards.
        WireClosed, WireTimeout
            As for `send`.
        """
        prefix = bytearray(_PREFIX.size)
        self._read(memoryview(prefix), deadline)
        magic, header_size, payload_size = _PREFIX.unpack(prefix)
        if magic != _MAGIC:
            raise WireError(f"not a frame: it begins with {bytes(magic)!r}, not {_MAGIC!r}")
        if header_size > HEADER_LIMIT:
            raise WireError(f"a header of {header_size} bytes: the limit is {HEADER_LIMIT}")
        if payload_size > self._limit:
            raise WireError(f"arrays of {payload_size} bytes: the limit is {self._limit}")
        header = bytearray(header_size)
        self._read(memoryview(header), deadline)
        body, layout = _parse(bytes(header), payload_size)
        arrays = {}
        for name, (dtype, shape) in layout.items():
            arrays[name] = _empty(name, dtype, shape)
            self._read(_raw(arrays[name]), deadline)
            # A byte other than 0 and 1 in a bool array is undefined behaviour further on.
            if dtype == "bool" and bool((arrays[name].view(np.uint8) > 1).any()):
                raise WireError(f"array {name!r}: a bool that is neither 0 nor 1")
        return Message(body, arrays)

    def await_reply(self, deadline: float | None = None) -> None:
        """Return once there is something to receive, or nothing to come; after a `WireTimeout` nothing is lost.

        Raises
        ------
        WireClosed, WireTimeout
            As for `receive`.
        """
        self._wait(self._read_fd, select.POLLIN, deadline)

    def close(self) -> None:
        """Close both ends; more than once does no harm."""
        if self._open:
            self._open = False
            os.close(self._read_fd)
            os.close(self._write_fd)

    def _write(self, data: memoryview, deadline: float | None) -> None:
        while data:
            try:
                data = data[os.write(self._write_fd, data[:_CHUNK]) :]
            except BlockingIOError:
                self._wait(self._write_fd, select.POLLOUT, deadline)
            except BrokenPipeError:
                raise WireClosed("the other side closed its end while a message was being sent") from None

    def _read(self, into: memoryview, deadline: float | None) -> None:
        while into:
            try:
                got = os.readv(self._read_fd, [into[:_CHUNK]])
            except BlockingIOError:
                self._wait(self._read_fd, select.POLLIN, deadline)
                continue
            if got == 0:
                raise WireClosed("the other side closed its end")
            into = into[got:]

    def _wait(self, fd: int, event: int, deadline: float | None) -> None:
        """Return once `fd` is ready, or the other side has hung up (the next read or write will say so)."""
        poll = select.poll()
        poll.register(fd, event)
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            pause = left if self._alive is None else min(_HEARTBEAT, math.inf if left is None else left)
            if poll.poll(None if pause is None else math.ceil(pause * 1000)):
                return
            if self._alive is not None and not self._alive():
                if poll.poll(0):  # what it wrote before it died still counts
                    return
                raise WireClosed("the other side died")
            if left == 0.0:
                raise WireTimeout("the deadline passed")


def _frame(message: Message, limit: int) -> list[memoryview]:
    """The parts of a message's frame, in order."""
    layout, blobs = [], []
    for name, array in message.arrays.items():
        if array.dtype.name not in WIRE_DTYPES:
            raise WireError(f"array {name!r} has dtype {array.dtype}: only {', '.join(WIRE_DTYPES)} can be sent")
        native = np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")
        layout.append({"name": name, "dtype": array.dtype.name, "shape": list(array.shape)})
        blobs.append(_raw(native))
    try:
        header = json.dumps({"body": message.body, "arrays": layout}).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(f"a message body that is not JSON: {error}") from error
    payload = sum(blob.nbytes for blob in blobs)
    if payload > limit:
        raise WireError(f"arrays of {payload} bytes: the limit is {limit}")
    if len(header) > HEADER_LIMIT:
        raise WireError(f"a header of {len(header)} bytes: the limit is {HEADER_LIMIT}")
    return [memoryview(_PREFIX.pack(_MAGIC, len(header), payload) + header), *blobs]


def _parse(header: bytes, payload_size: int) -> tuple[dict[str, Any], dict[str, tuple[str, tuple[int, ...]]]]:
    """The body, and the (dtype, shape) of each array by name, which together make up the payload exactly."""
    try:
        data = json.loads(header.decode())
    except (ValueError, RecursionError) as error:
        raise WireError(f"a header that is not JSON: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("body"), dict) or not isinstance(data.get("arrays"), list):
        raise WireError("a header that is not an object with a body and a list of arrays")
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}
    total = 0
    for entry in data["arrays"]:
        name, dtype, shape = (
            (entry.get(key) for key in ("name", "dtype", "shape")) if isinstance(entry, dict) else (0,) * 3
        )
        if not isinstance(name, str) or name in layout:
            raise WireError(f"an array whose name is missing or taken: {name!r}")
        if dtype not in WIRE_DTYPES:
            raise WireError(f"array {name!r} has dtype {dtype!r}: only {', '.join(WIRE_DTYPES)} can be received")
        if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
            raise WireError(f"array {name!r} has a malformed shape: {shape!r}")
        layout[name] = (dtype, tuple(shape))
        total += math.prod(shape) * _itemsize(dtype)
    if total != payload_size:
        raise WireError(f"the frame holds {payload_size} bytes of arrays, but its header lists {total}")
    return data["body"], layout


def _itemsize(dtype: str) -> int:
    return FORMATS[dtype].bits // 8 if dtype in FORMATS else np.dtype(dtype).itemsize


def _empty(name: str, dtype: str, shape: tuple[int, ...]) -> Array:
    try:
        return np.empty(shape, dtype=FORMATS[dtype].dtype if dtype in FORMATS else np.dtype(dtype))
    except FormatUnavailable as error:
        raise WireError(f"array {name!r}: {error}") from error
    except (ValueError, MemoryError) as error:  # more dimensions than NumPy has, or an empty array of absurd sizes
        raise WireError(f"array {name!r} of shape {list(shape)} cannot be made: {error}") from error


def _raw(array: Array) -> memoryview:
    """The bytes of a C-contiguous array, shared with it (through uint8: ml_dtypes have no buffer protocol)."""
    return array.reshape(-1).view(np.uint8).data
