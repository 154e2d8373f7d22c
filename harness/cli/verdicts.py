"""A verdict on a terminal: the verdict itself, grades, what failed and its witness, deviations, what was skipped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.text import Text

from harness.cli.layout import wide_console
from harness.vetting.checks import ASKS
from harness.vetting.replies import inert
from harness.vetting.verdict import CheckResult, Verdict

__all__ = ["print_verdict"]

COLOURS = {"accepted": "bold green", "rejected": "bold red"}


def print_verdict(verdict: Verdict) -> None:
    """Print a verdict to standard output.

    Raises
    ------
    BrokenPipeError
        Where nobody reads it.
    """
    console = wide_console()
    for part in (_head(verdict), _failed(verdict), _witness(verdict), _deviations(verdict), _skipped(verdict)):
        lines = list(part)
        if lines:
            console.print()
        for line in lines:
            console.print(line, soft_wrap=True)  # code is there to be copied: no line is broken
    console.print()
    console.print(f"Seed {verdict.seed}: --seed {verdict.seed} draws the same inputs again.", soft_wrap=True)


def _head(verdict: Verdict) -> Iterator[Text]:
    word = (verdict.verdict.upper(), COLOURS.get(verdict.verdict, "bold"))
    yield Text.assemble(word, f" {inert(verdict.candidate)}: {verdict.message}")
    for dtype, grade in verdict.grades.items():
        yield Text(f"  {dtype:<10}{grade}")
    if verdict.backend != "native":
        yield Text(f"  Run by {verdict.backend} on the CPU: arithmetic, masks and offsets are tested. Races, a GPU's")
        yield Text("  approximate functions and what the compiler makes of it are not: vet it on a GPU as well.")


def _failed(verdict: Verdict) -> Iterator[Text]:
    failed = verdict.failed
    if not failed:
        return
    yield Text(f"Failed: {len(failed)} of {sum(c.outcome != 'skipped' for c in verdict.checks)}", style="bold")
    width = max(len(check.name) for check in failed)
    for check in failed:
        yield Text(f"  {check.dtype:<10}{check.name:<{width}}  {check.detail}")
    yield Text("What they ask:", style="dim")
    for name in dict.fromkeys(check.name for check in failed):
        yield Text(f"  {name:<{width}}  {ASKS.get(name, '')}", style="dim")


def _witness(verdict: Verdict) -> Iterator[Text]:
    """The witness of the failure that the verdict rests on, or of another one, with the code that reproduces it."""
    with_one = [check for check in verdict.failed if check.witness]
    with_one.sort(key=lambda check: not verdict.message.startswith(f"{check.name} in {check.dtype}: "))
    check = next(iter(with_one), None)
    if check is None or check.witness is None:
        return
    yield Text(f"Witness of {check.name} in {check.dtype}, to be pasted beside your file", style="bold")
    yield from (Text(line) for line in str(check.witness.get("code", "")).splitlines())


def _deviations(verdict: Verdict) -> Iterator[Text]:
    if verdict.deviations:
        yield Text("Deviations: legitimate, but not what torch does; failures only under --strict", style="bold")
    yield from _merged((entry.check, entry.detail, entry.dtype) for entry in verdict.deviations)


def _skipped(verdict: Verdict) -> Iterator[Text]:
    skipped: list[CheckResult] = [check for check in verdict.checks if check.outcome == "skipped"]
    if skipped:
        yield Text("Skipped", style="bold")
    yield from _merged((check.name, check.detail, check.dtype) for check in skipped)


def _merged(entries: Iterable[tuple[str, str, str]]) -> Iterator[Text]:
    """A line for each name and detail, with the dtypes that share it."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, detail, dtype in entries:
        groups.setdefault((name, detail), []).append(dtype)
    for (name, detail), dtypes in groups.items():
        yield Text(f"  {name} ({', '.join(dict.fromkeys(dtypes))}): {detail}")
