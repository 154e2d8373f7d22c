"""A candidate's process: whatever it does there is an outcome here, for the check meant for it, and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from harness.batch import Batch
from harness.bridges import installed
from harness.grades import Outcome
from harness.vetting import session as session_module
from harness.vetting import vet as vet_module
from harness.vetting import watch
from harness.vetting.drivers import Call
from harness.vetting.examiner import Examiner
from harness.vetting.replies import Claims, failure_of, inert, read_claims, read_reply
from harness.vetting.session import Rejected, Session
from harness.vetting.settings import Options
from harness.vetting.source import CannotJudge, Source, read_source
from harness.vetting.verdict import Verdict
from harness.vetting.vet import vet
from harness.wire import Message

RIGHT = """
import numpy as np

def right(z, y):
    z = z - z.max(axis=1, keepdims=True)
    return np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), y]
"""

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a candidate's file, the right loss in it, and gives its spec."""

    def make(code: str, name: str = "f", file: str = "candidate.py") -> str:
        (tmp_path / file).write_text(RIGHT + textwrap.dedent(code))
        return f"{tmp_path / file}:{name}"

    return make


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path: Path) -> Iterator[None]:
    """No process that a candidate has started outlives the test: each writes its number into the file `pids`."""
    before = children()
    yield
    pids = (tmp_path / "pids").read_text().split() if (tmp_path / "pids").exists() else []
    assert soon(lambda: not alive(pids) and children() <= before), (alive(pids), children() - before)


def children() -> set[str]:
    """The command lines of this process's descendants, less the one that multiprocessing keeps for itself."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # one that has ended meanwhile, which another test may have left
            found.add(" ".join(process.cmdline()))
    return {line for line in found if "resource_tracker" not in line}


def soon(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether something comes true: a process that was killed takes a moment to be gone."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def alive(pids: list[str]) -> list[str]:
    """Those of some processes that run: a zombie, which waits for its parent, does not."""
    found = []
    for pid in pids:
        try:
            if psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except psutil.NoSuchProcess:
            pass
    return found


@pytest.fixture(autouse=True)
def no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Solve truth here, where it is asked for: these checks need little of it."""
    monkeypatch.setattr(vet_module, "truth_executor", lambda jobs: nullcontext(None))


def vetted(spec: str, *checks: str, **changes: object) -> Verdict:
    options = {"quick": True, "dtypes": ("float32",), "timeout": 20.0, "seed": 5, **changes}
    return vet(spec, Options(checks=checks, **options))  # type: ignore[arg-type]


def reasons(verdict: Verdict) -> dict[str, str]:
    return {check.name: check.detail for check in verdict.failed}


def batch(n: int = 4, v: int = 7) -> Batch:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((n, v)).astype(np.float32)
    return Batch("cross_entropy", logits, np.arange(n) % v, np.ones(n, np.float32))


# ------------------------------------------------------------------------------------------------------- at its import

AT_IMPORT = {
    "os._exit(0)": ("import os; os._exit(0)", "crash", "exited with status 0"),
    "sys.exit(0)": ("import sys; sys.exit(0)", "crash", "SystemExit: 0"),
    "abort": ("import os; os.abort()", "crash", "killed by SIGABRT"),
    "an exception": ("raise ValueError('no \\x1b[2J good')", "crash", "ValueError: no \\x1b[2J good"),
    "a hang": ("import time; time.sleep(600)", "time_limit", "did not return within 1.5 s"),
    "the last words": (
        "import os, sys; print('farewell', file=sys.stderr, flush=True); os._exit(3)",
        "crash",
        "exited with status 3: farewell",
    ),
    "a forged claim": (
        """
        import os, sys
        frame = sys._getframe()
        while "request" not in frame.f_locals or "channel" not in frame.f_locals:
            frame = frame.f_back
        from harness.wire import Message
        number = frame.f_locals["request"].body["id"]
        frame.f_locals["channel"].send(Message({"id": number, "options": 7, "needs": {}, "takes_two": True}))
        """,
        "crash",
        "answered in a form that is not the harness's",
    ),
}


@pytest.mark.parametrize("what", AT_IMPORT)
def test_rejected_at_import(what: str, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "IMPORT_TIMEOUT", 0.5)
    code, check, reason = AT_IMPORT[what]
    verdict = vetted(write(code, "right"), timeout=0.5)
    assert (verdict.verdict, [c.name for c in verdict.failed]) == ("rejected", [check])
    assert reason in reasons(verdict)[check]
    assert verdict.message.startswith(f"{check} in float32: importing candidate.py: ")


# ----------------------------------------------------------------------------------------------------------- in a call

IN_A_CALL = {
    "os._exit(0)": ("import os; os._exit(0)", "crash", "exited with status 0"),
    "abort": ("import os; os.abort()", "crash", "killed by SIGABRT"),
    "an exception": ("raise ZeroDivisionError('by\\nzero')", "crash", "ZeroDivisionError: by zero"),
    "sys.exit(0)": ("import sys; sys.exit(0)", "crash", "SystemExit: 0"),
    "a hang": ("import time; time.sleep(600)", "time_limit", "did not return within 1 s"),
    "a hang that holds the interpreter": ("sum(range(10**12))", "time_limit", "did not return within 1 s"),
    "no memory left": (
        "keep = [np.ones(1 << 24) for _ in range(100)]",
        "crash",
        "GiB of memory: the limit is 0.488 GiB",
    ),
    "a child that takes the memory": (
        """
        import subprocess, sys
        code = "import numpy as np, time; keep = [np.ones(1 << 24) for _ in range(100)]; time.sleep(600)"
        subprocess.run([sys.executable, "-c", code])
        """,
        "crash",
        "GiB of memory: the limit is 0.488 GiB",
    ),
    "garbage in every pipe": (
        """
        import os
        for fd in range(3, 64):
            try:
                os.write(fd, b"not a frame, but quite long enough")
            except OSError:
                pass
        """,
        "crash",
        "wrote to the harness's pipe: not a frame",
    ),
    "closing everything": ("import os; os.closerange(3, 256)", "crash", "the process exited"),
    "a forged frame": (
        """
        import sys
        from harness.wire import Message
        frame = sys._getframe()
        while "channel" not in frame.f_locals:
            frame = frame.f_back
        frame.f_locals["channel"].send(Message({"id": 1, "altered": [], "resident": 1}, {"loss": np.zeros(len(y))}))
        """,
        "crash",
        "an answer to another request",
    ),
    "a frame that promises too much": (
        """
        import os, struct, sys
        for fd in range(3, 64):
            try:
                os.write(fd, struct.pack("!4sIQ", b"xent", 100, 1 << 60))
            except OSError:
                pass
        """,
        "crash",
        "wrote to the harness's pipe: arrays of",
    ),
    "text": ("return 'loss'", "output_form", "returned str, not a NumPy array"),
    "a mask": ("return np.ma.masked_invalid(right(z, y))", "output_form", "returned MaskedArray, not a numpy.ndarray"),
    "nothing": ("return None", "output_form", "returned NoneType, not a NumPy array"),
    "objects": ("return np.array([object()])", "output_form", "array of dtype object"),
    "one value too many": ("return np.zeros(len(y) + 1)", "output_form", "got [9]"),
    "integers": ("return np.zeros(len(y), np.int64)", "output_form", "got int64"),
    "half precision": (
        "return right(z, y).astype(np.float16)",
        "output_form",
        "expected float32 or wider, got float16",
    ),
}


@pytest.mark.parametrize("what", IN_A_CALL)
def test_rejected_in_a_call(what: str, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MEMORY_LIMIT", 500 << 20)
    code, check, reason = IN_A_CALL[what]
    spec = write("def f(z, y):\n" + textwrap.indent(textwrap.dedent(code), "    ") + "\n    return right(z, y)\n")
    start = time.monotonic()
    verdict = vetted(spec, "output_form", timeout=1.0 if check == "time_limit" else 20.0)
    assert verdict.verdict == "rejected"
    assert check in reasons(verdict)
    assert reason in reasons(verdict)[check]
    assert set(reasons(verdict)) <= {check, "crash", "time_limit"}
    assert time.monotonic() - start < 60


# Seconds of processor for each second of the clock, and what becomes of a call of 2.7 seconds with a limit of one.
SHARES = {
    "its own processor": (1.0, Outcome.TIMED_OUT, 1.0),
    "half of one": (0.5, Outcome.TIMED_OUT, 2.0),
    "a third of one": (1 / 3, Outcome.PASSED, 2.7),
    "none, asleep": (0.05, Outcome.TIMED_OUT, 1.0),
}


@pytest.mark.parametrize("what", SHARES)
def test_a_busy_machine_does_not_make_a_call_late(what: str, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    share, outcome, seconds = SHARES[what]
    monkeypatch.setattr(watch.Watch, "processor_seconds", lambda self: share * time.monotonic())
    spec = write("import time\ndef f(z, y):\n    time.sleep(2.7)\n    return right(z, y)\n")
    with Session(read_source(spec), timeout=1.0) as session:
        session.open()
        start = time.monotonic()
        assert session.call(batch(), Call(gradient=False)).outcome is outcome
        assert time.monotonic() - start >= seconds


def test_one_whose_calls_take_too_long_together_is_called_no_more(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write("import time\ndef f(z, y):\n    time.sleep(0.05)\n    return right(z, y)\n")
    asked = ("output_form", "late_calls", "deterministic", "row_independence")
    monkeypatch.setattr(Examiner, "MOST_TIMES", 0.1)
    assert "time_limit" not in reasons(vetted(spec, *asked))
    monkeypatch.setattr(Examiner, "MOST_TIME", 1.0)  # a tenth of 20 s is more
    verdict = vetted(spec, *asked)
    said = r"it took \d s for \d\d calls, more than 2 s together \(see --timeout\), and is called no more"
    assert re.fullmatch(said, reasons(verdict)["time_limit"])
    assert {"passed", "failed", "skipped"} == {check.outcome for check in verdict.checks}


def test_seconds_of_processor_are_those_of_all_that_it_starts(write: Write) -> None:
    """A second in the process, one in a child that has ended, and one asleep."""
    busy = "import time; end = time.process_time() + 1\nwhile time.process_time() < end: pass"
    lines = textwrap.indent(f"{busy}\nsubprocess.run([sys.executable, '-c', {busy!r}])\ntime.sleep(1)", "    ")
    spec = write(f"import subprocess, sys\ndef f(z, y):\n{lines}\n    return right(z, y)\n")
    with Session(read_source(spec)) as session:
        session.open()
        assert session._watch is not None
        before = session._watch.processor_seconds()
        assert session.call(batch(), Call(gradient=False)).outcome is Outcome.PASSED
        assert 1.95 <= session._watch.processor_seconds() - before < 2.9


def test_one_that_dies_at_its_first_call_is_not_accepted_in_any_dtype(write: Write) -> None:
    spec = write("import os\ndef f(z, y):\n    os._exit(0)\n")
    verdict = vetted(spec, dtypes=("float64", "float32", "float16"))
    assert verdict.verdict == "rejected"
    assert verdict.message.startswith("crash in float64: first call (8 × 9): the process exited with status 0")
    assert not any(check.outcome == "passed" for check in verdict.checks)


def test_harmless_noise_is_no_offence(write: Write, tmp_path: Path) -> None:
    spec = write(
        f"""
        import os, sys, subprocess, multiprocessing
        def f(z, y):
            for stream in (sys.stdout, sys.stderr):
                stream.write("y" * (1 << 20))
            os.write(1, b"x" * (4 << 20))
            os.write(2, b"x" * (4 << 20))
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
            if os.fork() == 0:  # a child of its own, which orphans another one and returns from the call
                os.setsid()
                if os.fork() == 0:
                    open({str(tmp_path / "pids")!r}, "a").write(f"{{os.getpid()}} ")
                    import time; time.sleep(600)
            else:
                open({str(tmp_path / "pids")!r}, "a").write(f"{{child.pid}} ")
            return right(z, y)
        """
    )
    with Session(read_source(spec), timeout=20) as session:
        session.open()
        for _ in range(2):
            reply = session.call(batch(), Call(gradient=False))
            assert (reply.outcome, reply.detail) == (Outcome.PASSED, "")
        assert soon(lambda: len((tmp_path / "pids").read_text().split()) == 4)
        pids = (tmp_path / "pids").read_text().split()
        assert len(alive(pids)) == 4
    assert soon(lambda: alive(pids) == [], 2)


def test_orphans_go_with_a_process_that_ends_itself(write: Write, tmp_path: Path) -> None:
    spec = write(
        f"""
        import os, sys, subprocess
        def f(z, y):
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
            open({str(tmp_path / "pids")!r}, "a").write(f"{{child.pid}} ")
            os._exit(0)
        """
    )
    with Session(read_source(spec)) as session:
        session.open()
        assert session.call(batch(), Call()).outcome is Outcome.CRASHED
    (pid,) = (tmp_path / "pids").read_text().split()
    assert soon(lambda: alive([pid]) == [], 2)


def test_orphans_go_when_the_harness_is_killed(write: Write, tmp_path: Path) -> None:
    spec = write(
        f"""
        import os, sys, subprocess, time
        def f(z, y):
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
            open({str(tmp_path / "pids")!r}, "a").write(f"{{os.getpid()}} {{child.pid}} ")
            time.sleep(600)
        """
    )
    imports = "from harness.vetting.settings import Options; from harness.vetting.vet import vet"
    code = f"{imports}; vet({spec!r}, Options(timeout=100))"
    parent = subprocess.Popen([sys.executable, "-c", code])
    pids = tmp_path / "pids"
    assert soon(lambda: pids.exists() and len(pids.read_text().split()) == 2, 60)
    parent.kill()
    parent.wait()
    assert soon(lambda: alive(pids.read_text().split()) == [])


def test_one_that_kills_the_other_children_changes_nothing(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # a pool of processes that solve truth, for it to kill
    spec = write(
        """
        import os, psutil
        def f(z, y):
            for process in psutil.Process(os.getppid()).children(recursive=True):
                if process.pid != os.getpid() and "resource_tracker" not in " ".join(process.cmdline()):
                    process.kill()
            return right(z, y) + np.float32(1)
        """
    )
    verdict = vetted(spec, "sizes")
    assert list(reasons(verdict)) == ["sizes"]
    assert vetted(spec.replace(":f", ":right"), "sizes").verdict == "accepted"


def test_a_crash_only_late_is_found(write: Write) -> None:
    spec = write(
        """
        import os
        calls = 0
        def f(z, y):
            global calls
            calls += 1
            if calls > 20:
                os._exit(0)
            return right(z, y)
        """
    )
    assert "exited with status 0" in reasons(vetted(spec, "late_calls"))["crash"]


def test_one_that_can_be_imported_only_once_is_rejected(write: Write, tmp_path: Path) -> None:
    spec = write(
        f"""
        import os
        flag = {str(tmp_path / "flag")!r}
        if os.path.exists(flag):
            raise ValueError("again?")
        open(flag, "w").close()
        def f(z, y):
            os._exit(0)
        """
    )
    assert reasons(vetted(spec, "output_form"))["crash"].startswith("first call (8 × 9): it could be imported once")


# ------------------------------------------------------------------------------------------------------- process state

STATE = {
    "np.seterr(all='raise')": "numpy error state",
    "np.seterr(over='ignore')": "numpy error state",
    "os.chdir('/')": "working folder",
    "warnings.simplefilter('ignore')": "warnings filters",
    "random.seed(0)": "random state",
    "np.random.seed(0)": "numpy random state",
    "np.random.rand()": "numpy random state",
    "np.testing.assert_allclose = print": "patched functions",
    "time.time = time.perf_counter = lambda: 0.0": "patched functions",
    "sys.modules['numpy.testing'] = types.ModuleType('fake')": "patched functions",
    "sys.modules.pop('json', None)": "patched functions",
    "sys.setrecursionlimit(5000)": "recursion limit",
}


AGAIN = ("warnings filters", "random state", "numpy random state", "numpy error state", "working folder")
"""What is put back after each call, so that it shows each time."""


def test_process_state_is_told_by_name(write: Write) -> None:
    deeds = list(STATE)
    lines = "\n".join(f"    if y[0] == {i}: {deed}" for i, deed in enumerate(deeds))
    imports = "import numpy.testing, os, random, sys, time, types, warnings"
    spec = write(f"{imports}\ndef f(z, y):\n{lines}\n    return right(z, y)\n")
    with Session(read_source(spec)) as session:
        session.open()
        for turn in range(2):  # not the first time only, where the deed shows a second time at all
            for number, deed in enumerate(deeds):
                given = batch(1, len(deeds) + 1)
                reply = session.call(
                    Batch(given.loss, given.logits, np.array([number]), given.upstream), Call(gradient=False)
                )
                assert reply.outcome is Outcome.PASSED
                if turn == 0 or STATE[deed] in AGAIN:
                    assert reply.altered == (STATE[deed],), deed
        kept = Batch(given.loss, given.logits, np.array([len(deeds)]), given.upstream)
        assert session.call(kept, Call(gradient=False)).altered == ()


def test_state_is_rejected_for_its_own_check(write: Write) -> None:
    for line, state in (("np.random.seed(0)", "numpy random state"), ("warnings.simplefilter('ignore')", "warnings")):
        spec = write(f"import warnings\ndef f(z, y):\n    {line}\n    return right(z, y)\n")
        verdict = vetted(spec, "process_state", "row_independence")
        assert list(reasons(verdict)) == ["process_state"]
        assert f"a call changed the {state}" in reasons(verdict)["process_state"]


def test_an_input_that_was_changed_before_an_exception_is_told(write: Write) -> None:
    spec = write(
        """
        calls = 0
        def f(z, y):
            global calls
            calls += 1
            if calls == 2:
                z -= 1
                raise ValueError("no")
            return right(z, y)
        """
    )
    assert reasons(vetted(spec, "inputs_untouched")) == {
        "inputs_untouched": "inputs (8 × 9): logits was changed by the call"
    }


def test_state_altered_only_in_a_late_call_is_noticed(write: Write) -> None:
    spec = write(
        """
        calls = 0
        def f(z, y):
            global calls
            calls += 1
            if calls > 60:
                np.seterr(all="ignore")
                np.testing.assert_allclose = print
            return right(z, y)
        """
    )
    assert list(reasons(vetted(spec, "late_calls", "process_state"))) == ["process_state"]


def test_state_altered_by_the_import(write: Write) -> None:
    spec = write("import numpy.testing\nnumpy.testing.assert_allclose = print\n", "right")
    verdict = vetted(spec, "process_state")
    assert reasons(verdict) == {"process_state": "importing the file changes the patched functions of the process"}


TORCH_STATE = {
    "torch.set_default_dtype(torch.float64)": "default dtype",
    "torch.set_flush_denormal(True)": "denormals",
    "torch.manual_seed(0)": "torch random state",
    "torch.rand(1)": "torch random state",
    "torch.set_grad_enabled(False)": "grad mode",
    "torch.set_num_threads(2)": "thread count",
    "torch.allclose = lambda *_: True": "patched functions",
    "torch.testing.assert_close = print": "patched functions",
    "torch.autograd.grad = None": "patched functions",
    "torch.logsumexp = torch.sum": "patched functions",
    "torch.Tensor.exp = torch.Tensor.log": "patched functions",
    "torch.backends.mkldnn.enabled = False": "backend switches",
}


def test_process_state_of_torch_is_told_by_name(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    lines = "\n".join(f"    if y[0] == {i}: {deed}" for i, deed in enumerate(TORCH_STATE))
    code = (
        f"import torch\ndef f(z, y):\n{lines}\n    return torch.nn.functional.cross_entropy(z, y, reduction='none')\n"
    )
    (tmp_path / "torch_candidate.py").write_text(code)
    with Session(read_source(f"{tmp_path / 'torch_candidate.py'}:f"), timeout=30) as session:
        session.open()
        given = batch(1, 12)
        for number, (deed, name) in enumerate(TORCH_STATE.items()):
            sent = Batch(given.loss, given.logits, np.array([number]), given.upstream)
            reply = session.call(sent, Call(gradient=False))
            assert reply.outcome is Outcome.PASSED, reply.detail
            assert name in reply.altered, deed
        assert session.calls == len(TORCH_STATE)
        assert session.deaths == 0


def test_what_torch_candidates_do_to_the_process_rejects_them(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    code = """
import torch
def f(z, y):
    torch.allclose = lambda *_, **__: True
    torch.testing.assert_close = lambda *_, **__: None
    return torch.nn.functional.cross_entropy(z, y, reduction="none")
"""
    (tmp_path / "torch_candidate.py").write_text(code)
    verdict = vetted(f"{tmp_path / 'torch_candidate.py'}:f", "process_state", "upstream_gradient")
    assert list(reasons(verdict)) == ["process_state"]
    assert "a call changed the patched functions of the process" in reasons(verdict)["process_state"]


# ------------------------------------------------------------------------------------- what is called, and what is not


def test_a_gradient_that_does_not_come_back_is_no_answer(tmp_path: Path) -> None:
    """One that reaches into the harness's own code and has its gradient left out is not spared the check."""
    pytest.importorskip("torch")
    code = """
import torch
from harness.vetting import drivers
drivers.TorchDriver._gradients = lambda *_: []
def f(z, y):
    return torch.nn.functional.cross_entropy(z, y, reduction="none")
"""
    (tmp_path / "torch_candidate.py").write_text(code)
    verdict = vetted(f"{tmp_path / 'torch_candidate.py'}:f", "output_form")
    assert "answered without the gradient that was asked for" in reasons(verdict)["crash"]


CLASS = """
import torch
class Loss(torch.nn.Module):
    made = 0
    def __init__(self, weight=None, reduction="mean", **kwargs):
        super().__init__()
        Loss.made += 1
        assert not kwargs, kwargs
        self.weight, self.reduction = weight, reduction
    def forward(self, z, y):
        return torch.nn.functional.cross_entropy(z, y, weight=self.weight, reduction=self.reduction)
class NeedsMore(torch.nn.Module):
    def __init__(self, temperature):
        super().__init__()
instance = torch.nn.CrossEntropyLoss(reduction="none")
native = torch.sum
"""


def test_modules_get_the_options_at_construction(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "modules.py").write_text(CLASS)
    with Session(read_source(f"{tmp_path / 'modules.py'}:Loss"), timeout=30) as session:
        assert session.open().options == ("weight", "reduction")
        given = batch()
        weight = np.linspace(0.5, 2, 7, dtype=np.float32)
        sent = Batch(given.loss, given.logits, given.target, given.upstream, {"weight": weight})
        plain = session.call(given, Call({"reduction": "none"}))
        weighted = session.call(sent, Call({"reduction": "none"}))
        np.testing.assert_allclose(weighted.arrays["loss"], plain.arrays["loss"] * weight[given.target], rtol=1e-6)
        assert weighted.arrays["gradient"].shape == (4, 7)
        assert np.array_equal(weighted.arrays["after/weight"], weight)
    with (
        Session(read_source(f"{tmp_path / 'modules.py'}:NeedsMore")) as session,
        pytest.raises(CannotJudge, match=r"modules.py:NeedsMore needs arguments .* temperature"),
    ):
        session.open()


def test_an_instance_and_a_function_without_a_signature_claim_nothing(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "modules.py").write_text(CLASS)
    with Session(read_source(f"{tmp_path / 'modules.py'}:instance"), timeout=30) as session:
        assert session.open().options == ()
        assert session.call(batch(), Call()).arrays["loss"].shape == (4,)
    with Session(read_source(f"{tmp_path / 'modules.py'}:native"), timeout=30) as session:
        assert session.open().options == ()


SIGNATURES = {
    "def f(z, y, **kwargs): return right(z, y)": (),
    "def f(z, y, weight=None, *, ignore_index=-100): return right(z, y)": ("weight", "ignore_index"),
    "def f(z, y, weight=None, /): return right(z, y)": (),
    "def f(*arguments): return right(*arguments)": (),
    "def f(weight, reduction): return right(weight, reduction)": (),
    "def f(z, y, *, reduction, label_smoothing=0.0, other=3): return right(z, y)": ("reduction", "label_smoothing"),
    "f = lambda z, y, pos_weight=None: right(z, y)": ("pos_weight",),
    "import functools; f = functools.partial(lambda z, y, w, weight=None: right(z, y), w=1)": ("weight",),
}


@pytest.mark.parametrize("code", SIGNATURES)
def test_a_keyword_in_the_signature_is_a_claim(code: str, write: Write) -> None:
    with Session(read_source(write(code))) as session:
        assert session.open() == Claims(SIGNATURES[code])


CANNOT = {
    "def f(z): return z": "candidate.py:f does not take logits and target as its first two arguments",
    "def f(*, z, y): return z": "candidate.py:f does not take logits and target as its first two arguments",
    "def f(z, y, scale): return z": "candidate.py:f needs arguments that the contract does not give: scale",
    "f = 3": "candidate.py: f is a int, not a function or nn.Module class",
    "g = right": "candidate.py: has no f; it has g, np, right",
    "import no_such_module": "candidate.py cannot be imported: ModuleNotFoundError: No module named 'no_such_module'",
    "from numpy import no_such_name": "candidate.py cannot be imported: ImportError: cannot import name 'no_such_name'",
}


@pytest.mark.parametrize("code", CANNOT)
def test_what_cannot_be_judged(code: str, write: Write) -> None:
    with Session(read_source(write(code))) as session, pytest.raises(CannotJudge) as caught:
        session.open()
    assert str(caught.value).startswith(CANNOT[code])


def test_a_gradient_function_that_is_not_there(write: Write) -> None:
    with Session(read_source(write("", "right")), gradient="slope") as session, pytest.raises(CannotJudge) as caught:
        session.open()
    assert str(caught.value) == "candidate.py: has no function slope, which --gradient names"


def test_a_missing_framework(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax", None)  # what an import statement takes for "not to be had"
    with pytest.raises(CannotJudge, match="jax is not installed: pip install jax"):
        vet(write("", "right"), Options(framework="jax"))


def test_no_cuda(write: Write) -> None:
    if installed("torch"):
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            with pytest.raises(CannotJudge, match=r"^torch finds no CUDA device here: leave --device cuda out$"):
                vet(write("", "right"), Options(framework="torch", device="cuda"))
    with pytest.raises(CannotJudge, match=r"^NumPy computes on the CPU only: leave --device out$"):
        vet(write("", "right"), Options(device="cuda"))


NUMPY_GRADIENT = """
def f(z, y, reduction="mean"):
    loss = right(z, y)
    return {"none": loss, "mean": loss.mean(dtype=z.dtype), "sum": loss.sum(dtype=z.dtype)}[reduction]

def slope(z, y, upstream, reduction="none"):
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(z)), y] -= 1
    upstream = np.asarray(upstream)
    if reduction == "mean":
        upstream = upstream / z.dtype.type(len(z))
    return p * (upstream[:, None] if upstream.ndim else upstream).astype(z.dtype)

def twice(z, y, upstream, **options):
    return 2 * slope(z, y, upstream, **options)

def ones(z, y, upstream, reduction="none"):
    return slope(z, y, np.ones_like(upstream), reduction)
"""


def test_a_numpy_gradient_is_judged_where_it_is_named(write: Write) -> None:
    checks = ("gradient_accuracy", "upstream_gradient", "repeated_backward", "reduction")
    spec = write(NUMPY_GRADIENT)
    plain = vetted(spec, *checks)
    assert plain.verdict == "accepted"
    outcomes = {check.name: (check.outcome, check.detail) for check in plain.checks}
    assert (
        outcomes["upstream_gradient"] == outcomes["gradient_accuracy"] == ("skipped", "the candidate has no gradient")
    )
    assert vetted(spec, *checks, gradient="slope").verdict == "accepted"
    assert "gradient_accuracy" in reasons(vetted(spec, "gradient_accuracy", gradient="twice"))
    wrong = vetted(spec, "upstream_gradient", gradient="ones")
    assert list(reasons(wrong)) == ["upstream_gradient"]
    witness = wrong.failed[0].witness
    assert witness is not None
    assert "f, ones = module.f, module.ones" in witness["code"]


def test_a_file_of_a_package_may_import_its_neighbours(tmp_path: Path) -> None:
    package = tmp_path / "kernels" / "losses"
    package.mkdir(parents=True)
    (tmp_path / "kernels" / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "base.py").write_text(RIGHT)
    (package / "main.py").write_text(
        "from .base import right\nfrom ..losses import base\ndef f(z, y): return right(z, y)\n"
    )
    spec = f"{package / 'main.py'}:f"
    source = read_source(spec)
    assert (source.module, source.import_folder, source.label) == ("kernels.losses.main", tmp_path, "main.py:f")
    verdict = vetted(spec, "output_form", "outside_the_harness")
    assert (verdict.verdict, verdict.message) == ("accepted", "4 checks passed")


def test_a_file_may_carry_any_name_and_have_dataclasses(tmp_path: Path) -> None:
    folder = tmp_path / "a folder, with 'quotes'"
    folder.mkdir()
    (folder / "neighbour.py").write_text(RIGHT)
    (folder / "json.py").write_text(
        "from __future__ import annotations\nimport dataclasses, neighbour\n"
        "@dataclasses.dataclass\nclass Setting:\n    scale: float = 1.0\n"
        "def f(z, y): return neighbour.right(z, y)\n"
    )
    verdict = vetted(f"{folder / 'json.py'}:f", "output_form")
    assert verdict.verdict == "accepted", verdict.message


# -------------------------------------------------------------------------------------------- the file, before it runs


def test_frameworks_are_inferred_from_imports(tmp_path: Path) -> None:
    file = tmp_path / "candidate.py"
    table = {
        "import numpy as np": "numpy",
        "": "numpy",
        "import torch": "torch",
        "def f():\n    from torch.nn import functional": "torch",
        "import triton.language as tl": "torch",
        "import jax.numpy as jnp, numpy": "jax",
        "import optax": "jax",
        "from .torch import x": "numpy",
    }
    for code, framework in table.items():
        file.write_text(code)
        assert read_source(f"{file}:f").framework == framework, code
    file.write_text("import torch, jax")
    assert read_source(f"{file}:f", "jax").framework == "jax"
    with pytest.raises(CannotJudge, match="imports both torch and jax: say which with --framework"):
        read_source(f"{file}:f")


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("x = 1\ndef f(:\n")
    (tmp_path / "null.py").write_bytes(b"x = '\0'")
    (tmp_path / "deep.py").write_text("x = " + "(" * 5000)
    os.mkfifo(tmp_path / "pipe.py")
    table = {
        "no_colon.py": "'no_colon.py' is not PATH.py:NAME, such as my_kernel.py:my_loss",
        "a.py:": "'a.py:' is not PATH.py:NAME, such as my_kernel.py:my_loss",
        ":f": "':f' is not PATH.py:NAME, such as my_kernel.py:my_loss",
        "a.py:f()": "'a.py:f()' is not PATH.py:NAME, such as my_kernel.py:my_loss",
        f"{tmp_path}/none.py:f": f"cannot read {tmp_path}/none.py: No such file or directory",
        f"{tmp_path}:f": f"{tmp_path} is a folder: name the Python file in it",
        f"{tmp_path}/broken.py:f": f"{tmp_path}/broken.py, line 2: not valid Python: invalid syntax",
        f"{tmp_path}/pipe.py:f": f"{tmp_path}/pipe.py is not a regular file: name a Python file",
        "nu\0ll.py:f": "cannot read nu\0ll.py: embedded null byte",
    }
    for spec, message in table.items():
        with pytest.raises(CannotJudge) as caught:
            read_source(spec)
        assert str(caught.value) == message
    for name in ("null.py", "deep.py"):
        with pytest.raises(CannotJudge, match="not valid Python"):
            read_source(f"{tmp_path / name}:f")
    with pytest.raises(CannotJudge, match="unknown framework 'mxnet': choose from numpy, torch, jax"):
        read_source(f"{tmp_path}/broken.py:f", "mxnet")


# ------------------------------------------------------------------------------------------- replies, taken at no word


def test_replies_are_believed_in_form_only() -> None:
    loss = np.zeros(3)
    good = Message({"altered": [], "resident": 5}, {"loss": loss, "gradient": loss, "gradient1": loss})
    assert read_reply(good, 2).outcome is Outcome.PASSED
    assert read_reply(good, 3).detail == "answered without the gradient2 that was asked for"
    for body in (
        {},
        {"altered": [], "resident": "5"},
        {"altered": "no", "resident": 5},
        {"altered": [3], "resident": 1},
    ):
        assert read_reply(Message(body, good.arrays), 1).outcome is Outcome.CRASHED
    several = Message(good.body, {"0/loss": loss, "1/loss": loss})
    assert read_reply(several, 0, 2).outcome is Outcome.PASSED
    assert read_reply(several, 0, 3).detail == "answered without the 2/loss that was asked for"
    assert failure_of(good) is None
    failed = failure_of(Message({"failure": "raised", "detail": ["\x1b[31m", 3]}))
    assert failed is not None
    assert (failed.outcome, failed.detail) == (Outcome.RAISED, "['\\x1b[31m', 3]")
    assert read_claims(Message({"options": ["weight"], "altered": []}), ["float32", 3]) == Claims(("weight",))
    assert read_claims(Message({"options": {"weight": 1}, "altered": []}), []) is None


def test_a_strangers_text_is_inert() -> None:
    assert inert("a\x1b[2J\nb\tc\x07 \ud800é×") == "a\\x1b[2J b c\\x07 \\ud800é×"
    assert len(inert("x" * 10_000)) == 400


def test_a_session_that_was_closed_opens_again(write: Write) -> None:
    session = Session(read_source(write("", "right")))
    try:
        session.open()
        first = session.call(batch(), Call(gradient=False))
        session.close()
        session.close()
        second = session.call(batch(), Call(gradient=False))
    finally:
        session.close()
    assert first.outcome is second.outcome is Outcome.PASSED
    assert np.array_equal(first.arrays["loss"], second.arrays["loss"])
    assert session.deaths == 0


def test_a_rejected_import_says_how(write: Write) -> None:
    with Session(read_source(write("import os; os._exit(7)"))) as session, pytest.raises(Rejected) as caught:
        session.open()
    assert caught.value.outcome is Outcome.CRASHED
    assert isinstance(session.source, Source)
