"""``xent vet``: exit codes and lines, what is shown as it happens, what is written, and that Ctrl-C leaves nothing."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from harness import cli
from harness.cli import vet as command
from harness.cli.progress import _Lines
from harness.grades import Grade
from harness.vetting import vet as vet_module
from harness.vetting.settings import Options
from harness.vetting.vet import Vetting

CODE = """
import numpy as np

def right(z, y):
    m = z.max(axis=1)
    return np.log(np.exp(z - m[:, None]).sum(axis=1)) + (m - z[np.arange(len(z)), y])

def naive(z, y):
    return np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), y]

def hangs(z, y):
    import time
    time.sleep(600)

def double_only(z, y):
    if z.dtype != np.float64:
        raise TypeError("float64 only, please")
    return right(z, y)

def rude(z, y):
    raise ValueError("\\x1b]0;owned\\x07 [red]markup[/red]")
"""


class Done(NamedTuple):
    status: int
    out: str
    err: str


Xent = Callable[..., Done]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "loss.py").write_text(CODE)
    (tmp_path / "both.py").write_text("import torch, jax\ndef f(z, y): ...\n")
    (tmp_path / "broken.py").write_text("def f(z, y)\n")
    (tmp_path / "of_jax.py").write_text("import jax\ndef f(z, y): ...\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def xent(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Xent]:
    """Runs ``xent vet`` in this process."""

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["xent", "vet", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return Done(int(ended.value.code or 0), out, err)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def only(monkeypatch: pytest.MonkeyPatch, *checks: str) -> None:
    """Let a vetting make these checks only, so that it takes a second."""
    init = Vetting.__post_init__

    def fewer(self: Vetting) -> None:
        self.options = Options(**{**vars(self.options), "checks": checks})
        init(self)

    monkeypatch.setattr(Vetting, "__post_init__", fewer)


# ---------------------------------------------------------------------------------------------------------- exit codes


def test_accepted(xent: Xent, folder: Path) -> None:
    options = ("--quick", "--dtype", "float32", "--seed", "11", "--json", "v.json")
    done = xent("loss.py:right", *options)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("vetting loss.py:right as numpy cross_entropy of indices, seed 11\n")
    assert "ACCEPTED loss.py:right: " in done.out
    assert "  float32   absolute\n" in done.out
    assert "failed" not in done.out
    assert "label_out_of_range (float32): label -1 of 9 classes gives" in done.out
    assert "upstream_gradient (float32): the candidate has no gradient" in done.out
    data = json.loads((folder / "v.json").read_text())
    assert {
        k: data[k] for k in ("schema", "candidate", "framework", "loss", "target", "seed", "verdict", "grades")
    } == {
        "schema": 1,
        "candidate": "loss.py:right",
        "framework": "numpy",
        "loss": "cross_entropy",
        "target": "indices",
        "seed": 11,
        "verdict": "accepted",
        "grades": {"float32": "absolute"},
    }
    assert all({"check", "detail"} <= set(entry) for entry in data["deviations"])
    assert all(set(entry) == {"name", "dtype", "outcome", "detail", "witness"} for entry in data["checks"])
    outcomes = {entry["name"]: entry["outcome"] for entry in data["checks"]}
    assert {outcomes["accuracy"], outcomes["sizes"], outcomes["process_state"]} == {"passed"}
    assert outcomes["upstream_gradient"] == outcomes["gradient_accuracy"] == "skipped"
    assert all(entry["witness"] is None for entry in data["checks"])


def test_rejected_with_a_witness_that_reproduces_it(xent: Xent, folder: Path) -> None:
    done = xent("loss.py:naive", "--quick", "--dtype", "float32", "--json", "v.json")
    assert done.status == 1
    reason = re.match(r"xent vet: rejected: (\w+ in float32: loss, .*)\n\Z", done.err)
    assert reason
    assert done.out.index(f"failed: {reason[1]}") < done.out.index(f"REJECTED loss.py:naive: {reason[1]}")
    assert "failed: nonfinite in float32: loss, " in done.out
    assert done.out.count("failed: nonfinite") == 1
    data = json.loads((folder / "v.json").read_text())
    assert data["verdict"] == "rejected"
    (failed,) = [entry for entry in data["checks"] if entry["name"] == "nonfinite"]
    assert failed["outcome"] == "failed"
    witness = failed["witness"]
    assert {"logits", "target", "options", "upstream", "dtype", "got", "want", "code"} <= set(witness)
    assert witness["got"] == "inf"
    assert len(witness["logits"]) == 1
    assert all(text.startswith(("0x", "-0x")) for text in (*witness["logits"][0], witness["want"]))
    shown = next(e["witness"]["code"] for e in data["checks"] if e["witness"] and reason[1].startswith(f"{e['name']} "))
    assert shown in done.out
    (folder / "again.py").write_text(witness["code"])
    again = subprocess.run([sys.executable, "again.py"], capture_output=True, text=True, check=True)
    assert again.stdout == "[inf]\n"


CANNOT = {
    ("none.py:f",): "xent vet: cannot read none.py: No such file or directory",
    (".:f",): "xent vet: . is a folder: name the Python file in it",
    ("loss.py",): "xent vet: 'loss.py' is not PATH.py:NAME, such as my_kernel.py:my_loss",
    ("loss.py:wrong",): "xent vet: loss.py: has no wrong; it has double_only, hangs, naive, np, right, rude",
    ("loss.py:np",): "xent vet: loss.py: np is a module, not a function or nn.Module class",
    ("broken.py:f",): "xent vet: broken.py, line 1: not valid Python: expected ':'",
    ("both.py:f",): "xent vet: both.py imports both torch and jax: say which with --framework",
    ("loss.py:right", "--framework", "mxnet"): "xent vet: unknown framework 'mxnet': choose from numpy, torch, jax",
    ("loss.py:right", "--loss", "hinge"): "xent vet: unknown loss 'hinge': choose from cross_entropy, binary_",
    ("loss.py:right", "--target", "labels"): "xent vet: --target: 'labels' is none of indices, probabilities",
    (
        "loss.py:right",
        "--dtype",
        "float8",
    ): "xent vet: --dtype: 'float8' is none of float64, float32, bfloat16, float16",
    ("loss.py:right", "--device", "tpu"): "xent vet: --device: 'tpu' is none of cpu, cuda",
    ("loss.py:right", "--device", "cuda"): "xent vet: NumPy computes on the CPU only: leave --device out",
    (
        "loss.py:right",
        "--backend",
        "interpret",
    ): "xent vet: --backend interpret is for Triton and Pallas kernels: loss.py:right is NumPy, leave it out",
    (
        "loss.py:right",
        "--backend",
        "interpret",
        "--device",
        "cuda",
    ): "xent vet: --backend interpret runs kernels on the CPU: leave --device cuda out, or --backend",
    ("loss.py:right", "--backend", "x"): "xent vet: --backend: 'x' is none of native, interpret",
    ("loss.py:right", "--grade", "inaccurate"): "xent vet: --grade: 'inaccurate' is none of faithful, relative, absol",
    ("loss.py:right", "--gradient", "no()"): "xent vet: --gradient: 'no()' is not the name of a function",
    ("loss.py:right", "--gradient", "none"): "xent vet: loss.py: has no function none, which --gradient names",
    ("loss.py:right", "--framework", "torch", "--gradient", "g"): "xent vet: --gradient is for NumPy: torch different",
    ("loss.py:right", "--timeout", "0"): "xent vet: --timeout: '0' is not a number of seconds from 0.1 to 86400",
    ("loss.py:right", "--timeout", "nan"): "xent vet: --timeout: 'nan' is not a number of seconds from 0.1 to 86400",
    ("loss.py:right", "--timeout", "soon"): "xent vet: --timeout: 'soon' is not a number of seconds from 0.1 to 86400",
    ("loss.py:right", "--seed", "-1"): "xent vet: --seed: '-1' is not a whole number from 0 to 2^63 - 1",
    ("loss.py:right", "--seed", "1.5"): "xent vet: --seed: '1.5' is not a whole number from 0 to 2^63 - 1",
    ("loss.py:right", "--seed", "9" * 19): "xent vet: --seed: '9999999999999999999' is not a whole number from 0 to",
    (
        "loss.py:right",
        "--loss",
        "binary_cross_entropy_with_logits",
        "--target",
        "indices",
    ): "xent vet: --target is for cross_entropy: the target of binary_cross_entropy_with_logits is a probability",
}


@pytest.mark.parametrize("arguments", CANNOT)
def test_what_cannot_be_judged_is_one_line_and_an_error_in_json(
    arguments: tuple[str, ...], xent: Xent, folder: Path
) -> None:
    done = xent(*arguments, "--json", "v.json", "--html", "v.html", "--junit", "v.xml")
    assert done.status == 2
    assert done.err.startswith(CANNOT[arguments])
    assert done.err.count("\n") == 1
    data = json.loads((folder / "v.json").read_text())
    assert (data["schema"], data["verdict"], data["checks"], data["grades"]) == (1, "error", [], {})
    assert data["message"] == done.err.removeprefix("xent vet: ").strip()
    assert data["message"].split(":")[0].split("'")[0] in (folder / "v.html").read_text()
    assert 'errors="1"' in (folder / "v.xml").read_text()


def test_a_missing_framework(xent: Xent, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax", None)
    done = xent("of_jax.py:f", "--json", "v.json")
    assert (done.status, done.err) == (2, "xent vet: jax is not installed: pip install jax\n")
    assert json.loads((folder / "v.json").read_text())["candidate"] == "of_jax.py:f"


def test_usage_that_the_parser_refuses(xent: Xent) -> None:
    for arguments in ((), ("loss.py:right", "--fast"), ("loss.py:right", "more"), ("loss.py:right", "--seed")):
        done = xent(*arguments)
        assert (done.status, done.out, done.err.count("\n")) == (2, "", 1), arguments
        assert "-h`" in done.err


def test_files_that_cannot_be_written(xent: Xent, folder: Path) -> None:
    table = {
        ("--json", "no/v.json"): f"xent vet: cannot write no/v.json: there is no folder {folder}/no; make it first\n",
        ("--html", "."): "xent vet: cannot write .: it is a folder; name a file\n",
        (
            "--junit",
            "v",
            "--json",
            "./v",
        ): "xent vet: --json, --html and --junit need a file each: two of them name the same one\n",
    }
    for arguments, line in table.items():
        done = xent("loss.py:right", *arguments)
        assert (done.status, done.err) == (2, line)
    assert sorted(path.name for path in folder.iterdir()) == ["both.py", "broken.py", "loss.py", "of_jax.py"]


def test_a_fault_of_ours(xent: Xent, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for fault in (RuntimeError("a bug"), BrokenPipeError("not a reader's")):
        monkeypatch.setattr(Vetting, "run", lambda self, fault=fault: (_ for _ in ()).throw(fault))
        done = xent("loss.py:right", "--json", "v.json")
        assert done.status == 3
        assert "xent vet: a fault of ours, please report it: RuntimeError: a" in done.err.splitlines()[-1]
    assert not (folder / "v.json").exists()


# ----------------------------------------------------------------------------------------------- options, passed along


def test_options_reach_the_vetting(xent: Xent, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Vetting] = []

    def run(self: Vetting) -> Any:
        seen.append(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(Vetting, "run", run)
    arguments = "--framework numpy --loss cross_entropy --target probabilities --gradient naive --dtype float32 --dtype"
    more = " float16 --dtype float32 --grade relative --strict --quick --seed 7 --timeout 1.5"
    assert xent("loss.py:right", *(arguments + more).split()).status == 130
    assert seen[0].options == Options(
        framework="numpy",
        loss="cross_entropy",
        target="probabilities",
        gradient="naive",
        dtypes=("float32", "float16"),
        grade=Grade.RELATIVE,
        strict=True,
        quick=True,
        seed=7,
        timeout=1.5,
    )
    assert seen[0].source.gradient == "naive"
    assert xent("loss.py:right").out != xent("loss.py:right").out  # a fresh seed each time
    assert [vetting.options.timeout for vetting in seen[1:]] == [20.0, 20.0]


def test_truth_on_disk_is_neither_read_nor_written(xent: Xent, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def run(self: Vetting) -> Any:
        seen.append(os.environ.get("XENT_CACHE"))
        raise KeyboardInterrupt

    monkeypatch.setattr(Vetting, "run", run)
    before = os.environ.get("XENT_CACHE")
    xent("loss.py:right")
    assert (seen, os.environ.get("XENT_CACHE")) == (["off"], before)
    monkeypatch.delenv("XENT_CACHE", raising=False)
    xent("loss.py:right")
    assert "XENT_CACHE" not in os.environ
    if before is not None:
        monkeypatch.setenv("XENT_CACHE", before)


def test_strict_makes_a_deviation_a_failure(xent: Xent, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    only(monkeypatch, "label_out_of_range")
    arguments = ("loss.py:right", "--quick", "--dtype", "float32", "--junit", "v.xml")
    assert xent(*arguments).status == 0
    assert 'failures="0"' in (folder / "v.xml").read_text()
    done = xent(*arguments, "--strict")
    assert done.status == 1
    assert done.err.startswith("xent vet: rejected: label_out_of_range: label -1 of 9 classes gives ")
    assert done.err.endswith("; torch raises (--strict)\n")
    assert 'failures="1"' in (folder / "v.xml").read_text()


def test_a_dtype_that_is_refused_is_skipped_or_rejected(xent: Xent, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "output_form")
    default = xent("loss.py:double_only", "--quick")
    assert default.status == 0
    assert "unsupported_dtype (float32): TypeError: float64 only, please" in default.out
    named = xent("loss.py:double_only", "--quick", "--dtype", "float32")
    assert named.status == 1
    assert named.err == ("xent vet: rejected: crash in float32: first call (8 × 9): TypeError: float64 only, please\n")


def test_a_grade_that_asks_for_less_changes_nothing(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    source = command.read_source("loss.py:right")
    required = {
        grade: Vetting(source, Options(grade=grade), vet_module.Listener())._required()
        for grade in (None, Grade.STORAGE, Grade.ABSOLUTE, Grade.FAITHFUL)
    }
    assert required[None] == required[Grade.STORAGE]
    assert required[None]["float32"] is Grade.ABSOLUTE
    assert required[None]["bfloat16"] is Grade.STORAGE
    assert set(required[Grade.ABSOLUTE].values()) == {Grade.ABSOLUTE}
    assert set(required[Grade.FAITHFUL].values()) == {Grade.FAITHFUL}


# ---------------------------------------------------------------------------------------------------------- the screen


def test_what_a_candidate_says_does_nothing_to_a_terminal(xent: Xent, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "output_form")
    done = xent("loss.py:rude", "--quick", "--dtype", "float32")
    assert done.status == 1
    assert "\x1b" not in done.out + done.err
    assert "\x07" not in done.out + done.err
    assert "ValueError: \\x1b]0;owned\\x07 [red]markup[/red]" in done.out


def test_the_first_failure_is_on_the_screen_before_the_rest_is_known(folder: Path) -> None:
    (folder / "slow.py").write_text(
        "import time, numpy as np\ncalls = 0\ndef f(z, y):\n    global calls\n    calls += 1\n"
        "    if calls > 2: time.sleep(600)\n    return np.zeros(len(y) + 1)\n"
    )
    process = _started("slow.py:f", "--quick", "--dtype", "float32", "--timeout", "100")
    assert process.stdout is not None
    assert b"vetting slow.py:f as numpy" in process.stdout.readline()
    assert process.stdout.readline().startswith(b"failed: output_form in float32: loss, first call (8 \xc3\x97 9): ")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, b"", b"xent vet: interrupted\n")


def test_a_reader_who_has_gone_changes_no_verdict(folder: Path) -> None:
    (folder / "wrong.py").write_text("import numpy as np\ndef f(z, y): return np.zeros(len(y) + 1)\n")
    line = f"{sys.executable} -c 'from harness.cli import main; main()' vet wrong.py:f --quick --dtype float32"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line} --json v.json | true; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=False,
        env=_environment(),
    )
    assert done.returncode == 1
    assert done.stderr.startswith("xent vet: rejected: output_form in float32: ")
    assert json.loads((folder / "v.json").read_text())["verdict"] == "rejected"


def test_progress_on_a_terminal_and_nowhere_else(folder: Path) -> None:
    (folder / "wrong.py").write_text("import numpy as np\ndef f(z, y): return np.zeros(len(y) + 1)\n")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        _command("wrong.py:f", "--quick", "--dtype", "float32"), stdout=theirs, stderr=theirs, env=_environment()
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 1 << 16)
        except OSError:  # what Linux says at the end of a terminal
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    text = shown.decode()
    assert process.wait() == 1
    assert "eta" in text
    assert "failed: output_form in float32: loss, first call" in text
    assert "REJECTED" in text
    assert "xent vet: rejected: output_form in float32" in text


def test_plain_lines_name_what_they_count(capsys: pytest.CaptureFixture[str]) -> None:
    lines = _Lines("inspections")
    lines.last -= 100
    lines.start -= 60
    teller = command._Teller(lines)
    teller.began(4)
    for _ in range(3):
        teller.step("float32: accuracy")
    err = capsys.readouterr().err
    assert err == "xent: 0/4 inspections, 60 s: float32: accuracy\n"  # nothing is done yet: no estimate
    lines.last -= 100
    teller.step("float32: sizes")
    assert re.fullmatch(r"xent: 3/4 inspections, 60 s, about 20 s left: float32: sizes\n", capsys.readouterr().err)


# -------------------------------------------------------------------------------------------------------------- Ctrl-C


def _environment() -> dict[str, str]:
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path, "TERM": "xterm"}


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from harness.cli import main; main()", "vet", *arguments]


def _started(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(_command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_environment())


def test_ctrl_c_leaves_no_process(folder: Path) -> None:
    process = _started("loss.py:hangs", "--quick", "--timeout", "300")
    assert process.stdout is not None
    assert b"vetting loss.py:hangs" in process.stdout.readline()
    xent = psutil.Process(process.pid)
    deadline = time.monotonic() + 60
    while not (family := xent.children(recursive=True)) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)  # so that it is in the call, on most machines
    family = xent.children(recursive=True) or family
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, b"xent vet: interrupted\n")
    _, left = psutil.wait_procs(family, timeout=10)
    assert left == []
