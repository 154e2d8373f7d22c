"""Tables of one line per implementation ("what to use") and per family ("what it breaks")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.run import Result, Run
from reports.heatmap import Half, HeatMap, state_of
from reports.marks import Mark, mark_of, outcome_of
from reports.model import WHATS, Subject, dtypes, families, losses
from reports.numbers import Piece, linked

__all__ = ["FamilyNote", "Line", "Overview", "family_notes", "overviews"]


@dataclass(frozen=True)
class Line:
    """One implementation: the worst mark per dtype and what, in the order of the overview's dtypes."""

    subject: Subject
    rank: int | None
    pairs: tuple[tuple[Half, ...], ...]
    worst: Result | None
    worst_mark: Mark
    cell: int | None
    failures: int
    reason: str


@dataclass(frozen=True)
class Overview:
    """The implementations of one loss, best first."""

    loss: str
    dtypes: tuple[str, ...]
    lines: tuple[Line, ...]

    @property
    def best(self) -> tuple[str, ...]:
        """Those that share the best mean mark, three at most; empty where nothing was measured."""
        measured = [line.subject for line in self.lines if line.rank is not None]
        top = [s.name for s in measured if s.score[0] == measured[0].score[0]]
        return tuple(top[:3])


@dataclass(frozen=True)
class FamilyNote:
    """What a family breaks, where that is from, and how many of its rows could be judged, per dtype."""

    name: str
    anchor: str
    breaks: str
    source: Sequence[Piece]
    losses: tuple[str, ...]
    judged: str


def overviews(run: Run, rows: Sequence[Subject], heat: HeatMap) -> list[Overview]:
    """One overview per loss, its subjects in the order given."""
    columns = tuple(dtypes(run))
    return [
        Overview(loss, columns, tuple(_lines([s for s in rows if s.loss == loss], columns, heat)))
        for loss in losses(rows)
    ]


def _lines(rows: Sequence[Subject], columns: Sequence[str], heat: HeatMap) -> list[Line]:
    lines = []
    for place, subject in enumerate(rows, start=1):
        worst = subject.worst_result
        pairs = tuple(tuple(_half(subject, dtype, what) for what in WHATS) for dtype in columns)
        lines.append(
            Line(
                subject=subject,
                rank=place if subject.measured else None,
                pairs=pairs,
                worst=worst,
                worst_mark=mark_of(worst),
                cell=heat.number_of(worst) if worst is not None else None,
                failures=sum(outcome_of(r).is_failure for r in subject.results.values()),
                reason=_reason(subject),
            )
        )
    return lines


def _half(subject: Subject, dtype: str, what: str) -> Half:
    states = {state_of(result) for result in subject.of(dtype, what)}
    return Half(subject.worst(dtype, what), "f" if "f" in states else "k" if "k" in states else "")


def _reason(subject: Subject) -> str:
    """Why nothing was measured; ``""`` where something was."""
    if subject.measured:
        return ""
    details = [r.detail for r in subject.results.values() if r.detail]
    return str(subject.declaration.get("reason") or (details[0] if details else "no result in this run"))


def family_notes(run: Run) -> list[FamilyNote]:
    """All families of the run, in its order; `anchor` is an id that is safe and unique."""
    notes = []
    for number, name in enumerate(families(run)):
        entry = run.families.get(name, {})
        notes.append(
            FamilyNote(
                name=name,
                anchor=f"family-{number}",
                breaks=str(entry.get("breaks", "")),
                source=linked(str(entry.get("source", ""))),
                losses=tuple(str(loss) for loss in entry.get("losses") or ()),
                judged=_judged(run, name),
            )
        )
    return notes


def _judged(run: Run, family: str) -> str:
    """How many of the family's rows were judged: ``"all 64 rows in float64, float32; 40–58 of 64 in float16"``."""
    told: dict[str, list[str]] = {}
    for dtype in dtypes(run):
        measured = [r for r in run.results if (r.family, r.dtype) == (family, dtype) and r.rows and r.grade]
        if measured:
            low, high = min(r.judged for r in measured), max(r.judged for r in measured)
            rows = max(r.rows for r in measured)
            part = f"{low:,}" if low == high else f"{low:,}–{high:,}"
            told.setdefault(f"all {rows:,} rows" if low == rows else f"{part} of {rows:,} rows", []).append(dtype)
    return "; ".join(f"{text} in {', '.join(names)}" for text, names in told.items())
