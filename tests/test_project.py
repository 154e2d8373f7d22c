"""The project's own promises: its package, its commands, its contracts, and what must not stand in its files."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("harness", "implementations", "reports")
CONSTRAINTS = (ROOT / "constraints.txt").read_text()


def tracked() -> list[Path]:
    """Every file that a commit of this tree would hold."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    files = [ROOT / name for name in names if name and (ROOT / name).is_file()]
    assert len(files) > 30
    return files


def words(requirement: str) -> str:
    """The normalised name of the package that a requirement asks for."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement)[0]).lower()


# -------------------------------------------------------------------------------------------------------------- package


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True, stdin=subprocess.DEVNULL)
    (found,) = folder.glob("*.whl")
    return found


def test_installed_metadata_is_that_of_this_checkout() -> None:
    installed = importlib.metadata.distribution(PROJECT["name"])
    assert installed.version == PROJECT["version"]
    (script,) = [entry for entry in installed.entry_points if entry.group == "console_scripts"]
    assert (script.name, script.value) == ("xent", "harness.cli:main")


def test_wheel_holds_code_and_data_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    kept = {str(path.relative_to(ROOT)) for path in tracked() if path.relative_to(ROOT).parts[0] in PACKAGES}
    assert {"harness/py.typed", "harness/formats.py"} <= kept
    assert kept <= names
    assert any(re.fullmatch(r"harness/families/data/[^/]+\.safetensors", name) for name in names)
    assert any(name.startswith("reports/templates/") for name in names)
    others = {name.partition("/")[0] for name in names} - set(PACKAGES)
    assert others == {f"cross_entropy_harness-{PROJECT['version']}.dist-info"}


def test_wheel_says_what_it_is(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    info = f"cross_entropy_harness-{PROJECT['version']}.dist-info"
    metadata = archive.read(f"{info}/METADATA").decode().splitlines()
    assert f"Version: {PROJECT['version']}" in metadata
    assert "License-Expression: MIT" in metadata
    assert archive.read(f"{info}/licenses/LICENSE").decode().startswith("MIT License")
    assert "xent = harness.cli:main" in archive.read(f"{info}/entry_points.txt").decode()


def test_numpy_and_mpmath_are_the_only_hard_numerical_dependencies() -> None:
    required = {words(line) for line in PROJECT["dependencies"]}
    assert {"numpy", "mpmath"} <= required
    assert not required & {"scipy", "ml-dtypes", "torch", "jax", "jaxlib", "optax", "gmpy2", "sympy", "pandas"}


def test_every_direct_dependency_is_pinned() -> None:
    pinned = {words(line) for line in CONSTRAINTS.splitlines() if re.match(r"[\w.-]+==[\w.]+$", line)}
    extras = PROJECT["optional-dependencies"]
    direct = {words(line) for lines in (PROJECT["dependencies"], *extras.values()) for line in lines}
    assert direct - {PROJECT["name"]} <= pinned


def test_constraints_hold_pins_and_comments_only() -> None:
    lines = [line for line in CONSTRAINTS.splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    assert "torch==2.13.0" in lines


@pytest.mark.long
@pytest.mark.timeout(600)
def test_wheel_alone_works_with_neither_torch_nor_jax(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    binaries = tmp_path / "env" / "bin"
    pip = [str(binaries / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), str(wheel)], check=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    listed = subprocess.run(
        [str(binaries / "xent"), "list", "--json", "list.json"],
        cwd=elsewhere,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (listed.returncode, listed.stderr) == (0, "")
    found = {entry["name"]: entry for entry in json.loads((elsewhere / "list.json").read_text())["implementations"]}
    assert found["numpy_log1p"]["available"] is True
    assert found["torch_cross_entropy"]["available"] is False
    assert "pip install torch" in found["torch_cross_entropy"]["reason"]


# -------------------------------------------------------------------------------------------------------------- imports


def test_importing_the_harness_imports_no_framework() -> None:
    code = """if True:
        import importlib, pkgutil, sys, harness
        for found in pkgutil.walk_packages(harness.__path__, "harness."):
            if not found.name.endswith(("__main__", "_bridge")):  # a bridge is imported where its framework is wanted
                importlib.import_module(found.name)
        heavy = {"torch", "jax", "jaxlib", "optax", "scipy", "triton", "pandas", "matplotlib"}
        print(sorted(heavy & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


VIOLATIONS = {
    "a low layer imports a high one": ("layers", "harness/formats.py", "import harness.run"),
    "a module without a layer": ("layers", "harness/brand_new.py", ""),
    "the judge looks for implementations": ("judge", "harness/judge.py", "import harness.discovery"),
    "the core imports a framework": ("frameworks", "harness/grades.py", "import torch"),
    "the core imports one lazily": ("frameworks", "harness/run.py", "def f():\n    import scipy.special"),
    "an implementation imports the core": ("implementations", "implementations/__init__.py", "import harness.losses"),
    "a report judges": ("reports", "reports/__init__.py", "import harness.reference"),
    "the core names an implementation": ("discovered", "harness/reference.py", "import implementations.numpy_naive"),
    "a benchmark names one": ("discovered", "benchmarks/losses.py", "import implementations.numpy_naive"),
    "the core makes a page": ("pages", "harness/run.py", "import reports"),
}


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    for name in (*PACKAGES, "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "data"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def lint(folder: Path, contract: str) -> tuple[int, str]:
    code = "import sys; from importlinter.cli import lint_imports_command as command; sys.exit(command())"
    options = ["--no-cache", "--contract", contract]
    environment = {**os.environ, "COLUMNS": "200"}
    command = [sys.executable, "-c", code, *options]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", VIOLATIONS)
def test_import_contracts_fail_when_violated(name: str, copy: Path) -> None:
    contract, path, code = VIOLATIONS[name]
    file = copy / path
    before = file.read_text() if file.exists() else None
    file.write_text((before or "") + f"\n{code}\n")
    try:
        status, said = lint(copy, contract)
    finally:
        file.unlink() if before is None else file.write_text(before)
    assert status == 1, said
    assert "0 kept, 1 broken" in said


def test_import_contracts_hold(copy: Path) -> None:
    for contract in sorted({entry[0] for entry in VIOLATIONS.values()}):
        status, said = lint(copy, contract)
        assert status == 0, said
        assert "1 kept, 0 broken" in said


# ------------------------------------------------------------------------------------------------------------- commands


MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE)


def without_make() -> dict[str, str]:
    """The environment as it is where no make runs: a make that is started by another one says and does more."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}


def test_make_alone_lists_every_target() -> None:
    done = subprocess.run(["make"], cwd=ROOT, env=without_make(), capture_output=True, text=True, check=True)
    listed = [line.split()[0] for line in done.stdout.splitlines()[1:]]
    assert listed == TARGETS
    assert {"report", "test", "test-long", "check", "bench", "clean"} <= set(TARGETS)


def test_every_target_is_documented_and_phony() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    assert set(phony.group(1).split()) == set(TARGETS)
    assert [target for target in TARGETS if target != "help" and f"make {target}" not in guide] == []


STUB = """#!/bin/sh
echo "$*" >> calls
case "$1" in
    accuracy) [ {accuracy} -le 1 ] && echo '{{}}' > run.json; exit {accuracy} ;;
    report) [ {report} -eq 0 ] && echo page > report.html; exit {report} ;;
esac
"""


@pytest.mark.parametrize(
    ("accuracy", "report", "fails", "page"),
    [
        pytest.param(0, 0, False, True, id="all as claimed"),
        pytest.param(1, 0, True, True, id="a claim is missed: the page is written all the same"),
        pytest.param(2, 0, True, False, id="bad usage: no page of an old run"),
        pytest.param(130, 0, True, False, id="interrupted"),
        pytest.param(0, 3, True, False, id="the page cannot be made"),
    ],
)
def test_make_report(accuracy: int, report: int, fails: bool, page: bool, tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    stub = tmp_path / "env" / "bin" / "xent"
    stub.parent.mkdir(parents=True)
    stub.write_text(STUB.format(accuracy=accuracy, report=report))
    stub.chmod(0o755)
    (tmp_path / "run.json").write_text("an old run")
    command = ["make", "report", "VENV=env", "PYTHON=true", "ARGS=--quick"]
    done = subprocess.run(command, cwd=tmp_path, env=without_make(), capture_output=True, text=True, check=False)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert (done.returncode != 0) == fails, done.stderr
    assert (tmp_path / "report.html").exists() == page
    assert calls[0] == "accuracy --speed --json run.json --quick"
    assert calls[1:] == ([] if accuracy > 1 else ["report run.json -o report.html"])
    assert (tmp_path / "run.json").exists() == (accuracy <= 1)
    assert ("misses what it claims" in done.stderr) == (accuracy == 1)


def test_ci_runs_the_commands_of_the_makefile() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "set -euo pipefail" in script
    assert re.findall(r"\bmake ([a-z-]+)$", script, re.MULTILINE) == ["environment", "check", "test"]
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)


# ---------------------------------------------------------------------------------------------------------------- files


def test_changelog_has_an_unreleased_section_with_something_in_it() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    section = re.search(r"^## Unreleased$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    assert re.search(r"^- \S", section.group(1), re.MULTILINE)


# A folder of somebody's machine, and the hosts that serve packages.
MACHINE_PATH = re.compile(r"(?<![\w./}:~$-])/(?:home|opt|root|tmp|Users|work)/\w")
REGISTRY = re.compile(
    r"\b(?:[\w-]+\.)?(?:pypi\.org|pythonhosted\.org|npmjs\.(?:org|com)|download\.pytorch\.org|conda\.io)"
)


def test_no_machine_path_and_no_registry_in_any_file() -> None:
    found = []
    for path in tracked():
        for number, line in enumerate(path.read_bytes().decode(errors="ignore").splitlines(), 1):
            if path.suffix not in {".safetensors", ".png"} and (MACHINE_PATH.search(line) or REGISTRY.search(line)):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("cd " + "/ho" + "me/me/project", MACHINE_PATH),
        ("'" + "/wo" + "rk/main'", MACHINE_PATH),
        ("https://py" + "pi.org/simple", REGISTRY),
        ("download.py" + "torch.org/whl/cpu", REGISTRY),
    ],
)
def test_such_paths_and_hosts_are_seen(text: str, pattern: re.Pattern[str]) -> None:
    assert pattern.search(text)
