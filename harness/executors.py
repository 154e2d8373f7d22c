"""Executors: where tasks are done, through the interface of ``concurrent.futures``; here a pool of processes, or Dask.

An executor that loses a process, or its cluster, costs time and nothing else: `is_lost` tells that from work that went
wrong.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

__all__ = ["ExecutorUnavailable", "Pool", "dask_pool", "interrupts_held", "is_lost", "process_pool"]

CONNECT_SECONDS = 5.0
"""How long to wait for a scheduler: one that is there answers at once."""


class ExecutorUnavailable(RuntimeError):
    """An executor that cannot be had; the message says what to do."""


@dataclass(frozen=True)
class Pool:
    """An executor, and how many tasks it does at a time."""

    executor: Executor
    lanes: int


def is_lost(error: BaseException) -> bool:
    """Whether an exception of a future says that its executor lost the work, rather than that the work went wrong.

    Dask's own exceptions (a worker that died of the same task again and again, a connection that broke) are not
    classes of ``concurrent.futures``.
    """
    return isinstance(error, BrokenExecutor | CancelledError) or type(error).__module__.startswith("distributed.")


@contextmanager
def process_pool(jobs: int) -> Iterator[Executor | None]:
    """A pool of spawned processes; None for one job, which is done in this process.

    No process of the pool is left at the end, not even one that is still at work.
    """
    if jobs <= 1:
        yield None
        return
    earlier = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    answers = getattr(pool, "_result_queue", None)  # which the pool forgets when it is shut down
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        left = set(multiprocessing.active_children()) - earlier
        for process in left:
            process.kill()
        for process in left:
            process.join(5.0)  # or it stays in the table of processes until somebody asks
        if answers is not None:
            # Killed within an answer, a process leaves the pool's thread waiting for the rest of it, which would keep
            # this one from its end: now nobody is left who could write it, and the thread is told so.
            answers._writer.close()


def _end_with_parent() -> None:
    """Have a process of the pool exit when its parent dies: it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold back Ctrl-C, which a terminal sends to every process; those started in here never get it."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


@contextmanager
def dask_pool(address: str) -> Iterator[Pool]:
    """The workers of a Dask scheduler, as many tasks at a time as they have threads.

    Parameters
    ----------
    address : str
        Of the scheduler, such as ``"tcp://host:8786"``.

    Raises
    ------
    ExecutorUnavailable
        Where ``distributed`` is not installed here, nobody answers at the address, or its workers cannot do the work.
    """
    if importlib.util.find_spec("distributed") is None:
        raise ExecutorUnavailable("dask.distributed is not installed: pip install 'cross-entropy-harness[dask]'")
    distributed: Any = importlib.import_module("distributed")
    log = logging.getLogger("distributed")
    level = log.level
    log.setLevel(logging.CRITICAL)  # what it has to say comes as exceptions, too
    try:
        client = None
        with suppress(OSError, ValueError):  # TimeoutError is an OSError
            client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        if client is None:
            # What is left of the client stops its event loop when it is collected, under a lock that the next client
            # holds while it starts: collected in the middle of that, both would wait for ever.
            gc.collect()
            raise ExecutorUnavailable(
                f"no Dask scheduler answers at {address!r} within {CONNECT_SECONDS:g} s: start one with `dask "
                "scheduler` and give the address that it prints, such as tcp://127.0.0.1:8786"
            )
        with client:
            yield Pool(client.get_executor(pure=False), _lanes(client, address))
    finally:
        log.setLevel(level)


def _lanes(client: Any, address: str) -> int:
    """How many threads the workers of a scheduler have, all of which can import this package."""
    threads = sum(client.nthreads().values())
    if not threads:
        raise ExecutorUnavailable(f"the scheduler at {address} has no workers: start some with `dask worker {address}`")
    try:
        client.run(is_lost, None)
    except Exception as error:
        raise ExecutorUnavailable(
            f"the workers of {address} cannot import this package ({error}): install there what is installed here"
        ) from error
    return int(threads)
