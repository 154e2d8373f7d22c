"""What became of the claims: failures, known failures, unexpected passes, and claims that could be stronger."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.grades import Grade, Outcome
from harness.run import Result, Run
from reports.marks import Mark, grade_of, mark_of, outcome_of, worst
from reports.model import Subject
from reports.numbers import Piece, figure, linked

__all__ = ["Claims", "Group", "Improvable", "claims"]


@dataclass(frozen=True)
class Group:
    """Results of one implementation that share an outcome and its reason.

    Parameters
    ----------
    implementation : str
        Whose they are.
    outcome : Outcome
        Theirs.
    results : tuple of Result
        The results, in the run's order.
    """

    implementation: str
    outcome: Outcome
    results: tuple[Result, ...]

    @property
    def worst(self) -> Result:
        """The one with the worst mark, then the largest bound ratio."""
        return max(self.results, key=lambda r: (mark_of(r).severity, _number(r.max_bound_ratio)))

    @property
    def mark(self) -> Mark:
        """The worst mark."""
        return worst(mark_of(r) for r in self.results)

    @property
    def detail(self) -> str:
        """The reason, of the worst where they differ."""
        return self.worst.detail

    @property
    def thread(self) -> Sequence[Piece]:
        """The upstream thread, with its link."""
        return linked(self.worst.thread)

    @property
    def claimed(self) -> str:
        """The grades claimed, each once."""
        return ", ".join(dict.fromkeys(r.claimed for r in self.results if r.claimed))

    @property
    def dtypes(self) -> list[str]:
        """The dtypes concerned."""
        return list(dict.fromkeys(r.dtype for r in self.results))

    @property
    def whats(self) -> list[str]:
        """``loss``, ``gradient`` or both."""
        return list(dict.fromkeys(r.what for r in self.results))

    @property
    def families(self) -> list[str]:
        """The families concerned."""
        return list(dict.fromkeys(r.family for r in self.results))

    @property
    def ratio(self) -> str:
        """The worst's error over the absolute bound."""
        return figure(self.worst.max_bound_ratio)


@dataclass(frozen=True)
class Improvable:
    """A claim weaker than what was reached on every family of the run."""

    implementation: str
    dtype: str
    claimed: Grade
    reached: Grade


@dataclass(frozen=True)
class Claims:
    """All of it, each list in the run's order."""

    failures: tuple[Group, ...]
    known: tuple[Group, ...]
    unexpected: tuple[Group, ...]
    improvable: tuple[Improvable, ...]


def claims(run: Run, rows: Iterable[Subject]) -> Claims:
    """What became of the claims of a run."""
    failed = [r for r in run.results if outcome_of(r).is_failure and outcome_of(r) is not Outcome.UNEXPECTED_PASS]
    return Claims(
        failures=_grouped(failed, with_place=True),
        known=_grouped([r for r in run.results if outcome_of(r) is Outcome.KNOWN_FAILURE]),
        unexpected=_grouped([r for r in run.results if outcome_of(r) is Outcome.UNEXPECTED_PASS]),
        improvable=tuple(sorted(_improvable(rows), key=lambda i: (i.implementation, i.dtype))),
    )


def _grouped(results: Iterable[Result], *, with_place: bool = False) -> tuple[Group, ...]:
    """Grouped by implementation and reason; failures, whose details differ, by dtype, what and outcome instead."""
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        place = (result.dtype, result.what) if with_place else (result.detail, result.thread)
        groups.setdefault((result.implementation, result.outcome, *place), []).append(result)
    return tuple(Group(key[0], Outcome(key[1]), tuple(group)) for key, group in groups.items())


def _improvable(rows: Iterable[Subject]) -> Iterable[Improvable]:
    for subject in rows:
        for dtype in dict.fromkeys(key[0] for key in subject.results):
            judged = [
                r
                for r in subject.results.values()
                if r.dtype == dtype and r.grade and outcome_of(r) is not Outcome.KNOWN_FAILURE and mark_of(r).measured
            ]
            claimed = grade_of(next((r.claimed for r in judged), None))
            reached = Grade.worst([Grade(r.grade) for r in judged if r.grade])
            clean = all(outcome_of(r) is Outcome.PASSED for r in judged)
            if claimed is not None and clean and reached.rank < claimed.rank:
                yield Improvable(subject.name, dtype, claimed, reached)


def _number(value: float | None) -> float:
    if value is None:
        return -1.0
    return math.inf if math.isnan(value) else value
