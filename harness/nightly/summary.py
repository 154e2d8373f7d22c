"""A night as Markdown, and as the step summary of a GitHub job, which takes at most 1,024 KiB."""

from __future__ import annotations

from collections.abc import Mapping

from harness.compare import Comparison
from harness.compare.markdown import cell, markdown, table
from harness.compare.sections import Section
from harness.compare.words import count
from harness.history import Alarm, Night

__all__ = ["LIMIT", "step_summary", "summary", "verdict"]

LIMIT = 1024 * 1024
"""Bytes of one step's summary; GitHub refuses a longer one altogether."""

_RESERVE = 200


def verdict(night: Night) -> str:
    """The outcome of a night in one line."""
    where = f"{night.identity.machine}{f' ({night.identity.label})' if night.identity.label else ''}"
    if not night.alarms:
        return f"No alarm on {where}."
    fresh = sum(not alarm.since for alarm in night.alarms)
    latched = len(night.alarms) - fresh
    parts = [f"{fresh} new" if fresh else "", f"{latched} not yet accepted" if latched else ""]
    return f"{count(len(night.alarms), 'alarm')} on {where}: {', '.join(filter(None, parts))}."


def summary(night: Night, found: Comparison) -> str:
    """The night: its alarms, then the comparison that they come from."""
    rows = tuple((a.kind, a.subject, a.message, _since(a)) for a in night.alarms)
    lines = [f"## {cell(verdict(night))}", ""]
    if rows:
        lines += [*table(Section("Alarms", ("kind", "subject", "what", "since"), rows)), ""]
        lines += ["`xent nightly FOLDER --accept` accepts them, once the reason is known.", ""]
    lines += [f"Seed {night.identity.seed}, started {cell(night.started)}. {_versions(night.environment)}", ""]
    return "\n".join(lines) + "\n" + markdown(found)


def _since(alarm: Alarm) -> str:
    seen = "" if alarm.seen else ", not seen tonight"
    return f"{alarm.since or 'tonight'}{seen}"


def _versions(environment: Mapping[str, object]) -> str:
    versions = environment.get("versions")
    told = [f"{name} {version}" for name, version in versions.items()] if isinstance(versions, Mapping) else []
    return cell(", ".join(told))


def step_summary(text: str, already: int = 0) -> str:
    """The text, cut after a whole line so that it fits beside what the step has written already (bytes, UTF-8)."""
    room = LIMIT - already
    if len(text.encode()) <= room:
        return text
    kept, size = [], 0
    lines = text.splitlines(keepends=True)
    for line in lines:
        size += len(line.encode())
        if size > room - _RESERVE:
            break
        kept.append(line)
    note = f"\n*{count(len(lines) - len(kept), 'more line')}: the report has everything.*\n"
    return "".join(kept) + note if len(note.encode()) <= room - sum(len(line.encode()) for line in kept) else ""
