"""The table of compiled kernels: what `xent compile --json` wrote, drawn from its plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["CompiledTable", "compiled_table"]


@dataclass(frozen=True)
class CompiledRow:
    """A kernel on a target, as the page shows it; a reason stands where there are no figures."""

    implementation: str
    kernel: str
    target: str
    compiles: bool
    reason: str
    registers: int | None
    spills: int | None
    stack: int | None
    shared: int | None
    approximate: str


@dataclass(frozen=True)
class CompiledTable:
    """The rows, which compiler made the code, how many kernels fail, and what was not looked at."""

    rows: Sequence[CompiledRow]
    compiler: str
    commit: str
    failing: int
    spilling: int
    missing: Mapping[str, str]
    complete: bool


def compiled_table(data: Mapping[str, Any] | None) -> CompiledTable | None:
    """What the page shows of a compilation's JSON data, as `xent compile --json` writes it; None for None."""
    if data is None:
        return None
    rows = [CompiledRow(**{**entry, "approximate": _told(entry["approximate"])}) for entry in data["kernels"]]
    return CompiledTable(
        rows=rows,
        compiler=f"Triton {data['environment'].get('triton', '')}".strip(),
        commit=str(data["environment"].get("commit") or ""),
        failing=sum(not row.compiles for row in rows),
        spilling=sum(bool(row.spills) for row in rows),
        missing=data["missing"],
        complete=data["complete"],
    )


def _told(approximate: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in approximate.items()) or "none"
