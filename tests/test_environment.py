"""The environment of a run: what it says, and that it says it anywhere."""

from __future__ import annotations

import json
import platform
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from harness import environment


def test_it_says_what_a_run_depends_on() -> None:
    found = environment.describe_environment(7, 1, {"numpy": {"threads": 1}})
    assert found["seed"] == 7
    assert found["threads"] == 1
    assert found["workers"] == {"numpy": {"threads": 1}}
    assert found["versions"]["numpy"] == np.__version__
    assert found["python"] == platform.python_version()
    assert found["cpu"]
    assert found["cores"] >= 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["started"])
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize(
    ("setting", "started"), [("0", "1970-01-01T00:00:00+00:00"), ("1700000000", "2023-11-14T22:13:20+00:00")]
)
def test_the_time_can_be_pinned(monkeypatch: pytest.MonkeyPatch, setting: str, started: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", setting)
    assert environment.describe_environment(0, 1)["started"] == started


def test_what_is_no_time_pins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    assert environment.describe_environment(0, 1)["started"] > "2024"


def test_packages_that_are_not_installed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_PACKAGES", ("numpy", "no-such-package"))
    assert environment.describe_environment(0, 1)["versions"] == {"numpy": np.__version__}


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that seems to be the one that the code runs from."""
    module = tmp_path / "harness" / "environment.py"
    module.parent.mkdir()
    module.write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    monkeypatch.setattr(environment, "__file__", str(module))
    return tmp_path


def test_the_commit_and_a_plus_for_changes(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    assert environment.commit() == head
    (checkout / "harness" / "new.py").write_text("")
    assert environment.commit() == head + "+"


def test_no_commit_where_the_code_is_installed_inside_somebody_else_s_repository(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = checkout / "venv" / "harness" / "environment.py"
    installed.parent.mkdir(parents=True)
    monkeypatch.setattr(environment, "__file__", str(installed))
    assert environment.commit() is None


def test_no_commit_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.commit() is None


def test_a_processor_without_a_name_in_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(path: Path, *_: object, **__: object) -> str:
        raise OSError("no such file")

    monkeypatch.setattr(Path, "read_text", unreadable)
    assert environment.cpu_name() == (platform.processor() or platform.machine())
