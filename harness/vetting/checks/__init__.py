"""The checks: what is asked of a candidate, by name.

An *inspection* is a function that makes calls and says what it found; it serves one or several checks. Each check has
one line on what it asks, which is what a reader of a verdict sees first.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.vetting.context import Context
from harness.vetting.findings import Deviates, Failed, Finding, Skipped

__all__ = ["ASKS", "INSPECTIONS", "Deviates", "Failed", "Finding", "Inspection", "Skipped", "inspection"]


Inspect = Callable[[Context, str], Iterator[Finding]]


@dataclass(frozen=True)
class Inspection:
    """A function ``(context, dtype) -> findings`` and the checks that it decides."""

    checks: tuple[str, ...]
    inspect: Inspect


ASKS: dict[str, str] = {}
"""Check name → one line on what it asks."""
INSPECTIONS: list[Inspection] = []


def inspection(*more: str, **asks: str) -> Callable[[Inspect], Inspect]:
    """Register a function as the inspection of the checks named, each with its one line, and of `more` known ones."""

    def register(function: Inspect) -> Inspect:
        ASKS.update(asks)
        INSPECTIONS.append(Inspection((*asks, *more), function))
        return function

    return register


for _theme in (
    "numerics",
    "gradients",
    "options",
    "option_values",
    "branches",
    "behaviour",
    "layout",
    "special",
    "process",
):
    importlib.import_module(f"harness.vetting.checks.{_theme}")
