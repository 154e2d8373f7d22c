"""Triton without a GPU: the mended interpreter, our fused kernel in it, and wrong kernels that fall to their check."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.batch import Batch
from harness.bridges import FrameworkUnavailable, bridge_for, triton_interpreter, unavailable
from harness.bridges.stopwatch import Task
from harness.bridges.triton_bridge import TritonBridge
from harness.differential import evaluate, plan
from harness.discovery import discover
from harness.families import make_batch
from harness.formats import named
from harness.grades import Grade, Outcome
from harness.vetting.scale import scale_for
from harness.vetting.settings import Options
from harness.vetting.source import CannotJudge
from harness.vetting.vet import vet
from harness.worker import WorkerError, Workers
from tests.candidates import Candidate, read_file, vetted

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux")

HERE = Path(__file__).resolve().parent
KERNEL = HERE.parent / "implementations" / "_triton_kernel.py"
NAME = "triton_fused_cross_entropy"
WRONG = read_file(HERE / "wrong" / "torch_triton.py", wrong=True)
RIGHT = read_file(HERE / "right" / "torch_triton.py", wrong=False)
SEED = 20261122


def probed(mode: str, *names: str) -> dict[str, Any]:
    command = [sys.executable, "-W", "error", str(HERE / "triton_probes.py"), mode, *names]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def mended() -> Mapping[str, Any]:
    return probed("mended")


# ---------------------------------------------------------------------------------------------------------- interpreter


@pytest.mark.parametrize("name", ["arithmetic", "rounding", "scalars", "subnormals", "reductions"])
def test_mended_bfloat16_is_what_torch_computes(mended: Mapping[str, Any], name: str) -> None:
    assert mended[name] is True


def test_mended_products_and_functions_are_numpy_s(mended: Mapping[str, Any]) -> None:
    assert mended["products"] < 16 * 16 * 2.0**-24 * 16  # sixteen terms of at most 16, summed in float32 in any order
    assert mended["functions"] < 4 * 2.0**-23  # two functions of at most 2 ulp each
    assert "libdevice.tanh takes float32 and float64, not bf16" in mended["wrong_dtype_of_a_function"]
    assert mended["autotuning"] == [16.0, 16.0]
    assert "atomic operations on bfloat16 are not interpreted" in mended["atomics"]


def test_what_is_mended_is_broken_without_and_a_version_that_is_not_known_is_left_alone() -> None:
    found = probed("plain", "arithmetic", "rounding", "subnormals", "reductions", "products", "functions", "autotuning")
    assert not any(value is True for value in found.values())
    assert found["rounding"] is found["subnormals"] is False
    assert found["products"] > 1e6
    assert "Error" in found["functions"]
    assert "active drivers" in found["autotuning"]


def test_the_installed_version_is_one_that_is_mended() -> None:
    assert triton_interpreter.version() in triton_interpreter.MENDED
    assert [triton_interpreter.refusal(dtype) for dtype in ("bfloat16", "float16", "float32")] == ["", "", ""]


def test_bfloat16_is_refused_in_a_version_that_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_interpreter, "version", lambda: "9.9.9")
    told = triton_interpreter.refusal("bfloat16")
    assert told == (
        "the interpreter of Triton 9.9.9 computes bfloat16 on raw bits, and this version can mend that of "
        "3.7.1 and 3.9.0 only: pip install triton==3.9.0"
    )
    assert triton_interpreter.refusal("float16") == ""
    bridge = TritonBridge.__new__(TritonBridge)  # making one sets this whole process to interpreting
    bridge.backend = "triton-interpreter"
    with pytest.raises(FrameworkUnavailable, match=r"9\.9\.9 computes bfloat16 on raw bits"):
        bridge.native(named("bfloat16").round(np.ones(2)))


def test_vetting_leaves_bfloat16_out_in_such_a_version_or_says_that_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_interpreter, "version", lambda: "9.9.9")
    spec = f"{KERNEL}:fused_cross_entropy"
    with pytest.raises(CannotJudge, match="--dtype bfloat16: the interpreter of Triton 9"):
        vet(spec, Options(backend="interpret", dtypes=("bfloat16",), quick=True, seed=1))
    verdict = vet(spec, Options(backend="interpret", quick=True, seed=1, checks=("output_form", "deterministic")))
    assert verdict.verdict == "accepted"
    (left_out,) = [check for check in verdict.checks if check.dtype == "bfloat16"]
    assert (left_out.outcome, left_out.name) == ("skipped", "output_form")
    assert "computes bfloat16 on raw bits" in left_out.detail


# ------------------------------------------------------------------------------------------------- as an implementation


@pytest.fixture(scope="module")
def workers() -> Any:
    with pytest.MonkeyPatch.context() as patch, Workers() as made:
        patch.setenv(triton_interpreter.VARIABLE, "1")  # where there is a GPU, too
        yield made


def test_our_kernel_keeps_its_claim_in_the_interpreter_and_every_result_says_so(workers: Workers) -> None:
    (found,) = discover([NAME], workers=workers)
    assert found.declaration is not None, found.reason
    assert (found.declaration.backend, found.declaration.device) == ("triton-interpreter", "cpu")
    dtypes = tuple(found.declaration.grades)
    assert set(found.declaration.grades.values()) == {Grade.RELATIVE}
    families = ("confident", "tail_mass", "common_offset", "masked", "options_combined", "soft_targets")
    batches = [make_batch(name, "cross_entropy", dtype, 0) for dtype in dtypes for name in families]
    results, complete = evaluate(plan([found.declaration], batches, dtypes), workers)
    assert complete
    assert {(r.backend, r.device) for r in results} == {("triton-interpreter", "cpu")}  # the skipped ones, too
    assert {r.outcome for r in results if r.family == "soft_targets"} == {str(Outcome.SKIPPED)}
    assert {r.outcome for r in results if r.family != "soft_targets"} == {str(Outcome.PASSED)}
    assert len(results) == 2 * len(batches)


def test_an_interpreter_is_not_timed(workers: Workers) -> None:
    discover([NAME], workers=workers)
    batch = Batch("cross_entropy", np.zeros((2, 3), np.float32), np.array([0, 1]), np.ones(2, np.float32))
    with pytest.raises(WorkerError, match="an interpreter's time says nothing") as caught:
        workers["triton"].time(NAME, batch, Task())
    assert caught.value.outcome is Outcome.UNAVAILABLE


def test_its_environment_names_triton_and_its_mode(workers: Workers) -> None:
    found = workers["triton"].environment()
    assert found["versions"]["triton"] == triton_interpreter.version()
    assert found["variables"]["TRITON_INTERPRET"] == "1"


@pytest.mark.parametrize("missing", ["triton", "torch"])
def test_what_triton_needs_is_said_with_its_command(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.bridges.installed", lambda module: module != missing)
    assert unavailable("triton") == f"{missing} is not installed: pip install {missing}"
    with pytest.raises(FrameworkUnavailable, match=missing):
        bridge_for("triton")


# --------------------------------------------------------------------------------------------------------------- kernel


def test_every_option_means_what_torch_means_whatever_the_block(mended: Mapping[str, Any]) -> None:
    assert len(mended["options"]) == 32
    assert max(mended["options"]) < 300 * 40 * 2.0**-53  # V·u times the largest logit


def test_small_losses_and_the_target_s_gradient_are_kept(mended: Mapping[str, Any]) -> None:
    assert np.abs(mended["small_losses"]).max() < 4 * 2.0**-24  # where torch has 0 and 0


def test_a_growing_maximum_and_masked_blocks_cost_nothing(mended: Mapping[str, Any]) -> None:
    assert max(mended["blocks_agree"]) < 8 * 2.0**-24


def test_views_are_read_where_their_elements_are(mended: Mapping[str, Any]) -> None:
    assert mended["layouts"] == [True] * 4


def test_offsets_beyond_31_bits_are_read_and_written(mended: Mapping[str, Any]) -> None:
    assert mended["far"] == {"beyond": True, "same_loss": True, "same_gradient": True}


def test_the_logits_are_written_to_only_where_that_is_asked_for(mended: Mapping[str, Any]) -> None:
    found = mended["in_place"]
    assert found["untouched"] is found["same_memory"] is found["same_gradient"] is True
    assert found["second"].startswith("the logits hold the gradient by now")


def test_mistakes_are_told_with_the_value_and_a_label_out_of_range_is_nan(mended: Mapping[str, Any]) -> None:
    found = mended["invalid"]
    words = ("[4]", "int32", "[2]", "float32", "weight: [3]", "1.5", "'max'", "-1.0", "inplace")
    assert [word in told for word, told in zip(words, found["told"], strict=True)] == [True] * len(words)
    assert found["loss"] == found["gradient"] == [False, True, True]


def test_empty_ignored_and_16_bit_batches(mended: Mapping[str, Any]) -> None:
    assert mended["reduced_and_empty"] == [[0], True, "torch.float32", pytest.approx(2 * np.log(4), rel=2.0**-23)]


def test_offsets_beyond_32_bits(mended: Mapping[str, Any]) -> None:
    assert mended["beyond_32_bits"] == [4 * ((1 << 30) + 8), True, True]


# -------------------------------------------------------------------------------------------------------------- vetting


def only_its_check(candidate: Candidate) -> Candidate:
    return replace(candidate, options={**candidate.options, "checks": (candidate.check,)})


@pytest.mark.parametrize("candidate", WRONG, ids=lambda c: c.name)
def test_a_wrong_kernel_falls_to_the_check_meant_for_it(candidate: Candidate) -> None:
    found = vetted(only_its_check(candidate), True, SEED)
    assert found.verdict == "rejected", found.message
    assert candidate.check in found.caught_by


def test_a_lost_target_gradient_is_a_named_deviation_where_storage_is_enough() -> None:
    spec = f"{HERE / 'wrong' / 'torch_triton.py'}:read_modify_write"
    options = Options(backend="interpret", dtypes=("bfloat16",), quick=True, seed=SEED, checks=("gradient_accuracy",))
    verdict = vet(spec, options)
    assert (verdict.verdict, verdict.backend) == ("accepted", "triton-interpreter")
    assert verdict.to_json()["backend"] == "triton-interpreter"
    assert "target_gradient_lost" in {d.check for d in verdict.deviations}


def test_our_kernel_is_accepted_at_the_grade_that_it_claims() -> None:
    options = Options(backend="interpret", dtypes=("float32",), quick=True, seed=SEED, grade=Grade.RELATIVE)
    verdict = vet(f"{KERNEL}:fused_cross_entropy", options)
    assert verdict.verdict == "accepted", verdict.message
    assert dict(verdict.grades) == {"float32": "relative"}
    assert {d.check for d in verdict.deviations} == {"label_out_of_range"}


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_our_kernel_is_accepted_in_full(dtype: str, seed: int | None) -> None:
    options = Options(backend="interpret", dtypes=(dtype,), seed=seed, timeout=120.0, grade=Grade.RELATIVE)
    verdict = vet(f"{KERNEL}:fused_cross_entropy", options)
    assert verdict.verdict == "accepted", (verdict.seed, verdict.message)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("candidate", [*WRONG, *RIGHT], ids=lambda c: c.name)
def test_every_kernel_is_judged_as_it_should_be_quickly(candidate: Candidate) -> None:
    found = vetted(candidate, True, SEED)
    assert found.as_expected, found.message


def test_without_a_gpu_a_native_vetting_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv(triton_interpreter.VARIABLE, raising=False)
    with pytest.raises(CannotJudge) as caught:
        vet(f"{HERE / 'right' / 'torch_triton.py'}:online", Options(dtypes=("float32",), quick=True, seed=SEED))
    assert str(caught.value) == (
        "torch_triton.py:online: Triton finds no GPU here: --backend interpret runs its kernels in Triton's "
        "interpreter, on the CPU"
    )


@pytest.mark.parametrize(
    ("detail", "said"),
    [
        ("RuntimeError: 0 active drivers ([]). There should only be one.", "--backend interpret"),
        ("ValueError: Pointer argument (at 0) cannot be accessed from Triton (cpu tensor?)", "--device cuda"),
        ("ValueError: something else", ""),
    ],
)
def test_what_triton_says_without_a_gpu_is_understood(detail: str, said: str) -> None:
    told = triton_interpreter.lacks_gpu(detail)
    assert said in told
    assert bool(told) == bool(said)


def test_inputs_for_an_interpreter_are_fewer_and_go_through_many_blocks_all_the_same() -> None:
    for quick in (True, False):
        native, interpreted = scale_for(quick, False), scale_for(quick, True)
        assert interpreted.late_calls[0] < native.late_calls[0]
        assert max(interpreted.rows) < max(native.rows)
        assert max(interpreted.sizes) >= 32000
        assert (interpreted.memory, interpreted.very_many_rows) == (False, False)
