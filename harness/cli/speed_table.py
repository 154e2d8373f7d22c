"""Times on a terminal: one table per dtype, device and what, with a line per implementation and a column per shape."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.text import Text

from harness.cli.layout import grouped
from harness.grades import Outcome
from harness.run import Timing

__all__ = ["speed_lines", "wrong"]

_WORDS = {Outcome.SKIPPED: "-", Outcome.UNAVAILABLE: "-", Outcome.TIMED_OUT: "too long", Outcome.CRASHED: "crashed",
          Outcome.RAISED: "raised"}  # fmt: skip
"""What stands in place of a ratio; any other outcome is a wrong answer."""


def wrong(timings: Sequence[Timing]) -> list[str]:
    """Names of the implementations that gave a wrong answer, or none: with any, a run fails."""
    bad = [t for t in timings if Outcome(t.outcome).is_failure]
    return list(dict.fromkeys(_name(t) for t in bad))


def speed_lines(timings: Sequence[Timing], width: int, environment: Mapping[str, Any]) -> Iterator[Text]:
    """The lines of all tables; a narrow terminal gets fewer columns.

    Parameters
    ----------
    timings : sequence of Timing
        As a run has them.
    width : int
        Columns of the terminal.
    environment : mapping
        The run's: ``threads`` is told, and a ``load`` above the number of ``cores``.
    """
    if not timings:
        return
    yield Text("Times as ratios to the baseline's in the same round (median over the rounds; above 1 is slower)")
    for key in dict.fromkeys((t.dtype, t.device, t.what, t.baseline) for t in timings):
        yield from _table([t for t in timings if (t.dtype, t.device, t.what, t.baseline) == key], width, environment)
        yield Text("")
    yield from _reasons(timings)
    load, cores = environment.get("load"), environment.get("cores")
    if load is not None and cores and load > cores:
        told = f"The machine was busy (load {load:g} on {cores} cores): these ratios are noise as much as measurement."
        yield Text(told, style="bold yellow")


def _table(timings: Sequence[Timing], width: int, environment: Mapping[str, Any]) -> Iterator[Text]:
    shapes = list(dict.fromkeys(t.shape for t in timings))
    by_name: dict[str, dict[tuple[int, int], Timing]] = {}
    for t in timings:
        by_name.setdefault(_name(t), {})[t.shape] = t
    first = timings[0]
    threads = environment.get("threads")
    where = first.device if first.device != "cpu" or threads is None else f"cpu, {threads} thread{'s' * (threads != 1)}"
    heading = f"{first.what}, {first.dtype}, relative to {first.baseline} ({where})"
    last = shapes[-1]
    columns = ("implementation", *(f"{n}×{v}" for n, v in shapes), "of copy", "memory")
    rows = []
    for name in sorted(by_name, key=lambda name: _order(by_name[name], shapes)):
        own = by_name[name]
        ratios = [_ratio(own.get(shape)) for shape in shapes]
        weighed = [t.memory for t in own.values() if t.memory is not None]
        rows.append([name, *ratios, _share(own.get(last)), f"{weighed[-1]:.1f}×" if weighed else ""])
    base = by_name.get(first.baseline, {})
    rows.append([Text("the baseline's time", style="dim"), *(_time(base.get(shape)) for shape in shapes), "", ""])
    dispensable = ("of copy", "memory", *columns[1:-3])
    yield from grouped(columns, {heading: rows}, width=width, right=columns[1:], dispensable=dispensable)


def _name(timing: Timing) -> str:
    return timing.implementation if timing.mode == "eager" else f"{timing.implementation} ({timing.mode})"


def _order(own: Mapping[tuple[int, int], Timing], shapes: Sequence[tuple[int, int]]) -> float:
    """By the last shape's ratio, which is the largest batch's."""
    ratios = [t.ratio for shape in shapes if (t := own.get(shape)) is not None and t.ratio is not None]
    return ratios[-1] if ratios else float("inf")


def _ratio(timing: Timing | None) -> Text | str:
    if timing is None:
        return ""
    if timing.ratio is not None:
        return f"{timing.ratio:.2f}"
    outcome = Outcome(timing.outcome)
    if outcome is Outcome.PASSED:  # no baseline to compare with
        return _time(timing)
    return Text(_WORDS.get(outcome, "wrong"), style="bold red" if outcome.is_failure else "dim")


def _share(timing: Timing | None) -> str:
    return "" if timing is None or timing.bandwidth is None else f"{timing.bandwidth:.1%}"


def _time(timing: Timing | None) -> str:
    return f"{statistics.median(timing.seconds) * 1e3:.3g} ms" if timing and timing.seconds else ""


def _reasons(timings: Sequence[Timing]) -> Iterator[Text]:
    """Why there is no speed, each reason once."""
    names: dict[tuple[str, Outcome], list[str]] = {}
    for t in timings:
        if t.detail:
            names.setdefault((t.detail, Outcome(t.outcome)), []).append(_name(t))
    for (detail, outcome), who in names.items():
        unique = list(dict.fromkeys(who))
        told = ", ".join(unique[:3]) + (f" and {len(unique) - 3} more" if len(unique) > 3 else "")
        word = "" if outcome is Outcome.PASSED else "no speed: " if outcome.is_failure else "not timed: "
        yield Text.assemble((word, "red" if outcome.is_failure else "yellow"), f"{told}: {detail}")
    if any(t.bandwidth is not None for t in timings):
        yield Text(
            "of copy: bytes that must be moved (logits read, gradient written) per second, over those of a copy of the "
            "logits in the same rounds, on the last shape. memory: peak of one call above a no-op, in a fresh process, "
            "in multiples of the logits.",
            style="dim",
        )
