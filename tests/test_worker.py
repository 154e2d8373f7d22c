"""Workers: whatever an implementation does to its process becomes an outcome, and the next call is served."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import psutil
import pytest

from harness.batch import Batch
from harness.bridges.stopwatch import Task
from harness.declaration import Declaration
from harness.grades import Grade, Outcome
from harness.messages import describe_exception
from harness.wire import Message, WireError
from harness.worker import Worker, WorkerError, Workers

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

MISCHIEF = '''
"""Implementations that misbehave, each in its own way."""
import os, signal, subprocess, sys, threading, time
import numpy as np
from harness.declaration import KnownFailure, implementation

calls = 0

def declare(function):
    return implementation(framework="numpy", loss="cross_entropy", grade="absolute")(function)

@declare
def good(logits, target):
    return logits[:, 0] + 1

@declare
def counts_calls(logits, target):
    global calls
    calls += 1
    return np.full(len(target), float(calls))

@declare
def raises(logits, target):
    raise ZeroDivisionError("first line\\nsecond line " + "x" * 1000)

@declare
def leaves(logits, target):
    sys.exit(7)

@declare
def exits(logits, target):
    os._exit(3)

@declare
def exits_quietly(logits, target):
    os._exit(0)

@declare
def speaks_and_exits(logits, target):
    print("the last words", file=sys.stderr, flush=True)
    os._exit(4)

@declare
def speaks(logits, target):
    print("nothing to do with what comes later", file=sys.stderr, flush=True)
    return logits[:, 0]

@declare
def hangs(logits, target):
    while True:
        time.sleep(0.01)

@declare
def kills_itself(logits, target):
    os.kill(os.getpid(), signal.SIGKILL)

@declare
def segfaults(logits, target):
    os.kill(os.getpid(), signal.SIGSEGV)

@declare
def prints(logits, target):
    for stream in (sys.stdout, sys.stderr):
        for _ in range(64):
            stream.write("y" * (1 << 16) + "\\n")
    os.write(1, b"x" * (1 << 20))
    os.write(2, b"x" * (1 << 20))
    return logits[:, 0]

@declare
def returns_text(logits, target):
    return "loss"

@declare
def returns_objects(logits, target):
    return np.array([object()])

@declare
def scribbles(logits, target):
    loss = logits[:, 0].copy()
    logits[...] = 0
    target[...] = 0
    return loss

@declare
def reads_input(logits, target):
    return np.full(len(target), float(len(sys.stdin.read())))

@declare
def closes_everything(logits, target):
    os.closerange(3, 256)
    return logits[:, 0]

@declare
def writes_everywhere(logits, target):
    for fd in range(3, 64):
        try:
            os.write(fd, b"not a frame, but quite long enough")
        except OSError:
            pass
    return logits[:, 0]

@declare
def forks(logits, target):
    if os.fork() == 0:
        return np.zeros(1)
    return logits[:, 0]

@declare
def leaves_a_process_behind(logits, target):
    for fd in map(int, sys.argv[-3:]):  # the harness's own
        os.set_inheritable(fd, True)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False)
    return np.array([float(child.pid)])

@declare
def exits_with_a_process_behind(logits, target):
    if os.fork() == 0:
        time.sleep(600)
    os._exit(5)

@declare
def environment(logits, target):
    return np.array([float(os.environ["OMP_NUM_THREADS"]), float(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)])
'''

TORCH = '''
import torch
from harness.declaration import implementation

@implementation(framework="torch", loss="cross_entropy", grade="absolute", targets=("indices", "probabilities"))
def ce(logits, target, *, weight=None, reduction="mean"):
    """Cross entropy."""
    return torch.nn.functional.cross_entropy(logits, target, weight=weight, reduction=reduction)

@implementation(framework="torch", loss="cross_entropy", grade="absolute")
def first_column(logits, target):
    return logits[:, 0]

@implementation(framework="torch", loss="cross_entropy", grade="absolute")
def not_differentiable(logits, target):
    return logits.detach()[:, 0]

@implementation(framework="numpy", loss="cross_entropy", grade="absolute")
def of_another_framework(logits, target):
    return logits[:, 0]
'''


def batch(rows: int = 4, classes: int = 3, dtype: object = np.float64) -> Batch:
    rng = np.random.default_rng(1)
    return Batch(
        "cross_entropy",
        rng.standard_normal((rows, classes)).astype(dtype),
        rng.integers(0, classes, rows),
        rng.standard_normal(rows).astype(dtype),
        family="moderate",
        seed=1,
    )


@pytest.fixture(scope="module")
def mischief(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    path = tmp_path_factory.mktemp("mischief") / "mischief.py"
    path.write_text(MISCHIEF)
    with Worker("numpy", timeout=1.0) as worker:
        declarations, reasons = worker.describe([path])
        assert reasons == {}
        assert len(declarations) == MISCHIEF.count("@declare\n")
        yield worker


@pytest.fixture(scope="module")
def torch_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    path = tmp_path_factory.mktemp("torch") / "with_torch.py"
    path.write_text(TORCH)
    with Worker("torch") as worker:
        declarations, reasons = worker.describe([path])
        assert reasons == {}
        assert [declaration.name for declaration in declarations] == ["ce", "first_column", "not_differentiable"]
        yield worker


def assert_well(worker: Worker) -> None:
    output = worker.call("good", batch())
    assert output.outcome is Outcome.PASSED, output.detail
    assert output.loss is not None
    assert output.loss.tolist() == (batch().logits[:, 0] + 1).tolist()


def gone(pid: int) -> bool:
    """Whether a process has ended, within a few seconds; a zombie that waits for another parent has."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE and psutil.Process(pid).ppid() != os.getpid():
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


MISDEEDS = [
    ("raises", Outcome.RAISED, "ZeroDivisionError: first line second line xxx"),
    ("leaves", Outcome.RAISED, "SystemExit: 7"),
    ("returns_text", Outcome.RAISED, "TypeError: returned str, not a NumPy array"),
    ("returns_objects", Outcome.RAISED, "TypeError: returned an array of dtype object"),
    ("exits", Outcome.CRASHED, "exited with status 3"),
    ("exits_quietly", Outcome.CRASHED, "exited with status 0"),
    ("speaks_and_exits", Outcome.CRASHED, "exited with status 4: the last words"),
    ("kills_itself", Outcome.CRASHED, "killed by SIGKILL"),
    ("segfaults", Outcome.CRASHED, "killed by SIGSEGV"),
    ("exits_with_a_process_behind", Outcome.CRASHED, "exited with status 5"),
    ("writes_everywhere", Outcome.CRASHED, "broke the protocol: not a frame"),
    ("hangs", Outcome.TIMED_OUT, "did not return within 1 s"),
]


@pytest.mark.parametrize(("name", "outcome", "detail"), MISDEEDS, ids=[name for name, *_ in MISDEEDS])
def test_misdeeds_become_outcomes(mischief: Worker, name: str, outcome: Outcome, detail: str) -> None:
    assert_well(mischief)
    pid = mischief.pid
    start = time.monotonic()
    output = mischief.call(name, batch())
    assert (output.outcome, output.loss, output.gradient) == (outcome, None, None)
    assert output.detail.startswith(detail)
    assert "\n" not in output.detail
    assert len(output.detail) <= 400
    assert time.monotonic() - start < 10
    if outcome is not Outcome.RAISED:
        assert pid is not None
        assert not psutil.pid_exists(pid), "reaped, so that no zombie is left"
    assert_well(mischief)


def test_one_that_closes_our_descriptors_is_noticed(mischief: Worker) -> None:
    output = mischief.call("closes_everything", batch())
    assert output.outcome is Outcome.CRASHED
    assert_well(mischief)


@pytest.mark.parametrize("name", ["prints", "forks", "scribbles"])
def test_what_is_no_offence_passes(mischief: Worker, name: str) -> None:
    given = batch()
    before = [array.copy() for array in (given.logits, given.target)]
    output = mischief.call(name, given)
    assert output.outcome is Outcome.PASSED, output.detail
    assert output.loss is not None
    assert output.loss.tolist() == before[0][:, 0].tolist()
    assert (given.logits == before[0]).all()
    assert (given.target == before[1]).all()
    assert_well(mischief)


def test_a_crash_is_not_blamed_on_what_an_earlier_call_printed(mischief: Worker) -> None:
    assert mischief.call("speaks", batch()).outcome is Outcome.PASSED
    time.sleep(0.2)  # for the line to be read
    assert mischief.call("exits", batch()).detail == "exited with status 3"


def test_standard_input_is_empty(mischief: Worker) -> None:
    output = mischief.call("reads_input", batch())
    assert output.loss is not None
    assert output.loss.tolist() == [0.0] * 4


def test_what_it_started_ends_with_the_worker(mischief: Worker) -> None:
    output = mischief.call("leaves_a_process_behind", batch(rows=1))
    assert output.loss is not None, output.detail
    grandchild = int(output.loss[0])
    assert psutil.pid_exists(grandchild)
    # It holds the pipes open, yet the worker's death is noticed at once, not at the timeout.
    output = mischief.call("exits", batch())
    assert output.outcome is Outcome.CRASHED
    assert output.detail.startswith("exited with status 3")
    assert gone(grandchild)


def test_state_lasts_from_call_to_call_and_ends_with_the_process(mischief: Worker) -> None:
    mischief.close()
    got = [mischief.call("counts_calls", batch(rows=1)).loss for _ in range(3)]
    assert [float(loss[0]) for loss in got if loss is not None] == [1.0, 2.0, 3.0]
    mischief.call("exits", batch())
    again = mischief.call("counts_calls", batch(rows=1)).loss
    assert again is not None
    assert again.tolist() == [1.0]


def test_numpy_without_a_gradient(mischief: Worker) -> None:
    output = mischief.call("good", batch(), gradient=True)
    assert output.outcome is Outcome.PASSED
    assert output.gradient is None
    assert output.backend == "native"
    assert 0 < output.seconds < 1


def test_threads_and_interrupts_in_the_child(mischief: Worker) -> None:
    output = mischief.call("environment", batch())
    assert output.loss is not None
    assert output.loss.tolist() == [1.0, 1.0]
    environment = mischief.environment()
    assert environment["framework"] == "numpy"
    assert environment["versions"]["numpy"] == np.__version__
    assert environment["threads"] == 1
    assert environment["variables"]["OMP_NUM_THREADS"] == "1"


def test_an_interrupt_of_the_group_leaves_the_child_alone(mischief: Worker) -> None:
    assert_well(mischief)
    pid = mischief.pid
    assert pid is not None
    assert os.getpgid(pid) != os.getpgrp()
    os.kill(pid, signal.SIGINT)
    assert_well(mischief)
    assert mischief.pid == pid


def test_an_interrupt_in_the_parent_leaves_the_worker_usable(mischief: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_well(mischief)

    def interrupted(deadline: float | None = None) -> Message:
        raise KeyboardInterrupt

    assert mischief._child is not None
    monkeypatch.setattr(mischief._child.channel, "receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mischief.call("good", batch())
    assert_well(mischief)


def test_unknown_names_and_unsendable_batches_are_the_caller_s_mistakes(mischief: Worker) -> None:
    with pytest.raises(KeyError, match="no implementation 'nobody' in the numpy worker: describe its module first"):
        mischief.call("nobody", batch())
    assert_well(mischief)
    pid = mischief.pid
    narrow = Batch("cross_entropy", np.zeros((2, 2)), np.zeros(2, dtype="i4"), np.zeros(2))
    with pytest.raises(WireError, match="array 'target' has dtype int32"):
        mischief.call("good", narrow)
    assert_well(mischief)
    assert mischief.pid == pid


def test_timing(mischief: Worker) -> None:
    given = batch()
    timed = mischief.time("good", given, repeats=5)
    assert len(timed.seconds) == len(timed.digests) == 5
    assert all(0 < figure < 1 for figure in timed.seconds)
    (name,) = {entry["loss"] for entry in timed.digests}
    np.testing.assert_array_equal(timed.arrays[name], mischief.call("good", given).loss)
    assert mischief.time("good", given, known=[name]).arrays == {}
    for name, outcome in [("raises", Outcome.RAISED), ("exits", Outcome.CRASHED), ("hangs", Outcome.TIMED_OUT)]:
        with pytest.raises(WorkerError) as caught:
            mischief.time(name, given)
        assert caught.value.outcome is outcome
        assert str(caught.value) == caught.value.detail != ""
    with pytest.raises(WorkerError, match="good has no gradient: time 'forward'") as refused:
        mischief.time("good", given, Task("forward+backward"))
    assert refused.value.outcome is Outcome.UNAVAILABLE
    assert len(mischief.time("good", given).seconds) == 1


def test_copies_are_timed_too(mischief: Worker) -> None:
    given = batch()
    assert len(mischief.copies(given, repeats=3)) == 3
    assert all(0 < figure < 1 for figure in mischief.copies(given, repeats=2))


def test_a_batch_is_sent_once_and_the_cache_is_bounded(mischief: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []
    request = mischief._request

    def watched(message: Message, timeout: float) -> Message:
        sent.append(message.body["op"])
        return request(message, timeout)

    monkeypatch.setattr(mischief, "_request", watched)
    batches = [batch() for _ in range(10)]
    for _ in range(3):
        mischief.time("good", batches[0])
    assert sent.count("keep") == 1
    for entry in batches:
        mischief.time("good", entry)
    assert sent.count("keep") == 10
    mischief.time("good", batches[-1])
    assert sent.count("keep") == 10
    mischief.time("good", batches[0])  # dropped in the meantime, and sent again
    assert sent.count("keep") == 11


def test_two_workers_at_once(mischief: Worker, torch_worker: Worker) -> None:
    results: dict[str, list[Outcome]] = {"numpy": [], "torch": []}

    def many(worker: Worker, names: list[str]) -> None:
        for name in names * 5:
            results[worker.framework].append(worker.call(name, batch()).outcome)

    threads = [
        threading.Thread(target=many, args=(mischief, ["good", "exits", "prints"])),
        threading.Thread(target=many, args=(torch_worker, ["ce", "first_column"])),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results["numpy"] == [Outcome.PASSED, Outcome.CRASHED, Outcome.PASSED] * 5
    assert results["torch"] == [Outcome.PASSED, Outcome.PASSED] * 5


def test_one_worker_may_be_shared_by_threads(mischief: Worker) -> None:
    got: list[bool] = []

    def many(seed: int) -> None:
        logits = np.full((3, 2), float(seed))
        given = Batch("cross_entropy", logits, np.zeros(3, dtype="i8"), np.ones(3))
        for _ in range(20):
            loss = mischief.call("good", given).loss
            got.append(loss is not None and loss.tolist() == [seed + 1.0] * 3)

    threads = [threading.Thread(target=many, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [True] * 60


def test_bfloat16_is_bit_exact_through_torch(torch_worker: Worker) -> None:
    every = np.arange(1 << 16, dtype="u2").view(BFLOAT16).reshape(-1, 1)
    upstream = np.arange(1 << 16, dtype="u2")[::-1].copy().view(BFLOAT16)
    given = Batch("cross_entropy", every, np.zeros(len(every), dtype="i8"), upstream)
    output = torch_worker.call("first_column", given)
    assert output.outcome is Outcome.PASSED, output.detail
    assert output.loss is not None
    assert output.loss.dtype == BFLOAT16
    assert output.loss.tobytes() == every.tobytes()
    assert output.gradient is not None
    numbers = ~np.isnan(upstream.astype("f4"))  # a NaN need not keep its payload through the backward's addition
    assert output.gradient[numbers].tobytes() == upstream[numbers].tobytes()


def test_the_gradient_of_a_torch_function(torch_worker: Worker) -> None:
    given = batch(rows=6, classes=5)
    output = torch_worker.call("ce", given)
    p = np.exp(given.logits) / np.exp(given.logits).sum(axis=1, keepdims=True)
    p[np.arange(6), given.target] -= 1
    assert output.gradient is not None
    np.testing.assert_allclose(output.gradient, given.upstream[:, None] * p, rtol=0, atol=1e-14)
    without = torch_worker.call("ce", given, gradient=False)
    assert without.gradient is None
    assert without.loss is not None
    assert output.loss is not None
    assert without.loss.tobytes() == output.loss.tobytes()
    scalar = Batch(given.loss, given.logits, given.target, np.array(-3.0), {"weight": np.array([1.0, 2, 0, 0.5, 1])})
    mean = torch_worker.call("ce", scalar, reduction="mean")
    assert mean.outcome is Outcome.PASSED, mean.detail
    assert mean.loss is not None
    assert mean.loss.shape == ()


def test_what_torch_says_of_a_missing_graph(torch_worker: Worker) -> None:
    output = torch_worker.call("not_differentiable", batch())
    assert output.outcome is Outcome.RAISED
    assert output.detail.startswith("RuntimeError: element 0 of tensors does not require grad")
    assert torch_worker.call("not_differentiable", batch(), gradient=False).outcome is Outcome.PASSED
    assert len(torch_worker.time("ce", batch(), Task("forward+backward"), repeats=2).seconds) == 2


def test_declarations_cross_whole(tmp_path: Path) -> None:
    path = tmp_path / "declares.py"
    path.write_text(
        textwrap.dedent('''
            from harness.declaration import KnownFailure, implementation
            from mischief_neighbour import helper

            @implementation(
                framework="numpy", loss="binary_cross_entropy_with_logits", dtypes=("float32",), grade="relative",
                targets=("probabilities",), requires={"numpy": "numpy>=2"}, slow=True,
                known_failures=(KnownFailure(("ties", "recorded/*"), "a reason", "a/b#1", ("float32",), ("loss",)),),
            )
            def declares(x, t, *, weight=None, pos_weight=None, unknown=1, reduction="mean"):
                """The summary.

                More.
                """
                return helper(x)
        ''')
    )
    (tmp_path / "mischief_neighbour.py").write_text("def helper(x):\n    return x\n")
    with Worker("numpy") as worker:
        (declaration,), reasons = worker.describe([path])
    assert reasons == {}
    assert isinstance(declaration, Declaration)
    assert declaration.name == "declares"
    assert declaration.grades == {"float32": Grade.RELATIVE}
    assert declaration.options == ("weight", "pos_weight", "reduction")
    assert declaration.targets == ("probabilities",)
    assert declaration.known_failures[0].families == ("ties", "recorded/*")
    assert declaration.slow
    assert not declaration.has_gradient
    assert declaration.summary == "The summary."
    assert declaration.requires == {"numpy": "numpy>=2"}


BROKEN = {
    "raising": ("raise RuntimeError('at import')", "RuntimeError: at import"),
    "syntax": ("def broken(:", "SyntaxError: invalid syntax"),
    "exiting": ("import os; os._exit(9)", "importing it: exited with status 9"),
    "hanging": ("import time; time.sleep(600)", "importing it: did not return within 1 s"),
    "quitting": ("raise SystemExit(2)", "SystemExit: 2"),
    "lacking": ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
    "requiring": (
        "import no_such_module_anywhere.part\nfrom harness.declaration import implementation\n"
        "@implementation(framework='numpy', loss='l', grade='absolute',\n"
        "                requires={'no_such_module_anywhere': 'nsm>=3'})\n"
        "def f(x, t): return x",
        "ModuleNotFoundError: No module named 'no_such_module_anywhere': pip install 'nsm>=3'",
    ),
}


def test_modules_that_cannot_be_imported_are_named_and_hinder_no_other(tmp_path: Path) -> None:
    (tmp_path / "fine.py").write_text(MISCHIEF)
    paths = [tmp_path / f"{name}.py" for name in BROKEN]
    for path in paths:
        path.write_text(BROKEN[path.stem][0])
    with Worker("numpy", import_timeout=1.0) as worker:
        declarations, reasons = worker.describe(
            [*paths, tmp_path / "fine.py", tmp_path / "absent.py", "no.such.module"]
        )
        assert "good" in [declaration.name for declaration in declarations]
        assert_well(worker)
    for path in paths:
        assert reasons.pop(str(path)).startswith(BROKEN[path.stem][1]), path
    assert reasons.pop(str(tmp_path / "absent.py")).startswith("FileNotFoundError")
    assert reasons.pop("no.such.module") == "ModuleNotFoundError: No module named 'no'"
    assert reasons == {}


def test_a_missing_framework_is_unavailable_and_starts_no_process(no_torch: None) -> None:
    with Worker("torch") as worker:
        assert worker.describe(["some.module"]) == ([], {"some.module": "torch is not installed: pip install torch"})
        with pytest.raises(WorkerError, match="pip install torch") as caught:
            worker.environment()
        assert caught.value.outcome is Outcome.UNAVAILABLE
        assert worker.pid is None


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.bridges.installed", lambda module: module != "torch")


def test_a_broken_installation_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libsomething.so: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    with Worker("torch") as worker:
        _, reasons = worker.describe(["some.module"])
        assert reasons["some.module"].startswith("the torch worker does not start: OSError: libsomething.so")
        assert worker.pid is None


def test_workers_are_made_on_demand_and_closed_together(tmp_path: Path) -> None:
    path = tmp_path / "mischief.py"
    path.write_text(MISCHIEF)
    with Workers(timeout=5.0) as workers:
        worker = workers["numpy"]
        assert worker is workers["numpy"]
        assert worker.pid is None
        worker.describe([path])
        pid = worker.pid
        assert pid is not None
    assert not psutil.pid_exists(pid)


def test_a_forgotten_worker_ends(tmp_path: Path) -> None:
    worker = Worker("numpy")
    worker.environment()
    pid = worker.pid
    assert pid is not None
    del worker
    assert not psutil.pid_exists(pid)


ORPHAN = """
import sys, time
from pathlib import Path
from harness.worker import Worker
from test_worker import batch
worker = Worker("numpy", timeout=600)
worker.describe([Path(sys.argv[1])])
worker.call("good", batch())
print(worker.pid, flush=True)
worker.call("hangs", batch())
"""


def test_a_child_does_not_outlive_its_parent(tmp_path: Path) -> None:
    path = tmp_path / "mischief.py"
    path.write_text(MISCHIEF)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])}
    command = [sys.executable, "-c", ORPHAN, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert psutil.pid_exists(child)
        time.sleep(0.2)
        parent.kill()
    assert gone(child)


class Hostile(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("a\n  b\tc"), "ValueError: a b c"),
        (ValueError(), "ValueError"),
        (Hostile(), "Hostile: (its message cannot be shown)"),
        (ValueError("x" * 10_000), "ValueError: " + "x" * 387 + "…"),
    ],
)
def test_exceptions_are_one_short_line(error: BaseException, text: str) -> None:
    assert describe_exception(error) == text


@pytest.mark.parametrize(
    "body",
    [{}, {"seconds": "soon"}, {"seconds": 1.0}, {"failure": "passed", "detail": ""}, {"failure": "raised"}],
    ids=str,
)
def test_a_reply_that_is_none_counts_as_a_crash(
    mischief: Worker, monkeypatch: pytest.MonkeyPatch, body: dict[str, object]
) -> None:
    assert_well(mischief)
    assert mischief._child is not None
    monkeypatch.setattr(mischief._child.channel, "receive", lambda deadline=None: Message(body))
    output = mischief.call("good", batch())
    assert output.outcome is Outcome.CRASHED
    assert output.detail.startswith("broke the protocol: ")
    assert_well(mischief)


def test_restarts_leave_nothing_open(mischief: Worker) -> None:
    def after_a_crash() -> tuple[int, int]:
        mischief.call("exits", batch())
        return psutil.Process().num_fds(), threading.active_count()

    known = {child.pid for child in psutil.Process().children()}  # of other tests
    before = after_a_crash()
    for _ in range(3):
        after_a_crash()
    assert after_a_crash() == before
    assert psutil.STATUS_ZOMBIE not in [
        child.status() for child in psutil.Process().children() if child.pid not in known
    ]
