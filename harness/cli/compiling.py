"""``xent compile``: what Triton kernels take on GPUs that need not be there."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from harness.accuracy import Progress
from harness.cli.exits import INTERRUPTED, NOT_AS_CLAIMED, Refused, command
from harness.cli.layout import grouped, wide_console
from harness.cli.progress import shown_progress
from harness.cli.targets import must_be_writable
from harness.compilation import CompileRequest, NothingToCompile, run_compile
from harness.compiled import BACKEND, Compilation, CompiledKernel
from harness.discovery import DiscoveryError
from harness.machine_code import TARGETS

__all__ = ["compilation_lines", "register"]

EPILOG = """\b
Examples:
  xent compile                                      all kernels, all targets
  xent compile --only 'triton_*' --target sm_90 --target gfx942
  xent compile --json compiled.json
  xent report run.json --compiled compiled.json     the table, in the page

\b
No GPU is needed, and nothing is run: that a kernel compiles says nothing about
its values. Exit status: 0 everything compiles; 1 some kernel does not; 2 it
cannot be done as asked; 3 a fault of ours; 130 interrupted (what was finished
is kept).
"""

COLUMNS = ("target", "registers", "spills", "stack", "shared", "approximate instructions")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("compile", epilog=EPILOG, short_help="Compile Triton kernels for GPUs, without one.")(
        command("compile", compile_command)
    )


def compile_command(
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Implementations: a name or pattern; repeatable.")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(metavar="TARGET", help=f"{', '.join(TARGETS)}; repeatable. All if left out.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the table to a file, for `xent report`.")
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="What one compilation may take.")] = 120.0,
) -> int:
    """Compile Triton kernels for GPUs that need not be there: registers, spills, and approximate instructions."""
    if json_file is not None:
        must_be_writable(json_file)
    try:
        request = CompileRequest(tuple(only or ()), tuple(target or ()), timeout)
        with shown_progress("compilations") as show:
            compilation = run_compile(
                request, lambda done, total, what: show(Progress(total, done, done / total, what))
            )
    except (NothingToCompile, DiscoveryError) as error:
        raise Refused(error) from error
    if json_file is not None:
        compilation.save(json_file)
    with suppress(BrokenPipeError):
        console = wide_console()
        for line in compilation_lines(compilation, console.width):
            console.print(line, soft_wrap=False, overflow="fold")
        if json_file is not None:
            console.print(f"As data: {json_file}", soft_wrap=True)
    return _status(compilation)


def compilation_lines(compilation: Compilation, width: int) -> Iterator[Text]:
    """The table: a heading per kernel, a line per target; then what it does and does not show, and what is missing."""
    groups: dict[str, list[Sequence[Text | str]]] = {}
    for kernel in compilation.kernels:
        groups.setdefault(f"{kernel.implementation}: {kernel.kernel}", []).append(_row(kernel))
    if groups:
        yield from grouped(COLUMNS, groups, width=width, right=COLUMNS[1:5], dispensable=("stack", "shared"))
        yield Text("")
    for name, reason in compilation.missing.items():
        yield Text(f"not available: {name}: {reason}", style="yellow")
    yield Text(
        f"Triton {compilation.environment.get('triton')}, {BACKEND}: nothing was run, which says nothing about values. "
        "Registers are per thread, spills and stack in bytes per thread, shared memory in bytes per program.",
        style="dim",
    )


def _row(kernel: CompiledKernel) -> list[Text | str]:
    if not kernel.compiles:
        return [kernel.target, *[Text("-", style="dim")] * 4, Text(f"does not compile: {kernel.reason}", style="red")]
    spills = Text(str(kernel.spills), style="bold yellow" if kernel.spills else "")
    told = ", ".join(f"{count} {name}" for name, count in kernel.approximate.items())
    return [kernel.target, str(kernel.registers), spills, str(kernel.stack), str(kernel.shared), told or "none"]


def _status(compilation: Compilation) -> int:
    """The exit status, and the line on standard error that goes with it."""
    if not compilation.complete:
        print(f"xent compile: interrupted after {len(compilation.kernels)} compilations", file=sys.stderr)
        return INTERRUPTED
    failed = [f"{k.kernel} of {k.implementation} for {k.target}" for k in compilation.kernels if not k.compiles]
    if failed:
        told = ", ".join(failed[:3]) + (f" and {len(failed) - 3} more" if len(failed) > 3 else "")
        print(f"xent compile: does not compile: {told}", file=sys.stderr)
        return NOT_AS_CLAIMED
    return 0
