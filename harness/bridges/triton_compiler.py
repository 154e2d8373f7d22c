"""Triton's compiler, ahead of time: a kernel compiled for a GPU that need not be there, and what the code takes."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.declaration import Kernel
from harness.machine_code import Resources, Target, approximate_in, resources_of_amdgcn, resources_of_ptxas

__all__ = ["compiled"]

_TYPE = re.compile(r"(?P<type>\*?k?(?:i1|[iu](?:8|16|32|64)|fp(?:16|32|64)|bf16|fp8\w+))(?::(?P<divisor>\d+))?")


def compiled(kernel: Kernel, target: Target, cache: str) -> Resources:
    """Compile a kernel, in a process that has not imported Triton as an interpreter.

    Parameters
    ----------
    kernel : Kernel
        What to compile, with its arguments.
    target : Target
        What for.
    cache : str
        A folder for Triton's own files.

    Raises
    ------
    ValueError
        For a declaration that does not fit the kernel.
    Exception
        Whatever Triton raises where the kernel does not compile.
    """
    os.environ["TRITON_CACHE_DIR"] = cache
    os.environ["TRITON_ALWAYS_COMPILE"] = os.environ["TRITON_DUMP_PTXAS_LOG"] = "1"
    compiler: Any = importlib.import_module("triton.compiler")
    gpu: Any = importlib.import_module("triton.backends.compiler")
    source = compiler.ASTSource(**_source(kernel, _function(kernel)))
    where = gpu.GPUTarget(target.backend, target.architecture, target.warp)
    with contextlib.redirect_stdout(io.StringIO()) as log:  # where Triton puts what ptxas says
        code = importlib.import_module("triton").compile(source, target=where, options=dict(kernel.options))
    if target.backend == "cuda":
        found, assembly = resources_of_ptxas(log.getvalue()), code.asm["ptx"]
    else:
        assembly = code.asm["amdgcn"]
        found = resources_of_amdgcn(assembly)
    return replace(found, shared=int(code.metadata.shared), approximate=approximate_in(assembly))


def _function(kernel: Kernel) -> Any:
    """The function that Triton has made of the kernel's source, whatever tunes it wrapped around it."""
    module, _, name = kernel.function.partition(":")
    function: Any = getattr(importlib.import_module(module), name)
    while not hasattr(function, "arg_names") or type(function).__name__ in ("Autotuner", "Heuristics"):
        if not hasattr(function, "fn"):
            raise ValueError(f"{kernel.function} is {type(function).__name__}, not a kernel of triton.jit")
        function = function.fn
    return function


def _source(kernel: Kernel, function: Any) -> dict[str, Any]:
    """The arguments of Triton's `ASTSource`: types, constants by name, and what divides which."""
    given, taken = kernel.arguments, list(function.arg_names)
    if set(given) != set(taken):
        missing, unknown = sorted(set(taken) - set(given)), sorted(set(given) - set(taken))
        told = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"knows no {', '.join(unknown)}"] * bool(unknown)
        which = f"the declaration of {kernel.name!r}" if missing else f"the kernel {kernel.function}"
        raise ValueError(f"{which} {' and '.join(told)}: it must name the kernel's parameters, one and all")
    types = {name: _type(given[name]) for name in taken}
    return {
        "fn": function,
        "signature": {name: found["type"] if found else "constexpr" for name, found in types.items()},
        "constexprs": {name: _constant(given[name]) for name, found in types.items() if not found},
        "attrs": {
            (index,): [["tt.divisibility", int(found["divisor"])]]
            for index, found in enumerate(types.values())
            if found and found["divisor"]
        },
    }


def _type(value: Any) -> Mapping[str, Any] | None:
    found = _TYPE.fullmatch(value) if isinstance(value, str) else None
    return found.groupdict() if found else None


def _constant(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("tl."):
        return getattr(importlib.import_module("triton.language"), value.removeprefix("tl."))
    return value
