"""The record of ``xent compile``: what came of each kernel on each target; plain data, to be kept and shown elsewhere.

Such a result proves nothing about values: it is labelled ``compiled-only``, and no code of it has run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.files import write_atomically

__all__ = ["BACKEND", "Compilation", "CompilationFileError", "CompiledKernel"]

BACKEND = "compiled-only"
KIND = "compilation"
SCHEMA = 1


class CompilationFileError(ValueError):
    """A file that cannot be used; the message names it and the reason."""


@dataclass(frozen=True)
class CompiledKernel:
    """A kernel on a target.

    Parameters
    ----------
    implementation, kernel, target : str
        What was compiled, by the names of its declaration, and what for.
    compiles : bool
        Whether there is code for that target.
    reason : str
        Why not; ``""`` exactly where it compiles.
    registers, spills, stack, shared : int or None
        As in `harness.machine_code.Resources`; None where it does not compile.
    approximate : mapping of str to int
        Approximate instructions, and how many times each stands in the assembly.
    """

    implementation: str
    kernel: str
    target: str
    compiles: bool
    reason: str = ""
    registers: int | None = None
    spills: int | None = None
    stack: int | None = None
    shared: int | None = None
    approximate: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = (self.registers, self.spills, self.stack, self.shared)
        if self.compiles == bool(self.reason) or any((number is not None) != self.compiles for number in numbers):
            raise ValueError(f"{self.kernel} on {self.target}: a reason exactly where there are no figures")


@dataclass(frozen=True)
class Compilation:
    """What one execution of the command has compiled.

    Parameters
    ----------
    environment : mapping
        ``triton`` (its version), ``python``, ``platform``, ``commit``.
    kernels : tuple of CompiledKernel
        By implementation, kernel, target.
    missing : mapping of str to str
        Implementations that could not be looked at, with the reason and the command that mends it.
    complete : bool
        False where it was interrupted.
    """

    environment: Mapping[str, Any]
    kernels: tuple[CompiledKernel, ...]
    missing: Mapping[str, str] = field(default_factory=dict)
    complete: bool = True

    def to_json(self) -> dict[str, Any]:
        """The record as JSON-ready data."""
        return {"schema": SCHEMA, "kind": KIND, "backend": BACKEND, **asdict(self)}

    def save(self, path: Path) -> None:
        """Write the record to a file, whole or not at all.

        Raises
        ------
        OSError
            Where it cannot be written.
        """
        write_atomically(path, (json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Compilation:
        """Read such a file.

        Raises
        ------
        CompilationFileError
            For a file that is missing, damaged, of another kind, or of another schema.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise CompilationFileError(f"{path}: cannot be read: {error}") from error
        if not isinstance(data, dict) or data.get("kind") != KIND:
            raise CompilationFileError(f"{path}: not a file of `xent compile --json`")
        if data.get("schema") != SCHEMA:
            raise CompilationFileError(f"{path}: schema {data.get('schema')!r}, but this version reads schema {SCHEMA}")
        try:
            return cls(
                environment=dict(data["environment"]),
                kernels=tuple(CompiledKernel(**entry) for entry in data["kernels"]),
                missing=dict(data["missing"]),
                complete=bool(data["complete"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CompilationFileError(f"{path}: damaged: {type(error).__name__}: {error}") from error
