"""A witness with code: got, want, the inputs in hexadecimal, and Python that shows it without this project."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.batch import Batch
from harness.vetting.examiner import Problem
from harness.vetting.source import Source
from harness.witness import hexadecimal

__all__ = ["witness_of"]

Array = np.ndarray[Any, Any]

LONGEST = 4096
"""Arrays with more elements than this are given by what the witness needs to be found again: family, seed and shape."""


def witness_of(source: Source, problem: Problem, claims: tuple[str, ...]) -> dict[str, Any]:
    """The witness of a problem as JSON-ready data."""
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
        "code": _code(source, problem, claims),
    }


def _hex(value: Any) -> Any:
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


def _code(source: Source, problem: Problem, claims: tuple[str, ...]) -> str:
    """Pasteable Python: imports the candidate's file and prints what it gives beside the truth."""
    batch = problem.batch
    if batch.logits.size > LONGEST:
        return f"# {batch.family}: {batch.logits.shape} logits are too many to paste; draw them again with the seed."
    lines = [*_IMPORTS[source.framework], *_load(source), "inf, nan = float('inf'), float('nan')"]
    if source.framework == "numpy" and batch.dtype == "bfloat16":
        lines.insert(0, "import ml_dtypes")
    numbers = {"logits": batch.logits, "target": batch.target, "upstream": batch.upstream}
    numbers |= {name: value for name, value in batch.options.items() if isinstance(value, np.ndarray)}
    lines += [f"{name} = {_array(source.framework, array, batch)}" for name, array in numbers.items()]
    options = [f"{n}={n if isinstance(v, np.ndarray) else repr(v)}" for n, v in batch.options.items()]
    if "reduction" in claims:
        options.append(f"reduction={problem.probe.reduction or 'none'!r}")
    lines += _call(source, ", ".join(options), problem)
    lines.append(f"# want: {_decimal(problem.want)}   got: {_decimal(problem.got)}   ({problem.detail})")
    return "\n".join(lines) + "\n"


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


def _call(source: Source, options: str, problem: Problem) -> list[str]:
    """The lines that call the candidate and print its loss and, where that is the matter, its gradient."""
    name = source.name
    separator = ", " if options else ""
    view = {"transposed": ".T.contiguous().T", "strided": ".repeat_interleave(2, -1)[..., ::2]"}
    if source.framework == "torch":
        layout = view.get(problem.probe.layout, "")
        is_class = source.name[:1].isupper()
        call = f"{name}({options})(z, target)" if is_class else f"{name}(z, target{separator}{options})"
        lines = [f"z = logits{layout}.detach().requires_grad_()", f"loss = {call}", "print(loss)"]
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
