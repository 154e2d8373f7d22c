"""A comparison in words: a headline, and tables of text, for a terminal and for Markdown alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.compare.accuracy import grouped
from harness.compare.comparison import Comparison
from harness.compare.speed import SpeedChange, Verdict
from harness.compare.words import count, percent

__all__ = ["Section", "headline", "how", "sections"]


@dataclass(frozen=True)
class Section:
    """A table: a title, the names of its columns, and its rows. `bad` where it tells of what got worse."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bad: bool = False


def headline(found: Comparison) -> str:
    """The outcome in one line."""
    compared = (
        f"{count(found.cells, 'cell')} of accuracy and {count(found.judged, 'series', 'series')} of speed compared"
    )
    undecided = len(found.of(Verdict.UNDECIDED))
    also = f", {undecided} with too few figures to judge" if undecided else ""
    if found.worse:
        parts = [
            count(len(grouped(found.accuracy, worse=True)), "regression") + " of accuracy",
            count(len(found.of(Verdict.SLOWER)), "series", "series") + " slower",
            count(len(found.of(Verdict.LOST)), "series", "series") + " lost",
        ]
        return f"Worse: {', '.join(part for part in parts if not part.startswith('0 '))} ({compared}{also})."
    if not found.anything:
        nothing = bool(found.old or found.left_out)
        return "Nothing comparable was measured." if nothing else "There is nothing before to compare with."
    return f"Nothing got worse: {compared}{also}."


def sections(found: Comparison) -> Iterator[Section]:
    """The tables that have something in them, what got worse first."""
    made = (
        Section("Faster at the price of accuracy", ("implementation", "dtype", "what it costs"), _trades(found), True),
        Section(
            "Accuracy that got worse",
            ("subject", "kind", "family", "now and before", "families"),
            _accuracy(found, True),
            True,
        ),
        Section("Slower", _SPEED, _speed(found.of(Verdict.SLOWER)), True),
        Section(
            "Timed before, and not any more", ("series",), tuple((c.key.told,) for c in found.of(Verdict.LOST)), True
        ),
        Section(
            "Accuracy that got better",
            ("subject", "kind", "family", "now and before", "families"),
            _accuracy(found, False),
        ),
        Section("Faster", _SPEED, _speed(found.of(Verdict.FASTER))),
        Section(
            "Versions that differ", ("package", "before", "now"), tuple((n, *v) for n, v in found.versions.items())
        ),
        Section("Left out", ("night or run", "why"), tuple((entry.name, entry.reason) for entry in found.left_out)),
    )
    yield from (section for section in made if section.rows)


def how(found: Comparison) -> str:
    """What was compared with what, and from when on a difference counts, in one paragraph; ``""`` for nothing."""
    limits = found.limits
    if not found.old:
        return ""
    accuracy = (
        f"Accuracy: exactly, with {found.baseline or 'nothing'}; an error counts as worse from "
        f"{limits.ulp_factor:g} times the old one (at least 1 ulp) on."
    )
    if found.by_rounds:
        return (
            f"{accuracy} Speed: the rounds of two single runs, as ratios to the baseline's; Mann-Whitney "
            f"p < {limits.significance:g}, beyond {percent(limits.slowdown_of_runs)} and beyond the noise of the old "
            "rounds. How much runs differ from each other cannot be seen in two: nights tell more."
        )
    noise = sorted(change.noise for change in found.speed if change.noise is not None)
    typical = f" (here typically {percent(noise[len(noise) // 2], 1)})" if noise else ""
    return (
        f"{accuracy} Speed: the last {count(len(found.new), 'night')} against {len(found.old)} before, as ratios to "
        f"the baseline's; Mann-Whitney p < {limits.significance:g}, beyond {percent(limits.slowdown)} and beyond the "
        f"noise from night to night{typical}."
    )


_SPEED = ("series", "change", "p", "noise", "counts from")


def _trades(found: Comparison) -> tuple[tuple[str, ...], ...]:
    return tuple((trade.implementation, trade.dtype, trade.message) for trade in found.trades)


def _accuracy(found: Comparison, worse: bool) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (group.subject, str(group.worst.kind), group.worst.key.family, group.worst.told, str(len(group.changes)))
        for group in grouped(found.accuracy, worse=worse)
    )


def _speed(changes: Sequence[SpeedChange]) -> tuple[tuple[str, ...], ...]:
    ordered = sorted(changes, key=lambda change: -abs(change.change or 0.0))
    return tuple(
        (c.key.told, percent(c.change, sign=True), f"{c.p or 0.0:.2g}", percent(c.noise, 1), percent(c.needed))
        for c in ordered
    )
