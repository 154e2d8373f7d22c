"""Compiling without a GPU: every declared Triton kernel for every target, each in a process of its own."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

from harness.bridges.triton_interpreter import VARIABLE, version
from harness.compiled import Compilation, CompiledKernel
from harness.declaration import Kernel
from harness.discovery import Found, discover
from harness.environment import commit
from harness.machine_code import TARGETS, Resources
from harness.wire import Message
from harness.worker import Worker, WorkerError

__all__ = ["CompileRequest", "Compiler", "NothingToCompile", "run_compile"]

FRAMEWORK = "triton"


class NothingToCompile(ValueError):
    """A request that selects no kernel or no target; the message says what to do."""


@dataclass(frozen=True)
class CompileRequest:
    """What to compile.

    Parameters
    ----------
    only : tuple of str
        Names or patterns of implementations; empty for all.
    targets : tuple of str
        Names of targets; empty for all.
    timeout : float
        Seconds that one compilation may take.

    Raises
    ------
    NothingToCompile
        For an unknown target.
    """

    only: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    timeout: float = 120.0

    def __post_init__(self) -> None:
        for name in self.targets:
            if name not in TARGETS:
                raise NothingToCompile(f"unknown target {name!r}: choose from {', '.join(TARGETS)}")


class Compiler(Worker):
    """A child that compiles kernels, each in a fork."""

    module: ClassVar[str] = "harness.compile_main"
    variables: ClassVar[Mapping[str, str]] = {VARIABLE: "0", "PYTHONWARNINGS": "ignore"}

    def compile(self, kernel: Kernel, target: str, cache: str) -> Resources:
        """What the kernel takes on a target; `cache` is a folder for the compiler's files.

        Raises
        ------
        WorkerError
            Where it does not compile: its ``detail`` says why.
        """
        with self._lock:
            self._start()
            request = Message({"op": "compile", "kernel": asdict(kernel), "target": target, "cache": cache})
            return Resources(**self._request(request, self.timeout).body)


def run_compile(
    request: CompileRequest, show: Callable[[int, int, str], None] = lambda done, total, what: None
) -> Compilation:
    """Do what a request asks; an interrupt ends it early, with what was finished in a record not `complete`.

    `show` is told how many compilations are done, of how many, and what is under way.

    Raises
    ------
    NothingToCompile
        Where nothing that is selected and installed declares a kernel.
    DiscoveryError
        For a name that no implementation has.
    """
    found = discover(request.only or None, frameworks=(FRAMEWORK,))
    missing = {entry.name: entry.reason for entry in found if not entry.available}
    plan = [
        (name, kernel, target)
        for name, kernel in _kernels(found, missing)
        for target in TARGETS
        if target in (request.targets or TARGETS) and target in (kernel.targets or TARGETS)
    ]
    done: list[CompiledKernel] = []
    complete = True
    with tempfile.TemporaryDirectory() as cache, Compiler(FRAMEWORK, timeout=request.timeout) as compiler:
        try:
            for name, kernel, target in plan:
                show(len(done), len(plan), f"{name}: {kernel.name} for {target}")
                done.append(_tried(compiler, name, kernel, target, cache))
            show(len(done), len(plan), "")
        except KeyboardInterrupt:
            complete = False
    return Compilation(_environment(), tuple(done), missing, complete)


def _kernels(found: Sequence[Found], missing: Mapping[str, str]) -> list[tuple[str, Kernel]]:
    chosen = [(entry.name, kernel) for entry in found if entry.declaration for kernel in entry.declaration.kernels]
    if not chosen and missing:
        raise NothingToCompile(next(iter(missing.values())))
    if not chosen:
        names = ", ".join(entry.name for entry in found) or "none of these"
        raise NothingToCompile(f"nothing to compile: {names} declares Triton kernels (kernels=…); leave --only out")
    return chosen


def _tried(compiler: Compiler, name: str, kernel: Kernel, target: str, cache: str) -> CompiledKernel:
    try:
        resources = compiler.compile(kernel, target, cache)
    except WorkerError as error:
        return CompiledKernel(name, kernel.name, target, False, error.detail)
    return CompiledKernel(name, kernel.name, target, True, **asdict(resources))


def _environment() -> dict[str, object]:
    return {
        "triton": version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "commit": commit(),
    }
