"""Workers, the parent's side: one child process per framework, in which implementations are imported, called and timed.

Whatever an implementation does there (raise, hang, print, exit, crash) becomes an outcome here, and the worker is as
good as new for the next call. The child's side is `harness.worker_main`; they speak through `harness.wire`.
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from harness.batch import Batch
from harness.bridges import unavailable
from harness.bridges.stopwatch import Task
from harness.declaration import Declaration
from harness.grades import Outcome
from harness.messages import batch_message, check_reply
from harness.output import Output
from harness.process import Child, child_environment
from harness.timed import Timed, timed_from
from harness.wire import Message, WireClosed, WireError, WireTimeout

__all__ = ["Worker", "WorkerError", "Workers"]

_START_TIMEOUT = 120.0
_FORWARD = Task()


class WorkerError(RuntimeError):
    """A request that came to nothing.

    `outcome` (`RAISED`, `CRASHED`, `TIMED_OUT` or `UNAVAILABLE`) says how, `detail` why, on one line.
    """

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome, self.detail = outcome, detail


class Worker:
    """A child process for one framework: started when first needed, and anew after a crash or a timeout.

    A context manager; after `close` it may be used again, and starts again. Calls from several threads take turns.

    Parameters
    ----------
    framework : str
        Which bridge the child uses.
    timeout : float
        Seconds that one call may take.
    threads : int
        Threads that the framework may use.
    import_timeout : float
        Seconds that importing one module may take.
    device : str
        Where the implementations get their inputs: ``"cpu"`` or ``"cuda"``. A framework that cannot use it does not
        start.
    """

    module: ClassVar[str] = "harness.worker_main"
    """What the child runs."""
    variables: ClassVar[Mapping[str, str]] = {}
    """Environment variables of the child, beside those of every child."""

    def __init__(
        self,
        framework: str,
        *,
        timeout: float = 120.0,
        threads: int = 1,
        import_timeout: float = 120.0,
        device: str = "cpu",
    ) -> None:
        self.device = device
        self.framework, self.timeout, self.threads, self.import_timeout = framework, timeout, threads, import_timeout
        self._child: Child | None = None
        self._flushed: frozenset[str] = frozenset()
        self._modules: dict[str, str] = {}
        self._loaded: set[str] = set()
        self._batch_ids: weakref.WeakKeyDictionary[Batch, int] = weakref.WeakKeyDictionary()
        self._next_id = itertools.count()
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The child's process id, or None while there is none."""
        return self._child.pid if self._child else None

    def close(self) -> None:
        """End the child process, if there is one."""
        if self._child:
            self._child.end()
            self._child = None
            self._loaded.clear()

    def describe(self, files: Sequence[Path | str]) -> tuple[list[Declaration], dict[str, str]]:
        """Import modules in the child, and return what they declare for this framework.

        Parameters
        ----------
        files : sequence of Path or str
            Python files (as `Path`) and modules (by name, as `str`).

        Returns
        -------
        declarations : list of Declaration
            In the order of the modules and of their source. Their names may be passed to `call` and `time`.
        reasons : dict of str to str
            For each entry of `files` that cannot be imported, as a string: why, on one line, with the command that
            installs what is missing.
        """
        declarations: list[Declaration] = []
        reasons: dict[str, str] = {}
        with self._lock:
            for file in files:
                source = f"file:{file.resolve()}" if isinstance(file, Path) else f"module:{file}"
                try:
                    reply = self._load(source)
                except WorkerError as error:
                    prefix = "" if error.outcome in (Outcome.UNAVAILABLE, Outcome.RAISED) else "importing it: "
                    reasons[str(file)] = prefix + error.detail
                    continue
                for entry in reply.body["declarations"]:
                    declarations.append(Declaration.from_json(entry))
                    self._modules[declarations[-1].name] = source
        return declarations, reasons

    @property
    def sources(self) -> dict[str, str]:
        """Where each implementation that `describe` has returned comes from: what `learn` takes."""
        return dict(self._modules)

    def learn(self, sources: Mapping[str, str]) -> None:
        """Take what another worker has described: the modules are imported when they are first called."""
        self._modules.update(sources)

    def call(self, name: str, batch: Batch, *, gradient: bool = True, reduction: str = "none") -> Output:
        """Call an implementation on a copy of a batch.

        Parameters
        ----------
        name : str
            Name of an implementation that `describe` has returned.
        batch : Batch
            The inputs; ``upstream`` has as many elements as the output (one, for a reduced output).
        gradient : bool
            Whether to differentiate too.
        reduction : str
            Passed to an implementation that claims ``reduction``; another is called without.

        Returns
        -------
        Output
            `PASSED` with the arrays that came back (the gradient is None where there is none), or `RAISED`, `CRASHED`,
            `TIMED_OUT` or `UNAVAILABLE` with the reason.

        Raises
        ------
        KeyError
            For a name that `describe` has not returned.
        WireError
            For a batch that cannot be sent: a dtype that does not cross, or arrays over the limit.
        """
        body = {"op": "call", "name": name, "gradient": gradient, "reduction": reduction}
        with self._lock:
            start = time.monotonic()
            try:
                self._ready(name)
                start = time.monotonic()
                reply = self._request(batch_message(batch, body), self.timeout)
            except WorkerError as error:
                return Output(outcome=error.outcome, detail=error.detail, seconds=time.monotonic() - start)
        return Output(
            reply.arrays["loss"],
            reply.arrays.get("gradient"),
            backend=str(reply.body.get("backend", "native")),
            seconds=reply.body["seconds"],
            flushed=self._flushed,
        )

    def time(
        self, name: str, batch: Batch, task: Task = _FORWARD, *, repeats: int = 1, known: Collection[str] = ()
    ) -> Timed:
        """Time an implementation: warming up, and interleaving with others, is the caller's business.

        The batch is sent once and kept in the child (the last few are), so that further rounds on the same object cost
        nothing on the wire. Each call gets inputs of its own, converted before the clock starts.

        Parameters
        ----------
        name : str
            Name of an implementation that `describe` has returned.
        batch : Batch
            The inputs, for unreduced output.
        task : Task
            What to time, how, and where.
        repeats : int
            How many calls to time, one after the other, with the garbage collector off.
        known : collection of str
            Digests of results whose arrays need not be sent.

        Returns
        -------
        Timed
            Seconds of each call, and what the calls gave back.

        Raises
        ------
        WorkerError
            Where a call raised, crashed, or took longer than ``timeout`` times `repeats`; with outcome `UNAVAILABLE`,
            where the task cannot be done here.
        KeyError
            For a name that `describe` has not returned.
        """
        body = {"op": "time", "name": name, "task": task.to_json(), "repeats": repeats, "known": sorted(known)}
        with self._lock:
            self._ready(name)
            return timed_from(self._on_kept(batch, body, self.timeout * max(1, repeats)), self._flushed)

    def copies(self, batch: Batch, *, device: str = "cpu", repeats: int = 1) -> list[float]:
        """Seconds of each of some copies of a batch's logits, by the framework, to memory that is there already.

        Raises
        ------
        WorkerError
            As `time` does.
        """
        with self._lock:
            self._start()
            reply = self._on_kept(batch, {"op": "copies", "device": device, "repeats": repeats}, self.timeout)
        return [float(seconds) for seconds in reply.body["seconds"]]

    def _on_kept(self, batch: Batch, body: Mapping[str, Any], timeout: float) -> Message:
        """The reply to a request about a batch that the child keeps: sent to it where it is missing."""
        if batch not in self._batch_ids:
            self._batch_ids[batch] = next(self._next_id)
        request = Message({**body, "batch": self._batch_ids[batch]})
        reply = self._request(request, timeout)
        if reply.body.get("missing"):
            self._request(batch_message(batch, {"op": "keep", "batch": self._batch_ids[batch]}), self.timeout)
            reply = self._request(request, timeout)
        return reply

    def environment(self) -> dict[str, Any]:
        """What the child runs: ``framework``, ``python``, ``versions`` by package, ``threads``, ``variables``.

        Raises
        ------
        WorkerError
            Where the framework is not installed, or the child does not start.
        """
        with self._lock:
            self._start()
            return dict(self._request(Message({"op": "environment"}), self.timeout).body["environment"])

    def _start(self) -> None:
        """Start the child and import the framework there, unless that is done."""
        if self._child:
            return
        reason = unavailable(self.framework)
        if reason:
            raise WorkerError(Outcome.UNAVAILABLE, reason)
        environment = {**child_environment(self.threads), **self.variables}
        self._child = Child(self.module, [self.framework, str(self.threads)], environment)
        try:
            reply = self._request(Message({"op": "start", "device": self.device}), _START_TIMEOUT)
            self._flushed = frozenset(map(str, reply.body["flushed"]))
        except WorkerError as error:
            self.close()
            raise WorkerError(error.outcome, f"the {self.framework} worker does not start: {error.detail}") from None

    def _load(self, source: str) -> Message:
        self._start()
        reply = self._request(Message({"op": "load", "source": source}), self.import_timeout)
        self._loaded.add(source)
        return reply

    def _ready(self, name: str) -> None:
        """Have the implementation imported in the child, which may be a new one since it was described."""
        if name not in self._modules:
            raise KeyError(f"no implementation {name!r} in the {self.framework} worker: describe its module first")
        if self._modules[name] not in self._loaded:
            self._load(self._modules[name])

    def _request(self, message: Message, timeout: float) -> Message:
        """Send a request and wait for its reply; a child that fails to give one is ended."""
        assert self._child is not None
        channel, sent = self._child.channel, False
        deadline = time.monotonic() + timeout
        self._child.forget_output()
        try:
            channel.send(message, deadline)
            sent = True
            reply = channel.receive(deadline)
            check_reply(reply, message)
        except WireTimeout:
            self.close()
            raise WorkerError(Outcome.TIMED_OUT, f"did not return within {timeout:g} s") from None
        except WireClosed:
            detail = self._child.obituary()
            self.close()
            raise WorkerError(Outcome.CRASHED, detail) from None
        except WireError as error:
            if not sent:  # refused before anything was written: the caller's mistake, and the child is well
                raise
            self.close()
            raise WorkerError(Outcome.CRASHED, f"broke the protocol: {error}") from None
        except BaseException:  # interrupted in the middle of a frame: what comes next would be out of step
            self.close()
            raise
        if "failure" in reply.body:
            raise WorkerError(Outcome(reply.body["failure"]), str(reply.body["detail"]))
        return reply


class Workers:
    """The workers of a run, one per framework, made when asked for; a context manager that closes them all."""

    def __init__(
        self, *, timeout: float = 120.0, threads: int = 1, import_timeout: float = 120.0, device: str = "cpu"
    ) -> None:
        self._settings: dict[str, Any] = {"timeout": timeout, "import_timeout": import_timeout, "device": device}
        self._threads = threads
        self._workers: dict[str, Worker] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that these were made with."""
        return {**self._settings, "threads": self._threads}

    def __getitem__(self, framework: str) -> Worker:
        if framework not in self._workers:
            self._workers[framework] = self._made(framework)
        return self._workers[framework]

    def _made(self, framework: str) -> Worker:
        return Worker(framework, threads=self._threads, **self._settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every child process."""
        for worker in self._workers.values():
            worker.close()
