"""The environment of `make`: current, outdated, half made, wanted twice at once. venv and pip are stood in for."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools import make_environment as environment

PYPROJECT = """
[build-system]
requires = ["hatchling"]
[project]
name = "example"
version = "1"
[tool.ruff]
line-length = 120
"""


class Pip:
    """Stands in for the programs that are run: makes what `venv` would, counts, and fails or does more when told to."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.during: Callable[[], None] = lambda: None

    def __call__(self, command: list[Any], **options: Any) -> None:
        tool = command[2]
        self.calls.append(tool)
        if tool == "venv":
            python = Path(command[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.touch()
        else:
            assert [str(word) for word in command[3:4]] == ["install"]
            assert command[-4:] == ["-c", "constraints.txt", "-e", ".[all,dev]"]
            self.during()


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Pip:
    stand_in = Pip()
    monkeypatch.setattr(environment.subprocess, "run", stand_in)
    return stand_in


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "constraints.txt").write_text("example==1\n")
    monkeypatch.setattr(environment, "ROOT", folder)
    return folder


def make(root: Path) -> int:
    return environment.main([str(root / "env")])


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new))

    return change


def other_python(root: Path) -> None:
    edit("env/.xent-current", "python 3.", "python 2.")(root)


def other_checkout(root: Path) -> None:
    edit("env/.xent-current", "root ", "root /elsewhere")(root)


@pytest.mark.parametrize(
    ("change", "calls", "kept"),
    [
        pytest.param(lambda root: None, [], True, id="current"),
        pytest.param(edit("pyproject.toml", "120", "100"), [], True, id="only the linter's settings changed"),
        pytest.param(edit("pyproject.toml", 'version = "1"', 'version = "2"'), ["pip"], True, id="pyproject changed"),
        pytest.param(edit("constraints.txt", "==1", "==2"), ["pip"], True, id="constraints changed"),
        pytest.param(lambda root: (root / "env/.xent-current").unlink(), ["pip"], True, id="made by somebody else"),
        pytest.param(lambda root: (root / "env/.xent-unfinished").touch(), ["venv", "pip"], False, id="half made"),
        pytest.param(other_python, ["venv", "pip"], False, id="of another Python version"),
        pytest.param(other_checkout, ["venv", "pip"], False, id="moved with its checkout"),
    ],
)
def test_what_is_done_again(change: Callable[[Path], None], calls: list[str], kept: bool, root: Path, pip: Pip) -> None:
    assert make(root) == 0
    assert pip.calls == ["venv", "pip"]
    pip.calls.clear()
    (root / "env" / "mine").touch()
    change(root)
    assert make(root) == 0
    assert pip.calls == calls
    assert (root / "env" / "mine").exists() == kept
    pip.calls.clear()
    assert make(root) == 0
    assert pip.calls == []


@pytest.mark.parametrize(
    ("fault", "status"), [(subprocess.CalledProcessError(3, ["pip"]), 1), (KeyboardInterrupt(), 130)], ids=str
)
def test_cut_short_is_never_taken_for_finished(
    fault: BaseException, status: int, root: Path, pip: Pip, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise fault

    pip.during = fail
    assert make(root) == status
    assert str(root / "env") in capsys.readouterr().err
    assert (root / "env" / ".xent-unfinished").exists()
    assert not (root / "env" / ".xent-current").exists()
    pip.during = lambda: None
    pip.calls.clear()
    assert make(root) == 0
    assert pip.calls == ["venv", "pip"]


def test_an_update_that_is_killed_leaves_no_stamp(root: Path, pip: Pip) -> None:
    assert make(root) == 0
    edit("constraints.txt", "==1", "==2")(root)
    stamps: list[bool] = []
    pip.during = lambda: stamps.append((root / "env" / ".xent-current").exists())
    assert make(root) == 0
    assert stamps == [False]


def test_two_at_once_make_one(root: Path, pip: Pip, capsys: pytest.CaptureFixture[str]) -> None:
    pip.during = lambda: time.sleep(0.5)
    threads = [threading.Thread(target=make, args=(root,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pip.calls == ["venv", "pip"]
    assert "another make is at work on it" in capsys.readouterr().out


def test_a_python_out_of_range_is_refused(
    root: Path, pip: Pip, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(environment.sys, "version_info", (3, 14, 0))
    assert make(root) == 2
    assert "3.11, 3.12 or 3.13 is needed" in capsys.readouterr().err
    assert not (root / "env").exists()
