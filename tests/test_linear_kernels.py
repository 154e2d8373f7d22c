"""Fused linear cross-entropies of others, where they are installed (extra ``kernels``): claims, and what they drop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.bridges import installed, triton_interpreter, unavailable
from harness.differential import evaluate, plan
from harness.discovery import discover
from harness.families import make_batch
from harness.grades import Grade, Outcome
from harness.run import Result
from harness.worker import Workers

LINEAR = "linear_cross_entropy"
PACKAGES = {
    "liger_linear_cross_entropy": ("liger_kernel", "liger-kernel==0.8.5"),
    "cut_cross_entropy": ("cut_cross_entropy", "cut-cross-entropy==25.1.1"),
    "cut_cross_entropy_unfiltered": ("cut_cross_entropy", "cut-cross-entropy==25.1.1"),
    "cut_cross_entropy_compiled": ("cut_cross_entropy", "cut-cross-entropy==25.1.1"),
}
FAMILIES = ("linear_random", "linear_cancellation", "linear_confident", "linear_partial_block", "linear_ignore_index")

needs_triton = pytest.mark.skipif(bool(unavailable("triton")), reason="pip install triton")
needs_liger = pytest.mark.skipif(not installed("liger_kernel"), reason="pip install liger-kernel==0.8.5")
needs_cut = pytest.mark.skipif(not installed("cut_cross_entropy"), reason="pip install cut-cross-entropy==25.1.1")


@needs_triton
@pytest.mark.parametrize("name", PACKAGES)
def test_where_the_package_is_missing_it_is_listed_with_the_command_that_installs_it(name: str) -> None:
    module, requirement = PACKAGES[name]
    (found,) = discover([name])
    assert found.loss == LINEAR
    assert found.reason == ("" if installed(module) else f"{module} is not installed: pip install '{requirement}'")


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with pytest.MonkeyPatch.context() as patch, Workers() as made:
        patch.setenv(triton_interpreter.VARIABLE, "1")
        yield made


def results(workers: Workers, name: str, families: tuple[str, ...], dtype: str) -> list[Result]:
    (found,) = discover([name], workers=workers)
    assert found.declaration is not None, found.reason
    batches = [make_batch(family, LINEAR, dtype, 0) for family in families]
    judged, complete = evaluate(plan([found.declaration], batches, (dtype,)), workers)
    assert complete
    return judged


@needs_triton
@needs_liger
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_liger_keeps_its_claim_in_the_interpreter(workers: Workers, dtype: str) -> None:
    families = (*FAMILIES, "linear_options", "linear_many_small")
    found = results(workers, "liger_linear_cross_entropy", families, dtype)
    assert {r.backend for r in found} == {"triton-interpreter"}
    assert [(r.family, r.what, r.detail) for r in found if r.outcome != Outcome.PASSED] == []


@needs_triton
@needs_cut
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_cut_cross_entropy_keeps_its_claim_where_nothing_is_dropped(workers: Workers, dtype: str) -> None:
    found = results(workers, "cut_cross_entropy_unfiltered", (*FAMILIES, "linear_many_small"), dtype)
    assert [(r.family, r.what, r.detail) for r in found if r.outcome != Outcome.PASSED] == []


@needs_triton
@needs_cut
@pytest.mark.long
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_its_default_drops_is_beyond_the_bound_and_declared(workers: Workers, dtype: str) -> None:
    loss, gradient = results(workers, "cut_cross_entropy", ("linear_many_small",), dtype)
    assert loss.outcome == Outcome.PASSED
    assert (gradient.outcome, gradient.grade) == (Outcome.KNOWN_FAILURE, Grade.INACCURATE)
    assert gradient.bound_ratios["storage"] > 2
