"""Two ordinary gates, as a project without this one would have them, for the candidates of one file.

`forward` is allclose at 1e-2 on normal logits, forward only. `suite` is what a library's own tests usually do: forward
and backward, float32 and bfloat16, every claimed option once, ``loss.backward()`` and so an upstream gradient of ones,
all of it against torch in float32 on normal logits, at the tolerances below. Both are here to be compared with vetting.

    python tests/gate.py FILE LOSS TARGET NAME...

prints one JSON object: for each name the reason why each gate rejects it, ``null`` where it passes. The candidates of a
file share a process; where one of them ends it, or does not come to an end, each gets a process of its own.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from harness.bridges import triton_interpreter

FORWARD_TOLERANCE = 1e-2
SUITE_TOLERANCES = {"float32": (1e-5, 1e-4), "bfloat16": (1e-2, 5e-2)}
"""Absolute and relative, per dtype: as tight as those of fused kernels' own suites, on values of order one."""
SUITE_DTYPES = {
    "torch": (torch.float32, torch.bfloat16),
    "jax": (torch.float32, torch.bfloat16),
    "numpy": (torch.float32,),  # which has no bfloat16 of its own
}
TIME = 30
"""Seconds for each candidate."""
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


def suite_gate(run: Run, loss: str, target: str, claims: set[str], dtypes: Sequence[torch.dtype]) -> str | None:
    """Why a usual suite rejects it; None where it passes."""
    for dtype in dtypes:
        for case in _suite(loss, target, claims, dtype):
            z = case[1].detach().clone().float().requires_grad_()
            want = _reference(loss, (case[0], z, *case[2:]))
            got, got_gradient = run(case, True)
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


def jax_runner(function: Any) -> Run:
    """Call a JAX candidate, and pull ones back through it."""
    import jax
    import jax.numpy as jnp

    def to_jax(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if value.dtype == torch.bfloat16:
            return jnp.asarray(value.float().numpy()).astype(jnp.bfloat16)
        return jnp.asarray(value.numpy())

    def to_torch(value: Any, like: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.array(value, dtype=np.float32)).to(like.dtype)

    def run(case: Case, gradient: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        _, logits, target, options = case
        fixed, given = to_jax(target), {name: to_jax(option) for name, option in options.items()}
        got, pull = jax.vjp(lambda z: function(z, fixed, **given), to_jax(logits))
        found = to_torch(pull(jnp.ones_like(got))[0], logits) if gradient else None
        return to_torch(got, logits), found

    return run


def numpy_runner(function: Any, gradient_function: Any = None) -> Run:
    """Call a NumPy candidate, and its gradient function, if it has one, with ones."""

    def run(case: Case, gradient: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        _, logits, target, options = case
        z, y = logits.numpy().copy(), target.numpy().copy()
        given = {name: o.numpy() if isinstance(o, torch.Tensor) else o for name, o in options.items()}
        got = np.asarray(function(z, y, **given))
        if not gradient or gradient_function is None:
            return torch.from_numpy(got), None
        return torch.from_numpy(got), torch.from_numpy(np.asarray(gradient_function(z, y, np.ones_like(got), **given)))

    return run


RUNNERS: Mapping[str, Callable[..., Run]] = {"torch": torch_runner, "jax": jax_runner, "numpy": numpy_runner}
"""By framework; NumPy's also takes the gradient function."""


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


def judge_here(path: str, loss: str, target: str, names: list[str]) -> dict[str, dict[str, str | None]]:
    """Both gates for candidates of one file, in this process."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if os.environ.get(triton_interpreter.VARIABLE):
        triton_interpreter.mend()
    framework = next(word for word in Path(path).stem.split("_") if word in RUNNERS)
    module = _load(Path(path))
    found = {}
    for name in names:
        function = getattr(module, name)
        claims = set(inspect.signature(function).parameters)
        gradient = module.EXPECT[name].get("options", {}).get("gradient")
        run = RUNNERS[framework](function, *([getattr(module, gradient)] if gradient else []))
        dtypes = SUITE_DTYPES[framework]
        found[name] = {
            "forward": _attempt(lambda: forward_gate(run, loss, target, claims)),  # noqa: B023 (called at once)
            "suite": _attempt(lambda: suite_gate(run, loss, target, claims, dtypes)),  # noqa: B023
        }
    return found


def judge(path: str, loss: str, target: str, names: list[str]) -> dict[str, dict[str, str | None]]:
    """Both gates in a process of their own; one for each candidate, where one of them ends or stops the process."""
    command = [sys.executable, str(Path(__file__).resolve()), "--here", path, loss, target, *names]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, timeout=TIME * len(names))
        found: dict[str, dict[str, str | None]] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        why = "does not come to an end"
    except (subprocess.CalledProcessError, IndexError, ValueError):
        why = "ends the process"
    else:
        return found
    if len(names) == 1:
        return {names[0]: dict.fromkeys(("forward", "suite"), why)}
    return {name: said for single in names for name, said in judge(path, loss, target, [single]).items()}


if __name__ == "__main__":
    here, arguments = sys.argv[1] == "--here", [a for a in sys.argv[1:] if a != "--here"]
    print(json.dumps((judge_here if here else judge)(*arguments[:3], arguments[3:])))
