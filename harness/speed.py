"""The speed run: which implementations on which shapes, timed into a `Run` within about the time that was asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from harness.bridges.stopwatch import DEVICES, MODES, WHAT
from harness.declaration import Declaration
from harness.discovery import Found, discover
from harness.environment import describe_environment
from harness.formats import DTYPES, named
from harness.run import Run, Timing
from harness.timing import BASELINE, Budget, Group, MemoryWorkers, measure_speed, plan
from harness.timing.plan import LOSS
from harness.worker import WorkerError, Workers

__all__ = ["SHAPES", "NothingToTime", "SpeedProgress", "SpeedRequest", "run_speed"]

SHAPES = ((4096, 10), (1024, 1000), (64, 32_000), (16, 131_072))
"""From a small classifier to the vocabulary of a language model; two million logits at most, so that a minute does."""


class NothingToTime(ValueError):
    """A request that selects nothing that can be timed here; the message says why."""


@dataclass(frozen=True)
class SpeedRequest:
    """What a speed run is asked to do.

    Parameters
    ----------
    only : tuple of str
        Names or ``fnmatch`` patterns of implementations; empty for all but the slow ones.
    shapes : tuple of (int, int)
        (N, V) of the logits.
    dtypes, whats, modes : tuple of str
        All combinations are timed.
    device : str
        ``"cpu"`` or ``"cuda"``.
    seed : int
        What the logits are drawn from.
    threads : int
        Threads of each worker process.
    budget : float
        Seconds for all of it, about: beyond the least number of rounds, rounds are taken while there is time.
    memory : bool
        Measure peak memory too.
    baseline : str
        What the others are compared with.
    timeout : float
        Seconds that one call may take.
    """

    only: tuple[str, ...] = ()
    shapes: tuple[tuple[int, int], ...] = SHAPES
    dtypes: tuple[str, ...] = ("float32",)
    whats: tuple[str, ...] = ("forward", "forward+backward")
    modes: tuple[str, ...] = ("eager",)
    device: str = "cpu"
    seed: int = 0
    threads: int = 1
    budget: float = 60.0
    memory: bool = True
    baseline: str = BASELINE
    timeout: float = 120.0

    def __post_init__(self) -> None:
        for option, values, known in (
            ("dtype", self.dtypes, DTYPES),
            ("what", self.whats, WHAT),
            ("mode", self.modes, MODES),
            ("device", (self.device,), DEVICES),
        ):
            for value in values:
                if value not in known:
                    raise NothingToTime(f"unknown {option} {value!r}: choose from {', '.join(known)}")
        for rows, classes in self.shapes:
            if rows < 1 or classes < 1:
                raise NothingToTime(f"a shape of {rows} rows and {classes} classes has no logits: both count from 1")


@dataclass(frozen=True)
class SpeedProgress:
    """How far a speed run is: groups done and in all, the share of the work, what is under way."""

    done: int
    total: int
    share: float
    what: str


def run_speed(request: SpeedRequest, show: Callable[[SpeedProgress], None] = lambda progress: None) -> Run:
    """Do what a request asks; an interrupt ends it early, with the groups that were finished in a run not `complete`.

    Raises
    ------
    NothingToTime, DiscoveryError, FormatUnavailable
        For a request that selects nothing, or names what does not exist.
    """
    for dtype in request.dtypes:
        assert named(dtype).dtype is not None  # raises where its arrays cannot be made here
    budget = Budget(request.budget)
    with ExitStack() as stack:
        workers = stack.enter_context(Workers(timeout=request.timeout, threads=request.threads))
        found = _found(request, workers)
        declarations = _chosen(request, found)
        environment = describe_environment(request.seed, request.threads, _described(declarations, workers))
        groups = _groups(request, declarations, workers, found)
        memory = None
        if request.memory:
            memory = stack.enter_context(MemoryWorkers(timeout=request.timeout, threads=request.threads))
            discover([d.name for d in declarations], workers=memory)
        timings, complete = _measured(groups, workers, budget, memory, show)
    load = os.getloadavg()[0]
    return Run(
        environment=environment | {"load": round(load, 2), "request": _as_json(request)},
        results=(),
        implementations=tuple(_listed(f) for f in found),
        timings=tuple(timings),
        complete=complete,
    )


def _found(request: SpeedRequest, workers: Workers) -> list[Found]:
    """What is asked for, with the baseline, which takes part whether it is or not."""
    if not request.only:
        return discover(workers=workers)
    asked = discover(request.only, workers=workers)
    if not any(f.loss in ("", LOSS) for f in asked):
        others = ", ".join(f"{f.name} ({f.loss})" for f in asked)
        raise NothingToTime(f"nothing to time: no cross-entropy of class indices was asked for, but {others}")
    if any(f.name == request.baseline for f in asked):
        return asked
    return sorted([*asked, *discover([request.baseline], workers=workers)], key=lambda f: f.name)


def _chosen(request: SpeedRequest, found: Sequence[Found]) -> list[Declaration]:
    """Those that can run here; the slow ones, before whose first call a compiler runs, only where they are named."""
    able = [f.declaration for f in found if f.declaration and f.available]
    return [d for d in able if request.only or not d.slow or "compiled" in request.modes]


def _groups(
    request: SpeedRequest, declarations: Sequence[Declaration], workers: Workers, found: Sequence[Found]
) -> list[Group]:
    able = [d for d in declarations if request.device in d.devices]
    reasons = {d.framework: _obstacle(d.framework, request.device, workers) for d in able}
    able = [d for d in able if not reasons[d.framework]]
    groups = plan(
        able,
        request.shapes,
        request.dtypes,
        request.whats,
        modes=request.modes,
        device=request.device,
        seed=request.seed,
        baseline=request.baseline,
        memory=request.memory,
    )
    if not groups:
        why = [reason for reason in reasons.values() if reason] or [f.reason for f in found if f.reason]
        because = f" ({'; '.join(dict.fromkeys(why))})" if why else ""
        raise NothingToTime(
            f"nothing to time: no cross-entropy of class indices that was asked for runs here on {request.device} in "
            f"{', '.join(request.dtypes)}{because}; `xent list` shows what each takes"
        )
    return groups


def _obstacle(framework: str, device: str, workers: Workers) -> str:
    """Why a framework cannot use a device here; ``""`` where it can."""
    try:
        return str(workers[framework].environment()["devices"][device])
    except WorkerError as error:
        return error.detail


def _measured(
    groups: Sequence[Group],
    workers: Workers,
    budget: Budget,
    memory: MemoryWorkers | None,
    show: Callable[[SpeedProgress], None],
) -> tuple[list[Timing], bool]:
    """The timings, and whether there are all of them."""
    timings: list[Timing] = []
    labels = [group.label for group in groups]
    try:
        show(SpeedProgress(0, len(groups), 0.0, labels[0]))
        for done, step in enumerate(measure_speed(groups, workers, budget, memory=memory), start=1):
            timings += step.timings
            show(SpeedProgress(done, len(groups), step.share, labels[min(done, len(groups) - 1)]))
    except KeyboardInterrupt:
        return timings, False
    return timings, True


def _described(declarations: Sequence[Declaration], workers: Workers) -> dict[str, Any]:
    """What the worker of each framework says of itself, or why it says nothing."""
    told: dict[str, Any] = {}
    for framework in sorted({d.framework for d in declarations}):
        try:
            told[framework] = workers[framework].environment()
        except WorkerError as error:
            told[framework] = {"error": error.detail}
    return told


def _listed(found: Found) -> dict[str, Any]:
    declared = found.declaration.to_json() if found.declaration else {}
    return declared | {
        "name": found.name,
        "framework": found.framework,
        "loss": found.loss,
        "available": found.available,
        "reason": found.reason,
    }


def _as_json(request: SpeedRequest) -> dict[str, Any]:
    return {
        "command": "speed",
        "only": list(request.only),
        "shapes": [f"{rows},{classes}" for rows, classes in request.shapes],
        "dtypes": list(request.dtypes),
        "whats": list(request.whats),
        "modes": list(request.modes),
        "device": request.device,
        "threads": request.threads,
        "budget": request.budget,
        "memory": request.memory,
        "baseline": request.baseline,
    }
