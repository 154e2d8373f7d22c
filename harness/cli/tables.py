"""A run on a terminal: worst grades, times, the worst failures with their witnesses, and what could not be run.

Everything fits 80 columns: a narrow terminal gets fewer columns, never folded names. What is left out here is in the
run file and in its report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.text import Text

from harness.claims import improvable
from harness.cli.layout import grouped, wide_console
from harness.cli.speed_table import speed_lines
from harness.declaration import Declaration
from harness.grades import Grade, Outcome
from harness.run import Result, Run

__all__ = ["failed_implementations", "print_run"]

COLOURS = {
    Grade.FAITHFUL: "green",
    Grade.RELATIVE: "green",
    Grade.ABSOLUTE: "cyan",
    Grade.STORAGE: "yellow",
    Grade.INACCURATE: "red",
}
UNMEASURED = {Outcome.WRONG_SHAPE, Outcome.WRONG_DTYPE, Outcome.RAISED, Outcome.CRASHED, Outcome.TIMED_OUT}
"""Outcomes of calls that gave nothing whose accuracy could be graded."""

WORST = 3
"""Failures shown of one implementation; a broken one has a hundred."""


def failed_implementations(run: Run) -> list[str]:
    """Names of the implementations with a result that is not as claimed: with any, a run fails."""
    return list(dict.fromkeys(r.implementation for r in run.results if Outcome(r.outcome).is_failure))


def print_run(run: Run, saved: Path | None = None) -> None:
    """Print a run, which was saved to a file or not, to standard output.

    Raises
    ------
    BrokenPipeError
        Where nobody reads it.
    """
    console = wide_console()
    for part in (
        _grades(run, console.width),
        speed_lines(run.timings, console.width, run.environment),
        _failures(run),
        _improvable(run),
        _unavailable(run),
    ):
        lines = list(part)
        for line in lines:
            console.print(line, soft_wrap=False, overflow="fold")
        if lines:
            console.print()
    counts = Counter(result.outcome.replace("_", " ") for result in run.results)
    told = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    console.print(f"{len(run.results)} results{': ' if told else ''}{told}. Seed {run.environment.get('seed')}.")
    if saved:
        console.print(f"Every result: {saved}\nAs a page: xent report {saved}", soft_wrap=True)  # to be copied whole
    elif run.results:
        console.print("--json FILE keeps every result, and xent report FILE makes a page of it.")


def _grades(run: Run, width: int) -> Iterator[Text]:
    if not run.results:
        return
    yield Text("The worst over all families; the bound is that of the claimed grade")
    groups: dict[str, list[list[Text | str]]] = {}
    places = dict.fromkeys((r.implementation, r.device, r.backend, r.dtype) for r in run.results)
    for name, device, backend, dtype in places:
        place = (name, device, backend, dtype)
        cells = [r for r in run.results if (r.implementation, r.device, r.backend, r.dtype) == place]
        worst = max(cells, key=_badness)
        measured = worst.grade is not None
        groups.setdefault(_title(name, device, backend), []).append(
            [
                dtype,
                worst.claimed or "",
                _worst(cells, "loss"),
                _worst(cells, "gradient"),
                worst.family if measured else "",
                _number(worst.max_ulp),
                _number(_ratio(worst)),
                _witness(worst) if measured else "",
            ]
        )
    header = ("dtype", "claims", "loss", "gradient", "worst family", "ulp", "error / bound", "witness")
    right = ("ulp", "error / bound")
    yield from grouped(header, groups, width=width, right=right, dispensable=("witness", "claims", "error / bound"))


def _title(name: str, device: str, backend: str) -> str:
    """An implementation's name, with where and by what it ran if that is not the ordinary: figures do not mix."""
    apart = [word for word in (device, backend) if word not in ("cpu", "native")]
    return f"{name} ({', '.join(apart)})" if apart else name


def _badness(result: Result) -> tuple[int, bool, float]:
    rank = -1 if result.grade is None else Grade(result.grade).rank
    return rank, result.nonfinite > 0, _ratio(result) or 0.0


def _ratio(result: Result) -> float | None:
    """The error over the bound of the claimed grade, or over the gate's where that has none of its own."""
    return result.bound_ratios.get(result.claimed or "", result.max_bound_ratio)


def _worst(cells: Sequence[Result], what: str) -> Text:
    measured = [r for r in cells if r.what == what and r.grade is not None]
    if not measured:
        return Text("-", style="dim")
    broken = next((r.outcome for r in measured if r.outcome in UNMEASURED), None)
    if broken is not None:
        return Text(broken.replace("_", " "), style="bold red")
    if any(r.nonfinite for r in measured):
        return Text("not finite", style="bold red")
    grade = Grade.worst([Grade(r.grade) for r in measured if r.grade is not None])
    return Text(str(grade), style=COLOURS[grade])


def _witness(result: Result) -> str:
    """Which value is worst, what came out and what should have."""
    w = result.witness
    if not w:
        return ""
    digits = 17 if result.output_dtype == "float64" else 9
    got, want = (_decimal(w[key], digits) for key in ("got", "want"))
    source = f"{w['of']} " if "of" in w else ""
    place = "feature" if source else "class"
    where = f"{source}row {w['row']}" + ("" if w["column"] is None else f", {place} {w['column']}")
    return f"{where}: got {got}, want {want}"


def _failures(run: Run) -> Iterator[Text]:
    failed = [r for r in run.results if Outcome(r.outcome).is_failure]
    if not failed:
        return
    yield Text(f"{len(failed)} of {len(run.results)} results are not as claimed", style="bold red")
    for name in failed_implementations(run):
        own = sorted((r for r in failed if r.implementation == name), key=_badness, reverse=True)
        yield Text(name, style="bold")
        for r in own[:WORST]:
            yield from _failure(r)
        if len(own) > WORST:
            families = len({r.family for r in own})
            yield Text(f"  … and {len(own) - WORST} more, in {families} families in all", style="dim")


def _failure(r: Result) -> Iterator[Text]:
    line = Text.assemble(f"  {r.dtype} {r.family} {r.what}: ", (r.outcome.replace("_", " "), "bold"))
    if r.outcome == Outcome.FAILED:
        line.append(f", {r.grade} where it claims {r.claimed}")
    line.append(f": {r.detail}" if r.detail else "")
    yield line
    if r.witness and r.outcome != Outcome.UNEXPECTED_PASS:
        yield Text(f"    {_witness(r)}", style="dim")


def _improvable(run: Run) -> Iterator[Text]:
    request = run.environment.get("request", {})
    if not run.complete or any(request.get(key) for key in ("families", "dtypes", "logits", "quick")):
        return  # a claim is about every family
    declarations = [Declaration.from_json(_fields(entry)) for entry in run.implementations if "grades" in entry]
    for entry in improvable(declarations, run.results):
        told = f"claims {entry.claimed}, and is {entry.reached} on every family here"
        yield Text(f"{entry.implementation} {entry.dtype}: {told}")


def _fields(entry: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in entry.items() if key in Declaration.__dataclass_fields__}


def _unavailable(run: Run) -> Iterator[Text]:
    names: dict[str, list[str]] = {}
    for entry in run.implementations:
        if not entry["available"]:
            names.setdefault(entry["reason"], []).append(entry["name"])
    for reason, missing in names.items():
        yield Text.assemble(("not run: ", "yellow"), f"{', '.join(missing)}: {reason}")


def _number(value: float | None) -> str:
    """Two digits, and an exponent without padding: 1.5e7, 3e-8."""
    if value is None:
        return ""
    mantissa, e, exponent = f"{value:.2g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if e else mantissa


def _decimal(text: str, digits: int) -> str:
    return f"{float.fromhex(text):.{digits}g}" if text not in ("nan", "inf", "-inf") else text
