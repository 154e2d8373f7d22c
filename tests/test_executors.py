"""Where the work is done decides nothing but the time: the same results in this process, in several, and on Dask."""

from __future__ import annotations

import gc
import importlib.util
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from concurrent.futures._base import DoneAndNotDoneFutures
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from test_differential import Stub, declared, small

from harness import differential, executors, tasks
from harness.accuracy import Progress, Request, run_accuracy
from harness.crew import Crew, UnlikeHere, crew_of
from harness.declaration import Declaration
from harness.differential import TIMEOUTS, Cell, evaluate, plan
from harness.discovery import discover
from harness.executors import ExecutorUnavailable, dask_pool, is_lost, process_pool
from harness.grades import Outcome
from harness.output import Output
from harness.run import Result, Run
from harness.schedule import Deal, Step, scheduled
from harness.tasks import Done, Task, perform, perform_elsewhere, unmeasured
from harness.worker import Workers

FAMILIES = ("moderate_2", "two_classes", "masked", "ties", "one_class", "moderate_3")

# ----------------------------------------------------------------------------------------- whatever the order of things


class Hanging(Stub):
    """Workers in which some implementations hang on some families; what others give back does not matter here."""

    def __init__(self, hangs: set[tuple[str, str]]) -> None:
        super().__init__()
        self.hangs = hangs
        self.late: list[str] = []

    def perform(self, task: Task, _: Any) -> Iterator[Done]:
        for declaration in task.declarations:
            cell = Cell(declaration, task.batch)
            if (declaration.name, task.batch.family) in self.hangs:
                self.late.append(declaration.name)
                yield Done(unmeasured(cell, Outcome.TIMED_OUT, "did not return"), timed_out=True)
            else:
                yield Done(unmeasured(cell, Outcome.RAISED, task.batch.family))


class AnyOrder(Executor):
    """Does what it was given in whatever order it likes, and loses everything after so many tasks."""

    def __init__(self, workers: Hanging, choose: Callable[[Sequence[Any]], Any], loses: int = 1000) -> None:
        self.workers, self.choose, self.loses = workers, choose, loses
        self.waiting: dict[Future[Any], Task] = {}

    def submit(self, function: Any, /, *arguments: Any, **_: Any) -> Future[Any]:
        assert function is perform_elsewhere
        future: Future[Any] = Future()
        self.waiting[future] = arguments[0]
        return future

    def wait(self, futures: Any, **_: Any) -> Any:
        assert set(futures) == set(self.waiting)
        future = self.choose(list(self.waiting))
        task = self.waiting.pop(future)
        self.loses -= 1
        if self.loses < 0:
            future.set_exception(BrokenProcessPool("a process was killed"))
        else:
            future.set_result(list(self.workers.perform(task, None)))
        return DoneAndNotDoneFutures({future}, set())


def evaluated(hangs: set[tuple[str, str]], executor: Executor | None = None, lanes: int = 1) -> Any:
    """What comes of three implementations on a dozen batches; of the workers in the executor, where there is one."""
    workers = executor.workers if isinstance(executor, AnyOrder) else Hanging(hangs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(differential, "perform", workers.perform)
        if isinstance(executor, AnyOrder):
            patch.setattr(differential, "wait", executor.wait)
        return evaluate(CELLS, workers, executor, lanes=lanes)  # type: ignore[arg-type]


BATCHES = [small(family, dtype) for family in FAMILIES for dtype in ("float32", "float64")]
CELLS = plan([declared(name) for name in "abc"], BATCHES, ("float32", "float64"))


@given(
    st.sets(st.tuples(st.sampled_from("abc"), st.sampled_from(FAMILIES))),
    st.integers(1, 5),
    st.integers(0, 1000),
    st.integers(0, 20),
)
def test_neither_order_nor_lanes_nor_losses_decide_who_has_timed_out(
    hangs: set[tuple[str, str]], lanes: int, seed: int, loses: int
) -> None:
    executor = AnyOrder(Hanging(hangs), random.Random(seed).choice, loses)
    assert evaluated(hangs, executor, lanes) == evaluated(hangs)


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_each_lane_makes_one_call_too_many_at_most(lanes: int) -> None:
    hangs = {("a", family) for family in FAMILIES}
    executor = AnyOrder(Hanging(hangs), lambda waiting: waiting[0])
    results, complete = evaluated(hangs, executor, lanes)
    assert complete
    assert len(executor.workers.late) <= TIMEOUTS + lanes - 1
    assert sum(r.detail == "did not return" for r in results) == 2 * TIMEOUTS


def steps(dtype: str, ranks: Iterable[int]) -> list[Step]:
    return [Step(rank, (), dtype) for rank in ranks]


def dealt(deal: Deal, lane: int) -> int | None:
    step = deal.next(lane)
    return None if step is None else step.rank


def test_a_lane_stays_with_a_shape_and_one_without_work_takes_half_of_what_is_left() -> None:
    deal = Deal([steps("float32", range(6)), steps("float64", (6, 7))], 2)
    assert [dealt(deal, lane) for lane in (0, 1, 0, 1)] == [0, 6, 1, 7]
    assert [dealt(deal, lane) for lane in (1, 0, 1, 0)] == [4, 2, 5, 3]
    assert [dealt(deal, lane) for lane in (0, 1)] == [None, None]


def test_a_lane_stays_with_a_dtype_and_takes_one_that_nobody_has_before_one_that_somebody_has() -> None:
    dtypes = ("float32", "float32", "float64", "float16", "float64", "float32")
    deal = Deal([steps(dtype, [i]) for i, dtype in enumerate(dtypes)], 2)
    assert [dealt(deal, 0), dealt(deal, 1)] == [0, 2]
    assert [dealt(deal, 1), dealt(deal, 1), dealt(deal, 1)] == [4, 3, 1]
    assert [dealt(deal, 0), dealt(deal, 0)] == [5, None]


def test_batches_of_one_shape_stand_together_and_the_most_work_comes_first() -> None:
    batches = [small(f) for f in ("two_classes", "ties", "moderate_2", "masked", "one_class")]
    groups = scheduled(plan([declared("a")], batches, ("float32",)))
    shapes = [[batches[step.cells[0]].logits.shape for step in group] for group in groups]
    assert shapes == [[(16, 1000), (16, 1000)], [(64, 2), (64, 2)], [(64, 1)]]
    assert [step.rank for group in groups for step in group] == [0, 1, 2, 3, 4]


class Wrong(Executor):
    """Fails at everything."""

    def submit(self, *_: Any, **__: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_exception(ZeroDivisionError("ours"))
        return future


def test_what_goes_wrong_in_a_task_is_no_loss_of_the_executor() -> None:
    with pytest.raises(ZeroDivisionError, match="ours"):
        evaluated(set(), Wrong())


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (BrokenProcessPool("killed"), True),
        (BrokenExecutor("broken"), True),
        (CancelledError(), True),
        (KeyboardInterrupt(), False),
        (ValueError("wrong"), False),
        (UnlikeHere("other versions"), False),
    ],
)
def test_what_counts_as_lost(error: BaseException, lost: bool) -> None:
    assert is_lost(error) is lost


def test_dask_loses_a_task_that_kills_its_workers() -> None:
    from distributed import KilledWorker
    from distributed.comm import CommClosedError

    assert is_lost(CommClosedError("closed"))
    assert is_lost(KilledWorker("task", None, 3))


# ---------------------------------------------------------------------------------------------- real workers, elsewhere


@pytest.fixture(scope="module")
def real() -> Iterator[tuple[list[Declaration], Workers]]:
    with Workers(timeout=60.0) as workers:
        found = discover(["numpy_shifted", "numpy_naive"], workers=workers)
        yield [f.declaration for f in found if f.declaration], workers


def test_a_crew_is_as_good_as_the_workers_that_it_describes(real: tuple[list[Declaration], Workers]) -> None:
    declarations, workers = real
    crew = crew_of(workers, ["numpy"])
    assert dict(dict(crew.versions)["numpy"]).keys() >= {"Python", "numpy", "what is flushed to zero"}
    task = Task(small(), tuple(declarations))
    assert perform_elsewhere(task, crew) == list(perform(task, workers))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"numpy": "1.0"}, "numpy worker: numpy is 1.0 here, but "),
        ({"what is flushed to zero": "float32"}, "what is flushed to zero is float32 here, but nothing on"),
        ({"leftpad": "2"}, "leftpad is 2 here, but missing on"),
    ],
)
def test_another_installation_is_refused(
    real: tuple[list[Declaration], Workers], changes: dict[str, str], message: str
) -> None:
    declarations, workers = real
    crew = crew_of(workers, ["numpy"])
    versions = tuple((dict(dict(crew.versions)["numpy"]) | changes).items())
    other = Crew(**{**crew.__dict__, "versions": (("numpy", versions),)})
    with pytest.raises(UnlikeHere) as caught:
        perform_elsewhere(Task(small(), tuple(declarations)), other)
    assert message in str(caught.value)
    assert "install the same there" in str(caught.value)


def test_a_framework_that_is_missing_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    crew = Crew(60.0, 60.0, 1, (("nonesuch", ()),), (("nonesuch", (("Python", "3"),)),))
    with pytest.raises(UnlikeHere, match=r"nonesuch works here, but not on .*: there is no bridge"):
        perform_elsewhere(Task(small(), ()), crew)


def test_a_framework_that_does_not_start_here_is_no_reason_to_refuse() -> None:
    with Workers() as workers:
        assert crew_of(workers, ["nonesuch"]).versions == ()


def test_each_thread_has_workers_of_its_own_which_are_let_go_when_idle(
    real: tuple[list[Declaration], Workers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "IDLE_SECONDS", 0.2)
    crew = crew_of(real[1], ["numpy"])
    shelf, both = tasks._Shelf(), threading.Barrier(2, timeout=60)

    def borrow() -> Workers:
        with shelf.borrowed(crew) as workers:
            both.wait()
            return workers

    with ThreadPoolExecutor(2) as threads:
        one, other = (f.result() for f in [threads.submit(borrow) for _ in range(2)])
    assert one is not other
    deadline = time.monotonic() + 20
    while (one["numpy"].pid or other["numpy"].pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (one["numpy"].pid, other["numpy"].pid) == (None, None)
    with shelf.borrowed(crew) as again:
        assert again not in (one, other)
    with shelf.borrowed(crew) as kept:
        assert kept is again
    shelf.clear()


# ------------------------------------------------------------------------------------------------------ whole run files

REQUEST: dict[str, Any] = {
    "only": ("numpy_shifted", "numpy_naive"),
    "families": ("moderate_2", "two_classes", "masked", "option_label_smoothing"),
    "dtypes": ("float32",),
}


def run_file(path: Path, show: Callable[[Progress], None] = lambda _: None, **changes: Any) -> bytes:
    """The run file of a request, with the time pinned."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        run_accuracy(Request(**REQUEST | changes), show).save(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The run file that one process writes."""
    return run_file(tmp_path_factory.mktemp("alone") / "run.json", jobs=1)


def once(act: Callable[[], object]) -> Callable[[Progress], None]:
    """Something to do after the first cell that was called."""
    left = [act]

    def show(progress: Progress) -> None:
        if progress.share and left:
            left.pop()()

    return show


def test_two_processes_write_the_same_file(alone: bytes, tmp_path: Path) -> None:
    assert run_file(tmp_path / "run.json", jobs=2) == alone


def test_two_processes_one_of_which_is_killed_write_the_same_file(alone: bytes, tmp_path: Path) -> None:
    def kill() -> None:
        os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)

    assert run_file(tmp_path / "run.json", once(kill), jobs=2) == alone
    assert b"moderate_2" in alone


def test_an_interrupt_keeps_what_other_processes_have_finished(alone: bytes, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.share > 0.4:
            raise KeyboardInterrupt

    run_file(tmp_path / "run.json", interrupt, jobs=2)
    run, whole = Run.load(tmp_path / "run.json"), Run.load(write(tmp_path / "whole.json", alone))
    assert not run.complete
    assert 0 < len(run.results) < len(whole.results)
    kept: list[Result] = [r for r in whole.results if r in run.results]
    assert kept == list(run.results)
    deadline = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not multiprocessing.active_children()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_little_work_is_done_here_unless_processes_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def noted(jobs: int) -> Any:
        asked.append(jobs)
        return process_pool(1)

    monkeypatch.setattr("harness.accuracy.process_pool", noted)
    monkeypatch.setattr("harness.accuracy.os.cpu_count", lambda: 7)
    changes = REQUEST | {"families": ("two_classes",)}
    run_accuracy(Request(**changes))
    run_accuracy(Request(**changes, jobs=3))
    monkeypatch.setattr("harness.accuracy.POOL_PAYS", 1)
    run_accuracy(Request(**changes))
    assert asked == [1, 3, 7]


def grades_of_compiled(families: Sequence[str], folder: Path) -> dict[str, tuple[Done, ...]]:
    """What torch.compile makes of families, in this order, in a fresh process with a cache of its own."""
    with pytest.MonkeyPatch.context() as patch, Workers(timeout=600.0) as workers:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
        (found,) = discover(["torch_compiled_cross_entropy"], workers=workers)
        assert found.declaration is not None
        tasks = [Task(small(family, "bfloat16"), (found.declaration,)) for family in families]
        return {task.batch.family: tuple(perform(task, workers)) for task in tasks}


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_what_was_compiled_before_decides_nothing(tmp_path: Path) -> None:
    """By the first size that it meets torch decides which intermediates are rounded to 16 bits."""
    families = ("moderate_3", "ties")
    want = grades_of_compiled(families, tmp_path / "one")
    assert grades_of_compiled(families[::-1], tmp_path / "other") == want
    assert grades_of_compiled(families[::-1], tmp_path / "one") == want


# ----------------------------------------------------------------------------------------------------------------- Dask


@dataclass
class Cluster:
    """A scheduler and two workers with one thread each, in processes of their own."""

    address: str
    pids: list[int]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    import distributed

    file = tmp_path_factory.mktemp("dask") / "scheduler.json"
    where = ["--scheduler-file", str(file), "--no-dashboard"]
    commands = [["scheduler", "--host", "127.0.0.1", "--port", "0"], ["worker", "--nworkers", "2", "--nthreads", "1"]]
    with ExitStack() as stack:
        for command in commands:
            dask = [sys.executable, "-m", "dask", *command, *where]
            process = subprocess.Popen(dask, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        while not (file.exists() and file.read_text().endswith("}")):
            time.sleep(0.05)
        address = json.loads(file.read_text())["address"]
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
            pids = list(client.run(os.getpid).values())
        yield Cluster(address, pids)


def test_dask_writes_the_same_file(cluster: Cluster, alone: bytes, tmp_path: Path) -> None:
    with dask_pool(cluster.address) as pool:
        assert pool.lanes == 2
        assert {pool.executor.submit(os.getpid).result(60) for _ in range(2)} <= set(cluster.pids)
    assert run_file(tmp_path / "run.json", executor=cluster.address) == alone


def test_dask_writes_the_same_file_when_a_worker_is_killed_half_way(
    cluster: Cluster, alone: bytes, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill() -> None:
        os.kill(cluster.pids[0], signal.SIGKILL)
        killed.append(cluster.pids[0])

    assert run_file(tmp_path / "run.json", once(kill), executor=cluster.address) == alone
    assert killed


def test_a_scheduler_that_does_not_answer_is_said_in_time() -> None:
    start = time.monotonic()
    with pytest.raises(ExecutorUnavailable, match=r"no Dask scheduler answers at 'tcp://127\.0\.0\.1:9' within 5 s"):
        run_accuracy(Request(**REQUEST, executor="tcp://127.0.0.1:9"))
    assert time.monotonic() - start < 3 * executors.CONNECT_SECONDS


@pytest.mark.parametrize("address", ["", "nonsense", "udp://127.0.0.1:1", "tcp://127.0.0.1:many"])
def test_what_is_no_address_is_said(address: str) -> None:
    from distributed import Client

    def clients() -> dict[int, object]:
        """By `type`, since `isinstance` asks every object for its class, and torch's deprecated ones warn at that."""
        return {id(found): found for found in gc.get_objects() if issubclass(type(found), Client)}

    before = clients().keys()
    with pytest.raises(ExecutorUnavailable, match="no Dask scheduler answers at"), dask_pool(address):
        pass
    assert clients().keys() <= before, "collected while the next one starts, it would stop both for ever"


def test_a_scheduler_without_workers_is_said() -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=0, processes=False, dashboard_address=":0", silence_logs=50) as empty:
        address = empty.scheduler_address
        said = f"has no workers: start some with `dask worker {address}`"
        with pytest.raises(ExecutorUnavailable, match=said), dask_pool(address):
            pass


def test_without_dask_the_command_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "distributed" else find(name))
    with pytest.raises(ExecutorUnavailable, match=r"pip install 'cross-entropy-harness\[dask\]'"):
        run_accuracy(Request(**REQUEST, executor="tcp://127.0.0.1:9"))


def test_done_can_be_sent() -> None:
    import pickle

    done = next(iter(perform(Task(small(), (declared("a"),)), Stub(Output()))))  # type: ignore[arg-type]
    assert isinstance(done, Done)
    assert pickle.loads(pickle.dumps(done)) == done
    assert str(pickle.loads(pickle.dumps(UnlikeHere("why")))) == "why"
