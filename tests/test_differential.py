"""The differential test: every cell comes to a result, whatever an implementation does in it, and in the same order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from harness import tasks
from harness.batch import Batch
from harness.declaration import Declaration
from harness.differential import TIMEOUTS, Cell, evaluate, plan, truth_executor
from harness.discovery import discover
from harness.executors import interrupts_held
from harness.families import make_batch
from harness.grades import Grade, Outcome
from harness.output import Output
from harness.reference import reference_of
from harness.run import Result
from harness.worker import Workers

PLUGINS = Path(__file__).parent / "plugins"


def declared(name: str, **changes: Any) -> Declaration:
    base: dict[str, Any] = {
        "name": name,
        "framework": "numpy",
        "loss": "cross_entropy",
        "grades": {"float32": Grade.ABSOLUTE, "float64": Grade.RELATIVE},
        "devices": ("cpu",),
        "targets": ("indices",),
        "options": (),
        "has_gradient": True,
        "requires": {},
        "known_failures": (),
        "slow": False,
        "summary": "",
    }
    return Declaration(**base | changes)


def small(family: str = "two_classes", dtype: str = "float32") -> Batch:
    return make_batch(family, "cross_entropy", dtype, 0)


class Stub:
    """Stands for all workers: answers with what it is given, and counts the calls."""

    settings: ClassVar[dict[str, Any]] = {"timeout": 1.0, "import_timeout": 1.0, "threads": 1}
    sources: ClassVar[dict[str, str]] = {}

    def __init__(self, *outputs: Output) -> None:
        self.outputs, self.calls = outputs, 0

    def __getitem__(self, framework: str) -> Stub:
        return self

    def environment(self) -> dict[str, Any]:
        return {"python": "3", "versions": {}, "flushed": []}

    def close(self) -> None:
        pass

    def call(self, name: str, batch: Batch) -> Output:
        self.calls += 1
        output = self.outputs[(self.calls - 1) % len(self.outputs)]
        return right(batch) if output.outcome is Outcome.PASSED and output.loss is None else output


def right(batch: Batch) -> Output:
    truth = reference_of(batch)
    loss, gradient = (x.astype(batch.logits.dtype) for x in (truth.loss_hi, truth.grad_hi))
    return Output(loss, gradient)


def run(cells: list[Cell], stub: Any, executor: Any = None, **keywords: Any) -> tuple[list[Result], bool]:
    return evaluate(cells, stub, executor, **keywords)


# ------------------------------------------------------------------------------------------------------------- the plan


def test_the_plan_has_every_batch_that_an_implementation_claims_a_dtype_of() -> None:
    narrow, wide = small(dtype="float32"), small(dtype="float64")
    a, b = declared("a"), declared("b", grades={"float64": Grade.ABSOLUTE})
    other = declared("other", loss="binary_cross_entropy_with_logits")
    cells = plan([a, b, other], [narrow, wide], ("float64", "float32"))
    assert [(c.batch.dtype, c.declaration.name) for c in cells] == [
        ("float32", "a"),
        ("float64", "a"),
        ("float64", "b"),
    ]
    assert plan([a], [narrow, wide], ("float64",))[0].batch is wide


@pytest.mark.parametrize(
    ("family", "changes", "why"),
    [
        ("moderate_2", {}, ""),
        ("option_weight", {}, "does not claim weight"),
        ("option_weight", {"options": ("weight",)}, ""),
        ("options_combined", {"options": ("weight",)}, "does not claim ignore_index, label_smoothing"),
        ("soft_targets", {}, "does not claim probabilities as target"),
        ("soft_targets", {"targets": ("indices", "probabilities")}, ""),
    ],
)
def test_what_is_not_claimed_is_skipped_and_said_so(family: str, changes: dict[str, Any], why: str) -> None:
    cell = Cell(declared("a", **changes), small(family))
    assert sorted(cell.why_not.replace("does not claim ", "").split(", ")) == sorted(
        why.replace("does not claim ", "").split(", ")
    )
    results, complete = run([cell], Stub(Output()))
    assert complete
    assert {r.outcome for r in results} == {"skipped" if why else "passed"}
    assert {r.detail for r in results} == {cell.why_not}
    assert [r.what for r in results] == ["loss", "gradient"]
    if why:
        assert {(r.grade, r.judged, r.rows) for r in results} == {(None, 0, len(cell.batch.logits))}


# ---------------------------------------------------------------------------------------------------------- the results


def test_results_are_sorted_by_implementation_then_dtype_whatever_the_order_of_the_batches() -> None:
    batches = [small("two_classes", d) for d in ("float32", "float64")] + [small("one_class", "float32")]
    seen: list[str] = []
    cells = plan([declared("b"), declared("a")], batches, ("float64", "float32"))
    results, _ = run(cells, Stub(Output()), on_done=lambda cell, found: seen.append(cell.declaration.name))
    assert [(r.implementation, r.dtype, r.family, r.what) for r in results][:6] == [
        ("b", "float32", "two_classes", "loss"),
        ("b", "float32", "two_classes", "gradient"),
        ("b", "float32", "one_class", "loss"),
        ("b", "float32", "one_class", "gradient"),
        ("b", "float64", "two_classes", "loss"),
        ("b", "float64", "two_classes", "gradient"),
    ]
    assert [r.implementation for r in results] == ["b"] * 6 + ["a"] * 6
    assert seen == ["b", "a"] * 3


@pytest.mark.parametrize("outcome", [Outcome.RAISED, Outcome.CRASHED, Outcome.TIMED_OUT])
def test_a_call_that_comes_to_nothing_fails_both_loss_and_gradient(outcome: Outcome) -> None:
    results, complete = run([Cell(declared("a"), small())], Stub(Output(outcome=outcome, detail="why")))
    assert complete
    assert [(r.what, r.outcome, r.grade, r.detail) for r in results] == [
        ("loss", outcome, "inaccurate", "why"),
        ("gradient", outcome, "inaccurate", "why"),
    ]


def test_a_framework_that_went_missing_is_no_failure_of_the_implementation() -> None:
    (result, _), _ = run([Cell(declared("a"), small())], Stub(Output(outcome=Outcome.UNAVAILABLE, detail="pip")))
    assert (result.outcome, result.grade) == ("unavailable", None)


LATE, NOT_CALLED = "did not return within 1 s", "not called: it has timed out 2 times before"


def test_one_that_hangs_is_not_called_for_ever() -> None:
    stub = Stub(Output(outcome=Outcome.TIMED_OUT, detail=LATE))
    cells = [Cell(declared("a"), small(family)) for family in ("moderate_2", "moderate_3", "moderate_8", "one_class")]
    results, complete = run(cells, stub)
    assert complete
    assert stub.calls == TIMEOUTS == 2
    assert {r.outcome for r in results} == {"timed_out"}
    # The one with the most work comes first: 8 classes, then 3.
    assert {r.family: r.detail for r in results} == {
        "moderate_2": NOT_CALLED,
        "moderate_3": LATE,
        "moderate_8": LATE,
        "one_class": NOT_CALLED,
    }


def test_one_that_hangs_does_not_take_others_with_it() -> None:
    stub = Stub(Output(outcome=Outcome.TIMED_OUT), Output())
    families = ("two_classes", "one_class")
    cells = plan([declared("a"), declared("b")], [small(f) for f in families], ("float32",))
    results, _ = run(cells, stub)
    assert Counter((r.implementation, r.outcome) for r in results) == {("a", "timed_out"): 4, ("b", "passed"): 4}


def test_an_interrupt_keeps_what_was_finished_in_order() -> None:
    batches = [small("two_classes", d) for d in ("float32", "float64")]
    cells = plan([declared("a"), declared("b")], batches, ("float64", "float32"))
    done = 0

    def interrupt(cell: Cell, found: list[Result]) -> None:
        nonlocal done
        done += 1
        if done == 4:
            raise KeyboardInterrupt

    results, complete = run(cells, Stub(Output()), on_done=interrupt)
    assert not complete
    assert [(r.implementation, r.dtype) for r in results if r.what == "loss"] == [
        ("a", "float32"),
        ("a", "float64"),
        ("b", "float32"),
    ]


# ---------------------------------------------------------------------------------------------------------------- truth


class Refusing(Executor):
    """A pool that has lost a process."""

    def submit(self, *_: Any, **__: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_exception(BrokenProcessPool("a process was killed"))
        return future


def test_a_pool_that_lost_a_process_costs_time_and_nothing_else() -> None:
    cells = [Cell(declared("a"), small())]
    assert run(cells, Stub(Output()), Refusing()) == run(cells, Stub(Output()))


def test_truth_of_skipped_batches_is_not_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    def solve(batch: Batch) -> None:
        raise AssertionError("solved")

    monkeypatch.setattr(tasks, "reference_of", solve)
    results, complete = run([Cell(declared("a"), small("option_weight"))], Stub(Output()))
    assert complete
    assert len(results) == 2


def is_over(process: psutil.Process) -> bool:
    """Whether a process has ended, reaped or not; to wait for it would be to reap it, which is the pool's business."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def ends(process: psutil.Process, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not is_over(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    return is_over(process)


def test_no_process_of_the_pool_is_left_even_if_at_work() -> None:
    with truth_executor(2) as pool:
        assert pool is not None
        child = psutil.Process(pool.submit(os.getpid).result(60))
        for _ in range(3):
            pool.submit(time.sleep, 600)
    assert ends(child)


ORPHANS = """
import os, time
from harness.differential import truth_executor
if __name__ == "__main__":
    with truth_executor(2) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 600)
        time.sleep(600)
"""


def test_the_pool_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    assert ends(child)


HALF_AN_ANSWER = """
import inspect, os, struct, time
from pathlib import Path
from harness.differential import truth_executor

def half(begun):
    frame = inspect.currentframe()
    while "result_queue" not in frame.f_locals:
        frame = frame.f_back
    os.write(frame.f_locals["result_queue"]._writer.fileno(), struct.pack("!i", 1 << 20) + b"the beginning of it")
    Path(begun).touch()
    time.sleep(600)

if __name__ == "__main__":
    with truth_executor(2) as pool:
        pool.submit(half, "begun")
        while not Path("begun").exists():
            time.sleep(0.05)
        time.sleep(0.5)
    print("left")
"""


def test_a_process_killed_within_its_answer_keeps_nobody_waiting(tmp_path: Path) -> None:
    script = tmp_path / "half.py"
    script.write_text(HALF_AN_ANSWER)
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "left\n"), done.stderr


def test_an_interrupt_from_the_terminal_does_not_reach_the_pool() -> None:
    with truth_executor(2) as pool:
        with interrupts_held():
            pid = pool.submit(os.getpid).result(60) if pool else 0
        os.kill(pid, signal.SIGINT)
        assert pool is not None
        assert pool.submit(abs, -3).result(60) == 3


# ------------------------------------------------------------------------------------------------- real implementations


@pytest.fixture(scope="module")
def results() -> dict[tuple[str, str], Result]:
    """What comes of the plug-in's implementations on one family: result by implementation and what."""
    with pytest.MonkeyPatch.context() as patch, Workers(timeout=2.0) as workers:
        patch.syspath_prepend(str(PLUGINS))
        found = discover(["bad_*", "good_*"], workers=workers)
        declarations = [f.declaration for f in found if f.declaration]
        cells = plan(declarations, [small("moderate_8")], ("float32",))
        evaluated, complete = evaluate(cells, workers)
    assert complete
    return {(r.implementation, r.what): r for r in evaluated}


@pytest.mark.parametrize(
    ("name", "outcome", "detail"),
    [
        ("bad_raises", "raised", "RuntimeError: no thank you [bold]"),
        ("bad_hangs", "timed_out", "did not return within 2 s"),
        ("bad_dies", "crashed", "killed by SIGKILL"),
        ("bad_exits", "crashed", "exited with status 0"),
        ("bad_returns_nothing", "raised", "TypeError: returned NoneType, not a NumPy array"),
        ("bad_shape", "wrong_shape", "expected shape [64], got [64, 1]"),
        ("bad_dtype", "wrong_dtype", "expected float32 or wider, got float16"),
        ("bad_scalar", "wrong_shape", "expected shape [64], got []"),
        ("bad_sum", "failed", ""),
        ("bad_nan", "nonfinite", ""),
        ("good_rows", "passed", ""),
        ("good_mean", "passed", ""),
    ],
)
def test_outcome_of_a_plug_in(results: dict[tuple[str, str], Result], name: str, outcome: str, detail: str) -> None:
    result = results[name, "loss"]
    assert (result.outcome, result.detail) == (outcome, detail)
    assert result.grade == "inaccurate" or outcome == "passed"


def test_a_gradient_of_the_wrong_shape_fails_alone(results: dict[tuple[str, str], Result]) -> None:
    assert results["bad_gradient_shape", "loss"].outcome == "passed"
    assert results["bad_gradient_shape", "gradient"].outcome == "wrong_shape"


def test_a_mean_without_reduction_is_judged_as_a_mean(results: dict[tuple[str, str], Result]) -> None:
    gradient, batch = results["good_mean", "gradient"], small("moderate_8")
    assert gradient.outcome == "passed"
    assert gradient.judged == gradient.rows == len(batch.logits)
    assert gradient.witness is not None
    truth = reference_of(batch).reduced("mean", float(batch.upstream[0]))
    where = gradient.witness["row"], gradient.witness["column"]
    assert float.fromhex(gradient.witness["want"]) == truth.grad_hi[where]
    assert results["bad_sum", "loss"].max_rel == pytest.approx(len(batch.logits) - 1, rel=1e-6)
