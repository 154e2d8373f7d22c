"""Claims against measurements: what a judgement means for an implementation that declared a grade and known failures.

A claim is tested both ways. One that does not hold fails. A known failure that no longer shows fails too, once every
family that its entry names has been run: the entry can be deleted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from harness.declaration import Declaration, KnownFailure
from harness.families import Family
from harness.grades import Grade, Outcome
from harness.run import Result

__all__ = ["Improvable", "decide", "flag_unexpected_passes", "improvable"]


@dataclass(frozen=True)
class Improvable:
    """A claim that is weaker than what was reached on every family: the declaration can claim more."""

    implementation: str
    dtype: str
    claimed: Grade
    reached: Grade


def decide(declaration: Declaration, result: Result) -> Result:
    """The result with its final outcome: as claimed, failed, or failed as its declaration says that it does."""
    met = result.grade is not None and result.claimed is not None and Grade(result.grade).meets(Grade(result.claimed))
    if result.outcome == Outcome.NOT_JUDGED or (result.outcome == Outcome.PASSED and met):
        return result
    outcome = Outcome.FAILED if result.outcome == Outcome.PASSED else Outcome(result.outcome)
    if not outcome.is_failure:
        return result
    known = _known(declaration, result)
    if known is not None:
        return replace(result, outcome=str(Outcome.KNOWN_FAILURE), detail=known.reason, thread=known.thread)
    return replace(result, outcome=str(outcome))


def _known(declaration: Declaration, result: Result) -> KnownFailure | None:
    return next((entry for entry in declaration.known_failures if _covers(entry, result)), None)


def _covers(entry: KnownFailure, result: Result) -> bool:
    return (
        any(fnmatchcase(result.family, pattern) for pattern in entry.families)
        and (not entry.dtypes or result.dtype in entry.dtypes)
        and result.what in entry.what
    )


def flag_unexpected_passes(
    declarations: Iterable[Declaration], results: Sequence[Result], families: Mapping[str, Family]
) -> list[Result]:
    """The results, with the cells of each stale known failure marked as unexpected passes.

    An entry is stale if all families that it names were run for it, and none of its cells failed.

    Parameters
    ----------
    declarations : iterable of Declaration
        The implementations that were run.
    results : sequence of Result
        Their decided results.
    families : mapping of str to Family
        Every family that exists, run or not, so that an entry is only called stale on a whole run.
    """
    stale: dict[int, KnownFailure] = {}
    for declaration in declarations:
        for entry in declaration.known_failures:
            cells = [i for i, r in enumerate(results) if r.implementation == declaration.name and _covers(entry, r)]
            if _whole(entry, declaration, [results[i] for i in cells], families) and not any(
                results[i].outcome == Outcome.KNOWN_FAILURE for i in cells
            ):
                stale |= dict.fromkeys((i for i in cells if results[i].outcome == Outcome.PASSED), entry)
    return [
        replace(
            result,
            outcome=str(Outcome.UNEXPECTED_PASS),
            detail=f"listed as a known failure ({stale[i].reason}), but it passes: this entry can be deleted",
        )
        if i in stale
        else result
        for i, result in enumerate(results)
    ]


def _whole(
    entry: KnownFailure, declaration: Declaration, cells: Sequence[Result], families: Mapping[str, Family]
) -> bool:
    """Whether all that an entry speaks of was run, so that its silence means something.

    A pattern may match families that serve other losses, or not this dtype: those have no cell to wait for.
    """
    run = {(r.family, r.dtype) for r in cells}
    dtypes = [d for d in entry.dtypes or declaration.grades if d in declaration.grades]
    named = [f for name, f in families.items() if any(fnmatchcase(name, pattern) for pattern in entry.families)]
    wanted = {(f.name, d) for f in named if declaration.loss in f.losses for d in dtypes if d in f.dtypes}
    return bool(wanted) and wanted <= run


def improvable(declarations: Iterable[Declaration], results: Sequence[Result]) -> list[Improvable]:
    """The claims weaker than the worst grade reached, per dtype, over judged results that are no known failures."""
    found = []
    for declaration in declarations:
        for dtype, claimed in declaration.grades.items():
            reached = [
                Grade(r.grade)
                for r in results
                if r.implementation == declaration.name
                and r.dtype == dtype
                and r.grade is not None
                and r.outcome != Outcome.KNOWN_FAILURE
            ]
            worst = Grade.worst(reached)
            if reached and worst.rank < claimed.rank and worst != Grade.FAITHFUL:
                found.append(Improvable(declaration.name, dtype, claimed, worst))
    return found
