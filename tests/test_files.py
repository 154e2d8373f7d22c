"""Files written whole or not at all."""

import os
import stat
import threading

import pytest

from harness.files import write_atomically


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("before", [None, b"old"])
def test_the_content_is_there_and_nothing_else(tmp_path, before):
    path = tmp_path / "run.json"
    if before is not None:
        path.write_bytes(before)
    write_atomically(path, b"\x00new\n")
    assert path.read_bytes() == b"\x00new\n"
    assert names(tmp_path) == ["run.json"]


def test_a_plain_name_is_written_in_the_current_folder(tmp_path, monkeypatch):
    from pathlib import Path

    monkeypatch.chdir(tmp_path)
    write_atomically(Path("run.json"), b"new")
    assert names(tmp_path) == ["run.json"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_permissions_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "run.json", b"new")
        assert os.umask(umask) == umask  # as it was found
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "run.json").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_where_a_step_fails_the_old_file_stays_and_no_other(tmp_path, monkeypatch, step, error):
    path = tmp_path / "run.json"
    path.write_bytes(b"old")

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["run.json"]


def test_a_missing_folder_is_an_error_that_names_it(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        write_atomically(tmp_path / "nowhere" / "run.json", b"new")


def test_a_folder_in_the_way_is_an_error(tmp_path):
    (tmp_path / "run.json").mkdir()
    with pytest.raises(OSError):
        write_atomically(tmp_path / "run.json", b"new")
    assert names(tmp_path) == ["run.json"]
    assert names(tmp_path / "run.json") == []


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_a_link(tmp_path, exists):
    target, link = tmp_path / "kept" / "target.json", tmp_path / "link.json"
    target.parent.mkdir()
    if exists:
        target.write_bytes(b"old")
    link.symlink_to(target)
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert names(target.parent) == ["target.json"]


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    """`--json /dev/stdout`, by the superuser, must not take that name away from the machine."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    got = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    write_atomically(path, b"new")
    reader.join(timeout=10)
    assert got == [b"new"]
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert names(tmp_path) == ["pipe"]


def test_a_reader_sees_the_old_content_or_the_new(tmp_path):
    path = tmp_path / "run.json"
    contents = {bytes([letter]) * 100_000 for letter in b"ab"}
    write_atomically(path, min(contents))
    seen, done = set(), threading.Event()

    def read():
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        for content in contents:
            write_atomically(path, content)
    done.set()
    reader.join(timeout=10)
    assert seen <= contents
    assert names(tmp_path) == ["run.json"]
