"""The commands as a stranger meets them: what they print, on which width, where, and with which exit status."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import report_fixtures as made
from rich.text import Text

from harness import cli
from harness.accuracy import Request
from harness.cli import accuracy, listing, tables
from harness.cli.layout import grouped
from harness.families import FAMILIES
from harness.reference import truth
from harness.run import Run

TESTS = Path(__file__).parent
PLUGINS = TESTS / "plugins"


@dataclass
class Finished:
    status: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line on standard error."""
        (line,) = self.err.splitlines()
        return line


@pytest.fixture
def xent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """The command, in this process."""

    def run(*arguments: object) -> Finished:
        monkeypatch.setattr(sys, "argv", ["xent", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return Finished(exit_.value.code, captured.out, captured.err)

    return run


COMMAND = [sys.executable, "-c", "from harness.cli import main; main()"]


def started(*arguments: object, **keywords: Any) -> subprocess.Popen[str]:
    """The command, in a process of its own."""
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*COMMAND, *map(str, arguments)], **streams | keywords)


def finished(process: subprocess.Popen[str]) -> Finished:
    out, err = process.communicate(timeout=120)
    return Finished(process.returncode, out, err)


# ------------------------------------------------------------------------------------------------------- usage and help


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frobnicate"], "xent: No such command 'frobnicate'"),
        (["accuracy", "--bogus"], "xent accuracy: No such option: --bogus"),
        (["accuracy", "--seed", "-1"], "xent accuracy: Invalid value for '--seed'"),
        (["accuracy", "--jobs", "many"], "xent accuracy: Invalid value for '--jobs'"),
        (["accuracy", "--timeout", "0"], "xent accuracy: Invalid value for '--timeout'"),
        (["accuracy", "--jobs", "2", "--executor", "tcp://a:1"], "xent accuracy: --jobs and --executor exclude each"),
        (["accuracy", "--executor", "tcp://127.0.0.1:9"], "xent accuracy: no Dask scheduler answers at 'tcp://127.0.0"),
        (["accuracy", "--only"], "xent: Option '--only' requires an argument"),
        (
            ["accuracy", "--only", "numpy_shiftet"],
            "xent accuracy: no implementation is called 'numpy_shiftet': did you",
        ),
        (["accuracy", "--family", "tiez"], "xent accuracy: unknown family 'tiez': did you mean ties"),
        (["accuracy", "--dtype", "float23"], "xent accuracy: unknown dtype 'float23': choose from float64, float32"),
        (["accuracy", "--logits", "missing.npz"], "xent accuracy: missing.npz: there is no such file; check the path"),
        (["accuracy", "--json", "no/such/folder.json"], "xent accuracy: cannot write no/such/folder.json: there is no"),
        (["accuracy", "--json", "/"], "xent accuracy: cannot write /: it is a folder; name a file"),
        (["accuracy", "--json", "/dev/null"], "xent accuracy: cannot write /dev/null: it is not a regular file"),
        (["list", "everything"], "xent list: 'everything' is none of implementations, families, losses"),
        (["list", "families", "--json", "/"], "xent list: cannot write /: it is a folder"),
        (["report"], "xent report: Missing argument 'RUN'"),
        (["report", "missing.json"], "xent report: missing.json: cannot be read as a run file"),
        (["truth"], "xent truth: Missing argument 'FILE.npz'"),
        (["truth", "missing.npz"], "xent truth: missing.npz: there is no such file; check the path"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_2(
    xent: Callable[..., Finished], arguments: list[str], message: str
) -> None:
    found = xent(*arguments)
    assert found.status == 2
    assert found.out == ""
    assert found.line.startswith(message)


@pytest.mark.parametrize("name", ["", "accuracy", "list", "report", "speed", "truth"])
def test_help_reads_well_at_80_columns(
    xent: Callable[..., Finished], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = xent(*([name] if name else []), "--help")
    assert found.status == 0
    assert max(map(len, found.out.splitlines())) <= 80
    assert "..." not in re.sub(r"(COMMAND \[ARGS\]|\{RUN\})\.\.\.", "", found.out)  # nothing cut short
    if name:
        examples = re.findall(r"^    xent .*", found.out, re.MULTILINE)
        assert examples
        assert any(line.split()[1] == name for line in examples)


def test_the_version_and_no_command(xent: Callable[..., Finished]) -> None:
    assert re.fullmatch(r"xent \d+\.\d+\.\d+\S*\n", xent("--version").out)
    nothing = xent()
    assert (nothing.status, nothing.out) == (2, "")
    assert "Commands:" in nothing.err


# -------------------------------------------------------------------------------------------------------- xent accuracy


SMALL = ("accuracy", "--only", "numpy_shifted", "--family", "two_classes", "--family", "masked", "--jobs", 1)


def test_all_as_claimed(xent: Callable[..., Finished], tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    found = xent(*SMALL, "--json", file)
    assert found.status == 0
    assert re.fullmatch(r"xent: 4/4 cells, \d+ s", found.line)
    for text in ("numpy_shifted", "float64", "float32", "absolute", "8 results: 8 passed. Seed 0."):
        assert text in found.out
    assert f"xent report {file}" in found.out
    run = Run.load(file)
    assert run.complete
    assert len(run.results) == 8


def test_not_as_claimed(xent: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGINS))
    chosen = ("--only", "bad_raises", "--only", "bad_nan", "--only", "good_rows", "--only", "bad_dies")
    families = [part for name in ("two_classes", "ties", "moderate_2", "moderate_3") for part in ("--family", name)]
    found = xent("accuracy", *chosen, *families, "--jobs", 1)
    assert found.status == 1
    assert found.err.splitlines()[-1] == "xent accuracy: not as claimed: bad_dies, bad_nan, bad_raises"
    assert "24 of 48 results are not as claimed" in found.out
    assert "raised: RuntimeError: no thank you [bold]" in found.out
    assert "crashed: killed by SIGKILL" in found.out
    assert re.search(r"row \d+: got nan, want \d", found.out)
    assert found.out.count("… and 5 more, in 4 families in all") == 3
    assert "good_rows" not in found.out.partition("not as claimed")[2]


def test_an_option_may_be_repeated_and_the_seed_is_told(xent: Callable[..., Finished], tmp_path: Path) -> None:
    found = xent(*SMALL, "--dtype", "float64", "--dtype", "float32", "--seed", 3, "--json", tmp_path / "run.json")
    assert "Seed 3." in found.out
    assert Run.load(tmp_path / "run.json").environment["seed"] == 3


def test_own_logits(xent: Callable[..., Finished], tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", logits=np.eye(3, dtype="float32"), labels=[0, 1, 2])
    found = xent("accuracy", "--only", "numpy_shifted", "--logits", tmp_path / "mine.npz", "--jobs", 1)
    assert found.status == 0
    assert "file/mine" in found.out
    np.savez(tmp_path / "empty.npz")
    empty = xent("accuracy", "--logits", tmp_path / "empty.npz")
    assert empty.status == 2
    assert "no array named 'logits'" in empty.line


def test_a_fault_of_ours_is_3(xent: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(request: Request, show: object) -> Run:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(accuracy, "run_accuracy", fail)
    found = xent(*SMALL)
    assert found.status == 3
    last = found.err.splitlines()[-1]
    assert last == "xent accuracy: a fault of ours, please report it: ZeroDivisionError: division by zero"


def test_an_interrupt_before_anything_is_finished(
    xent: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(request: Request, show: object) -> Run:
        raise KeyboardInterrupt

    monkeypatch.setattr(accuracy, "run_accuracy", interrupted)
    found = xent(*SMALL)
    assert (found.status, found.line) == (130, "xent accuracy: interrupted")


def test_a_run_that_cannot_be_saved_is_not_lost(
    xent: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refuge = tmp_path / "elsewhere"
    refuge.mkdir()
    target = tmp_path / "run.json"
    run = made.run_of(made.result())
    saved = Run.save

    def full(self: Run, path: Path) -> None:
        if path.parent == tmp_path:
            raise OSError(28, "No space left on device")
        saved(self, path)

    monkeypatch.setattr(accuracy, "run_accuracy", lambda request, show: run)
    monkeypatch.setattr(accuracy.tempfile, "gettempdir", lambda: str(refuge))
    monkeypatch.setattr(Run, "save", full)
    found = xent("accuracy", "--json", target)
    assert found.status == 2
    assert found.line == (
        f"xent accuracy: cannot write {target}: No space left on device; the run is in {refuge / 'xent-run.json'}"
    )
    assert Run.load(refuge / "xent-run.json") == run
    monkeypatch.setattr(accuracy.tempfile, "gettempdir", lambda: str(tmp_path))
    found = xent("accuracy", "--json", target)
    assert found.status == 2
    assert json.loads(found.out.splitlines()[0]) == run.to_json()


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("tpu", "unknown device 'tpu': choose from cpu, cuda"),
        ("cuda", "nothing can run here: the numpy worker does not start: xent runs numpy on the CPU only"),
    ],
)
def test_a_device_that_there_is_not(xent: Callable[..., Finished], device: str, said: str) -> None:
    found = xent("accuracy", "--only", "numpy_*", "--device", device)
    assert found.status == 2
    assert found.line.startswith(f"xent accuracy: {said}")


def test_a_folder_that_takes_no_file_is_refused_before_the_work(
    xent: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("harness.cli.targets.tempfile.TemporaryFile", refuse)
    found = xent(*SMALL, "--json", tmp_path / "run.json")
    assert found.status == 2
    assert found.line.endswith("run.json: Read-only file system; name a file elsewhere")


# ------------------------------------------------------------------------------------------------------------- the text


def plain(text: str) -> str:
    """The text without colours and what else a terminal is told."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def printed(run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int) -> str:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    capsys.readouterr()
    tables.print_run(run)
    return plain(capsys.readouterr().out)


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_nothing_is_wider_than_the_terminal_and_names_stay_whole(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made.make_run()
    out = printed(run, capsys, monkeypatch, columns)
    assert max(map(len, out.splitlines())) <= columns
    for name in {r.implementation for r in run.results}:
        assert re.search(rf"^{name}$", out, re.MULTILINE)
    assert ("witness" in out.splitlines()[1]) == (columns == 200)


def test_a_hundred_failures_do_not_print_a_thousand_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = made.result(outcome="failed", grade="inaccurate", witness=WITNESS, max_bound_ratio=7.0)
    failures = [
        replace(bad, implementation=f"torch_{i % 5}", family=f"family_{i // 5}", max_bound_ratio=float(i))
        for i in range(500)
    ]
    out = printed(made.run_of(*failures), capsys, monkeypatch, 100)
    assert len(out.splitlines()) < 60
    assert out.count("… and 97 more, in 100 families in all") == 5
    assert "float32 family_99 loss: failed, inaccurate where it claims absolute" in out  # the worst ones are shown
    assert "family_0 " not in out


WITNESS = {"row": 4, "column": None, "got": "inf", "want": "0x1.8000000000000p+1"}


def test_the_table_tells_what_is_worst(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [
        made.result(family="ties", max_ulp=15_000_000.0, bound_ratios={"absolute": 0.5}, witness=WITNESS),
        made.result(family="wide", max_ulp=2.0, bound_ratios={"absolute": 0.25}),
        made.result(family="wide", what="gradient", grade="inaccurate", nonfinite=3, outcome="known_failure"),
        made.result(dtype="float16", claimed="storage", bound_ratios={"absolute": 90.0, "storage": 0.4}),
        made.result(dtype="bfloat16", grade="inaccurate", outcome="timed_out", judged=0, max_ulp=None),
        made.result(dtype="float64", grade=None, outcome="skipped", max_ulp=None, max_bound_ratio=None),
    ]
    out = printed(made.run_of(*cells), capsys, monkeypatch, 200)
    rows = [re.split(r"  +", line.strip()) for line in out.splitlines()]
    assert rows[1] == ["dtype", "claims", "loss", "gradient", "worst family", "ulp", "error / bound", "witness"]
    assert rows[3] == ["float32", "absolute", "absolute", "not finite", "wide", "3", "0.25"]
    assert rows[4] == ["float16", "storage", "absolute", "-", "ties", "3", "0.4"]
    assert rows[5][:4] == ["bfloat16", "absolute", "timed out", "-"]
    assert rows[6] == ["float64", "absolute", "-", "-"]


def test_what_could_not_run_is_told_once_for_each_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = [{"name": f"torch_{i}", "available": False, "reason": "pip install torch"} for i in range(3)]
    out = printed(made.run_of(made.result(), implementations=(*missing,)), capsys, monkeypatch, 100)
    assert "not run: torch_0, torch_1, torch_2: pip install torch" in out


def test_columns_are_left_out_in_order_until_the_rest_fits() -> None:
    groups: dict[str, Sequence[Sequence[Text | str]]] = {"a heading": [["1", "22", "333"]]}

    def lines(width: int) -> list[str]:
        found = grouped(("a", "bb", "c"), groups, width=width, right=("c",), dispensable=("bb", "a"))
        return [line.plain for line in found]

    assert lines(80) == ["  a  bb    c", "a heading", "  1  22  333"]
    assert lines(12) == lines(80)
    assert lines(11) == ["  a    c", "a heading", "  1  333"]
    assert lines(5) == ["    c", "a heading", "  333"]


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A pseudo-terminal of 80 columns: our end, and the command's."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 80))
    yield ours, theirs
    for end in (ours, theirs):
        os.close(end)


def test_on_a_terminal_of_80_columns(terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")} | {"TERM": "xterm"}
    process = started(*SMALL, stdout=theirs, stderr=subprocess.DEVNULL, env=environment)
    content = b""
    while b"Seed 0." not in content:
        content += os.read(ours, 65536)
    assert process.wait(60) == 0
    text = plain(content.decode()).replace("\r", "")
    assert max(map(len, text.splitlines())) <= 80
    assert "\nnumpy_shifted\n" in text
    assert b"\x1b[" in content  # colours


def test_progress_on_a_terminal_fits_and_goes_away(terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"} | {"TERM": "xterm"}
    process = started(*SMALL, stdout=subprocess.DEVNULL, stderr=theirs, env=environment)
    content = b""
    while not content.endswith(b"\x1b[2K"):  # the bar's line is wiped at the end
        content += os.read(ours, 65536)
    assert process.wait(60) == 0
    frames = re.split(r"\r|\n", plain(content.decode()))
    assert max(map(len, frames)) <= 80
    assert any("4/4" in frame for frame in frames)


def test_a_reader_that_goes_away_is_no_failure() -> None:
    process = started("list", "families")
    assert process.stdout is not None
    assert process.stdout.readline() == "Families\n"
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


def test_a_full_disk_behind_standard_output() -> None:
    with Path("/dev/full").open("w") as full:
        found = finished(started("list", "families", stdout=full))
    assert found.status == 2
    assert found.line == "xent list: cannot write: No space left on device; make room and run it again"


# -------------------------------------------------------------------------------------------------------- interruptions


LONG = ("accuracy", "--only", "numpy_*", "--jobs", 2)
"""Every family: long enough that half a second after the first truths is in the middle."""


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def all_over(processes: Sequence[psutil.Process]) -> bool:
    def over(process: psutil.Process) -> bool:
        try:
            return process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    deadline = time.monotonic() + 20
    while not all(map(over, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return all(map(over, processes))


def in_the_middle(folder: Path) -> tuple[subprocess.Popen[str], list[psutil.Process], Path]:
    """A run of several processes that has solved some batches, with an empty cache of its own, and its run file."""
    cache = folder / "cache"
    environment = os.environ | {"XENT_CACHE": str(cache)}
    process = started(*LONG, "--json", folder / "run.json", env=environment, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(cache.rglob("*.truth"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    return process, descendants(process), folder / "run.json"


@pytest.mark.parametrize(
    "interrupt",
    [
        pytest.param(lambda p: p.send_signal(signal.SIGINT), id="SIGINT"),
        pytest.param(lambda p: p.send_signal(signal.SIGTERM), id="SIGTERM"),
        pytest.param(lambda p: [os.killpg(p.pid, signal.SIGINT) for _ in range(3)], id="Ctrl-C three times"),
    ],
)
def test_an_interrupt_in_the_middle(interrupt: Callable[[subprocess.Popen[str]], object], tmp_path: Path) -> None:
    process, children, file = in_the_middle(tmp_path)
    assert len(children) >= 3
    time.sleep(0.5)
    interrupt(process)
    found = finished(process)
    assert found.status == 130
    run = Run.load(file)
    assert not run.complete
    assert found.err.splitlines()[-1] == f"xent accuracy: interrupted after {len(run.results)} results"
    assert "Traceback" not in found.err
    assert f"{len(run.results)} results" in found.out
    assert all_over(children)


def test_a_run_that_was_killed_leaves_nothing_behind_and_can_be_repeated(
    xent: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, children, file = in_the_middle(tmp_path)
    process.kill()
    finished(process)
    assert all_over(children)
    assert not file.exists()
    monkeypatch.setenv("XENT_CACHE", str(tmp_path / "cache"))
    assert xent(*SMALL, "--json", file).status == 0
    assert Run.load(file).complete


def test_two_runs_at_once_with_one_cache(tmp_path: Path) -> None:
    environment = os.environ | {"XENT_CACHE": str(tmp_path / "cache")}
    files = [tmp_path / f"{i}.json" for i in range(2)]
    runs = [started(*SMALL, "--json", file, env=environment) for file in files]
    assert [finished(run).status for run in runs] == [0, 0]
    first, second = map(Run.load, files)
    assert first.results == second.results


# ------------------------------------------------------------------------------------------------------------ xent list


def test_list_says_what_there_is(
    xent: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = listing.discover(["numpy_*"])
    monkeypatch.setattr(listing, "discover", lambda: declared)
    found = xent("list")
    assert (found.status, found.err) == (0, "")
    for text in ("numpy_log1p", "claims relative in float64, float32", "options: weight", "cross_entropy", *FAMILIES):
        assert text in found.out
    assert xent("list", "--json", tmp_path / "list.json").status == 0
    data = json.loads((tmp_path / "list.json").read_text())
    assert data["schema"] == 1
    by_name = {entry["name"]: entry for entry in data["implementations"]}
    assert by_name["numpy_log1p"]["grades"] == {"float64": "relative", "float32": "relative"}
    assert data["families"].keys() == FAMILIES.keys()
    assert data["losses"].keys() == {"cross_entropy", "binary_cross_entropy_with_logits", "linear_cross_entropy"}


def test_list_on_a_narrow_terminal_keeps_names_whole(
    xent: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    out = plain(xent("list", "families").out)
    assert max(map(len, out.splitlines())) <= 80
    for name in FAMILIES:
        assert re.search(rf"^  {re.escape(name)}  ", out, re.MULTILINE)


def test_without_torch_jax_and_the_others(tmp_path: Path) -> None:
    path = os.pathsep.join([str(TESTS / "without_frameworks"), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": path}
    np.savez(tmp_path / "batch.npz", logits=np.eye(3), target=[0, 1, 2])
    batch = tmp_path / "batch.npz"
    commands = {
        "list": ("list", "implementations"),
        "accuracy": ("accuracy", "--quick", "--family", "two_classes", "--jobs", 1),
        "missing": ("accuracy", "--only", "torch_*"),
        "truth": ("truth", batch),
    }
    runs = {name: started(*arguments, env=environment) for name, arguments in commands.items()}
    found = {name: finished(run) for name, run in runs.items()}
    assert {name: f.status for name, f in found.items()} == {"list": 0, "accuracy": 0, "missing": 2, "truth": 0}
    advice = "torch is not installed: pip install torch"
    assert advice in found["list"].out
    assert "scipy is not installed: pip install 'scipy'" in found["list"].out
    assert "claims relative in float64, float32" in found["list"].out
    assert re.search(rf"not run: [^:]*torch_cross_entropy[^:]*: {advice}", " ".join(found["accuracy"].out.split()))
    assert "numpy_log1p" in found["accuracy"].out
    assert found["missing"].line == f"xent accuracy: nothing can run here: {advice}"
    assert found["truth"].out.startswith("loss[0] = 0.55144")


# ---------------------------------------------------------------------------------------------------------- xent report


def test_report_of_complete_and_of_interrupted_runs(xent: Callable[..., Finished], tmp_path: Path) -> None:
    for complete in (True, False):
        run = made.make_run(complete=complete)
        run.save(tmp_path / "run.json")
        found = xent("report", tmp_path / "run.json", "-o", tmp_path / "page.html")
        assert (found.status, found.err) == (0, "")
        assert f"{len(run.results)} results" in found.out
        assert ("interrupted" in found.out) is not complete
        page = (tmp_path / "page.html").read_text()
        assert page.lower().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read as a run file"),
        ("not JSON", "cannot be read as a run file"),
        ('{"schema": 1, "results": [', "cannot be read as a run file"),
        ("[]", 'not a run file (it has no "schema")'),
        ('{"schema": 99}', "schema 99, but this version reads schema 1"),
        ('{"schema": 1}', "a damaged run file"),
        (
            '{"schema": 1, "environment": {}, "results": [{}], "families": {}, "implementations": []}',
            "a damaged run file",
        ),
    ],
)
def test_report_of_what_is_no_run(xent: Callable[..., Finished], content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(content)
    found = xent("report", file, "-o", tmp_path / "page.html")
    assert found.status == 2
    assert found.line.startswith(f"xent report: {file}: {message}")
    assert not (tmp_path / "page.html").exists()


def test_report_into_a_missing_folder(xent: Callable[..., Finished], tmp_path: Path) -> None:
    made.make_run().save(tmp_path / "run.json")
    found = xent("report", tmp_path / "run.json", "-o", tmp_path / "no" / "page.html")
    assert found.status == 2
    assert "there is no folder" in found.line


# ----------------------------------------------------------------------------------------------------------- xent truth


def batch_file(folder: Path, **arrays: Any) -> Path:
    base: dict[str, Any] = {"logits": np.array([[2.0, 1.0, 0.1], [0.0, 5.0, -np.inf]]), "target": np.array([0, 1])}
    given = {name: value for name, value in {**base, **arrays}.items() if value is not None}
    np.savez(folder / "batch.npz", **given)
    return folder / "batch.npz"


def test_truth_is_printed_and_written(xent: Callable[..., Finished], tmp_path: Path) -> None:
    file = batch_file(tmp_path, upstream=np.array([-2.0, 0.5]), label_smoothing=0.0, weight=np.array([1.0, 2.0, 0.5]))
    with np.load(file) as arrays:
        want = truth(arrays["logits"], arrays["target"], upstream=arrays["upstream"], weight=arrays["weight"])
    printed = xent("truth", file)
    assert printed.status == 0
    assert float.fromhex(re.findall(r"0x\S+", printed.out)[0]) == want.loss_hi[0]
    assert xent("truth", file, "-o", tmp_path / "t.npz", "--json", tmp_path / "t.json").out == ""
    with np.load(tmp_path / "t.npz") as arrays:
        for name in ("loss_hi", "loss_lo", "grad_hi", "grad_lo"):
            np.testing.assert_array_equal(arrays[name], getattr(want, name))
    data = json.loads((tmp_path / "t.json").read_text())
    assert data["loss_hi"] == want.loss_hi.tolist()
    mean = xent("truth", file, "--reduction", "mean")
    assert mean.out.count("\n") == 1
    assert float(mean.out.split()[2]) == want.reduced("mean").loss_hi


def test_truth_of_many_rows_is_cut_short_and_says_so(xent: Callable[..., Finished], tmp_path: Path) -> None:
    found = xent("truth", batch_file(tmp_path, logits=np.zeros((30, 3)), target=np.zeros(30, int)))
    assert len(found.out.splitlines()) == 21
    assert found.out.splitlines()[-1] == "… and 10 more: write them all with -o FILE.npz"


def test_truth_beyond_json(xent: Callable[..., Finished], tmp_path: Path) -> None:
    file = batch_file(tmp_path, logits=np.array([[1.0, np.nan, 0.0], [0.0, 5.0, -np.inf]]), target=np.array([0, 2]))
    assert xent("truth", file, "--json", tmp_path / "t.json").status == 0
    assert json.loads((tmp_path / "t.json").read_text())["loss_hi"] == ["nan", "inf"]


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"target": None}, (), "needs the arrays logits and target (or labels), and has logits"),
        ({"wieght": np.ones(3)}, (), "array 'wieght' is no option; options are weight"),
        ({"target": np.array([0, 7])}, (), "target[1]: class 7 is outside [0, 3)"),
        ({"logits": np.zeros(3)}, (), "logits: expected shape [N, V]"),
        ({"label_smoothing": 1.5}, (), "label_smoothing: 1.5 is outside [0, 1]"),
        ({}, ("--loss", "hinge"), "hinge"),
        ({}, ("--reduction", "median"), "'median' is none of none, mean, sum"),
        ({}, ("-o", "/"), "cannot write /: it is a folder"),
    ],
)
def test_truth_that_cannot_be_had(
    xent: Callable[..., Finished], arrays: dict[str, Any], options: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    found = xent("truth", batch_file(tmp_path, **arrays), *options)
    assert (found.status, found.out) == (2, "")
    assert message in found.line


def test_truth_of_a_file_that_is_none(xent: Callable[..., Finished], tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"not a zip file")
    assert "cannot be read as an .npz file" in xent("truth", tmp_path / "x.npz").line
    np.save(tmp_path / "one.npy", np.zeros(3))
    assert "it holds one array" in xent("truth", tmp_path / "one.npy").line
