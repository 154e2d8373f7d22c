"""`xent compare` as a stranger meets it: what it reads, what it prints, and its exit status."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nights as made
import pytest
from commands import Finished, call
from report_fixtures import result

from harness.history import History
from harness.run import Result


@pytest.fixture
def xent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """The command, in this process."""
    return lambda *arguments: call(monkeypatch, capsys, *arguments)


def run_file(path: Path, *results: Result, index: int = 0, ratio: float | None = None) -> Path:
    timings = [] if ratio is None else [made.timing("torch_one", ratio), made.timing(made.BASELINE, 1.0)]
    made.run(index, results, timings).save(path)
    return path


def test_fine(xent: Callable[..., Finished], tmp_path: Path) -> None:
    old, new = run_file(tmp_path / "old.json", result()), run_file(tmp_path / "new.json", result())
    found = xent("compare", old, new)
    assert (found.status, found.err) == (0, "")
    assert found.out.splitlines()[-1] == "Nothing got worse: 1 cell of accuracy and 0 series of speed compared."
    assert xent("compare", old, old).status == 0


def test_worse(xent: Callable[..., Finished], tmp_path: Path) -> None:
    old = run_file(tmp_path / "old.json", result(), ratio=1.0)
    new = run_file(tmp_path / "new.json", result(nonfinite=1, max_ulp=180.0), index=1, ratio=1.5)
    found = xent("compare", old, new, "--json", tmp_path / "c.json", "--markdown", tmp_path / "c.md")
    assert found.status == 1
    assert found.line == (
        "xent compare: Worse: 1 regression of accuracy, 1 series slower "
        "(1 cell of accuracy and 2 series of speed compared)."
    )
    assert "1 values not finite, 0 before" in found.out
    assert "+50 %" in found.out
    data = json.loads((tmp_path / "c.json").read_text())
    assert data["verdict"] == "worse"
    text = (tmp_path / "c.md").read_text()
    assert "### Accuracy that got worse" in text
    assert "| torch\\_one float32 forward 1024 × 1000 | +50 % |" in text


def test_limits_can_be_set(xent: Callable[..., Finished], tmp_path: Path) -> None:
    old = run_file(tmp_path / "old.json", result(), ratio=1.0)
    new = run_file(tmp_path / "new.json", result(max_ulp=30.0), index=1, ratio=1.5)
    assert xent("compare", old, new).status == 1
    assert xent("compare", old, new, "--ulp-factor", 11, "--slowdown", 60).status == 0
    assert xent("compare", old, new, "--ulp-factor", 11, "--slowdown", 40).status == 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for night in made.noisy(4, 29, series=6, noise=0.02, slower={"torch_2": (26, 1.5)}):
        History.save(night, tmp_path / "history")
    return tmp_path / "history"


def test_a_folder_against_itself_is_its_last_nights_against_those_before(
    xent: Callable[..., Finished], folder: Path
) -> None:
    found = xent("compare", folder, folder)
    assert found.status == 1
    assert "Worse: 1 series slower (1 cell of accuracy and 7 series of speed compared)" in found.line
    assert "torch_2 float32 forward 1024 × 1000" in found.out


def test_two_folders_and_a_folder_against_a_night(xent: Callable[..., Finished], folder: Path, tmp_path: Path) -> None:
    files = sorted((folder / "nights").iterdir())
    for name, chosen in (("old", files[:26]), ("new", files[26:])):
        (tmp_path / name).mkdir()
        for file in chosen:
            shutil.copy(file, tmp_path / name)
    assert xent("compare", tmp_path / "old", tmp_path / "new").status == 1
    assert xent("compare", tmp_path / "old", files[0]).status == 0
    assert xent("compare", files[0], files[-1]).status == 0  # two nights are too few for speed; accuracy is compared


def test_what_is_left_out_is_named(xent: Callable[..., Finished], folder: Path) -> None:
    (folder / "nights" / "broken.json").write_text("{")
    History.save(made.night(40, seed=9, results=[result()]), folder)
    found = xent("compare", folder, folder)
    assert found.status == 3
    assert found.line == "xent compare: Nothing comparable was measured."
    assert "broken.json" in found.out
    assert "seed 0, not 9" in found.out


@pytest.mark.parametrize("unlike", ["seed", "cpu"])
def test_unlike_runs_are_3(unlike: str, xent: Callable[..., Finished], tmp_path: Path) -> None:
    old = run_file(tmp_path / "old.json", result())
    made.run(1, [result()], **{unlike: 7}).save(tmp_path / "new.json")
    found = xent("compare", old, tmp_path / "new.json")
    assert found.status == 3
    assert str(old) in found.out
    (tmp_path / "empty").mkdir()
    assert xent("compare", tmp_path / "empty", old).status == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "xent compare: Missing argument 'OLD'"),
        (["here.json", "missing.json"], "xent compare: missing.json: cannot be read as a run file"),
        (["broken.json", "here.json"], "xent compare: broken.json: cannot be read as a run file"),
        (["other.json", "here.json"], 'xent compare: other.json: not a run file (it has no "schema")'),
        (["night.json", "here.json"], "xent compare: night.json: schema 7, but this version reads schema 1"),
        (["here.json", "here.json", "--markdown", "no/c.md"], "xent compare: cannot write no/c.md: there is no folder"),
        (["here.json", "here.json", "--ulp-factor", "0.5"], "xent compare: Invalid value for '--ulp-factor'"),
    ],
)
def test_what_cannot_be_done_is_2(
    arguments: list[str],
    message: str,
    xent: Callable[..., Finished],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    run_file(tmp_path / "here.json", result())
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "night.json").write_text('{"kind": "night", "schema": 7}')
    found = xent("compare", *arguments)
    assert (found.status, found.out) == (2, "")
    assert found.line.startswith(message)


@pytest.mark.parametrize("name", ["compare", "nightly"])
def test_help_reads_well_at_80_columns(
    name: str, xent: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = xent(name, "--help")
    assert found.status == 0
    assert max(map(len, found.out.splitlines())) <= 80
    assert f"    xent {name} " in found.out
    assert "Exit status: 0" in found.out
