"""A comparison: what got worse, what got better, what a speed-up cost, and what could not be compared and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from harness.compare.accuracy import AccuracyChange, compare_accuracy, grouped
from harness.compare.limits import Limits
from harness.compare.samples import of_nights, of_runs, windows
from harness.compare.speed import SpeedChange, Verdict, compare_speed
from harness.compare.words import percent
from harness.history import CellKey, LeftOut, Night, SeriesKey
from harness.run import strict

__all__ = ["COMPARISON_SCHEMA", "Comparison", "Trade", "compare"]

COMPARISON_SCHEMA = 1
ROUNDS = (5, 5)
"""Rounds that a test of two runs needs on each side: with 4 against 4, p is never below 1/70."""
LEAST_GAIN = 0.005
"""Half a per cent, which is "1 % faster" when it is told."""


@dataclass(frozen=True)
class Trade:
    """A speed-up that was paid for with accuracy."""

    implementation: str
    dtype: str
    message: str


@dataclass(frozen=True)
class Comparison:
    """What became of everything that was measured before or now.

    Parameters
    ----------
    old, new : tuple of str
        Names of the nights or runs whose speed was compared, oldest first.
    baseline : str
        Name of the one whose accuracy is the old one; ``""`` for none.
    cells : int
        Cells of accuracy measured on both sides.
    accuracy : tuple of AccuracyChange
        Those that got worse or better.
    speed : tuple of SpeedChange
        Every series.
    trades : tuple of Trade
        Speed-ups that cost accuracy.
    versions : mapping of str to (str, str)
        Versions that differ, before and now.
    left_out : tuple of LeftOut
        What was not compared, and why.
    limits : Limits
        From when on a difference counted.
    by_rounds : bool
        Whether speed is that of two single runs, round by round, and not of nights.
    """

    old: tuple[str, ...]
    new: tuple[str, ...]
    baseline: str = ""
    cells: int = 0
    accuracy: tuple[AccuracyChange, ...] = ()
    speed: tuple[SpeedChange, ...] = ()
    trades: tuple[Trade, ...] = ()
    versions: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()
    limits: Limits = field(default_factory=Limits)
    by_rounds: bool = False

    @property
    def worse(self) -> tuple[AccuracyChange | SpeedChange, ...]:
        """What got worse: accuracy, then speed."""
        return (*(c for c in self.accuracy if c.worse), *self.of(Verdict.SLOWER, Verdict.LOST))

    @property
    def judged(self) -> int:
        """Series whose speed could be judged."""
        return len(self.of(Verdict.SLOWER, Verdict.FASTER, Verdict.SAME))

    @property
    def anything(self) -> bool:
        """Whether there was anything to compare."""
        return bool(self.cells or self.judged)

    def of(self, *verdicts: Verdict) -> tuple[SpeedChange, ...]:
        """The series with these verdicts."""
        return tuple(change for change in self.speed if change.verdict in verdicts)

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON-ready data, ``schema`` first."""
        accuracy = [asdict(change) | {"told": change.told} for change in self.accuracy]
        verdict = "nothing to compare" if not self.anything else "worse" if self.worse else "fine"
        data: dict[str, Any] = strict(
            {"schema": COMPARISON_SCHEMA, "kind": "comparison", "verdict": verdict, **asdict(self)}
            | {"accuracy": accuracy}
        )
        return data


def compare(
    old: Sequence[Night],
    new: Sequence[Night],
    limits: Limits | None = None,
    *,
    baseline: Night | None = None,
    begins: Mapping[SeriesKey, str] | None = None,
) -> Comparison:
    """Compare what was measured before with what was measured now; the last of `new` is the one in question.

    What is unlike that one (machine, label, seed, threads, scope, or interrupted) is left out, by name.

    Parameters
    ----------
    old, new : sequence of Night
        Oldest first, `new` not empty. Speed is that of the last nights of both together against those before; where
        both sides are one run whose rounds are known, these are compared.
    limits : Limits, optional
        From when on a difference counts.
    baseline : Night, optional
        Whose accuracy is the old one; by default that of the last of `old`.
    begins : mapping of SeriesKey to str, optional
        As `of_nights` takes it.
    """
    limits = limits or Limits()
    tonight = new[-1]
    by_rounds = len(old) == len(new) == 1 and bool(old[0].rounds) and bool(tonight.rounds)
    before, out = _like(old, tonight)
    recent, more = _like(new, tonight)
    older, recent = (before, recent) if by_rounds else _windows([*before, *recent], limits)
    reference = baseline or (before[-1] if before else None)
    out += [*more, *_lacking(reference, older, tonight)]
    changes: list[AccuracyChange] = []
    if reference is not None and reference.cells and tonight.cells:
        changes = compare_accuracy(reference.cells, tonight.cells, limits.ulp_factor)
    speed = _speed(older, recent, limits, by_rounds, begins) if tonight.series else []
    return Comparison(
        old=tuple(night.name for night in older),
        new=tuple(night.name for night in recent),
        baseline=reference.name if reference is not None else "",
        cells=len(reference.cells.keys() & tonight.cells.keys()) if reference is not None else 0,
        accuracy=tuple(changes),
        speed=tuple(speed),
        trades=tuple(_trades(changes, speed)),
        versions=_versions(reference, tonight) if reference is not None else {},
        left_out=tuple(out),
        limits=limits,
        by_rounds=by_rounds,
    )


def _like(nights: Sequence[Night], wanted: Night) -> tuple[list[Night], list[LeftOut]]:
    kept, out = [], []
    for night in nights:
        reason = wanted.identity.difference(night.identity) or ("" if night.complete else "it was interrupted")
        if reason and night is not wanted:
            out.append(LeftOut(night.name, reason))
        else:
            kept.append(night)
    return kept, out


def _lacking(reference: Night | None, older: Sequence[Night], tonight: Night) -> list[LeftOut]:
    """What only one side has at all: it was not asked for there, which is said, but is no loss."""
    before = (bool(reference and reference.cells), any(night.series for night in older))
    now = (bool(tonight.cells), bool(tonight.series))
    return [
        LeftOut(what, f"measured {'before' if old else 'now'} only")
        for what, old, new in zip(("accuracy", "speed"), before, now, strict=True)
        if old != new and (reference or older)
    ]


def _windows(nights: list[Night], limits: Limits) -> tuple[list[Night], list[Night]]:
    """The nights before and the recent ones; of a history too short for both, all but the last against that."""
    before, recent = windows(nights, limits)
    return (before, recent) if before else (nights[:-1], nights[-1:])


def _speed(
    before: Sequence[Night],
    recent: Sequence[Night],
    limits: Limits,
    by_rounds: bool,
    begins: Mapping[SeriesKey, str] | None,
) -> list[SpeedChange]:
    if not before:
        return []
    if by_rounds:
        samples = of_runs(before[-1], recent[-1])
        return compare_speed(samples, limits, floor=limits.slowdown_of_runs, fewest=ROUNDS)
    samples = of_nights(before, recent, begins)
    return compare_speed(samples, limits, floor=limits.slowdown, fewest=(limits.fewest, limits.recent))


def _versions(old: Night, new: Night) -> dict[str, tuple[str, str]]:
    """The versions that differ, Python's and the commit among them."""
    before, now = ({**night.environment.get("versions", {})} for night in (old, new))
    for key in ("python", "commit"):
        before[key], now[key] = old.environment.get(key), new.environment.get(key)
    names = [name for name in dict.fromkeys([*before, *now]) if before.get(name) != now.get(name)]
    return {name: (str(before.get(name) or "none"), str(now.get(name) or "none")) for name in names}


def _trades(accuracy: Sequence[AccuracyChange], speed: Sequence[SpeedChange]) -> list[Trade]:
    """The speed-ups that cost accuracy. Any will do: that one is within the noise makes the price no smaller."""
    trades = []
    for group in grouped(accuracy, worse=True):
        key = group.worst.key
        gains = [change.change for change in speed if _is_of(change, key) and change.change is not None]
        if gains and min(gains) <= -LEAST_GAIN and group.worst.new is not None:
            trades.append(Trade(key.implementation, key.dtype, f"{percent(-min(gains))} faster, {_price(group.worst)}"))
    return list(dict.fromkeys(trades))


def _is_of(change: SpeedChange, key: CellKey) -> bool:
    """Whether the series is one of the implementation, dtype and device of the cell."""
    mine, theirs = change.key, key
    return (mine.implementation, mine.dtype, mine.device) == (theirs.implementation, theirs.dtype, theirs.device)


def _price(change: AccuracyChange) -> str:
    """What it cost, in a few words."""
    what = "true-class error" if change.new and change.new.true_class else f"{change.key.what} error"
    if change.new and change.old and change.new.nonfinite > change.old.nonfinite:
        return f"{change.key.what} not finite on {change.key.family}"
    if change.factor is None or change.factor <= 1:
        return f"{change.key.what} {change.told} on {change.key.family}"
    times = "beyond measure" if change.factor == float("inf") else f"{change.factor:.3g} times"
    return f"{what} {times} worse on {change.key.family}"
