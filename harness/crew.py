"""Crews: what it takes to have the same workers in another process, as plain data that can be sent there."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass

from harness.worker import WorkerError, Workers

__all__ = ["Crew", "UnlikeHere", "crew_of"]

Pairs = tuple[tuple[str, str], ...]


class UnlikeHere(RuntimeError):
    """Another process runs other versions: its results may not stand beside those of this one; the message says which.

    Its one argument is the message, so that it can be sent from there to here.
    """


@dataclass(frozen=True)
class Crew:
    """Workers, described.

    Parameters
    ----------
    timeout, import_timeout : float
        Seconds that one call, and the import of one module, may take.
    threads : int
        Threads of each worker.
    sources : tuple of (str, pairs of str)
        For each framework, where each implementation comes from: as `Worker.sources` has it.
    versions : tuple of (str, pairs of str)
        For each framework that works, what it runs: Python, packages, and what is flushed to zero.
    device : str
        Where implementations get their inputs.
    """

    timeout: float
    import_timeout: float
    threads: int
    sources: tuple[tuple[str, Pairs], ...]
    versions: tuple[tuple[str, Pairs], ...]
    device: str = "cpu"

    def muster(self) -> Workers:
        """Such workers in this process.

        Raises
        ------
        UnlikeHere
            Where a framework is missing or of another version here.
        """
        workers = Workers(
            timeout=self.timeout, threads=self.threads, import_timeout=self.import_timeout, device=self.device
        )
        try:
            for framework, sources in self.sources:
                workers[framework].learn(dict(sources))
            for framework, versions in self.versions:
                _compare(framework, dict(versions), workers)
        except BaseException:
            workers.close()
            raise
        return workers


def crew_of(workers: Workers, frameworks: Iterable[str]) -> Crew:
    """The crew of some workers, as far as it needs these frameworks; one that does not start has no versions."""
    names = sorted(frameworks)
    versions = []
    for framework in names:
        try:
            versions.append((framework, _versions(workers, framework)))
        except WorkerError:
            continue
    return Crew(
        **workers.settings,
        sources=tuple((framework, tuple(sorted(workers[framework].sources.items()))) for framework in names),
        versions=tuple(versions),
    )


def _versions(workers: Workers, framework: str) -> Pairs:
    told = workers[framework].environment()
    flushed = ", ".join(told["flushed"]) or "nothing"
    return (("Python", str(told["python"])), *sorted(told["versions"].items()), ("what is flushed to zero", flushed))


def _compare(framework: str, expected: dict[str, str], workers: Workers) -> None:
    try:
        found = dict(_versions(workers, framework))
    except WorkerError as error:
        raise UnlikeHere(f"{framework} works here, but not on {platform.node()}: {error.detail}") from None
    for name, version in expected.items():
        other = found.get(name, "missing")
        if other != version:
            raise UnlikeHere(
                f"{framework} worker: {name} is {version} here, but {other} on {platform.node()}; results of different "
                "installations do not go into one run: install the same there"
            )
