"""A run as tables for a terminal: worst grades, failures with their witnesses, and what could not be run."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.claims import improvable
from harness.declaration import Declaration
from harness.grades import Grade, Outcome
from harness.run import Result, Run

__all__ = ["print_run", "verdict", "wide_console"]

COLOURS = {
    Grade.FAITHFUL: "green",
    Grade.RELATIVE: "green",
    Grade.ABSOLUTE: "cyan",
    Grade.STORAGE: "yellow",
    Grade.INACCURATE: "red",
}


def verdict(run: Run) -> int:
    """The exit status that a run deserves: 1 where some result is not as claimed, else 0."""
    return int(any(Outcome(result.outcome).is_failure for result in run.results))


def wide_console() -> Console:
    """Standard output: as wide as the terminal, or 150 columns where there is none."""
    return Console() if sys.stdout.isatty() else Console(width=150)


def print_run(run: Run) -> None:
    """Print a run to standard output."""
    console = wide_console()
    if run.results:
        console.print(_grades(run))
    for timing_table in _timings(run):
        console.print(timing_table)
    _print_failures(console, run)
    _print_improvable(console, run)
    _print_unavailable(console, run)
    counts = Counter(result.outcome for result in run.results)
    told = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(counts.items()))
    console.print(f"{len(run.results)} results: {told or 'none'}. Seed {run.environment.get('seed')}.", highlight=False)


def _grades(run: Run) -> Table:
    table = Table(title="Worst grade over all families", title_justify="left", pad_edge=False)
    for name in ("implementation", "dtype", "claims", "loss", "gradient", "worst family", "ulp", "error / bound"):
        table.add_column(name, justify="right" if name in ("ulp", "error / bound") else "left", no_wrap=name == "implementation")
    previous = ""
    for name, dtype in dict.fromkeys((r.implementation, r.dtype) for r in run.results):
        cells = [r for r in run.results if r.implementation == name and r.dtype == dtype]
        worst = max(cells, key=_badness)
        table.add_row(
            name if name != previous else "",
            dtype,
            str(worst.claimed or ""),
            _worst(cells, "loss"),
            _worst(cells, "gradient"),
            "" if worst.grade is None else worst.family,
            _number(worst.max_ulp),
            _number(worst.max_bound_ratio),
            end_section=False,
        )
        previous = name
    return table


def _badness(result: Result) -> tuple[int, int, float]:
    rank = -1 if result.grade is None else Grade(result.grade).rank
    return rank, result.nonfinite > 0, result.max_bound_ratio or 0.0


def _worst(cells: Sequence[Result], what: str) -> Text:
    grades = [Grade(r.grade) for r in cells if r.what == what and r.grade is not None]
    if not grades:
        return Text("-", style="dim")
    grade = Grade.worst(grades)
    bad = sum(r.nonfinite for r in cells if r.what == what)
    return Text(f"{grade}, not finite" if bad else str(grade), style=COLOURS[grade])


def _timings(run: Run) -> list[Table]:
    tables = []
    for shape, what in dict.fromkeys((t.shape, t.what) for t in run.timings):
        rows = [t for t in run.timings if t.shape == shape and t.what == what]
        title = f"{what}, {shape[0]} × {shape[1]} {rows[0].dtype}: time relative to {rows[0].baseline} (same rounds)"
        table = Table(title=title, title_justify="left", pad_edge=False)
        for name in ("implementation", "ratio", "fastest round, ms"):
            table.add_column(name, justify="left" if name == "implementation" else "right")
        for t in sorted(rows, key=lambda t: t.ratio if t.ratio is not None else float("inf")):
            fastest = f"{min(t.seconds) * 1e3:.2f}" if t.seconds else t.detail
            table.add_row(t.implementation, "-" if t.ratio is None else f"{t.ratio:.2f}", fastest)
        tables.append(table)
    return tables


def _print_failures(console: Console, run: Run) -> None:
    failures = [r for r in run.results if Outcome(r.outcome).is_failure]
    if not failures:
        return
    console.print(f"\n{len(failures)} not as claimed:", style="bold red")
    for r in failures:
        line = Text(f"  {r.implementation} {r.dtype} {r.family} {r.what}: ")
        line.append(r.outcome.replace("_", " "), style="bold")
        line.append(f" ({r.grade}, claims {r.claimed})" if r.grade else "")
        line.append(f" {r.detail}" if r.detail else "")
        console.print(line)
        if r.witness and r.outcome != Outcome.UNEXPECTED_PASS:
            w = r.witness
            where = f"row {w['row']}" + ("" if w["column"] is None else f", class {w['column']}")
            got, want = (_decimal(w[key]) for key in ("got", "want"))
            console.print(f"    {where}: got {got}, want {want} (hexadecimal {w['got']}, {w['want']})", style="dim")


def _print_improvable(console: Console, run: Run) -> None:
    declarations = [Declaration.from_json(_fields(entry)) for entry in run.implementations if "grades" in entry]
    request = run.environment.get("request", {})
    if any(request.get(key) for key in ("families", "dtypes", "logits", "quick")):
        return  # a claim is about every family
    for entry in improvable(declarations, run.results):
        console.print(
            f"{entry.implementation} {entry.dtype}: claims {entry.claimed}, reached {entry.reached} on every family here"
        )


def _fields(entry: object) -> dict[str, object]:
    assert isinstance(entry, dict)
    return {key: value for key, value in entry.items() if key in Declaration.__dataclass_fields__}


def _print_unavailable(console: Console, run: Run) -> None:
    for entry in run.implementations:
        if not entry["available"]:
            console.print(Text(f"not run: {entry['name']}: {entry['reason']}", style="yellow"))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _decimal(text: str) -> str:
    return f"{float.fromhex(text):.9g}" if text not in ("nan", "inf", "-inf") else text
