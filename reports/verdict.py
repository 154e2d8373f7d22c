"""The page of a verdict: checks, grades, witnesses and deviations of one vetted candidate, from its JSON data."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.grades import Grade
from reports.marks import GRADES, Mark
from reports.page import asset, environment

__all__ = ["render_verdict"]

_WORDS = {"accepted": "Accepted", "rejected": "Rejected", "error": "Could not be judged"}
_FACTS = ("framework", "loss", "target", "backend", "seed")
_CIRCUMSTANCES = ("python", "platform", "cpu", "started", "commit")
_PASSED = Mark("✓", "A", "passed", 0)
_FAILED = Mark("✗", "X", "failed", 1)
_SKIPPED = Mark("·", "U", "skipped", -1)
_MARKS = {"passed": _PASSED, "failed": _FAILED, "skipped": _SKIPPED}


@dataclass(frozen=True)
class _Row:
    """One check in every dtype."""

    name: str
    marks: tuple[Mark | None, ...]


@dataclass(frozen=True)
class _Note:
    """Something said of one or several dtypes."""

    name: str
    dtypes: str
    detail: str


@dataclass(frozen=True)
class _Failure:
    """A failed check, with the parts of its witness."""

    anchor: str
    name: str
    dtype: str
    detail: str
    values: tuple[tuple[str, str], ...]
    inputs: tuple[tuple[str, str], ...]
    code: str


def render_verdict(verdict: Mapping[str, Any]) -> str:
    """One self-contained HTML page of a verdict, that needs no network.

    The same verdict gives the same text, character for character.

    Parameters
    ----------
    verdict : mapping
        The JSON data that ``xent vet --json`` writes.

    Returns
    -------
    str
        The page, to be written as UTF-8.
    """
    checks: Sequence[Mapping[str, Any]] = verdict["checks"]
    dtypes = list(dict.fromkeys([*verdict["grades"], *(check["dtype"] for check in checks)]))
    page = (
        environment()
        .get_template("verdict.html.j2")
        .render(
            style=asset("page.css"),
            candidate=verdict["candidate"],
            word=_WORDS.get(verdict["verdict"], verdict["verdict"]),
            accepted=verdict["verdict"] == "accepted",
            message=verdict.get("message") or "",
            counts={name: sum(c["outcome"] == name for c in checks) for name in _MARKS},
            facts=_facts(verdict),
            grades=[(dtype, _grade(verdict["grades"].get(dtype))) for dtype in dtypes],
            dtypes=dtypes,
            rows=_rows(checks, dtypes),
            failures=[_failure(check) for check in checks if check["outcome"] == "failed"],
            deviations=_notes((d["check"], d.get("dtype", ""), d["detail"]) for d in verdict["deviations"]),
            skipped=_notes((c["name"], c["dtype"], c["detail"]) for c in checks if c["outcome"] == "skipped"),
            command=_command(verdict),
            legend=tuple(_MARKS.values()),
        )
    )
    # A lone surrogate, which a file name can smuggle in, has no UTF-8: it becomes a question mark.
    return page.encode("utf-8", "replace").decode("utf-8")


def _facts(verdict: Mapping[str, Any]) -> list[tuple[str, str]]:
    around: Mapping[str, Any] = verdict.get("environment") or {}
    pairs = [(name, verdict.get(name)) for name in _FACTS]
    pairs.append(("claims", ", ".join(map(str, around.get("claims") or ()))))
    pairs += [(name, around.get(name)) for name in _CIRCUMSTANCES]
    versions: Mapping[str, Any] = around.get("versions") or {}
    pairs.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    return [(name, str(value)) for name, value in pairs if value not in (None, "")]


def _grade(name: str | None) -> Mark | None:
    return GRADES[Grade(name)] if name in tuple(Grade) else None


def _rows(checks: Sequence[Mapping[str, Any]], dtypes: Sequence[str]) -> list[_Row]:
    """Checks with a failure first, then by name."""
    found = {(check["name"], check["dtype"]): _MARKS.get(check["outcome"]) for check in checks}
    rows = [_Row(name, tuple(found.get((name, dtype)) for dtype in dtypes)) for name in sorted({n for n, _ in found})]
    return sorted(rows, key=lambda row: _FAILED not in row.marks)


def _failure(check: Mapping[str, Any]) -> _Failure:
    witness: Mapping[str, Any] = check.get("witness") or {}
    values = [(name, _number(witness[name])) for name in ("got", "want") if witness.get(name) is not None]
    places = [(name, str(witness[name])) for name in ("row", "column", "layout") if witness.get(name) is not None]
    inputs = [(name, _text(witness[name])) for name in ("logits", "target", "upstream") if name in witness]
    options: Mapping[str, Any] = witness.get("options") or {}
    inputs += [(str(name), _text(value)) for name, value in options.items()]
    return _Failure(
        anchor=f"failure-{check['name']}-{check['dtype']}",
        name=check["name"],
        dtype=check["dtype"],
        detail=check["detail"],
        values=(*values, *places),
        inputs=tuple(inputs),
        code=str(witness.get("code") or ""),
    )


def _number(text: Any) -> str:
    """A hexadecimal float with its decimal: ``2.5 (0x1.4000000000000p+1)``."""
    try:
        return f"{float.fromhex(text):.9g} ({text})" if "0x" in text else str(text)
    except (TypeError, ValueError, OverflowError):
        return str(text)


def _text(value: Any) -> str:
    """An input as text, one row of a matrix to a line."""
    if isinstance(value, list) and value and all(isinstance(row, list) for row in value):
        return "\n".join(_text(row) for row in value)
    if isinstance(value, list):
        return "[" + ", ".join(map(str, value)) + "]"
    return ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)


def _notes(entries: Iterable[tuple[str, str, str]]) -> list[_Note]:
    """A note for each name and detail, with the dtypes that share it."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, dtype, detail in entries:
        groups.setdefault((name, detail), []).append(dtype)
    return [_Note(name, ", ".join(dict.fromkeys(dtypes)), detail) for (name, detail), dtypes in groups.items()]


def _command(verdict: Mapping[str, Any]) -> str:
    words = ["xent", "vet", verdict["candidate"], "--framework", verdict["framework"], "--loss", verdict["loss"]]
    if verdict.get("target") == "probabilities":
        words += ["--target", "probabilities"]
    if verdict.get("backend", "native") != "native":
        words += ["--backend", "interpret"]
    return shlex.join([str(word) for word in (*words, "--seed", verdict["seed"])])
