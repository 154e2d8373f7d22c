"""A witness with code: got, want, the inputs in hexadecimal, and Python that shows it without this project."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.vetting.examination import Problem
from harness.vetting.layouts import FAR, SPREAD, layout_of
from harness.vetting.source import Source
from harness.witness import hexadecimal

__all__ = ["witness_of"]

Array = np.ndarray[Any, Any]

LONGEST = 4096
"""Arrays with more elements than this are given by what the witness needs to be found again: family, seed and shape."""


def witness_of(
    source: Source, problem: Problem, claims: tuple[str, ...], variables: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The witness of a problem as JSON-ready data; `variables` are those that the candidate's process was given."""
    batch = problem.batch
    options: dict[str, Any] = {name: _hex(value) for name, value in batch.options.items()}
    if "reduction" in claims:
        options["reduction"] = problem.probe.reduction or "none"
    return {
        "logits": _hex(batch.logits),
        "target": _hex(batch.target),
        "options": options,
        "upstream": _hex(batch.upstream),
        "dtype": batch.dtype,
        "what": problem.what,
        "row": problem.row,
        "column": problem.column,
        "layout": problem.probe.layout,
        "got": None if problem.got is None else hexadecimal(problem.got),
        "want": None if problem.want is None else hexadecimal(problem.want),
        "detail": problem.detail,
        "code": _environment(variables or {}, batch.dtype) + _code(source, problem, claims),
    }


def _hex(value: Any) -> Any:
    if value is None:
        return None
    array = np.asarray(value)
    if array.size > LONGEST:
        return {"shape": list(array.shape), "elided": "too long to print: draw it again with the seed"}
    if array.dtype.kind in "iubU":
        return array.tolist()
    flat = [hexadecimal(x) for x in array.astype(np.float64).ravel().tolist()]
    return _nest(flat, array.shape)


def _nest(flat: list[Any], shape: tuple[int, ...]) -> Any:
    if not shape:
        return flat[0]
    if len(shape) == 1:
        return flat
    step = len(flat) // shape[0] if shape[0] else 0
    return [_nest(flat[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


def _environment(variables: Mapping[str, str], dtype: str) -> str:
    """The lines that make a process interpret Triton kernels, where the candidate's did."""
    if not variables:
        return ""
    lines = ["import os", *(f"os.environ[{name!r}] = {value!r}" for name, value in variables.items())]
    if dtype == "bfloat16":
        lines.append("import harness.bridges.triton_interpreter as t; t.mend()  # without it, bfloat16 is raw bits")
    return "\n".join(lines) + "\n"


def _code(source: Source, problem: Problem, claims: tuple[str, ...]) -> str:
    """Pasteable Python: imports the candidate's file and prints what it gives beside the truth."""
    batch = problem.batch
    if batch.logits.size > LONGEST:
        return f"# {batch.family}: {batch.logits.shape} logits are too many to paste; draw them again with the seed."
    lines = [*_IMPORTS[source.framework], *_load(source), "inf, nan = float('inf'), float('nan')"]
    if source.framework == "numpy" and batch.dtype == "bfloat16":
        lines.insert(0, "import ml_dtypes")
    if len(problem.calls) > 1:
        return _sequence(source, problem, claims, lines)
    numbers = {"logits": batch.logits, "target": batch.target, "upstream": batch.upstream}
    numbers |= {name: value for name, value in batch.options.items() if isinstance(value, np.ndarray)}
    lines += [f"{name} = {_array(source.framework, array, batch)}" for name, array in numbers.items()]
    lines += _laid_out(source.framework, problem, numbers)
    options = [f"{n}={n if isinstance(v, np.ndarray) else repr(v)}" for n, v in batch.options.items()]
    if "reduction" in claims:
        options.append(f"reduction={problem.probe.reduction or 'none'!r}")
    lines += _call(source, ", ".join(options), problem)
    lines.append(f"# want: {_decimal(problem.want)}   got: {_decimal(problem.got)}   ({problem.detail})")
    return "\n".join(lines) + "\n"


def _sequence(source: Source, problem: Problem, claims: tuple[str, ...], lines: list[str]) -> str:
    """Pasteable Python that makes several calls in the same memory, of which the last is wrong."""
    equal = all(batch is problem.calls[0] for batch in problem.calls)
    shown = problem.calls[:1] if equal else problem.calls
    size = sum(batch.logits.size for batch in shown)
    if size > LONGEST or source.name[:1].isupper():
        return f"# {len(problem.calls)} calls in a row, {size} logits, show it: draw them again with the seed."
    options = [f"{n}={v!r}" for n, v in problem.batch.options.items() if not isinstance(v, np.ndarray)]
    if "reduction" in claims:
        options.append(f"reduction={problem.probe.reduction or 'none'!r}")
    changing = len(options) < len(problem.batch.options) + ("reduction" in claims)
    given = ", ".join(["logits, target", *["**kept"] * changing, *options])
    values = ",\n    ".join(_one_of_many(source.framework, batch, problem) for batch in shown)
    times = f" * {len(problem.calls)}" if equal else ""
    lines += [f"calls = [\n    {values},\n]{times}", *["kept = {}"] * changing]
    for line in _LOOPS[source.framework]:
        lines.append(line.format(f=source.name, slope=source.gradient, given=given))
        if changing and line.startswith("for "):
            lines[-1] = line.replace(" in calls", ", new in calls")
            lines.append(_KEEP[source.framework])
    if source.framework == "numpy" and source.gradient:
        lines.append(f"    print({source.gradient}(logits, target, upstream{''.join(', ' + o for o in options)}))")
    lines.append(
        f"# the last call, row {problem.row}: want: {_decimal(problem.want)}   got: {_decimal(problem.got)}"
        f"   ({problem.detail})"
    )
    return "\n".join(lines) + "\n"


def _one_of_many(framework: str, batch: Batch, problem: Problem) -> str:
    """One call of a sequence as a tuple: logits, target, upstream gradient and, where there are any, arrays by name."""
    upstream = batch.upstream.reshape(-1)[0] if problem.probe.reduction else batch.upstream
    parts = [_array(framework, np.asarray(array), batch) for array in (batch.logits, batch.target, upstream)]
    named = {n: _array(framework, v, batch) for n, v in batch.options.items() if isinstance(v, np.ndarray)}
    if named:
        parts.append("{" + ", ".join(f"{n!r}: {text}" for n, text in named.items()) + "}")
    return f"({', '.join(parts)})"


_KEEP = {
    "numpy": "    for name in new: kept.setdefault(name, new[name].copy())[...] = new[name]",
    "torch": "    for name in new: kept.setdefault(name, new[name].clone()).copy_(new[name])",
    "jax": "    kept = new",
}
"""Framework → the line that writes a call's options to where those of the calls before were."""

_LOOPS = {
    "numpy": [
        "logits, target = np.empty_like(calls[0][0]), np.empty_like(calls[0][1])",
        "for z, y, upstream in calls:",
        "    logits[...], target[...] = z, y",
        "    print({f}({given}))",
    ],
    "torch": [
        "logits, target = torch.empty_like(calls[0][0]).requires_grad_(), torch.empty_like(calls[0][1])",
        "for z, y, upstream in calls:",
        "    logits.detach().copy_(z), target.copy_(y)",
        "    loss = {f}({given})",
        "    print(loss, torch.autograd.grad(loss, logits, upstream.to(loss.dtype))[0])",
    ],
    "jax": [
        "for z, target, upstream in calls:",
        "    loss, pull = jax.vjp(lambda logits: {f}({given}), z)",
        "    print(loss, pull(upstream.astype(loss.dtype))[0])",
    ],
}
"""Framework → the lines that go through the calls, in the same memory where the framework has such."""


def _load(source: Source) -> list[str]:
    """The lines that make the candidate, and the gradient function where it has one, known by their names."""
    names = [name for name in (source.name, source.gradient) if name]
    if not source.importable:
        return [f"{name} = ...  # your function, which has no module to be imported from" for name in names]
    if source.module:
        return [f"from {source.module} import {', '.join(names)}"]
    return [
        "import importlib.util, sys",
        f"path = {source.path.name!r}  # to your file",
        f"spec = importlib.util.spec_from_file_location({source.path.stem!r}, path)",
        f"module = sys.modules[{source.path.stem!r}] = importlib.util.module_from_spec(spec)",
        "spec.loader.exec_module(module)",
        f"{', '.join(names)} = {', '.join(f'module.{name}' for name in names)}",
    ]


_IMPORTS = {
    "numpy": ["import numpy as np"],
    "torch": ["import torch"],
    "jax": ["import jax", "import jax.numpy as jnp", "jax.config.update('jax_enable_x64', True)"],
}


def _array(framework: str, array: Array, batch: Batch) -> str:
    text = repr(np.asarray(array).astype(np.float64 if array.dtype.kind != "i" else np.int64).tolist())
    if array.dtype.kind == "i":
        return {"numpy": f"np.array({text})", "torch": f"torch.tensor({text})", "jax": f"jnp.array({text})"}[framework]
    name = batch.dtype
    if framework == "numpy":
        return f"np.array({text}, dtype='{name}')"
    return f"torch.tensor({text}, dtype=torch.{name})" if framework == "torch" else f"jnp.array({text}, dtype='{name}')"


_OFFSET = {
    "torch": "torch.cat([{0}.flatten()[:1].repeat(3), {0}.flatten()])[3:].view({0}.shape)",
    "numpy": "np.concatenate([{0}.flat[:1].repeat(3), {0}.ravel()])[3:].reshape({0}.shape)",
}
_VIEWS = {
    "torch": {
        "transposed": "{0}.t().contiguous().t()",
        "strided": "torch.stack([{0}, {0} + 1], -1).flatten(-2)[..., ::2]",
        "offset": _OFFSET["torch"],
        "expanded": "{0}[:1].expand({0}.shape)",
        SPREAD: "{0}.flatten()[0].expand({0}.shape)",
        # Address space alone: as_strided on memory that is never touched.
        "far": f"torch.empty(2**31 + {{0}}.shape[0] * {FAR}, dtype={{0}}.dtype)"
        f".as_strided({{0}}.shape, ({FAR}, 1), 2**31).copy_({{0}})",
    },
    "numpy": {
        "transposed": "np.asfortranarray({0})",
        "strided": "np.stack([{0}, {0} + 1], -1).reshape(*{0}.shape[:-1], -1)[..., ::2]",
        "offset": _OFFSET["numpy"],
        "expanded": "np.broadcast_to({0}[:1], {0}.shape)",
        SPREAD: "np.broadcast_to({0}.flat[0], {0}.shape)",
    },
}
"""Framework and layout → an expression for the array {0} in that layout."""


def _laid_out(framework: str, problem: Problem, numbers: Mapping[str, Array]) -> list[str]:
    """The lines that give each array the layout that it was presented in."""
    layout = problem.probe.layout
    if framework not in _VIEWS or layout == "contiguous":
        return []
    if layout == "read_only":
        return [f"{name}.flags.writeable = False" for name in numbers]
    lines = []
    for name, array in numbers.items():
        view = layout_of(name, array.ndim, layout)
        if array.size and array.ndim and view in _VIEWS[framework]:
            lines.append(f"{name} = {_VIEWS[framework][view].format(name)}")
    return lines


def _call(source: Source, options: str, problem: Problem) -> list[str]:
    """The lines that call the candidate and print its loss and, where that is the matter, its gradient."""
    name = source.name
    separator = ", " if options else ""
    if source.framework == "torch":
        is_class = source.name[:1].isupper()
        mode = ".eval()" * problem.probe.no_grad
        call = f"{name}({options}){mode}(z, target)" if is_class else f"{name}(z, target{separator}{options})"
        threads = [f"torch.set_num_threads({problem.probe.threads})"] * bool(problem.probe.threads)
        if problem.probe.no_grad:
            return ["z = logits", "with torch.no_grad():", f"    loss = {call}", "print(loss)"]
        leaf = "z = logits.detach()" + ".requires_grad_()" * problem.probe.gradient
        lines = [*threads, leaf, f"loss = {call}", "print(loss)"]
        if problem.what == "gradient":
            fitted = "upstream.to(loss.dtype) if loss.dim() else upstream.flatten()[0].to(loss.dtype)"
            lines.append(f"print(torch.autograd.grad(loss, z, {fitted})[0])")
        return lines
    if source.framework == "jax" and problem.what == "gradient":
        return [
            f"loss, pull = jax.vjp(lambda z: {name}(z, target{separator}{options}), logits)",
            "upstream = upstream if loss.ndim else upstream.ravel()[0]",
            "print(loss, pull(upstream.astype(loss.dtype))[0])",
        ]
    lines = [f"loss = {name}(logits, target{separator}{options})", "print(loss)"]
    if source.framework == "numpy" and problem.what == "gradient" and source.gradient:
        lines.append("upstream = upstream if np.ndim(loss) else upstream.ravel()[0]")
        lines.append(f"print({source.gradient}(logits, target, upstream{separator}{options}))")
    return lines


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.9g}"
