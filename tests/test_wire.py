"""The wire: every array arrives bit for bit, and nothing but a well-formed frame within the limit arrives at all."""

from __future__ import annotations

import json
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis.extra.numpy as hnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.wire import HEADER_LIMIT, LIMIT, Channel, Message, WireClosed, WireError, WireTimeout

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(name) for name in ("float64", "float32", "float16", "int64", "bool")] + [BFLOAT16]
LATER = 10.0


class Pair:
    """Two channels that talk to each other through pipes, in one process."""

    def __init__(self, **settings: Any) -> None:
        a_read, b_write = os.pipe()
        b_read, a_write = os.pipe()
        self.a, self.b = Channel(a_read, a_write, **settings), Channel(b_read, b_write, **settings)
        self.raw = b_write

    def over(self, message: Message) -> Message:
        """The message as it arrives at the other side: sent by a thread, since a pipe holds only so much."""
        sender = threading.Thread(target=self.a.send, args=(message, time.monotonic() + LATER))
        sender.start()
        received = self.b.receive(time.monotonic() + LATER)
        sender.join()
        return received

    def close(self) -> None:
        self.a.close()
        self.b.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


def bits(array: np.ndarray) -> bytes:
    return np.asarray(array, order="C").tobytes()


def from_bits(dtype: np.dtype, shape: tuple[int, ...], draw: Callable[[st.SearchStrategy], Any]) -> np.ndarray:
    """An array of arbitrary bits (of zeros and ones for bool): all NaNs, subnormals and signed zeros among them."""
    if dtype == np.bool_:
        return draw(hnp.arrays(dtype, shape))
    return draw(hnp.arrays(np.dtype(f"u{dtype.itemsize}"), shape)).view(dtype)


@st.composite
def messages(draw: Callable[[st.SearchStrategy], Any]) -> Message:
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
    names = draw(st.lists(st.text(max_size=8), unique=True, max_size=4))
    arrays = {name: from_bits(draw(st.sampled_from(DTYPES)), draw(shapes), draw) for name in names}
    leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    body = draw(
        st.dictionaries(st.text(), st.recursive(leaves, lambda inner: st.lists(inner, max_size=3), max_leaves=6))
    )
    return Message(body, arrays)


@given(messages())
def test_a_message_arrives_bit_for_bit(message: Message) -> None:
    pair = Pair()
    try:
        received = pair.over(message)
    finally:
        pair.close()
    assert received.body == message.body
    assert list(received.arrays) == list(message.arrays)
    for name, array in message.arrays.items():
        got = received.arrays[name]
        assert (got.dtype, got.shape, bits(got)) == (array.dtype, array.shape, bits(array))
        assert got.flags.writeable
        assert got.flags.aligned


ARRAYS = {
    "NaN payloads": np.array([0x7FF0000000000001, 0xFFF8000000ABCDEF], dtype="u8").view("f8"),
    "float32 signalling NaN": np.array([0x7F800001], dtype="u4").view("f4"),
    "bfloat16 NaN payload": np.array([0x7F81, 0xFFC3], dtype="u2").view(BFLOAT16),
    "float16 NaN payload": np.array([0x7C01], dtype="u2").view("f2"),
    "negative zero": np.array([-0.0, 0.0], dtype="f4"),
    "bfloat16 negative zero": np.array([-0.0], dtype=BFLOAT16),
    "empty": np.empty((0, 5), dtype="f8"),
    "empty bfloat16": np.empty((3, 0), dtype=BFLOAT16),
    "0-d": np.array(1.5),
    "0-d bfloat16": np.array(1.5, dtype=BFLOAT16),
    "0-d bool": np.array(True),
    "strided": np.arange(24.0).reshape(4, 6)[::2, ::-3],
    "transposed": np.arange(6, dtype="i8").reshape(2, 3).T,
    "expanded": np.broadcast_to(np.float32(2.5), (3, 4)),
    "big-endian": np.arange(3, dtype=">f8"),
    "read-only": np.frombuffer(b"\x00\x3c" * 3, dtype="f2"),
    "larger than a pipe": np.arange(1 << 18, dtype="f8"),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS.keys())
def test_special_arrays_arrive_bit_for_bit(pair: Pair, array: np.ndarray) -> None:
    got = pair.over(Message({}, {"x": array})).arrays["x"]
    native = array.astype(array.dtype.newbyteorder("="))
    assert (got.dtype, got.shape, bits(got)) == (native.dtype, native.shape, bits(native))


def test_frames_follow_one_another(pair: Pair) -> None:
    for number in range(50):
        received = pair.over(Message({"number": number}, {"x": np.full(number, number)}))
        assert received.body == {"number": number}
        assert received.arrays["x"].tolist() == [number] * number


def test_floats_in_the_body_are_exact(pair: Pair) -> None:
    values = [0.1, 5e-324, 1.7976931348623157e308, -0.0, float("inf")]
    got = pair.over(Message({"values": values})).body["values"]
    assert [value.hex() for value in got] == [value.hex() for value in values]


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (Message({}, {"x": np.zeros(3, dtype="i4")}), "array 'x' has dtype int32"),
        (Message({}, {"x": np.array([object()])}), "array 'x' has dtype object"),
        (Message({}, {"x": np.zeros(3, dtype="c16")}), "dtype complex128"),
        (Message({"x": object()}), "not JSON"),
        (Message({}, {"x": np.zeros(1001, dtype="f8")}), "arrays of 8008 bytes: the limit is 8000"),
        (Message({"x": "y" * HEADER_LIMIT}), "a header of"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_anything_is_written(message: Message, complaint: str) -> None:
    pair = Pair(limit=8000)
    try:
        with pytest.raises(WireError, match=complaint):
            pair.a.send(message)
        assert pair.over(Message({"still": "well"})).body == {"still": "well"}
    finally:
        pair.close()


def frame(header: Any, payload: bytes = b"", *, magic: bytes = b"xent", size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("!4sIQ", magic, len(text), len(payload) if size is None else size) + text + payload


def listing(**entry: Any) -> dict[str, Any]:
    return {"body": {}, "arrays": [{"name": "x", "dtype": "float64", "shape": [1], **entry}]}


MALFORMED = {
    "no magic": (frame({"body": {}, "arrays": []}, magic=b"oops"), "begins with b'oops'"),
    "printed text": (b"Hello, world, how are you?\n", "begins with b'Hell'"),
    "header too large": (struct.pack("!4sIQ", b"xent", HEADER_LIMIT + 1, 0), "a header of 16777217 bytes"),
    "payload too large": (struct.pack("!4sIQ", b"xent", 2, LIMIT + 1), "arrays of 4294967297 bytes"),
    "not UTF-8": (frame(b"\xff\xfe{}"), "not JSON"),
    "not JSON": (frame(b"{'body'"), "not JSON"),
    "nested without end": (frame(b"[" * 200_000), "not JSON"),
    "endless integer": (frame(b"1" * 10_000), "not JSON"),
    "not an object": (frame([1, 2]), "not an object"),
    "no body": (frame({"arrays": []}), "not an object"),
    "body no object": (frame({"body": 3, "arrays": []}), "not an object"),
    "array no object": (frame({"body": {}, "arrays": [3]}), "name is missing"),
    "no name": (frame(listing(name=None), bytes(8)), "name is missing or taken: None"),
    "name taken": (frame({"body": {}, "arrays": listing()["arrays"] * 2}, bytes(16)), "name is missing or taken: 'x'"),
    "object dtype": (frame(listing(dtype="object"), bytes(8)), "dtype 'object'"),
    "pickled": (frame(listing(dtype="O"), bytes(8)), "dtype 'O'"),
    "dtype no string": (frame(listing(dtype=["f8"]), bytes(8)), r"dtype \['f8'\]"),
    "negative size": (frame(listing(shape=[-1]), bytes(8)), "malformed shape"),
    "fractional size": (frame(listing(shape=[1.0]), bytes(8)), "malformed shape"),
    "boolean size": (frame(listing(shape=[True]), bytes(8)), "malformed shape"),
    "shape no list": (frame(listing(shape=1), bytes(8)), "malformed shape"),
    "lists more than it holds": (
        frame(listing(shape=[2]), bytes(8)),
        "holds 8 bytes of arrays, but its header lists 16",
    ),
    "lists less than it holds": (
        frame(listing(shape=[0]), bytes(8)),
        "holds 8 bytes of arrays, but its header lists 0",
    ),
    "astronomical": (frame(listing(shape=[1 << 40, 1 << 40]), bytes(8)), "but its header lists"),
    "empty and astronomical": (frame(listing(shape=[0, 1 << 80])), "cannot be made"),
    "too many dimensions": (frame(listing(shape=[1] * 100), bytes(8)), "cannot be made"),
    "bool of 2": (frame(listing(dtype="bool"), b"\x02"), "neither 0 nor 1"),
}


@pytest.mark.parametrize(("data", "complaint"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_frame_is_refused(pair: Pair, data: bytes, complaint: str) -> None:
    sender = threading.Thread(target=pair.b._write, args=(memoryview(data), time.monotonic() + LATER))
    sender.start()
    with pytest.raises(WireError, match=complaint):
        pair.a.receive(time.monotonic() + LATER)
    sender.join()


def test_a_large_promise_is_refused_without_the_bytes() -> None:
    pair = Pair(limit=100)
    try:
        os.write(pair.raw, struct.pack("!4sIQ", b"xent", 2, 101))
        with pytest.raises(WireError, match="arrays of 101 bytes: the limit is 100"):
            pair.a.receive(time.monotonic() + LATER)
    finally:
        pair.close()


@given(st.binary(min_size=0, max_size=64))
def test_noise_never_gets_through(noise: bytes) -> None:
    pair = Pair()
    os.write(pair.raw, noise)
    pair.b.close()
    try:
        with pytest.raises(WireError):
            pair.a.receive(time.monotonic() + LATER)
    finally:
        pair.close()


@pytest.mark.parametrize("cut", [0, 3, 20, 60])
def test_a_frame_cut_short_is_a_closed_wire(pair: Pair, cut: int) -> None:
    os.write(pair.raw, frame(listing(), bytes(8))[:cut])
    pair.b.close()
    with pytest.raises(WireClosed, match="closed its end"):
        pair.a.receive(time.monotonic() + LATER)


def test_sending_to_a_closed_end(pair: Pair) -> None:
    pair.b.close()
    with pytest.raises(WireClosed, match="closed its end"):
        pair.a.send(Message({}, {"x": np.zeros(1 << 16)}), time.monotonic() + LATER)


def test_deadlines_hold_in_both_directions(pair: Pair) -> None:
    start = time.monotonic()
    with pytest.raises(WireTimeout):
        pair.a.receive(start + 0.2)
    with pytest.raises(WireTimeout):  # nobody reads, and a pipe holds far less
        pair.a.send(Message({}, {"x": np.zeros(1 << 20)}), start + 0.4)
    assert 0.4 <= time.monotonic() - start < 5


def test_waiting_in_vain_loses_nothing(pair: Pair) -> None:
    for _ in range(2):
        with pytest.raises(WireTimeout):
            pair.a.await_reply(time.monotonic() + 0.05)
    pair.b.send(Message({"late": 1}), time.monotonic() + LATER)
    pair.a.await_reply(time.monotonic() + LATER)
    assert pair.a.receive(time.monotonic() + LATER).body == {"late": 1}
    pair.b.close()
    pair.a.await_reply(time.monotonic() + LATER)  # there is nothing to come, which the next one says
    with pytest.raises(WireClosed, match="closed its end"):
        pair.a.receive(time.monotonic() + LATER)


def test_the_death_of_the_other_side_is_noticed_while_the_pipe_stays_open() -> None:
    dead = threading.Event()
    pair = Pair(alive=lambda: not dead.is_set())
    threading.Timer(0.3, dead.set).start()
    try:
        with pytest.raises(WireClosed, match="died"):
            pair.a.receive(time.monotonic() + LATER)
        pair.b.send(Message({"last": "words"}))
        assert pair.a.receive(time.monotonic() + LATER).body == {"last": "words"}
    finally:
        pair.close()
