"""Several runs as one: what was measured on another machine, a GPU's say, beside what was measured here.

Results stand side by side only where they could have come from one run: the same seed and the same families, and none
of them measured twice. What differs (machine, versions, device) is kept, run by run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.run import Result, Run, Timing

__all__ = ["Unlike", "together"]


class Unlike(ValueError):
    """Runs that do not go together; the message says why."""


def together(runs: Sequence[Run], names: Sequence[str]) -> Run:
    """One run of several: the first one's circumstances, everyone's results.

    Parameters
    ----------
    runs : sequence of Run
        At least one. An implementation counts as available if it ran in any of them.
    names : sequence of str
        What to call each in a message: its file.

    Returns
    -------
    Run
        The first itself where it is the only one; else its ``environment`` has, under ``"beside"``, those of the others
        with their ``name``.

    Raises
    ------
    Unlike
        For runs of different seeds, or that share a result or a timing.
    """
    first, *others = runs
    for run, name in zip(others, names[1:], strict=True):
        mine, theirs = (r.environment.get("seed") for r in (first, run))
        if mine != theirs:
            raise Unlike(f"{names[0]} has seed {mine} and {name} seed {theirs}: other rows, which do not compare")
    _refuse_twice([[_key(result) for result in run.results] for run in runs], names, "results")
    _refuse_twice([[_timing_key(timing) for timing in run.timings] for run in runs], names, "times")
    if not others:
        return first
    beside = [{**run.environment, "name": name} for run, name in zip(others, names[1:], strict=True)]
    return Run(
        environment={**first.environment, "beside": beside},
        results=tuple(result for run in runs for result in run.results),
        families={name: about for run in reversed(runs) for name, about in run.families.items()},
        implementations=_declared(runs),
        timings=tuple(timing for run in runs for timing in run.timings),
        complete=all(run.complete for run in runs),
    )


def _declared(runs: Sequence[Run]) -> tuple[Mapping[str, Any], ...]:
    """Each implementation once: as the first run has it that could run it, else as the first."""
    found: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        for entry in run.implementations:
            name = str(entry.get("name", ""))
            if name not in found or (entry.get("available") and not found[name].get("available")):
                found[name] = entry
    return tuple(found[name] for name in sorted(found))


def _refuse_twice(keys: Sequence[Sequence[tuple[Any, ...]]], names: Sequence[str], what: str) -> None:
    seen: dict[tuple[Any, ...], int] = {}
    for number, found in enumerate(keys):
        for key in found:
            other = seen.setdefault(key, number)
            if other != number:
                where = ", ".join(str(word) for word in key if word not in ("native", "eager"))
                raise Unlike(f"{names[other]} and {names[number]} both have {what} of {where}: leave one of them out")


def _key(result: Result) -> tuple[Any, ...]:
    r = result
    return (r.implementation, r.loss, r.dtype, r.device, r.backend, r.family, r.what)


def _timing_key(timing: Timing) -> tuple[Any, ...]:
    t = timing
    return (t.implementation, t.loss, t.dtype, t.device, t.what, t.shape, t.mode)
