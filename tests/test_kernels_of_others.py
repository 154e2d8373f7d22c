"""Liger's, flash-attn's and fla's kernels: what their adapters pass on, and, where they are installed, what they do.

The adapters are tested everywhere, against packages in ``stubs/`` that have the call and no kernel; where a package is
installed, that it has that call.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import discovery
from harness.bridges import installed, triton_interpreter, unavailable
from harness.compilation import Compiler
from harness.declaration import Declaration
from harness.differential import evaluate, plan
from harness.discovery import discover
from harness.families import make_batch
from harness.grades import Outcome
from harness.worker import Workers

HERE = Path(__file__).resolve().parent
STUBS = HERE / "stubs"
# By implementation: what is installed, and where its call is.
PACKAGES = {
    "liger_cross_entropy": ("liger_kernel", "liger_kernel.transformers.functional:liger_cross_entropy"),
    "flash_attn_cross_entropy": ("flash_attn", "implementations._flash_attn:cross_entropy_loss"),
    "fla_cross_entropy": ("fla", "fla.modules.fused_cross_entropy:cross_entropy_loss"),
}
COMMANDS = {
    "liger_cross_entropy": "pip install 'liger-kernel==0.8.5'",
    "flash_attn_cross_entropy": (
        "pip install wheel && FLASH_ATTENTION_FORCE_BUILD=TRUE FLASH_ATTENTION_SKIP_CUDA_BUILD=TRUE "
        "pip install --no-deps --no-build-isolation flash-attn==2.8.3"
    ),
    "fla_cross_entropy": "pip install 'fla-core==0.6.0'",
}
DTYPES = ("float32", "bfloat16", "float16")

needs_triton = pytest.mark.skipif(bool(unavailable("triton")), reason="pip install triton")


def where_installed(*values: Any) -> list[Any]:
    """The implementations, each with `values` if there are any, skipped with the command where one is missing."""
    made = []
    for name, (package, _) in PACKAGES.items():
        missing = bool(unavailable("triton")) or not installed(package)
        marks = pytest.mark.skipif(missing, reason=unavailable("triton") or COMMANDS[name])
        made += [pytest.param(name, *extra, marks=marks) for extra in (values or ((),))]
    return made


def declared(name: str) -> Declaration:
    """A declaration, which is plain data: no framework is imported for it."""
    function = getattr(importlib.import_module(f"implementations.{name}"), name)
    found: Declaration = function.__xent_implementation__.declaration
    return found


# -------------------------------------------------------------------------------------------------- what is passed on


class Stub:
    """An adapter whose package is a stub."""

    def __init__(self, name: str) -> None:
        self.function = getattr(importlib.import_module(f"implementations.{name}"), name)

    def called(self, *arguments: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
        """What the adapter returns, and what it has passed on."""
        result = self.function(*arguments, **options)
        [module] = [m for m in self._modules() if hasattr(m, "CALLS")]
        return result, module.CALLS.pop()

    def _modules(self) -> Iterator[Any]:
        yield from (m for n, m in list(sys.modules.items()) if n.partition(".")[0] in ("fla", "liger_kernel"))
        flash = sys.modules.get("implementations._flash_attn")
        if flash:
            yield flash._module


@pytest.fixture
def stub(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    pytest.importorskip("torch")
    package, _ = PACKAGES[request.param]
    forget = ("implementations._flash_attn", package)
    monkeypatch.syspath_prepend(str(STUBS))
    for module in [m for m in sys.modules if m in forget or m.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, module)
    yield Stub(request.param)
    for module in [m for m in sys.modules if m in forget or m.startswith(f"{package}.")]:
        del sys.modules[module]


# What is given to the adapter → what reaches the package.
NOTHING = {"ignore_index": -100, "label_smoothing": 0.0, "lse_square_scale": 0.0}
PASSED_ON = [
    ({}, {}),
    ({"ignore_index": 1}, {"ignore_index": 1}),
    ({"label_smoothing": 0.25}, {"label_smoothing": 0.25}),
    ({"z_loss": 1e-4}, {"lse_square_scale": 1e-4}),
    ({"ignore_index": -1, "label_smoothing": 0.5, "z_loss": 0.5}, dict(zip(NOTHING, (-1, 0.5, 0.5), strict=True))),
]
TEMPERED = [({}, {"logit_scale": 1.0}), ({"temperature": 4.0}, {"logit_scale": 0.25})]
CAPPED = [({}, {"{}": None}), ({"softcap": 0.0}, {"{}": None}), ({"softcap": 30.0}, {"{}": 30.0})]
LIGER, FLASH, FLA = PACKAGES


def case(name: str, given: dict[str, Any], reaching: dict[str, Any], cap: str = "") -> Any:
    return name, given, {key.format(cap): value for key, value in reaching.items()}


@pytest.mark.parametrize(
    ("stub", "given", "reaching"),
    [
        *(case(name, given, NOTHING | reaching) for name in PACKAGES for given, reaching in PASSED_ON),
        *(case(name, given, reaching) for name in (FLASH, FLA) for given, reaching in TEMPERED),
        *(case(FLA, given, reaching, "logit_softcapping") for given, reaching in CAPPED),
        *(case(LIGER, given, reaching, "softcap") for given, reaching in CAPPED),
        *(case(LIGER, {"reduction": r}, {"reduction": r}) for r in ("none", "mean", "sum")),
        *(case(name, {}, {"inplace_backward": False, "process_group": None}) for name in (FLASH, FLA)),
        case(FLASH, {}, {"precomputed_lse": None}),
    ],
    indirect=["stub"],
)
def test_every_option_reaches_the_argument_that_it_belongs_to(
    stub: Stub, given: dict[str, Any], reaching: dict[str, Any]
) -> None:
    import torch

    _, call = stub.called(torch.zeros(2, 3), torch.tensor([0, 1]), **given)
    assert {key: call[key] for key in reaching} == reaching


@pytest.mark.parametrize("stub", list(PACKAGES), indirect=True)
def test_logits_target_and_weight_are_passed_on_as_they_are_and_the_logits_stay_so(stub: Stub) -> None:
    import torch

    logits, target, weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 0]), torch.tensor([1.0, 0.5])
    before = logits.clone()
    if "weight" in stub.function.__xent_implementation__.declaration.options:
        _, call = stub.called(logits, target, weight=weight)
        assert call["weight"] is weight
        assert call["input"] is not logits  # Liger overwrites what it is given
    else:
        _, call = stub.called(logits, target)
        assert call["logits"] is logits
        with pytest.raises(TypeError, match="weight"):
            stub.called(logits, target, weight=weight)
    assert next(call[key] for key in ("target", "labels") if key in call) is target
    assert torch.equal(logits, before)


@pytest.mark.parametrize("stub", [FLASH, FLA], indirect=True)
def test_losses_per_row_are_reduced_over_the_rows_that_count(stub: Stub) -> None:
    import torch

    logits, target = torch.zeros(4, 3), torch.tensor([0, 2, 2, 1])  # losses 1, 0, 0, 4 where 2 is ignored
    assert stub.called(logits, target, ignore_index=2, reduction="none")[0].tolist() == [1, 0, 0, 4]
    assert stub.called(logits, target, ignore_index=2, reduction="sum")[0].item() == 5
    assert stub.called(logits, target, ignore_index=2)[0].item() == 2.5
    assert stub.called(logits[:0], target[:0])[0].isnan()  # 0/0, as in torch
    with pytest.raises(ValueError, match=r"'max' is unknown: choose from \"none\", \"mean\", \"sum\""):
        stub.called(logits, target, reduction="max")


@pytest.mark.parametrize("stub", [FLASH], indirect=True)
def test_flash_attn_s_package_is_not_imported(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stub fails at that, as the package does without CUDA; and without the file there is a reason."""
    import torch

    stub.called(torch.zeros(1, 2), torch.tensor([0]))
    assert "flash_attn" not in sys.modules
    kernels = importlib.import_module("implementations._flash_attn")
    assert (kernels.cross_entropy_fwd_kernel, kernels.cross_entropy_bwd_kernel) == ("forward", "backward")
    assert kernels._module.torch.float32 is torch.float32
    assert kernels._module.torch.cuda.is_available is torch.cuda.is_available
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImportError, match=r"flash_attn has no .*cross_entropy\.py in .*: these kernels are those of"):
        importlib.reload(kernels)


@needs_triton
@pytest.mark.parametrize("name", list(PACKAGES))
def test_where_a_package_is_missing_it_is_listed_with_the_command_that_installs_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "installed", lambda module: False)
    (found,) = discover([name])
    assert found.reason == f"{PACKAGES[name][0]} is not installed: {COMMANDS[name]}"


# ------------------------------------------------------------------------------------------------- where they are there

# In a process of its own: it sets Triton to interpreting. Prints what is asked of the packages that are named.
PROBE = """
import importlib, inspect, json, sys, warnings
import numpy as np
from harness.bridges.triton_interpreter import mend
mend()
import torch
np.seterr(all="ignore")
warnings.simplefilter("ignore")

def named(where):
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)

def first(losses):
    return losses[0] if isinstance(losses, tuple) else losses

def changes(function, **options):
    leaf = torch.tensor([[0.0, 1.0, 2.0]], requires_grad=True)
    logits = leaf * 1
    before = logits.detach().clone()
    loss = first(function(logits, torch.tensor([1]), **options)).sum()
    forward = not torch.equal(logits.detach(), before)
    loss.backward()
    return [forward, not torch.equal(logits.detach(), before)]

def masked(function, classes, first_left):
    logits = torch.full((1, classes), float("-inf"))
    logits[:, first_left:] = 0
    return first(function(logits, torch.tensor([classes - 1]))).sum().item()

def strided(function):
    logits, target = torch.arange(12.0).reshape(3, 4), torch.tensor([0, 1, 2])
    spread = torch.stack([target, target + 1], 1)[:, 0]
    return torch.equal(first(function(logits, spread)), first(function(logits, target)))

def slope(function, logits):
    leaf = logits.requires_grad_()
    return torch.autograd.grad(first(function(leaf * 1, torch.tensor([0, 1, 2]))).sum(), leaf)[0]

def transposed(function):
    logits = torch.arange(12.0).reshape(3, 4)
    return torch.allclose(slope(function, logits.t().contiguous().t()), slope(function, logits))

def twice(function):
    leaf = torch.arange(12.0).reshape(3, 4).requires_grad_()
    loss = 3 * first(function(leaf * 1, torch.tensor([0, 1, 2]))).sum()
    once = torch.autograd.grad(loss, leaf, retain_graph=True)[0].clone()
    return torch.equal(torch.autograd.grad(loss, leaf)[0], once)

ours, theirs = (named(where) for where in sys.argv[1:])
inplace = {"inplace_backward": True} if "inplace_backward" in inspect.signature(theirs).parameters else {}
print(json.dumps({
    "parameters": {n: repr(p.default) for n, p in inspect.signature(theirs).parameters.items()},
    "theirs": changes(theirs, **inplace),
    "ours": changes(ours),
    "strided": strided(theirs),
    "transposed": transposed(theirs),
    "twice": twice(theirs),
    "masked": {f"{v} {k}": masked(ours, v, k) for v, k in
               ((16500, 16383), (16500, 16384), (33000, 32768), (65600, 65535), (65600, 65536))},
}))
"""


def probed(name: str) -> dict[str, Any]:
    arguments = [f"implementations.{name}:{name}", PACKAGES[name][1]]
    done = subprocess.run([sys.executable, "-c", PROBE, *arguments], stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# From how many masked classes at the front on the loss is NaN, where there are more than those: a block that is masked
# as a whole. Dao-AILab/flash-attention#1930 for flash-attn; the others have the same form with larger blocks.
BLOCKS = {LIGER: 32768, FLASH: 16384, FLA: 65536}


@pytest.mark.parametrize("name", where_installed())
def test_a_package_does_what_its_adapter_declares_of_it(name: str) -> None:
    found = probed(name)
    stub = subprocess.run(
        [sys.executable, "-c", STUB_CALL, name],
        env=os.environ | {"PYTHONPATH": f"{STUBS}{os.pathsep}{HERE.parent}"},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    assert found["parameters"] == json.loads(stub.stdout)
    # Liger's forward writes the gradient over the logits; the others' backward does where it is asked to.
    assert found["theirs"] == ([True, True] if name == LIGER else [False, True])
    assert found["ours"] == [False, False]
    # Liger has no gradient for logits that it has to copy first, so that the copy of the logits passes for it; and it
    # scales its gradient where it keeps it (linkedin/Liger-Kernel#1251). flash-attn takes the labels to be contiguous.
    assert {key: found[key] for key in ("strided", "transposed", "twice")} == {
        "strided": name != FLASH,
        "transposed": name != LIGER,
        "twice": name != LIGER,
    }
    for key, loss in found["masked"].items():
        classes, masked = map(int, key.split())
        lost = masked >= BLOCKS[name] and classes > BLOCKS[name]
        assert (loss != loss) == lost, (key, loss)


STUB_CALL = """
import inspect, json, sys, warnings
warnings.simplefilter("ignore")
from tests.test_kernels_of_others import PACKAGES
module, _, name = PACKAGES[sys.argv[1]][1].partition(":")
import importlib
call = getattr(importlib.import_module(module), name)
print(json.dumps({n: repr(p.default) for n, p in inspect.signature(call).parameters.items()}))
"""


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with pytest.MonkeyPatch.context() as patch, Workers() as made:
        patch.setenv(triton_interpreter.VARIABLE, "1")
        yield made


@pytest.mark.parametrize(("name", "dtype"), where_installed(*((dtype,) for dtype in DTYPES)))
def test_a_kernel_keeps_its_claim_in_the_interpreter(workers: Workers, name: str, dtype: str) -> None:
    (found,) = discover([name], workers=workers)
    assert found.declaration is not None, found.reason
    families = ("moderate_8", "confident", "tail_mass", "common_offset", "option_weight", "option_label_smoothing")
    batches = [make_batch(family, "cross_entropy", dtype, 0) for family in families]
    results, complete = evaluate(plan([found.declaration], batches, (dtype,)), workers)
    assert complete
    assert {r.backend for r in results} == {"triton-interpreter"}
    due = {Outcome.PASSED} if name == LIGER else {Outcome.PASSED, Outcome.SKIPPED}  # two have no weights
    assert [(r.family, r.what, r.detail) for r in results if r.outcome not in due] == []
    assert {r.family for r in results if r.outcome == Outcome.PASSED} >= {*families} - {"option_weight"}


@pytest.mark.parametrize("name", where_installed())
def test_their_kernels_compile_as_they_are_declared(name: str, tmp_path: Path) -> None:
    with Compiler("triton") as compiler:
        for kernel in (k for k in declared(name).kernels if "sm_90" in (k.targets or ("sm_90",))):
            resources = compiler.compile(kernel, "sm_90", str(tmp_path))
            assert resources.registers > 0
            assert any(instruction.startswith("ex2.approx") for instruction in resources.approximate)
