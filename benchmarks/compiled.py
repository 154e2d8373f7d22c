"""What Triton's compiler makes of the kernels, for GPUs that need not be there: registers, spills and their like.

All is compiled once, in ``setup_cache``; each benchmark reads its cell. It is deterministic for a version of Triton: a
change is one of the code, or of that version. Lower is better throughout. Where Triton, its assembler or the package of
a kernel is missing, and where a kernel does not compile for a target, the benchmark is skipped with that reason; how
many targets a kernel has no code for is tracked by itself.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

OURS = "triton_fused_cross_entropy"
KERNELS = (
    *(f"{OURS}: {which} {dtype}" for dtype in ("fp32", "bf16", "fp64") for which in ("forward", "backward")),
    *(f"{OURS}: {which} bf16, every option" for which in ("forward", "backward")),
    "liger_cross_entropy: forward and gradient fp32, 32 warps",
    *(
        f"{name}: {which} bf16"
        for name in ("flash_attn_cross_entropy", "fla_cross_entropy")
        for which in ("forward", "backward")
    ),
)
"""Implementation and kernel, as they declare themselves; not all of others': each costs asv twenty processes."""
TARGETS = ("sm_80", "sm_90", "sm_100", "sm_120", "gfx942")
FIGURES = ("registers", "spills", "shared")

Cells = Mapping[str, Any]


class Compiled:
    """A kernel on a target."""

    params = (KERNELS, TARGETS)
    param_names = ("kernel", "target")
    version = "1"
    timeout = 1800.0

    def setup_cache(self) -> Cells:
        return compiled()

    def setup(self, cells: Cells, kernel: str, target: str) -> None:
        cell = cells.get(f"{kernel} {target}", _absence(cells, kernel))
        if isinstance(cell, str):
            raise NotImplementedError(cell)

    def track_registers(self, cells: Cells, kernel: str, target: str) -> int:
        return int(cells[f"{kernel} {target}"]["registers"])

    def track_spills(self, cells: Cells, kernel: str, target: str) -> int:
        return int(cells[f"{kernel} {target}"]["spills"])

    def track_shared(self, cells: Cells, kernel: str, target: str) -> int:
        return int(cells[f"{kernel} {target}"]["shared"])

    def track_approximate(self, cells: Cells, kernel: str, target: str) -> int:
        """How many approximate instructions stand in the assembly."""
        return sum(cells[f"{kernel} {target}"]["approximate"].values())

    track_registers.unit = "registers"  # type: ignore[attr-defined]
    track_spills.unit = track_shared.unit = "bytes"  # type: ignore[attr-defined]
    track_approximate.unit = "instructions"  # type: ignore[attr-defined]


class WithoutCode:
    """On how many targets a kernel does not compile, of those that it is declared for."""

    params = (KERNELS,)
    param_names = ("kernel",)
    version = "1"
    timeout = 1800.0
    unit = "targets"
    setup_cache = Compiled.setup_cache

    def setup(self, cells: Cells, kernel: str) -> None:
        if not any(f"{kernel} {target}" in cells for target in TARGETS):
            raise NotImplementedError(_absence(cells, kernel))

    def track_without_code(self, cells: Cells, kernel: str) -> int:
        return sum(isinstance(cells.get(f"{kernel} {target}"), str) for target in TARGETS)


def compiled() -> dict[str, Any]:
    """By kernel and target the figures, or why there are none; by implementation or ``""`` why there is nothing."""
    try:
        compilation = importlib.import_module("harness.compilation")
    except ImportError as error:
        return {"": f"this commit compiles nothing: {error}"}
    cells: dict[str, Any] = {}
    for name in dict.fromkeys(kernel.partition(":")[0] for kernel in KERNELS):
        try:
            record = compilation.run_compile(compilation.CompileRequest(only=(name,)))
        except ValueError as error:  # not here, or a commit that does not have it yet
            cells[name] = str(error)
            continue
        for entry in record.kernels:
            if "Cannot find ptxas" in entry.reason:
                return {"": f"Triton has no assembler here: {entry.reason}"}
            figures = {key: getattr(entry, key) for key in FIGURES} | {"approximate": dict(entry.approximate)}
            cells[f"{name}: {entry.kernel} {entry.target}"] = figures if entry.compiles else _failure(entry)
    return cells


def _failure(entry: Any) -> str:
    return f"{entry.kernel} of {entry.implementation} does not compile for {entry.target}: {entry.reason}"


def _absence(cells: Cells, kernel: str) -> str:
    name = kernel.partition(":")[0]
    return str(cells.get("") or cells.get(name) or f"{kernel} is not launched so on this target, or not in this commit")
