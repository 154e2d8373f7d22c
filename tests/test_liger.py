"""Liger's kernel where it is installed (extra ``kernels``): its claim, its side effect, and code for two targets."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.bridges import installed, triton_interpreter, unavailable
from harness.compilation import Compiler
from harness.differential import evaluate, plan
from harness.discovery import discover
from harness.families import make_batch
from harness.grades import Outcome
from harness.worker import Workers

NAME = "liger_cross_entropy"
COMMAND = "pip install 'liger-kernel==0.8.5'"

needs_triton = pytest.mark.skipif(bool(unavailable("triton")), reason="pip install triton")
needs_liger = pytest.mark.skipif(bool(unavailable("triton")) or not installed("liger_kernel"), reason=COMMAND)

# In a process of its own: it sets Triton to interpreting.
OVERWRITES = """
import json, sys
from harness.bridges.triton_interpreter import mend
mend()
import torch
from liger_kernel.transformers.functional import liger_cross_entropy as raw
from implementations.liger_cross_entropy import liger_cross_entropy as ours
def changed(function):
    leaf = torch.tensor([[0.0, 1.0, 2.0]], requires_grad=True)
    logits = leaf * 1
    before = logits.detach().clone()
    function(logits, torch.tensor([1])).sum()
    return not torch.equal(logits.detach(), before)
print(json.dumps([changed(raw), changed(ours)]))
"""


@needs_triton
@pytest.mark.skipif(installed("liger_kernel"), reason="liger-kernel is installed")
def test_where_it_is_missing_it_is_listed_with_the_command_that_installs_it() -> None:
    (found,) = discover([NAME])
    assert found.reason == f"liger_kernel is not installed: {COMMAND}"


@needs_liger
def test_the_kernel_overwrites_its_logits_and_the_adapter_does_not() -> None:
    done = subprocess.run([sys.executable, "-c", OVERWRITES], stdout=subprocess.PIPE, check=True, text=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [True, False]


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with pytest.MonkeyPatch.context() as patch, Workers() as made:
        patch.setenv(triton_interpreter.VARIABLE, "1")
        yield made


@needs_liger
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_it_keeps_its_claim_in_the_interpreter(workers: Workers, dtype: str) -> None:
    (found,) = discover([NAME], workers=workers)
    assert found.declaration is not None, found.reason
    families = ("moderate_8", "confident", "tail_mass", "common_offset", "option_weight", "options_combined")
    batches = [make_batch(name, "cross_entropy", dtype, 0) for name in families]
    results, complete = evaluate(plan([found.declaration], batches, (dtype,)), workers)
    assert complete
    assert {r.backend for r in results} == {"triton-interpreter"}
    assert [(r.family, r.what, r.detail) for r in results if r.outcome != Outcome.PASSED] == []


@needs_liger
def test_its_kernel_compiles_as_it_is_declared(tmp_path: Path) -> None:
    (found,) = discover([NAME])
    assert found.declaration is not None, found.reason
    with Compiler("triton") as compiler:
        for kernel in (k for k in found.declaration.kernels if "sm_90" in k.targets):
            resources = compiler.compile(kernel, "sm_90", str(tmp_path))
            assert resources.registers > 0
            assert resources.approximate["ex2.approx.ftz.f32"] > 0  # it calls exp2, which flushes subnormal numbers
