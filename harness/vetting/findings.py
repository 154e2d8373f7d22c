"""Findings: what an inspection of a candidate says, one at a time."""

from __future__ import annotations

from dataclasses import dataclass

from harness.vetting.examination import Problem

__all__ = ["Deviates", "Failed", "Finding", "Skipped"]


@dataclass(frozen=True, eq=False)
class Failed:
    """A check failed: what showed it, where a call did."""

    check: str
    detail: str
    problem: Problem | None = None


@dataclass(frozen=True)
class Deviates:
    """A legitimate difference in convention."""

    name: str
    detail: str


@dataclass(frozen=True)
class Skipped:
    """A check that does not apply, and why."""

    check: str
    reason: str


Finding = Failed | Deviates | Skipped
