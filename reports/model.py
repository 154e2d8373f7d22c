"""What the page speaks of, drawn from a run: subjects (an implementation on one device), dtypes, losses, families."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.run import Result, Run
from reports.marks import Mark, mark_of, worst

__all__ = ["WHATS", "Subject", "dtypes", "families", "losses", "subjects", "unavailable"]

WHATS = ("loss", "gradient")
_DTYPE_ORDER = ("float64", "float32", "bfloat16", "float16")
_PLAIN = {"cpu", "native", ""}


@dataclass(frozen=True)
class Subject:
    """An implementation on one device and backend: a row of the tables.

    Parameters
    ----------
    name, framework, loss, device, backend : str
        As in its results.
    declaration : mapping
        Its declaration as the run holds it; empty where the run has none.
    results : mapping
        From (dtype, family, what) to the result.
    """

    name: str
    framework: str
    loss: str
    device: str
    backend: str
    declaration: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[tuple[str, str, str], Result] = field(default_factory=dict)

    @property
    def qualifier(self) -> str:
        """The device and backend where they are not the ordinary ones, else ``""``."""
        return ", ".join(word for word in (self.device, self.backend) if word not in _PLAIN)

    @property
    def summary(self) -> str:
        """One line about it."""
        return str(self.declaration.get("summary", ""))

    @property
    def measured(self) -> bool:
        """Whether any of its results says something about its accuracy."""
        return any(mark_of(result).measured for result in self.results.values())

    def of(self, dtype: str, what: str) -> list[Result]:
        """Its results in one dtype, for the loss or the gradient."""
        return [r for r in self.results.values() if r.dtype == dtype and r.what == what]

    def worst(self, dtype: str, what: str) -> Mark:
        """The worst mark in one dtype, for the loss or the gradient."""
        return worst(mark_of(result) for result in self.of(dtype, what))

    @property
    def worst_result(self) -> Result | None:
        """The result furthest from the truth: by mark, then by bound ratio; None where nothing was measured."""
        measured = [r for r in self.results.values() if mark_of(r).measured]
        return max(measured, key=lambda r: (mark_of(r).severity, _size(r.max_bound_ratio)), default=None)

    @property
    def score(self) -> tuple[float, float, str]:
        """Sorts best first: mean severity of the worst marks per dtype and what, then the worst bound ratio."""
        pairs = {(r.dtype, r.what) for r in self.results.values()}
        marks = [mark for mark in (self.worst(*pair) for pair in sorted(pairs)) if mark.measured]
        if not marks or self.worst_result is None:
            return (math.inf, math.inf, self.name)
        return (sum(m.severity for m in marks) / len(marks), _size(self.worst_result.max_bound_ratio), self.name)


def subjects(run: Run) -> list[Subject]:
    """Everything that the run has results of or declares, best first; what was not measured comes last."""
    declared = {str(entry.get("name", "")): entry for entry in run.implementations}
    found: dict[tuple[str, str, str, str, str], dict[tuple[str, str, str], Result]] = {}
    for result in run.results:
        key = (result.implementation, result.framework, result.loss, result.device, result.backend)
        found.setdefault(key, {})[result.dtype, result.family, result.what] = result
    with_results = {key[0] for key in found}
    for name, entry in declared.items():
        if name not in with_results:
            key = (name, str(entry.get("framework", "")), str(entry.get("loss", "")), "cpu", "native")
            found[key] = {}
    made = [Subject(*key, declaration=declared.get(key[0], {}), results=results) for key, results in found.items()]
    return sorted(made, key=lambda subject: (subject.score, subject.qualifier))


def losses(rows: Iterable[Subject]) -> list[str]:
    """The losses, the one with the most subjects first."""
    names = [subject.loss for subject in rows]
    return sorted(set(names), key=lambda name: (-names.count(name), name))


def dtypes(run: Run) -> list[str]:
    """The dtypes with results, widest first."""
    present = {result.dtype for result in run.results}
    known = [name for name in _DTYPE_ORDER if name in present]
    return known + sorted(present - set(known))


def families(run: Run, loss: str | None = None) -> list[str]:
    """The families of the run, or those with results of one loss: in the run's order."""
    used = dict.fromkeys(r.family for r in run.results if loss is None or r.loss == loss)
    ordered = [name for name in run.families if loss is None or name in used]
    return ordered + [name for name in used if name not in run.families]


def unavailable(run: Run) -> list[Mapping[str, Any]]:
    """The declarations of what could not run, in the run's order."""
    return [entry for entry in run.implementations if entry.get("available") is False]


def _size(value: float | None) -> float:
    """A bound ratio for sorting: NaN is as bad as infinity, none is nothing."""
    if value is None:
        return -1.0
    return math.inf if math.isnan(value) else value
