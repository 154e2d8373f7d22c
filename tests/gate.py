"""Two ordinary gates, as a project without this one would have them, for the candidates of one file.

`forward` is allclose at 1e-2 on normal logits, forward only. `suite` is what a library's own tests usually do: forward
and backward, float32 and bfloat16, every claimed option once, ``loss.backward()`` and so an upstream gradient of ones,
all of it against torch in float32 on normal logits, at the tolerances below. Both are here to be compared with vetting.

    python tests/gate.py FILE LOSS TARGET NAME...

prints one JSON object: for each name the reason why each gate rejects it, ``null`` where it passes. The candidates run
in this process: start one for each file.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from harness.bridges import triton_interpreter

FORWARD_TOLERANCE = 1e-2
SUITE_TOLERANCES = {"float32": (1e-5, 1e-4), "bfloat16": (1e-2, 5e-2)}
"""Absolute and relative, per dtype: as tight as those of fused kernels' own suites, on values of order one."""
FORWARD_SHAPE = (32, 32768)
SHAPES = ((8, 1000), (64, 4096))

Case = tuple[str, torch.Tensor, torch.Tensor, dict[str, Any]]
Run = Callable[[Case, bool], tuple[torch.Tensor, torch.Tensor | None]]


def forward_gate(run: Run, loss: str, target: str, claims: set[str]) -> str | None:
    """Why `allclose` rejects the forward on normal logits; None where it passes."""
    case = _case("normal logits", loss, target, claims, *FORWARD_SHAPE, torch.float32, {})
    got, _ = run(case, False)
    want = _reference(loss, case)
    if not _like(got, want) or not _close(got, want, FORWARD_TOLERANCE, FORWARD_TOLERANCE):
        return "the loss is not close"
    return None


def suite_gate(run: Run, loss: str, target: str, claims: set[str], gradient: bool) -> str | None:
    """Why a usual suite rejects it; None where it passes."""
    for dtype in (torch.float32, torch.bfloat16):
        for case in _suite(loss, target, claims, dtype):
            z = case[1].detach().clone().float().requires_grad_()
            want = _reference(loss, (case[0], z, *case[2:]))
            got, got_gradient = run(case, gradient)
            scalar = want.mean() if got.dim() == 0 and want.dim() else want.sum()
            (want_gradient,) = torch.autograd.grad(scalar, z)
            absolute, relative = SUITE_TOLERANCES[str(dtype).removeprefix("torch.")]
            if not _like(got, want) or not _close(got, want, absolute, relative):
                return f"{dtype}, {case[0]}: the loss is not close"
            if got_gradient is not None and not _close(got_gradient, want_gradient, absolute, relative):
                return f"{dtype}, {case[0]}: the gradient is not close"
    return None


def _suite(loss: str, target: str, claims: set[str], dtype: torch.dtype) -> Iterator[Case]:
    """Normal logits of two shapes, then every claimed option once."""
    for n, v in SHAPES:
        yield _case("normal logits", loss, target, claims, n, v, dtype, {})
    v = SHAPES[0][1]
    values: dict[str, Any] = {
        "weight": torch.linspace(0.5, 1.5, v).to(dtype),
        "pos_weight": torch.linspace(0.5, 1.5, v).to(dtype),
        "ignore_index": -100,
        "label_smoothing": 0.1,
    }
    for name, value in values.items():
        if name in claims and not (target == "probabilities" and name == "ignore_index"):
            yield _case(name, loss, target, claims, *SHAPES[0], dtype, {name: value})
    for reduction in ("mean", "sum") if "reduction" in claims else ():
        yield _case(reduction, loss, target, claims, *SHAPES[0], dtype, {"reduction": reduction})


def _case(
    word: str, loss: str, target: str, claims: set[str], n: int, v: int, dtype: torch.dtype, options: dict[str, Any]
) -> Case:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, v, generator=generator, dtype=torch.float32).to(dtype)
    if loss != "cross_entropy":
        given = torch.randint(0, 2, (n, v), generator=generator).to(dtype)
    elif target == "probabilities":
        given = torch.softmax(torch.randn(n, v, generator=generator, dtype=torch.float32), 1).to(dtype)
    else:
        given = torch.randint(0, v, (n,), generator=generator)
        if "ignore_index" in options:
            given[::3] = options["ignore_index"]
    if "reduction" in claims:
        options = {"reduction": "none"} | options
    return word, logits, given, options


def _reference(loss: str, case: Case) -> torch.Tensor:
    """torch's own in float32, on the same numbers; unreduced unless the case says otherwise."""
    _, logits, target, options = case
    options = {name: o.float() if isinstance(o, torch.Tensor) else o for name, o in options.items()}
    logits, target = logits.float(), target.float() if target.is_floating_point() else target
    function = F.cross_entropy if loss == "cross_entropy" else F.binary_cross_entropy_with_logits
    result: torch.Tensor = function(logits, target, **({"reduction": "none"} | options))
    return result


def _like(got: torch.Tensor, want: torch.Tensor) -> bool:
    return got.shape == want.shape or got.dim() == 0


def _close(got: torch.Tensor, want: torch.Tensor, absolute: float, relative: float) -> bool:
    want = want.mean() if got.dim() == 0 and want.dim() else want
    return bool(torch.allclose(got.double(), want.double(), atol=absolute, rtol=relative))


def torch_runner(function: Any) -> Run:
    """Call a torch candidate, and differentiate its sum."""

    def run(case: Case, gradient: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        _, logits, target, options = case
        z = logits.clone().requires_grad_(gradient)
        if inspect.isclass(function):
            got = function(**options)(z, target.clone())
        else:
            got = function(z, target.clone(), **options)
        if not gradient:
            return got, None
        (found,) = torch.autograd.grad(got.sum(), z)
        return got, found

    return run


RUNNERS: Mapping[str, Callable[[Any], Run]] = {"torch": torch_runner}
"""By framework."""


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _attempt(gate: Callable[[], str | None]) -> str | None:
    """What a gate says; an exception is a reason, too."""
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.set_flush_denormal(False)
    try:
        return gate()
    except Exception as error:
        return f"raises {type(error).__name__}"


def main(arguments: list[str]) -> None:
    """Both gates for candidates of one file."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if os.environ.get(triton_interpreter.VARIABLE):
        triton_interpreter.mend()
    path, loss, target, *names = arguments
    framework = next(word for word in Path(path).stem.split("_") if word in RUNNERS)
    module = _load(Path(path))
    found = {}
    for name in names:
        function = getattr(module, name)
        claims = set(inspect.signature(function).parameters)
        run = RUNNERS[framework](function)
        found[name] = {
            "forward": _attempt(lambda: forward_gate(run, loss, target, claims)),  # noqa: B023 (called at once)
            "suite": _attempt(lambda: suite_gate(run, loss, target, claims, True)),  # noqa: B023
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
