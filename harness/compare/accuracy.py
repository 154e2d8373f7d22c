"""Accuracy before and now, exactly: with the same seed on the same machine the same code makes the same errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from harness.grades import Grade, Outcome
from harness.history.records import Cell, CellKey

__all__ = ["AccuracyChange", "Group", "Kind", "compare_accuracy", "grouped", "subject_of"]


class Kind(StrEnum):
    """In what a cell differs, the gravest first."""

    LOST = "lost"
    NONFINITE = "not finite"
    OUTCOME = "outcome"
    NOT_AS_CLAIMED = "not as claimed"
    GRADE = "grade"
    ULP = "ulp"
    JUDGED = "fewer rows judged"


@dataclass(frozen=True)
class AccuracyChange:
    """One cell that differs by more than it may.

    Parameters
    ----------
    key : CellKey
        Which cell.
    kind : Kind
        In what, the gravest only.
    worse : bool
        False for an improvement.
    old, new : Cell or None
        Before and now.
    factor : float or None
        New error over old one, in ulp, the old one taken as at least 1 ulp; None where that says nothing.
    """

    key: CellKey
    kind: Kind
    worse: bool
    old: Cell | None
    new: Cell | None
    factor: float | None = None

    @property
    def told(self) -> str:
        """The change in words."""
        return _told(self)


def compare_accuracy(
    old: Mapping[CellKey, Cell], new: Mapping[CellKey, Cell], ulp_factor: float
) -> list[AccuracyChange]:
    """Every cell that got worse or better, in the order of their keys.

    Worse is: a cell that is gone; more values that are not finite; an outcome that is a failure and was none; a worse
    grade; an error of more than `ulp_factor` times the old one; fewer rows judged. A cell that was not there before is
    worse only if it is not as claimed.
    """
    changes = (_change(key, old.get(key), new.get(key), ulp_factor) for key in sorted(old.keys() | new.keys()))
    return [change for change in changes if change is not None]


def _change(key: CellKey, old: Cell | None, new: Cell | None, ulp_factor: float) -> AccuracyChange | None:
    if new is None:
        return AccuracyChange(key, Kind.LOST, True, old, None)
    if old is None:
        failing = Outcome(new.outcome).is_failure
        return AccuracyChange(key, Kind.NOT_AS_CLAIMED, True, None, new) if failing else None
    factor = _factor(old.ulp, new.ulp)
    worse = _difference(old, new, ulp_factor)
    if worse is not None:
        return AccuracyChange(key, worse, True, old, new, factor)
    better = _difference(new, old, ulp_factor)
    return None if better is None or better is Kind.JUDGED else AccuracyChange(key, better, False, old, new, factor)


def _difference(old: Cell, new: Cell, ulp_factor: float) -> Kind | None:
    """In what the second cell is worse than the first, the gravest only."""
    if new.nonfinite > old.nonfinite:
        return Kind.NONFINITE
    if Outcome(new.outcome).is_failure and not Outcome(old.outcome).is_failure:
        return Kind.OUTCOME
    if _rank(new.grade) > _rank(old.grade):
        return Kind.GRADE
    factor = _factor(old.ulp, new.ulp)
    if factor is not None and factor > ulp_factor:
        return Kind.ULP
    if new.rows < old.rows or new.judged < old.judged:
        return Kind.JUDGED
    return None


def _rank(grade: str | None) -> int:
    """Nothing measured is worse than any grade."""
    return len(Grade) if grade is None else Grade(grade).rank


def _factor(old: float | None, new: float | None) -> float | None:
    """How many times larger the new error is; infinite for NaN or infinity where there was none."""
    if old is None or new is None:
        return None
    if not math.isfinite(new):
        return math.inf if math.isfinite(old) else 1.0
    if not math.isfinite(old):
        return 0.0
    return new / max(old, 1.0) if new >= old else max(new, 1.0) / max(old, 1.0)


def _told(change: AccuracyChange) -> str:
    old, new = change.old, change.new
    if new is None:
        return "was measured before, and is not any more"
    if old is None:
        return f"{new.outcome.replace('_', ' ')}, at its first appearance"
    match change.kind:
        case Kind.NONFINITE:
            return f"{new.nonfinite} values not finite, {old.nonfinite} before"
        case Kind.OUTCOME:
            return f"{new.outcome.replace('_', ' ')}, {old.outcome.replace('_', ' ')} before"
        case Kind.GRADE:
            return f"{new.grade or 'no grade'} ({_ulp(new)} ulp), {old.grade or 'no grade'} ({_ulp(old)} ulp) before"
        case Kind.ULP:
            return f"{_ulp(new)} ulp, {_ulp(old)} before"
        case _:
            return f"{new.judged} of {new.rows} rows judged, {old.judged} of {old.rows} before"


def _ulp(cell: Cell) -> str:
    return "no" if cell.ulp is None else f"{cell.ulp:.3g}"


@dataclass(frozen=True)
class Group:
    """The changes of one implementation in one dtype, loss or gradient, that are alike: one line for a reader."""

    subject: str
    changes: tuple[AccuracyChange, ...]

    @property
    def worst(self) -> AccuracyChange:
        """The one with the largest factor."""
        return max(self.changes, key=lambda change: -1.0 if change.factor is None else change.factor)

    @property
    def told(self) -> str:
        """The group in words: the worst change, and how many families share it."""
        families = list(dict.fromkeys(change.key.family for change in self.changes))
        others = "" if len(families) == 1 else f", and {len(families) - 1} more families"
        return f"{self.worst.kind}: {self.worst.key.family}: {self.worst.told}{others}"


def subject_of(key: CellKey) -> str:
    """What a cell is about, whatever the family: the same every night."""
    where = ", ".join(word for word in (key.device, key.backend) if word not in ("cpu", "native", ""))
    return f"{key.implementation} {key.dtype} {key.what}" + (f" ({where})" if where else "")


def grouped(changes: Sequence[AccuracyChange], *, worse: bool) -> list[Group]:
    """The changes for the worse (or the better) as groups; a group's subject is the same every night."""
    groups: dict[str, list[AccuracyChange]] = {}
    for change in changes:
        if change.worse == worse:
            groups.setdefault(f"{subject_of(change.key)}\0{change.kind}", []).append(change)
    order = list(Kind)
    made = [Group(key.partition("\0")[0], tuple(group)) for key, group in groups.items()]
    return sorted(made, key=lambda group: (order.index(group.worst.kind), group.subject))
