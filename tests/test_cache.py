"""The cache of truth: what an address tells apart, and that no state of the disk changes an answer."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import cache, reference, truth
from harness.formats import FORMATS
from harness.reference import Reference

BCE = "binary_cross_entropy_with_logits"
Z = [[1.0, 2.0, 3.0], [0.5, -1.0, 0.25]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("XENT_CACHE", str(folder))
    return folder


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for each batch that is really solved."""
    solve, times = reference._solve_rows, []

    def counted(*args: Any) -> Any:
        times.append(1)
        return solve(*args)

    monkeypatch.setattr(reference, "_solve_rows", counted)
    return times


def entries(folder: Path) -> list[Path]:
    """Every file in the cache."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def numbers(answer: Reference) -> list[bytes]:
    """Every number of a reference."""
    return [getattr(answer, name).tobytes() for name in ("loss_hi", "loss_lo", "grad_hi", "grad_lo")]


def key(*args: Any, loss: str = "cross_entropy", **options: Any) -> str:
    """The address of a batch."""
    return cache.key_of(loss, truth(*args, loss=loss, **options).problem.content())


# --------------------------------------------------------------------------------------------------------- addresses


def test_a_batch_is_solved_once(folder: Path, solved: list[int]) -> None:
    first, second = truth(Z, [0, 1]), truth(Z, [0, 1])
    assert len(solved) == 1
    assert numbers(first) == numbers(second)
    assert second.loss_hi.flags.writeable == first.loss_hi.flags.writeable
    assert len(entries(folder)) == 1
    assert first.reduced("mean").loss_hi == second.reduced("mean").loss_hi


def test_equal_numbers_of_different_dtypes_share_an_entry(folder: Path, solved: list[int]) -> None:
    for dtype in ("float64", "float32", "float16", "bfloat16"):
        kind = FORMATS[dtype].dtype
        for labels in ("int64", "uint8", "int32"):
            truth(np.array(Z).astype(kind), np.array([0, 1]).astype(labels), weight=np.array([1, 2, 3]).astype(kind))
    truth(np.asfortranarray(Z), [0, 1], weight=[1, 2, 3], label_smoothing=0)
    truth(np.array(Z).astype(">f4"), [0, 1], weight=[1.0, 2.0, 3.0], upstream=1)
    assert len(solved) == len(entries(folder)) == 1


DIFFERENT: list[Callable[[], str]] = [
    lambda: key(Z, [0, 1]),
    lambda: key(Z, [0, 2]),
    lambda: key(Z[:1], [0]),
    lambda: key([[1.0, 2.0, 3.0, 0.5, -1.0, 0.25]], [0]),
    lambda: key([[1.0, 2.0], [3.0, 0.5], [-1.0, 0.25]], [0, 1, 1]),
    lambda: key([[1.0, 2.0, 3.0], [0.5, -1.0, np.nextafter(0.25, 1)]], [0, 1]),
    lambda: key([[1.0, 2.0, -np.inf], [0.5, -1.0, 0.25]], [0, 1]),
    lambda: key(Z, [0, 1], ignore_index=1),
    lambda: key(Z, [0, 1], ignore_index=0),
    lambda: key(Z, [0, -100]),
    lambda: key(Z, [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    lambda: key(Z, [0, 1], weight=[1.0, 1.0, 1.0]),
    lambda: key(Z, [0, 1], weight=[1.0, 1.0, 2.0]),
    lambda: key(Z, [0, 1], weight=[1.0, 2.0, 1.0]),
    lambda: key(Z, [0, 1], label_smoothing=0.1),
    lambda: key(Z, [0, 1], label_smoothing=np.nextafter(0.1, 1)),
    lambda: key(Z, [0, 1], label_smoothing=5e-324),
    lambda: key(Z, [0, 1], upstream=[2.0, 1.0]),
    lambda: key(Z, [0, 1], upstream=[1.0, 2.0]),
    lambda: key(Z, np.eye(3)[:2], loss=BCE),
    lambda: key(Z, np.eye(3)[1:], loss=BCE),
    lambda: key(Z, np.eye(3)[:2], loss=BCE, weight=2.0),
    lambda: key(Z, np.eye(3)[:2], loss=BCE, pos_weight=2.0),
    lambda: key(Z, np.eye(3)[:2], loss=BCE, upstream=2.0),
    lambda: key(np.zeros((0, 3)), np.zeros((0, 3))),
    lambda: key(np.zeros((0, 2)), np.zeros((0, 2))),
    lambda: key(np.zeros((0, 2)), np.zeros(0, np.int64)),
    lambda: key(np.zeros((0, 2)), np.zeros((0, 2)), loss=BCE),
]


def test_an_address_tells_apart_whatever_matters() -> None:
    keys = [address() for address in DIFFERENT]
    assert len(set(keys)) == len(DIFFERENT)


def test_an_address_is_of_pieces_and_not_of_their_joint() -> None:
    assert cache.key_of("a", [b"b", b"c"]) != cache.key_of("a", [b"bc"])
    assert cache.key_of("a", [b"b"]) != cache.key_of("ab", [])
    assert cache.key_of("a", [b"", b"b"]) != cache.key_of("a", [b"b", b""])


def test_another_version_has_other_addresses(monkeypatch: pytest.MonkeyPatch, solved: list[int]) -> None:
    truth(Z, [0, 1])
    monkeypatch.setattr(cache, "TRUTH_VERSION", b"truth of another day")
    truth(Z, [0, 1])
    assert len(solved) == 2


# ------------------------------------------------------------------------------------------------------------ damage


def _foreign(content: bytes) -> bytes:
    """A sound entry of another kind: its digest is right for what it holds, and it is not ours."""
    payload = b"another version's payload"
    return b"xent truth 9\n" + hashlib.sha256(payload).digest() + payload


def _old(content: bytes) -> bytes:
    """An entry whose digest is that of the arrays alone."""
    payload = content[len(cache._MAGIC) + 32 :]
    return cache._MAGIC + hashlib.sha256(payload).digest() + payload


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "one byte": lambda content: content[:1],
    "only the first line": lambda content: content[: len(cache._MAGIC)],
    "only the header": lambda content: content[: len(cache._MAGIC) + 32],
    "cut in the middle": lambda content: content[: len(content) // 2],
    "a byte short": lambda content: content[:-1],
    "a byte long": lambda content: content + b"\0",
    "a bit of the digest": lambda content: content[:20] + bytes([content[20] ^ 1]) + content[21:],
    "the last bit": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "zeros": lambda content: bytes(len(content)),
    "zeros at the end": lambda content: content[:-64] + bytes(64),
    "text": lambda content: b"<html>not found</html>",
    "another version's": _foreign,
    "without its address": _old,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_entry_is_recomputed_and_replaced(name: str, folder: Path, solved: list[int]) -> None:
    want = truth(Z, [0, 1])
    (path,) = entries(folder)
    sound = path.read_bytes()
    path.write_bytes(DAMAGE[name](sound))
    assert numbers(truth(Z, [0, 1])) == numbers(want)
    assert len(solved) == 2
    assert path.read_bytes() == sound
    assert numbers(truth(Z, [0, 1])) == numbers(want)
    assert len(solved) == 2


def test_an_entry_under_another_ones_name_is_damaged(folder: Path, solved: list[int]) -> None:
    truth(Z, [0, 1])
    (first,) = entries(folder)
    want = truth(Z, [2, 0])
    (second,) = set(entries(folder)) - {first}
    second.write_bytes(first.read_bytes())
    assert numbers(truth(Z, [2, 0])) == numbers(want)
    assert len(solved) == 3


def test_a_folder_in_the_place_of_an_entry(folder: Path) -> None:
    want = truth(Z, [0, 1])
    (path,) = entries(folder)
    path.unlink()
    path.mkdir()
    assert numbers(truth(Z, [0, 1])) == numbers(want)


# ------------------------------------------------------------------------------------------- disks that do not oblige


def fresh(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The truth without any cache."""
    with monkeypatch.context() as patch:
        patch.setenv("XENT_CACHE", "off")
        return numbers(truth(Z, [0, 1]))


def test_off_writes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, solved: list[int]) -> None:
    monkeypatch.setenv("XENT_CACHE", "off")
    monkeypatch.chdir(tmp_path)
    assert cache.cache_folder() is None
    assert numbers(truth(Z, [0, 1])) == numbers(truth(Z, [0, 1]))
    assert len(solved) == 2
    assert list(tmp_path.iterdir()) == []


def test_without_a_setting_it_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
    for setting in (None, ""):
        if setting is None:
            monkeypatch.delenv("XENT_CACHE")
        else:
            monkeypatch.setenv("XENT_CACHE", setting)
        assert cache.cache_folder() == tmp_path / "cross-entropy-harness" / "truth"


def test_a_file_where_the_folder_should_be(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    folder.write_text("in the way")
    assert numbers(truth(Z, [0, 1])) == fresh(monkeypatch)
    assert folder.read_text() == "in the way"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("step", ["harness.cache.write_atomically", "pathlib.Path.mkdir", "tempfile.mkstemp"])
def test_a_disk_that_takes_nothing(step: str, code: int, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(code, os.strerror(code))

    want = fresh(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(step, refuse)
        assert numbers(truth(Z, [0, 1])) == want
    assert not folder.exists() or entries(folder) == []  # not even a temporary file is left
    assert numbers(truth(Z, [0, 1])) == want
    assert len(entries(folder)) == 1


def test_a_disk_that_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    want = numbers(truth(Z, [0, 1]))

    def refuse(path: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert numbers(truth(Z, [0, 1])) == want


def test_a_damaged_entry_that_cannot_be_deleted(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    want = numbers(truth(Z, [0, 1]))
    (path,) = entries(folder)
    path.write_bytes(b"damaged")

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr("harness.cache.write_atomically", refuse)
    assert numbers(truth(Z, [0, 1])) == want


# ------------------------------------------------------------------------------------------------- several processes

WORK = """
import hashlib, sys
import numpy as np
import harness
digest = hashlib.sha256()
for seed in range(60):
    z = np.random.default_rng(seed).normal(size=(3, 5))
    r = harness.truth(z, [0, 1, 2], label_smoothing=0.1)
    for array in (r.loss_hi, r.loss_lo, r.grad_hi, r.grad_lo):
        digest.update(array.tobytes())
print(digest.hexdigest())
"""


def test_two_processes_at_once(folder: Path) -> None:
    def start(**setting: str) -> subprocess.Popen[str]:
        environment = os.environ | {"XENT_CACHE": str(folder)} | setting
        return subprocess.Popen([sys.executable, "-c", WORK], env=environment, stdout=subprocess.PIPE, text=True)

    running = [start(), start(), start(XENT_CACHE="off")]
    outputs = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert outputs[0] == outputs[1] == outputs[2] != ""
    written = entries(folder)
    assert len(written) == 60
    assert {path.suffix for path in written} == {".truth"}
    after = start()
    assert after.communicate(timeout=120)[0] == outputs[0]
    assert entries(folder) == written
