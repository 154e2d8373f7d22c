"""Discovery: everything that exists is listed, what cannot run says why, and one broken module hides no other."""

from __future__ import annotations

import importlib.util
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import discovery
from harness.discovery import DiscoveryError, Found, discover
from harness.grades import Grade
from harness.scan import Declared, locate, requirements, scan
from harness.worker import Workers

GOOD = """
from harness.declaration import implementation

@implementation(framework="numpy", loss="cross_entropy", grade="absolute")
def {name}(logits, target, *, weight=None):
    '''Summary of {name}.'''
    return logits[:, 0]
"""
TORCH = """
import torch
from harness.declaration import implementation

@implementation(framework="torch", loss="cross_entropy", grade="absolute")
def {name}(logits, target):
    return torch.nn.functional.cross_entropy(logits, target)
"""

Write = Callable[..., None]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Name of an empty package that workers can import, too."""
    monkeypatch.syspath_prepend(tmp_path)
    name = re.sub(r"\W", "_", f"made_for_{request.node.name}")
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise AssertionError('the parent imported me')\n")
    return name


@pytest.fixture
def write(tmp_path: Path, package: str) -> Write:
    def write(**modules: str) -> None:
        for name, text in modules.items():
            (tmp_path / package / f"{name}.py").write_text(textwrap.dedent(text))
        if "__init__" not in modules:
            (tmp_path / package / "__init__.py").write_text("")

    return write


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have torch reported as not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest))


def by_name(found: list[Found]) -> dict[str, Found]:
    assert [entry.name for entry in found] == sorted(entry.name for entry in found)
    return {entry.name: entry for entry in found}


def test_implementations_are_found_with_their_declarations(package: str, write: Write) -> None:
    write(b=GOOD.format(name="second"), a=GOOD.format(name="zeroth"), _private=GOOD.format(name="hidden"))
    found = discover(package=package)
    assert [entry.name for entry in found] == ["second", "zeroth"]
    second = found[0]
    assert (second.framework, second.loss, second.module) == ("numpy", "cross_entropy", f"{package}.b")
    assert second.available
    assert second.reason == ""
    assert second.declaration is not None
    assert second.declaration.options == ("weight",)
    assert second.declaration.grades == {"float64": Grade.ABSOLUTE, "float32": Grade.ABSOLUTE}
    assert second.declaration.summary == "Summary of second."


def test_a_module_may_serve_two_frameworks(package: str, write: Write) -> None:
    write(both=TORCH.format(name="in_torch") + GOOD.format(name="in_numpy"))
    found = by_name(discover(package=package))
    assert {name: entry.framework for name, entry in found.items()} == {"in_torch": "torch", "in_numpy": "numpy"}
    assert all(entry.available and entry.declaration for entry in found.values())


def test_nothing_is_imported_in_the_parent(package: str, write: Write) -> None:
    write(a=TORCH.format(name="in_torch"))
    before = set(sys.modules)
    assert discover(package=package)[0].available
    assert not [name for name in set(sys.modules) - before if name.startswith((package, "torch"))]


def test_a_missing_framework_leaves_its_implementations_listed(
    package: str, write: Write, no_torch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(a=TORCH.format(name="in_torch"), b=GOOD.format(name="in_numpy"))
    started = []
    real = Workers.__getitem__
    monkeypatch.setattr(Workers, "__getitem__", lambda self, name: (started.append(name), real(self, name))[1])
    found = by_name(discover(package=package))
    assert found["in_torch"] == Found(
        "in_torch", "torch", "cross_entropy", f"{package}.a", None, "torch is not installed: pip install torch"
    )
    assert found["in_numpy"].available
    assert started == ["numpy"]


BROKEN = {
    "syntax": ("def f(:\n", "", "SyntaxError: "),
    "no_python": ("\0", "", "SyntaxError: "),
    "raises": (GOOD + "raise OSError('no such device')", "broken", "OSError: no such device"),
    "exits": (GOOD + "import os; os._exit(4)", "broken", "importing it: exited with status 4"),
    "bad_claim": (GOOD.replace("absolute", "perfect"), "broken", "ValueError: 'perfect' is not a valid Grade"),
    "conditional": (
        "from harness.declaration import implementation\n"
        "if False:\n    @implementation(framework='numpy', loss='l', grade='absolute')\n    def broken(x, t): ...\n",
        "broken",
        "its source declares it, but importing it does not",
    ),
    "no_bridge": (
        GOOD.replace('framework="numpy"', 'framework="abacus"'),
        "broken",
        "there is no bridge for framework 'abacus': choose from ",
    ),
    "computed": (
        GOOD.replace('framework="numpy"', 'framework="num" + str("py")'),
        "broken",
        "its framework cannot be read from the source",
    ),
    "requires": (
        GOOD.replace("grade=", "requires={{'no_such_thing.deep': 'no-such-thing>=2'}}, grade="),
        "broken",
        "no_such_thing.deep is not installed: pip install 'no-such-thing>=2'",
    ),
}


@pytest.mark.parametrize(("text", "name", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_module_says_why_and_hides_no_other(
    package: str, write: Write, text: str, name: str, reason: str
) -> None:
    write(a_broken=text.format(name="broken") if name else text, sound=GOOD.format(name="sound"))
    found = by_name(discover(package=package))
    name = name or f"{package}.a_broken"
    assert set(found) == {name, "sound"}
    assert found[name].reason.startswith(reason)
    assert found[name].declaration is None
    assert not found[name].available
    assert found["sound"].available


def test_a_name_taken_twice_is_refused_with_both_places(package: str, write: Write) -> None:
    write(one=GOOD.format(name="same"), two=GOOD.format(name="same"))
    with pytest.raises(DiscoveryError) as caught:
        discover(package=package)
    text = f"two implementations are called 'same', in {package}.one and {package}.two: rename one"
    assert str(caught.value) == text
    write(one=GOOD.format(name="same") * 2, two="")
    with pytest.raises(DiscoveryError, match=rf"both in {package}\.one: rename one"):
        discover(package=package)


def test_only_what_is_asked_for(package: str, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write(a=GOOD.format(name="numpy_a"), b=GOOD.format(name="numpy_b"), c=TORCH.format(name="torch_c"), d="x = (")
    started = []
    real = Workers.__getitem__
    monkeypatch.setattr(Workers, "__getitem__", lambda self, name: (started.append(name), real(self, name))[1])
    with Workers() as workers:
        for names, want in [(["numpy_b"], ["numpy_b"]), (["numpy_*", "numpy_a"], ["numpy_a", "numpy_b"]), ([], [])]:
            assert [entry.name for entry in discover(names, package=package, workers=workers)] == want
    assert set(started) == {"numpy"}
    suggestion = r"'numpy_z': did you mean numpy_[ab] or numpy_[ab]\?; not readable: .*\.d \(SyntaxError"
    with pytest.raises(DiscoveryError, match=suggestion):
        discover(["numpy_a", "numpy_z"], package=package)
    with pytest.raises(DiscoveryError, match=r"'jax_\*': `xent list` shows those there are"):
        discover(["jax_*"], package=package)


def test_the_caller_s_workers_can_call_what_was_found(package: str, write: Write) -> None:
    import numpy as np

    from harness.batch import Batch

    write(a=GOOD.format(name="numpy_a"))
    with Workers() as workers:
        (found,) = discover(package=package, workers=workers)
        logits = np.arange(4.0).reshape(2, 2)
        output = workers[found.framework].call(found.name, Batch(found.loss, logits, np.zeros(2, "i8"), np.ones(2)))
        assert output.loss is not None
        assert output.loss.tolist() == [0.0, 2.0]


def test_installed_packages_add_theirs_by_entry_point(
    tmp_path: Path, package: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(a=GOOD.format(name="built_in"))
    (tmp_path / "their_package").mkdir()
    (tmp_path / "their_package" / "__init__.py").write_text("raise AssertionError('imported to be found')")
    (tmp_path / "theirs.py").write_text(GOOD.format(name="theirs"))
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[cross_entropy_harness.implementations]\n"
        f"theirs = theirs\nabsent = their_package.absent\nbuiltin = {package}.a\n"
    )
    found = by_name(discover(package=package))
    assert set(found) == {"built_in", "theirs", "their_package.absent"}
    assert found["theirs"].available
    assert found["theirs"].module == "theirs"
    assert found["their_package.absent"].reason == "ModuleNotFoundError: No module named 'their_package.absent'"


def test_no_package_no_implementations() -> None:
    assert discover(package="no_such_package_anywhere") == []


def test_the_built_in_ones_are_all_there_and_available() -> None:
    folder = Path(discovery.__file__).parents[1] / "implementations"
    entries = [entry for path in folder.glob("[!_]*.py") for entry in scan(path)]
    names = [entry.name for entry in entries]
    found = by_name(discover())
    assert set(names) <= set(found)
    # Few have Keras, MLX and others' kernels; what is said of them where they are missing is tested in
    # test_optional_frameworks and test_kernels_of_others.
    kernels = {"cut_cross_entropy", "fla", "flash_attn", "liger_kernel"}
    others = {entry.name for entry in entries if kernels & set(entry.requires)}
    few = {name for name in names if found[name].framework in ("tensorflow", "mlx") or name in others}
    here = [name for name in names if name not in few or found[name].available]
    assert {name: found[name].reason for name in here} == dict.fromkeys(here, "")
    for name in here:
        declaration = found[name].declaration
        assert declaration is not None
        assert (declaration.name, declaration.framework, declaration.loss) == (
            name,
            found[name].framework,
            found[name].loss,
        )


SOURCE = """
import harness.declaration
import harness.declaration as d
from harness.declaration import implementation
from harness.declaration import implementation as declare
from elsewhere import implementation as other

FRAMEWORK = "torch"
NEEDS: dict[str, str] = {"flash_attn.ops": "flash-attn>=2"}

@implementation(framework="numpy", loss="cross_entropy", grade="absolute")
def plain(x, t): ...

@something
@declare(loss="cross_entropy", framework=FRAMEWORK, requires=NEEDS, grade={"float32": "storage"})
@something.else_(3)
def aliased(x, t):
    @implementation(framework="numpy", loss="inner", grade="absolute")
    def nested(x, t): ...

@d.implementation(framework="jax", loss="l", grade="absolute")
def attribute(x, t): ...

@other(framework="numpy", loss="l")
def not_ours(x, t): ...

@implementation
def bare(x, t): ...

try:
    import torch
except ImportError:
    pass
else:
    with torch.no_grad():
        @implementation(framework="torch", loss="l", grade="absolute")
        def conditional(x, t): ...

class Holder:
    @implementation(framework="numpy", loss="l", grade="absolute")
    def method(self, x, t): ...

@implementation(framework=compute(), loss=("l" "l"), requires=compute())
def computed(x, t): ...
"""


def test_scan_reads_what_the_source_says(tmp_path: Path) -> None:
    path = tmp_path / "source.py"
    path.write_text(SOURCE)
    assert scan(path) == [
        Declared("plain", "numpy", "cross_entropy"),
        Declared("aliased", "torch", "cross_entropy", {"flash_attn.ops": "flash-attn>=2"}),
        Declared("attribute", "jax", "l"),
        Declared("conditional", "torch", "l"),
        Declared("computed", "", "ll"),
    ]
    assert requirements(f"file:{path}") == {"flash_attn": "flash-attn>=2"}
    assert requirements(f"file:{tmp_path / 'absent.py'}") == {}
    assert requirements("module:no_such_module") == {}


def test_a_source_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "latin.py"
    path.write_bytes(b"# -*- coding: latin-1 -*-\n# \xe9\n" + GOOD.format(name="fine").encode())
    assert [entry.name for entry in scan(path)] == ["fine"]


def test_locate_imports_no_parent(package: str, tmp_path: Path) -> None:
    (tmp_path / package / "inner").mkdir()
    (tmp_path / package / "inner" / "leaf.py").write_text("")
    spec = locate(f"{package}.inner.leaf")
    assert spec is not None
    assert spec.origin == str(tmp_path / package / "inner" / "leaf.py")
    assert locate(f"{package}.inner.leaf.further") is None
    assert locate(f"{package}.absent") is None
    assert locate("no_such_package_anywhere.module") is None
    assert package not in sys.modules
