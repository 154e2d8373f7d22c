"""The verdict and what stands behind it: checks, deviations, grades; plain data, and its JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from harness.run import strict

__all__ = ["SCHEMA", "CheckResult", "Deviation", "Verdict"]

SCHEMA = 1


@dataclass(frozen=True)
class Deviation:
    """A legitimate difference in convention, by name; a failure only under ``--strict``."""

    check: str
    dtype: str
    detail: str


@dataclass(frozen=True)
class CheckResult:
    """One check in one dtype.

    Parameters
    ----------
    name, dtype : str
        Which check, and in which dtype.
    outcome : str
        ``"passed"``, ``"failed"`` or ``"skipped"``.
    detail : str
        One line: the reason.
    witness : mapping or None
        Of a failed check: the smallest input found that shows it, with got, want, and code that reproduces it.
    """

    name: str
    dtype: str
    outcome: str
    detail: str = ""
    witness: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Verdict:
    """What vetting a candidate came to.

    Parameters
    ----------
    candidate, framework, loss, target : str
        What was judged, and as what.
    seed : int
        What every input was drawn from.
    verdict : str
        ``"accepted"``, ``"rejected"`` or ``"error"`` (it could not be judged).
    grades : mapping of str to str
        The worst grade per judged dtype, over loss and gradient.
    deviations, checks : tuples
        Every deviation and every check.
    message : str
        One line that says why.
    backend : str
        ``"native"`` for code that ran as it would in use, else the interpreter that ran it.
    environment : mapping
        Versions and settings.
    """

    candidate: str
    framework: str
    loss: str
    target: str
    seed: int
    verdict: str
    grades: Mapping[str, str] = field(default_factory=dict)
    deviations: tuple[Deviation, ...] = ()
    checks: tuple[CheckResult, ...] = ()
    message: str = ""
    backend: str = "native"
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> list[CheckResult]:
        """The checks that failed."""
        return [check for check in self.checks if check.outcome == "failed"]

    def to_json(self) -> dict[str, Any]:
        """The verdict as strict JSON data."""
        data: dict[str, Any] = strict({"schema": SCHEMA, **asdict(self)})
        return data
