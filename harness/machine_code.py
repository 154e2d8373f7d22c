"""What compiled code is made of: targets, and the resources that a kernel takes, read out of a compiler's own text.

Pure text in, numbers out: nothing here compiles. On NVIDIA the text is ptxas's log (``ptxas -v``) and the PTX assembly,
on AMD the assembly with the metadata at its end.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["TARGETS", "Resources", "Target", "approximate_in", "resources_of_amdgcn", "resources_of_ptxas"]


@dataclass(frozen=True)
class Target:
    """A kind of GPU to compile for.

    Parameters
    ----------
    name : str
        As its maker writes it: ``"sm_90"``, ``"gfx942"``.
    backend : str
        ``"cuda"`` or ``"hip"``.
    architecture : int or str
        What the compiler calls it.
    warp : int
        Threads that run in step.
    about : str
        A GPU that people know it by.
    """

    name: str
    backend: str
    architecture: int | str
    warp: int
    about: str


TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        Target("sm_80", "cuda", 80, 32, "NVIDIA A100"),
        Target("sm_90", "cuda", 90, 32, "NVIDIA H100"),
        Target("sm_100", "cuda", 100, 32, "NVIDIA B200"),
        Target("sm_120", "cuda", 120, 32, "NVIDIA RTX 50"),
        Target("gfx942", "hip", "gfx942", 64, "AMD MI300"),
    )
}
"""The targets by name."""


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel takes.

    Parameters
    ----------
    registers : int
        Per thread, of 32 bits; on AMD vector registers.
    spills : int
        Bytes per thread that do not fit into registers and are stored to memory; on AMD four per spilled vector
        register (spilled scalar registers stay on the chip).
    stack : int
        Bytes per thread.
    shared : int
        Bytes of shared memory per program.
    approximate : mapping of str to int
        Instructions that approximate a function, with how many times each stands in the assembly.
    """

    registers: int
    spills: int
    stack: int
    shared: int = 0
    approximate: Mapping[str, int] = field(default_factory=dict)


_PTXAS = re.compile(
    r"Compiling entry function '(?P<name>[^']+)'.*?Function properties for (?P=name)\s+"
    r"(?P<stack>\d+) bytes stack frame, (?P<spills>\d+) bytes spill stores, \d+ bytes spill loads"
    r".*?Used (?P<registers>\d+) registers",
    re.DOTALL,
)
_AMDGCN = {
    "registers": re.compile(r"^\s*(?:- )?\.vgpr_count:\s*(\d+)", re.MULTILINE),
    "spills": re.compile(r"^\s*(?:- )?\.vgpr_spill_count:\s*(\d+)", re.MULTILINE),
    "stack": re.compile(r"^\s*(?:- )?\.private_segment_fixed_size:\s*(\d+)", re.MULTILINE),
}
# div.full is the approximate division of up to 2 ulp: PTX calls it so although it takes the full range.
_PTX = re.compile(r"(?<![\w.%$])([a-z]\w*\.(?:approx|full)(?:\.\w+)*)\b")
_GCN = re.compile(
    r"(?<![\w.])(v_(?:exp|log|rcp|rsq|sqrt|sin|cos)_(?:iflag_|legacy_)?(?:bf16|f16|f32|f64))(?:_(?:e32|e64|dpp|sdwa))?\b"
)


def resources_of_ptxas(log: str) -> Resources:
    """Read ``ptxas -v``: registers, spills and stack of its entry function.

    Raises
    ------
    ValueError
        For a text that says nothing of an entry function.
    """
    found = _PTXAS.search(log)
    if found is None:
        raise ValueError("ptxas reports no resource usage")
    registers, spills, stack = (int(found[key]) for key in ("registers", "spills", "stack"))
    return Resources(registers, spills, stack)


def resources_of_amdgcn(assembly: str) -> Resources:
    """Read the metadata at the end of AMD's assembly: registers, spills and stack.

    Raises
    ------
    ValueError
        For an assembly without them.
    """
    found = {key: pattern.search(assembly) for key, pattern in _AMDGCN.items()}
    numbers = {key: int(match[1]) for key, match in found.items() if match is not None}
    if numbers.keys() != found.keys():
        raise ValueError(f"the assembly does not say its {', '.join(sorted(found.keys() - numbers.keys()))}")
    return Resources(numbers["registers"], 4 * numbers["spills"], numbers["stack"])


def approximate_in(assembly: str) -> dict[str, int]:
    """The approximate instructions in PTX or in AMD's assembly, comments left out, and how many there are of each.

    Those of the hardware for exponential, logarithm, reciprocal, division, square root and the like. An instruction
    counts as often as it is written, not as often as it runs.
    """
    found: Counter[str] = Counter()
    for line in assembly.splitlines():
        code = line.partition("//")[0]
        found.update(_PTX.findall(code))
        found.update(_GCN.findall(code.partition(";")[0]))  # in PTX a semicolon ends a statement
    return dict(sorted(found.items()))
