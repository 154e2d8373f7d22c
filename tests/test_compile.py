"""``xent compile``: what ptxas and AMD's assembler say, our kernel on two targets, and what does not compile."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import reports
from harness import compilation as compilation_module
from harness.bridges import unavailable
from harness.bridges.triton_interpreter import VARIABLE
from harness.cli.compiling import compilation_lines
from harness.compilation import Compiler, CompileRequest, NothingToCompile, run_compile
from harness.compiled import Compilation, CompilationFileError, CompiledKernel
from harness.declaration import Declaration, Kernel, implementation
from harness.discovery import Found, discover
from harness.grades import Grade, Outcome
from harness.machine_code import TARGETS, Resources, approximate_in, resources_of_amdgcn, resources_of_ptxas
from harness.run import Run
from harness.worker import WorkerError
from tests.commands import call

# In the form in which ptxas 12.8 prints it for a forward kernel, numbers varied; and Triton's AMD backend for gfx942.
PTXAS = """\
ptxas info    : 11 bytes gmem, 8 bytes cmem[4]
ptxas info    : Compiling entry function '_forward_kernel' for 'sm_80'
ptxas info    : Function properties for __internal_trig_reduction_slowpathd
    40 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Function properties for _forward_kernel
    {stack} bytes stack frame, {spills} bytes spill stores, 412 bytes spill loads
ptxas info    : Used {registers} registers, used 1 barriers, 448 bytes cmem[0]
ptxas info    : Compile time = 128.108 ms
"""
AMDGCN = """\
    .amdhsa_private_segment_fixed_size 0
amdhsa.kernels:
  - .agpr_count:     0
    .group_segment_fixed_size: 0
    .name:           _forward_kernel
    .private_segment_fixed_size: {stack}
    .sgpr_count:     68
    .sgpr_spill_count: 7
    .vgpr_count:     {registers}
    .vgpr_spill_count: {spilled}
"""
PTX = """\
\t// begin inline asm: rcp.approx.f32 in a comment is none
\tex2.approx.f32 \t%r100, %r99;
\t@%p1 ex2.approx.ftz.f32 \t%r101, %r99;
\tex2.approx.f32 %r1, %r2; lg2.approx.f32 %r3, %r4; // two on a line
\tdiv.full.f32 %r5, %r6, %r7;
\tdiv.rn.f32 %r5, %r6, %r7;
\tsqrt.approx.f32 %r5, %r6;
\ttanh.approx.bf16x2 %r5, %r6;
\trcp.approx.ftz.f64 %fd1, %fd2;
\tfma.rn.f32 %r8, %r9, %r10, %r11;
"""
GCN = """\
\tv_exp_f32_e32 v0, v1                                    // 000000001000: 7E002B01
\tv_exp_f32_e64 v0, -v1
\tv_log_f32_e32 v2, v3
\tv_rcp_iflag_f32_e32 v4, v5
\tv_rsq_f64_e32 v[0:1], v[2:3]
\tv_rcp_f16_e32 v4, v5
\tv_mul_f32_e32 v4, v5, v6 ; v_sqrt_f32 would be slower
\tv_div_scale_f32 v1, vcc, v2, v3, v2
"""


# ----------------------------------------------------------------------------------------------------------- its text


def test_ptxas_s_log_is_read_for_the_entry_function_and_no_other() -> None:
    found = resources_of_ptxas(PTXAS.format(stack=408, spills=404, registers=255))
    assert found == Resources(registers=255, spills=404, stack=408)
    assert resources_of_ptxas(PTXAS.format(stack=0, spills=0, registers=78)) == Resources(78, 0, 0)


def test_amd_s_metadata_is_read_with_four_bytes_for_a_spilled_register() -> None:
    assert resources_of_amdgcn(AMDGCN.format(stack=16, registers=60, spilled=3)) == Resources(60, 12, 16)
    assert resources_of_amdgcn(AMDGCN.format(stack=0, registers=60, spilled=0)).spills == 0


@pytest.mark.parametrize("text", ["", "ptxas info    : 11 bytes gmem", PTXAS.partition("Used")[0]])
def test_a_log_without_figures_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no resource usage"):
        resources_of_ptxas(text)
    with pytest.raises(ValueError, match="does not say its registers, spills, stack"):
        resources_of_amdgcn(text)


def test_approximate_instructions_are_told_from_exact_ones_and_from_comments() -> None:
    assert approximate_in(PTX) == {
        "div.full.f32": 1,
        "ex2.approx.f32": 2,
        "ex2.approx.ftz.f32": 1,
        "lg2.approx.f32": 1,
        "rcp.approx.ftz.f64": 1,
        "sqrt.approx.f32": 1,
        "tanh.approx.bf16x2": 1,
    }
    assert approximate_in(GCN) == {
        "v_exp_f32": 2,
        "v_log_f32": 1,
        "v_rcp_f16": 1,
        "v_rcp_iflag_f32": 1,
        "v_rsq_f64": 1,
    }
    assert approximate_in("fma.rn.f32 %r1, %r2, %r3, %r4;\n") == {}


# --------------------------------------------------------------------------------------------------------- declaration


def test_kernels_cross_a_process_boundary_as_json() -> None:
    kernel = Kernel("k", "module:name", {"x": "*fp32:16", "n": "i32", "BLOCK": 16}, {"num_warps": 4}, ("sm_80",))
    declaration = Declaration("name", "triton", "cross_entropy", {"float32": Grade.ABSOLUTE}, kernels=(kernel,))
    assert Declaration.from_json(json.loads(json.dumps(declaration.to_json()))) == declaration

    @implementation(framework="triton", loss="cross_entropy", grade="absolute", kernels=(kernel,))
    def declared(logits: object, target: object) -> None:
        """Nothing."""

    assert declared.__xent_implementation__.declaration.kernels == (kernel,)  # type: ignore[attr-defined]


# ----------------------------------------------------------------------------------------------------------- compiling

needs_triton = pytest.mark.skipif(
    sys.platform != "linux" or bool(unavailable("triton")), reason="Triton is for Linux: pip install triton"
)


@pytest.fixture(scope="module")
def kernels() -> dict[str, Kernel]:
    (found,) = discover(["triton_fused_cross_entropy"], frameworks=("triton",))
    assert found.declaration is not None, found.reason
    return {kernel.name: kernel for kernel in found.declaration.kernels}


@pytest.fixture(scope="module")
def compiler() -> Iterator[Compiler]:
    with Compiler("triton", timeout=100.0) as made:
        yield made


@needs_triton
def test_our_kernel_compiles_for_two_targets_as_it_says_and_without_spills(
    compiler: Compiler, kernels: dict[str, Kernel], tmp_path: Path
) -> None:
    kernel = kernels["forward fp32"]
    kernel = replace(kernel, arguments={**kernel.arguments, "BLOCK": 1024})  # as for 1000 classes: quick to compile
    nvidia = compiler.compile(kernel, "sm_80", str(tmp_path))
    amd = compiler.compile(kernel, "gfx942", str(tmp_path))
    for found in (nvidia, amd):
        assert 8 <= found.registers <= 255
        assert (found.spills, found.stack) == (0, 0)
        assert found.shared == 8 * 4  # one float32 for each of eight warps
    assert nvidia.approximate["ex2.approx.f32"] == 4 + 1  # 1024 classes over 256 threads, and the rescaling
    assert amd.approximate["v_exp_f32"] == 2 + 1  # over 512 threads: a warp is 64
    assert not any(name.startswith("lg2.approx") for name in nvidia.approximate)  # its logarithm is a polynomial


LAUNCHED = """
import json, torch, triton.language as tl
from implementations._triton_kernel import LARGEST_BLOCK, LARGEST_WIDE_BACKWARD, _Launch
settings = {"label_smoothing": 0.0, "softcap": 0.0, "z_loss": 0.0, "block_size": None}
for wide, largest in (
    (torch.float32, LARGEST_BLOCK), (torch.float32, LARGEST_BLOCK),
    (torch.float64, LARGEST_BLOCK), (torch.float64, LARGEST_WIDE_BACKWARD),
):
    constants = _Launch(64, 32_000, wide, False, settings, largest).constants
    print(json.dumps({key: str(value) for key, value in constants.items()}))
"""


@needs_triton
def test_our_kernels_are_declared_as_they_are_launched(kernels: dict[str, Kernel]) -> None:
    environment = os.environ | {VARIABLE: "0"}
    command = [sys.executable, "-c", LAUNCHED]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    names = ("forward fp32", "backward fp32", "forward fp64", "backward fp64")
    for line, name in zip(done.stdout.splitlines(), names, strict=True):
        launched = json.loads(line)
        launched["WIDE"] = {"fp32": "tl.float32", "fp64": "tl.float64"}[launched["WIDE"]]
        told = {**kernels[name].arguments, **kernels[name].options}
        assert {key: str(told[key]) for key in launched} == launched


@needs_triton
def test_the_backward_of_float64_does_not_spill_where_it_needs_most_registers(
    compiler: Compiler, kernels: dict[str, Kernel], tmp_path: Path
) -> None:
    found = compiler.compile(kernels["backward fp64"], "sm_120", str(tmp_path))
    assert (found.spills, found.stack) == (0, 0)
    larger = {**kernels["backward fp64"].arguments, "BLOCK": 8192}
    assert compiler.compile(replace(kernels["backward fp64"], arguments=larger), "sm_120", str(tmp_path)).spills > 0


@needs_triton
def test_spills_are_told_where_there_are_some(compiler: Compiler, kernels: dict[str, Kernel], tmp_path: Path) -> None:
    kernel = kernels["forward fp32"]
    arguments = {**kernel.arguments, "BLOCK": 8192}
    crowded = replace(kernel, arguments=arguments, options={"num_warps": 4, "maxnreg": 32})
    found = compiler.compile(crowded, "sm_80", str(tmp_path))
    assert found.registers <= 32
    assert found.spills > 0
    assert found.stack > 0


@needs_triton
@pytest.mark.parametrize(
    ("function", "arguments", "reason"),
    [
        ("block_not_a_power_of_two", {"x": "*fp32", "y": "*fp32", "BLOCK": 100}, "power of 2"),
        ("block_not_a_power_of_two", {"x": "*fp32", "BLOCK": 128}, "the declaration of 'bad' lacks y"),
        ("block_not_a_power_of_two", {"x": "*fp32", "y": "*fp32", "BLOCK": 128, "z": 1}, "knows no z"),
        ("not_a_kernel", {}, "not a kernel of triton.jit"),
        ("missing", {}, "no attribute 'missing'"),
        ("deadly", {}, "the process died: killed by SIGSEGV"),
    ],
)
def test_what_does_not_compile_has_its_reason_and_the_next_one_is_none_the_worse(
    compiler: Compiler, tmp_path: Path, function: str, arguments: dict[str, object], reason: str
) -> None:
    with pytest.raises(WorkerError, match=reason):
        compiler.compile(Kernel("bad", f"tests.uncompilable:{function}", arguments), "sm_90", str(tmp_path))
    assert compiler.pid is not None


# ------------------------------------------------------------------------------------------------------------- command

GOOD = CompiledKernel("mine", "forward", "sm_90", True, "", 70, 0, 0, 32, {"ex2.approx.f32": 33})
SPILLING = replace(GOOD, target="sm_80", registers=255, spills=404, approximate={})
BAD = CompiledKernel("mine", "forward", "gfx942", False, "CompilationError: arange's range must be a power of 2")
ENVIRONMENT = {"triton": "3.9.0", "commit": "0123456789abcdef+"}
RECORD = Compilation(ENVIRONMENT, (GOOD, SPILLING, BAD), {"other": "it is not installed: pip install other"})


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for discovery and the child: what is compiled is what the record has."""
    kernel = Kernel("forward", "module:name", {})
    declaration = Declaration("mine", "triton", "cross_entropy", {}, kernels=(kernel,))
    found = [
        Found("mine", "triton", "cross_entropy", "module", declaration),
        Found("other", "triton", "cross_entropy", "module", reason=RECORD.missing["other"]),
    ]
    answers = {entry.target: entry for entry in RECORD.kernels}

    def answer(self: Compiler, kernel: Kernel, target: str, cache: str) -> Resources:
        entry = answers[target]
        if entry.registers is None or entry.spills is None or entry.stack is None or entry.shared is None:
            raise WorkerError(Outcome.RAISED, entry.reason)
        return Resources(entry.registers, entry.spills, entry.stack, entry.shared, entry.approximate)

    monkeypatch.setattr(compilation_module, "discover", lambda only, frameworks: found)
    monkeypatch.setattr(Compiler, "compile", answer)


@pytest.mark.usefixtures("compiling")
def test_the_command_prints_a_line_per_target_and_its_status_says_whether_all_compile(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "compiled.json"
    targets = ["--target", "sm_80", "--target", "sm_90"]
    done = call(monkeypatch, capsys, "compile", *targets, "--json", file)
    assert done.status == 0
    rows = [line.split() for line in done.out.splitlines()]
    assert ["sm_80", "255", "404", "0", "32", "none"] in rows
    assert ["sm_90", "70", "0", "0", "32", "33", "ex2.approx.f32"] in rows
    assert "not available: other: it is not installed: pip install other" in done.out
    assert "compiled-only: nothing was run" in done.out
    data = json.loads(file.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (data["kind"], data["backend"]) == ("compilation", "compiled-only")
    assert Compilation.load(file).kernels == (SPILLING, GOOD)

    done = call(monkeypatch, capsys, "compile", "--target", "gfx942")
    assert done.status == 1
    assert "does not compile: CompilationError: arange's range must be a power of 2" in done.out
    assert done.err.splitlines()[-1] == "xent compile: does not compile: forward of mine for gfx942"


def test_what_cannot_be_compiled_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = call(monkeypatch, capsys, "compile", "--target", "sm_1")
    assert (done.status, done.line) == (
        2,
        f"xent compile: unknown target 'sm_1': choose from {', '.join(TARGETS)}",
    )
    done = call(monkeypatch, capsys, "compile", "--only", "numpy_naive")
    assert done.status == 2
    assert "nothing to compile" in done.line
    found = [Found("a", "triton", "cross_entropy", "m", reason="triton is not installed: pip install triton")]
    monkeypatch.setattr(compilation_module, "discover", lambda only, frameworks: found)
    done = call(monkeypatch, capsys, "compile")
    assert (done.status, done.line) == (2, "xent compile: triton is not installed: pip install triton")


@pytest.mark.usefixtures("compiling")
def test_an_interrupt_keeps_what_was_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(done: int, total: int, what: str) -> None:
        if done == 1:
            raise KeyboardInterrupt

    found = run_compile(CompileRequest(targets=("sm_80", "sm_90")), interrupt)
    assert (found.complete, [k.target for k in found.kernels]) == (False, ["sm_80"])


def test_a_narrow_terminal_gets_fewer_columns() -> None:
    wide, narrow = ("\n".join(map(str, compilation_lines(RECORD, width))) for width in (170, 60))
    assert "shared" in wide.splitlines()[0]
    assert "shared" not in narrow.splitlines()[0]


def test_only_consistent_records_are_made() -> None:
    with pytest.raises(ValueError, match="a reason exactly where"):
        replace(GOOD, reason="why?")
    with pytest.raises(ValueError, match="a reason exactly where"):
        replace(BAD, registers=1)
    with pytest.raises(NothingToCompile, match="unknown target 'x'"):
        CompileRequest(targets=("x",))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data | {"kind": "night"}, "not a file of `xent compile --json`"),
        (lambda data: data | {"schema": 2}, "schema 2, but this version reads schema 1"),
        (lambda data: data | {"kernels": [{"kernel": "k"}]}, "damaged"),
        (lambda data: {k: v for k, v in data.items() if k != "environment"}, "damaged: KeyError"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: object, reason: str) -> None:
    file = tmp_path / "compiled.json"
    assert callable(damage)
    file.write_text(json.dumps(damage(RECORD.to_json())))
    with pytest.raises(CompilationFileError, match=reason):
        Compilation.load(file)


# -------------------------------------------------------------------------------------------------------------- report


def test_the_page_has_the_table_and_says_that_it_proves_nothing_about_values() -> None:
    run = Run({}, ())
    page = reports.render(run, compiled=RECORD.to_json())
    assert "It proves nothing about values" in page
    assert "3 compilations: 1 without code, 1 with spills" in page
    assert "<b>does not compile</b>: CompilationError: arange&#39;s range must be a power of 2" in page
    assert '<td class="num" data-v="404">404</td>' in page
    assert "0123456789ab+" in page
    assert "Compiled kernels" not in reports.render(run)


def test_the_command_that_makes_pages_takes_the_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run, compiled, page = (tmp_path / name for name in ("run.json", "compiled.json", "page.html"))
    Run({}, ()).save(run)
    RECORD.save(compiled)
    assert call(monkeypatch, capsys, "report", run, "--compiled", compiled, "-o", page).status == 0
    assert "33 ex2.approx.f32" in page.read_text()
    done = call(monkeypatch, capsys, "report", run, "--compiled", run, "-o", page)
    assert (done.status, done.line) == (2, f"xent report: {run}: not a file of `xent compile --json`")


def test_every_target_is_one_that_triton_knows_by_its_numbers() -> None:
    assert list(TARGETS) == ["sm_80", "sm_90", "sm_100", "sm_120", "gfx942"]
    assert all(math.log2(target.warp) in (5, 6) for target in TARGETS.values())
