"""Peak memory of one call, each measured in a fresh process: the parent's side of `harness.memory_main`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from harness.batch import Batch
from harness.bridges.stopwatch import Task
from harness.messages import batch_message
from harness.worker import Worker, Workers

__all__ = ["MemoryWorker", "MemoryWorkers"]


class MemoryWorker(Worker):
    """A child that forks for each measurement, with an allocator that gives back at once what is freed."""

    module: ClassVar[str] = "harness.memory_main"
    # What a worker that times is spared is wanted here: every array is pages of its own, gone when it is freed.
    variables: ClassVar[Mapping[str, str]] = {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "MALLOC_TOP_PAD_": "0",
        "PYTHONWARNINGS": "ignore",
    }

    def peak(self, name: str, batch: Batch, task: Task) -> int:
        """Bytes at the height of one call, above a no-op: its results included, its inputs not.

        Parameters
        ----------
        name : str
            Name of an implementation that `describe` has returned.
        batch : Batch
            The inputs.
        task : Task
            What is called, how, and where.

        Raises
        ------
        WorkerError
            Where the call fails, or the task cannot be done here.
        """
        with self._lock:
            self._ready(name)
            request = batch_message(batch, {"op": "memory", "name": name, "task": task.to_json()})
            return int(self._request(request, 3 * self.timeout).body["bytes"])  # it is called twice, and starts anew


class MemoryWorkers(Workers):
    """One `MemoryWorker` per framework, made when asked for; a context manager that ends them."""

    def __getitem__(self, framework: str) -> MemoryWorker:
        worker = super().__getitem__(framework)
        assert isinstance(worker, MemoryWorker)
        return worker

    def _made(self, framework: str) -> MemoryWorker:
        return MemoryWorker(framework, threads=self._threads, **self._settings)
