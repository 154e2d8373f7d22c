"""The docs check: each fault that it looks for is seen, and what is right is left alone."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from tools import check_docs

GOOD = '''
"""A module."""
__all__ = ["Value", "double"]

class Value:
    """A value."""

    def half(self) -> float:
        """Half of it."""
        return 0.5

    def _hidden(self) -> None: ...

def double(x: float) -> float:
    """Twice x.

    Parameters
    ----------
    x : float
        In nats.
    """
    return 2 * x

def not_listed() -> None: ...
'''


@pytest.fixture
def module(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    name = f"documented_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(GOOD.replace(*getattr(request, "param", ("", ""))))
    monkeypatch.syspath_prepend(tmp_path)
    found = __import__(name)
    monkeypatch.setitem(sys.modules, name, found)
    return found


def codes(module: ModuleType) -> list[str]:
    faults = [fault for name in check_docs.public_names(module) for fault in check_docs.docstring_faults(name)]
    return [fault.split(": ")[2].split()[0] for fault in faults]


def test_public_names_are_the_listed_ones_and_their_public_members(module: ModuleType) -> None:
    names = [name.partition(".")[2] for name in check_docs.public_names(module)]
    assert names == ["Value", "Value.half", "double"]
    assert codes(module) == []


@pytest.mark.parametrize(
    ("module", "code"),
    [
        (('"""Half of it."""', ""), "GL08"),
        (("x : float", "y : float"), "PR02"),
        (("x : float", "x: float"), "PR10"),
        (("        In nats.\n", ""), "PR07"),
        (("Parameters\n    ----------", "Arguments\n    ---------"), "GL06"),
    ],
    indirect=["module"],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_faulty_docstring_is_seen(module: ModuleType, code: str) -> None:
    assert code in codes(module)


def test_dataclasses_are_understood() -> None:
    assert check_docs.docstring_faults("harness.formats.Format") == []


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("[a](other.md)", []),
        ("[a](other.md#a-heading-its-own)", []),
        ("[a](#here) [b](https://example.org/x) [c](mailto:a@example.org)", []),
        ("![picture](picture.png 'a title')", []),
        ("`[a](gone.md)` and\n```\n[b](gone.md)\n```\n", []),
        ("[a](gone.md)", ["page.md: gone.md: no such file in the repository"]),
        ("![a](gone.png)", ["page.md: gone.png: no such file in the repository"]),
        ("[a][1]\n\n[1]: gone.md\n", ["page.md: gone.md: no such file in the repository"]),
        ("[a](../outside.md)", ["page.md: ../outside.md: no such file in the repository"]),
        ("[a](other.md#nowhere)", ["page.md: other.md#nowhere: no such heading"]),
        ("[a](#nowhere)", ["page.md: #nowhere: no such heading"]),
    ],
)
def test_links(text: str, faults: list[str], tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside.md").touch()
    (root / "picture.png").touch()
    (root / "other.md").write_text("# Other\n\n## A heading, its own\n")
    page = root / "page.md"
    page.write_text(f"# Here\n\n{text}\n")
    assert check_docs.link_faults(page, root) == faults
