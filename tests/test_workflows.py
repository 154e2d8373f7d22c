"""The workflows: what they call exists, their scripts do what they are for, and what shall be off is off."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import nights as made
import pytest
import yaml
from report_fixtures import result
from typer.main import get_command

from harness.cli import app
from harness.history import History

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
PYTHONS = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
EXPRESSION = re.compile(r"\$\{\{.*?\}\}")


def load(name: str) -> dict[Any, Any]:
    return yaml.safe_load((FOLDER / name).read_text())


def steps(workflow: dict[Any, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


KEYWORDS = {"if", "then", "else", "do", "!"}


def commands(script: str) -> list[list[str]]:
    """The simple commands of a script, expressions put in as words."""
    found = []
    for line in EXPRESSION.sub("word", script).replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        words: list[str] = []
        for token in [*lexer, ";"]:
            if set(token) <= set(";&|"):
                found.append(words)
                words = []
            elif words or token not in KEYWORDS:
                words.append(token)
    return [words for words in found if words]


def test_there_are_three() -> None:
    assert [path.name for path in FILES] == ["ci.yml", "gpu.yml", "nightly.yml"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_workflow_is_well_formed(path: Path) -> None:
    workflow = load(path.name)
    assert workflow["name"] == path.stem
    assert workflow[True]  # what YAML makes of `on`
    assert set(workflow["permissions"]) == {"contents"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 180
        assert job["runs-on"]
    for step in steps(workflow):
        assert ("run" in step) != ("uses" in step)
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
        else:
            subprocess.run(["bash", "-n", "-c", EXPRESSION.sub("word", step["run"])], check=True)


def check_command(words: list[str]) -> None:
    """Whether a command of ours exists, with these options.

    Raises
    ------
    AssertionError, click.UsageError
        Where it does not.
    """
    if words[:1] == ["make"]:
        assert words[1] in TARGETS, words
    elif words[:1] == [".venv/bin/xent"]:
        command = get_command(app).commands[words[1]]  # type: ignore[attr-defined]
        command.make_context(words[1], words[2:])
    elif words[:1] in (["python"], [".venv/bin/python"]) and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file(), words


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_command_of_ours_exists(path: Path) -> None:
    found = [words for step in steps(load(path.name)) if "run" in step for words in commands(step["run"])]
    for words in found:
        check_command(words)
    assert any(words[0] in ("make", ".venv/bin/xent") for words in found)


@pytest.mark.parametrize(
    "script",
    [
        "make no-such-target",
        "cd x && .venv/bin/xent frobnicate",
        ".venv/bin/xent nightly history --lable x",
        "if true; then python tools/gone.py; fi",
    ],
)
def test_a_command_that_does_not_exist_is_seen(script: str) -> None:
    def check() -> None:
        for words in commands(script):
            check_command(words)

    with pytest.raises(Exception, match=r"no-such-target|frobnicate|--lable|gone"):
        check()


def test_ci_covers_what_is_supported() -> None:
    jobs = load("ci.yml")["jobs"]
    systems = ["ubuntu-latest", "macos-latest"]
    assert PYTHONS == ["3.11", "3.12", "3.13"]
    assert jobs["test"]["strategy"]["matrix"] == {"os": systems, "python": PYTHONS}
    installed = jobs["installed"]
    frameworks = ["numpy", "torch", "jax"]
    assert installed["strategy"]["matrix"] == {"os": systems, "python": PYTHONS, "framework": frameworks}
    assert set(frameworks[1:]) <= set(EXTRAS)
    assert installed["needs"] == "wheel"
    assert not any("checkout" in step.get("uses", "") for step in installed["steps"])  # the sources are not there
    carried = next(s for s in jobs["wheel"]["steps"] if "upload" in s.get("uses", ""))["with"]["path"].split()
    assert carried == ["dist/*.whl", "constraints.txt", "tools/smoke.py"]
    smoke = (ROOT / "tools" / "smoke.py").read_text()
    assert not re.search(r"^(?:from|import) (?:harness|reports|implementations|numpy)\b", smoke, re.MULTILINE)


def test_nightly_uploads_one_viewable_file_and_catches_new_releases() -> None:
    workflow = load("nightly.yml")
    (job,) = workflow["jobs"].values()
    assert workflow[True]["schedule"]
    assert job["strategy"]["matrix"]["label"] == ["pinned", "newest"]
    newest = next(step for step in job["steps"] if step.get("if") == "matrix.label == 'newest'")
    assert "install --upgrade torch jax" in newest["run"]
    assert "--pre" not in newest["run"]
    page = next(s for s in job["steps"] if s.get("with", {}).get("archive") is False)
    assert page["with"]["path"].endswith(".html")
    names = [step.get("name", "") for step in job["steps"]]
    measure = names.index("Measure and compare")
    after = job["steps"][measure + 1 :]
    assert all(step["if"].startswith("always()") for step in after)  # a regression is kept and shown, too
    assert workflow["permissions"] == {"contents": "write"}


def test_the_gpu_is_off_until_a_runner_is_named() -> None:
    (job,) = load("gpu.yml")["jobs"].values()
    assert job["if"] == "vars.GPU_RUNNER != ''"
    assert job["runs-on"] == ["self-hosted", "${{ vars.GPU_RUNNER }}"]


# ------------------------------------------------------------------------------------------------------ the data branch


def script(name: str) -> str:
    (job,) = load("nightly.yml")["jobs"].values()
    found = next(step["run"] for step in job["steps"] if step.get("name") == name)
    return found.replace("${{ matrix.label }}", "pinned")


def bash(text: str, folder: Path) -> str:
    command = ["bash", "-e", "-o", "pipefail", "-c", text]
    environment = {"DATA_BRANCH": "nightly-data", "PATH": "/usr/bin:/bin:/usr/local/bin", "HOME": str(folder.parent)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_history_is_kept_on_a_branch_of_its_own(tmp_path: Path) -> None:
    identity = "-c user.name=a -c user.email=a@example.org"
    bash("git init -q --bare -b main origin && git clone -q origin first 2>&1 && echo x > first/code", tmp_path)
    bash(f"git add . && git {identity} commit -qm code && git push -q origin HEAD:main", tmp_path / "first")
    for index in range(3):
        clone = tmp_path / f"clone{index}"
        bash(f"git clone -q origin {clone.name}", tmp_path)
        bash(script("Fetch the history"), clone)
        assert not (clone / "history" / "code").exists()
        assert len(list((clone / "history").glob("nights/*.json"))) == index
        if index == 2:  # another machine pushes meanwhile
            other = tmp_path / "other"
            bash("git clone -q -b nightly-data origin other", tmp_path)
            History.save(made.night(9, results=[result()], machine="other"), other)
            bash(f"git add nights && git {identity} commit -qm other && git push -q", other)
        History.save(made.night(index, results=[result()]), clone / "history")
        (clone / "history" / "latest").mkdir()
        (clone / "history" / "latest" / "run.json").touch()
        bash(script("Push the history"), clone)
    assert "no new night" in bash(script("Push the history"), clone)
    bash("git clone -q -b nightly-data origin final", tmp_path)
    history = History.load(tmp_path / "final")
    assert [night.started for night in history.nights] == [made.started(i) for i in (0, 1, 2, 9)]
    assert sorted(path.name for path in (tmp_path / "final").iterdir()) == [".git", "nights"]
