"""Paths beside the usual one, and each check on its own: what only one of them sees, it sees without the others."""

from __future__ import annotations

import gc
import importlib.util
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from harness.vetting.local import LocalSession
from harness.vetting.plain import _plain_environment, _read
from harness.vetting.settings import Options
from harness.vetting.source import read_source
from harness.vetting.state import changed, snapshot
from harness.vetting.verdict import Verdict
from harness.vetting.vet import Listener, Vetting, vet
from tests.candidates import HERE, Candidate, read_file

FILES = [HERE / "wrong" / f"{name}.py" for name in ("torch_paths", "jax_paths", "numpy_paths", "torch_branches")]
SLOW = ("smoothed_", "index_zero_", "ignored_counted_", "denominator_", "smooths_the_first_")
"""Of those that claim many options every set is asked before what is wrong shows: the long tests have them."""
APART = ("process_state", "outside_the_harness")
"""Checks that take a process apart: what their candidates do must not be done to this one."""
WRONG = [
    c
    for path in FILES
    for c in read_file(path, wrong=True)
    if c.check not in APART and c.options.get("quick", 1) and not c.name.startswith(SLOW)
]


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _here(candidate: Candidate, **options: Any) -> Verdict:
    """What vetting a candidate in this process comes to."""
    module = _module(candidate.path)
    source = replace(read_source(f"{candidate.path}:{candidate.name}", None), importable=False)
    given: dict[str, Any] = {"dtypes": ("float32",), "quick": True, "seed": 11, "shrink": False, **options}
    gradient = candidate.options.get("gradient")
    slope = getattr(module, gradient) if gradient else None
    session = LocalSession(source, getattr(module, candidate.name), gradient=slope)
    return Vetting(source, Options(gradient=gradient, **given), Listener(), session=session).run()


@pytest.mark.parametrize("candidate", WRONG, ids=lambda c: c.label)
def test_its_check_alone_catches_it(candidate: Candidate) -> None:
    found = _here(candidate, checks=(candidate.check,))
    assert {check.name for check in found.failed} == {candidate.check}, found.message


def test_the_code_of_a_witness_calls_as_the_probe_did() -> None:
    """Without a gradient, and with gradients switched off: the line that differs is there."""
    codes = {}
    for candidate in WRONG:
        if candidate.check == "without_gradient" and candidate.framework == "torch":
            (result, *_) = _here(candidate, checks=("without_gradient",)).failed
            assert result.witness is not None
            codes[candidate.name] = result.witness["code"]
    assert "with torch.no_grad():" in codes["evaluates_by_another_formula"]
    assert "z = logits.detach()\n" in codes["right_only_where_a_gradient_is_required"]


REPLAYS = {
    "numpy": """
import numpy as np
seen = {}

def f(z, y):
    if z.shape not in seen:
        m = z.max(axis=1)
        seen[z.shape] = np.log(np.exp(z - m[:, None]).sum(axis=1)) + (m - z[np.arange(len(z)), y])
    return seen[z.shape]
""",
    "torch": """
import torch
seen = {}

def f(z, y):
    key = z.data_ptr(), z.shape
    loss = torch.logsumexp(z, 1) - z.gather(1, y[:, None])[:, 0]
    return loss * 0 + seen.setdefault(key, loss.detach())
""",
}


def test_the_code_of_a_late_answer_makes_as_many_calls_as_show_it(tmp_path: Path) -> None:
    (tmp_path / "candidate.py").write_text(
        "import numpy as np\ncalls = 0\n\n"
        "def f(z, y):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    m = z.max(axis=1)\n"
        "    loss = np.log(np.exp(z - m[:, None]).sum(axis=1)) + (m - z[np.arange(len(z)), y])\n"
        "    return loss + 1 if calls > 45 else loss\n"
    )
    options = Options(dtypes=("float32",), quick=True, seed=4, checks=("late_calls",))
    (result, *_) = vet(f"{tmp_path / 'candidate.py'}:f", options).failed
    assert result.name == "late_calls"
    assert result.witness is not None
    code = result.witness["code"]
    assert "] * 46\n" in code
    assert code.count("array([[") == 1
    assert np.shape(result.witness["logits"]) == (1, 9)
    (tmp_path / "paste.py").write_text(code)
    run = subprocess.run([sys.executable, "paste.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    *before, last = [float(line.strip("[]")) for line in run.stdout.splitlines()]
    assert (len(before), len(set(before))) == (45, 1)
    assert last == pytest.approx(before[0] + 1, rel=1e-5)


@pytest.mark.parametrize("framework", REPLAYS)
def test_the_code_of_a_replay_makes_the_calls_that_show_it(framework: str, tmp_path: Path) -> None:
    (tmp_path / "candidate.py").write_text(REPLAYS[framework])
    options = Options(dtypes=("float32",), quick=True, seed=4, checks=("no_replay",))
    (result, *_) = vet(f"{tmp_path / 'candidate.py'}:f", options).failed
    assert result.name == "no_replay"
    assert result.witness is not None
    code, row = result.witness["code"], result.witness["row"]
    assert code.count("array([[" if framework == "numpy" else "tensor([[") == 2  # two calls are enough
    assert np.shape(result.witness["logits"])[0] > row
    (tmp_path / "paste.py").write_text("import numpy as np\nnp.set_printoptions(precision=9)\n" + code)
    run = subprocess.run([sys.executable, "paste.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    last = re.findall(r"\[([^][]*)\]", run.stdout.partition("grad_fn")[0] if framework == "torch" else run.stdout)
    losses = [[float(x) for x in numbers.replace(",", " ").split()] for numbers in last]
    if framework == "numpy":
        assert losses[0] == losses[1]  # the replay
        assert losses[1][row] == pytest.approx(float.fromhex(result.witness["got"]), rel=1e-6)
    else:
        assert len(losses[0]) == np.shape(result.witness["logits"])[0]
    assert "# the last call, row" in code


def test_the_code_of_weights_changed_in_place_shows_it(tmp_path: Path) -> None:
    found = vet(
        f"{HERE / 'wrong' / 'torch_branches.py'}:weight_kept_by_identity",
        Options(dtypes=("float32",), quick=True, seed=4, checks=("no_replay",)),
    )
    (result, *_) = found.failed
    assert result.witness is not None
    code = result.witness["code"].replace("'torch_branches.py'", repr(str(HERE / "wrong" / "torch_branches.py")))
    (tmp_path / "paste.py").write_text("import torch\ntorch.set_printoptions(precision=9)\n" + code)
    run = subprocess.run([sys.executable, "paste.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    losses = re.findall(r"tensor\(\[([^][]*)\][^[]*grad_fn", run.stdout)
    row, got = result.witness["row"], float.fromhex(result.witness["got"])
    assert len(losses) == code.count("'weight':") >= 2
    assert float(losses[-1].split(",")[row]) == pytest.approx(got, rel=1e-6)
    assert got != pytest.approx(float.fromhex(result.witness["want"]), rel=1e-3)


# ------------------------------------------------------------------------------------------------------- in a process


@pytest.fixture
def numpy_candidate(tmp_path: Path) -> Callable[[str], str]:
    def write(body: str) -> str:
        head = "import os, sys, threading\nimport numpy as np\nkept = []\n\ndef f(z, y):\n"
        tail = (
            "    m = z.max(axis=1)\n"
            "    return np.log(np.exp(z - m[:, None]).sum(axis=1)) + (m - z[np.arange(len(z)), y])\n"
        )
        path = tmp_path / "candidate.py"
        path.write_text(head + f"    {body}\n" + tail)
        return f"{path}:f"

    return write


STATE = {
    "kept.append(os.open(os.devnull, os.O_RDONLY))": "each call leaves files open: 5 more in 5 calls",
    "threading.Thread(target=threading.Event().wait, daemon=True).start()": "each call leaves threads open",
    "os.environ['OMP_NUM_THREADS'] = '7'": "changed the environment variables of the process",
    "": None,
}


@pytest.mark.parametrize("body", STATE)
def test_what_a_call_leaves_behind(body: str, numpy_candidate: Callable[[str], str]) -> None:
    options = Options(dtypes=("float32",), quick=True, seed=2, checks=("process_state",), shrink=False)
    found = vet(numpy_candidate(body or "pass"), options)
    said = STATE[body]
    assert (found.verdict == "rejected") == bool(said), found.message
    assert (said or "1 checks passed") in found.message or said is None


OUTSIDE = {
    "if z.shape[1] > 100 and 'harness' not in sys.modules: z = z * 2": "another loss than the harness does",
    "if not any(name.startswith('XENT_') for name in os.environ): z = z * 2": "another loss than the harness does",
    "kept.append(0)\n    if len(kept) > 4 and 'harness' not in sys.modules: z = z * 2": "call 5)",
    "if 'harness' not in sys.modules: raise KeyError('gone')": "a plain script that calls it fails: KeyError: 'gone'",
}


@pytest.mark.parametrize("body", OUTSIDE)
def test_a_plain_script_calls_more_than_once(
    body: str, numpy_candidate: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XENT_CACHE", str(tmp_path / "somewhere"))
    options = Options(dtypes=("float32",), quick=True, seed=2, checks=("outside_the_harness",), shrink=False)
    found = vet(numpy_candidate(body), options)
    assert [check.name for check in found.failed] == ["outside_the_harness"]
    assert OUTSIDE[body] in found.message


def test_a_plain_script_differentiates() -> None:
    name = "gradient_right_only_when_watched"
    options = Options(dtypes=("float32",), quick=True, seed=2, checks=("outside_the_harness",), shrink=False)
    found = vet(f"{FILES[0]}:{name}", options)
    assert "gets another gradient than the harness does (8 × 9, call 1)" in found.message


def test_a_plain_script_s_environment_tells_nothing_of_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XENT_CACHE", "somewhere")
    monkeypatch.setenv("MY_XENT_CACHE", "kept")
    environment = _plain_environment()
    assert "MY_XENT_CACHE" in environment
    assert not [name for name in environment if name.startswith(("XENT_", "PYTEST_", "COV_"))]


def test_results_of_a_plain_script_are_taken_at_no_word(tmp_path: Path) -> None:
    path = tmp_path / "results.npz"
    assert _read(path) == {}
    np.savez(path, loss0=np.arange(3.0))
    np.testing.assert_array_equal(_read(path)["loss0"], [0.0, 1.0, 2.0])
    np.savez(path, loss0=np.array([object()], dtype=object), allow_pickle=True)
    assert _read(path) == {}
    np.savez_compressed(path, loss0=np.zeros(1 << 20))
    with zipfile.ZipFile(path) as archive:
        assert archive.infolist()[0].compress_size < 1 << 16  # small as it lies there
    assert _read(path) == {}
    path.write_bytes(b"PK\x03\x04 and no more")
    assert _read(path) == {}


# --------------------------------------------------------------------------------------------------------------- state


@pytest.fixture
def restored() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    yield
    gc.enable()
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.usefixtures("restored")
def test_more_of_the_process_is_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = snapshot()
    monkeypatch.setenv("A_NEW_ONE", "1")  # as whatever is imported late sets
    assert changed(before, snapshot()) == []
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert changed(before, snapshot()) == ["environment variables"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    gc.disable()
    assert changed(before, snapshot()) == ["garbage collector"]
    gc.enable()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert changed(before, snapshot()) == ["signal handlers"]
    signal.signal(signal.SIGTERM, before and signal.SIG_DFL)
    monkeypatch.setattr("math.exp", lambda x: 0.0)
    assert "patched functions" in changed(before, snapshot())


CALLED_BACK = """
import os, threading
import jax, numpy as np

def in_another_thread():
    assert jax.numpy.asarray(np.ones(1)).dtype == np.float64
    seen.append(1)

seen = []

def f(z, y):
    assert int(os.environ["PJRT_NPROC"]) >= 2
    thread = threading.Thread(target=in_another_thread)
    thread.start()
    thread.join()
    assert seen
    return jax.nn.logsumexp(z, axis=1) - jax.numpy.take_along_axis(z, y[:, None], 1)[:, 0]
"""


def test_callbacks_of_jax_find_what_they_need(tmp_path: Path) -> None:
    """A thread to wait for, without which one that reads its array can hang, and 64-bit types in that thread too."""
    (tmp_path / "candidate.py").write_text(CALLED_BACK)
    options = Options(dtypes=("float64",), quick=True, seed=4, checks=("output_form", "outside_the_harness"))
    found = vet(f"{tmp_path / 'candidate.py'}:f", options)
    assert (found.verdict, {c.name: c.outcome for c in found.checks}["outside_the_harness"]) == ("accepted", "passed")


def test_a_session_in_this_process_leaves_jax_with_as_many_bits() -> None:
    source = read_source(f"{HERE / 'right' / 'jax_losses.py'}:jitted")
    config = pytest.importorskip("jax").config
    for wide in (False, True):
        config.update("jax_enable_x64", wide)
        try:
            with LocalSession(source, lambda z, y: z) as session:
                session.open()
                assert config.jax_enable_x64
            assert config.jax_enable_x64 is wide
        finally:
            config.update("jax_enable_x64", False)
