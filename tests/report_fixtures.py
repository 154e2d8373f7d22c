"""Made-up runs for the report's tests: realistic in shape and variety, and the same every time."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from harness.declaration import Declaration, KnownFailure
from harness.grades import Grade, Outcome
from harness.run import Result, Run, Timing

DTYPES = ("float64", "float32", "bfloat16", "float16")
LIMIT_OF = {"float64": 1.8e308, "float32": 3.4e38, "bfloat16": 3.4e38, "float16": 65504.0}
UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
CE = "cross_entropy"
BCE = "binary_cross_entropy_with_logits"


def result(**changes: Any) -> Result:
    base: dict[str, Any] = {
        "implementation": "torch_one", "framework": "torch", "loss": CE, "dtype": "float32", "device": "cpu",
        "backend": "native", "family": "ties", "what": "loss", "rows": 8, "judged": 8, "claimed": "absolute",
        "grade": "absolute", "outcome": "passed", "max_ulp": 3.0, "max_abs": 1e-7, "max_rel": 1e-7,
        "max_bound_ratio": 0.25,
    }  # fmt: skip
    return Result(**{**base, **changes})


def run_of(*results: Result, **changes: Any) -> Run:
    return Run(**{"environment": {"seed": 7}, "results": results, **changes})


FAMILIES: dict[str, dict[str, Any]] = {
    "moderate": {
        "breaks": "Nothing: normal logits at initialisation, the only thing that most suites try.",
        "source": "baseline",
    },
    "wide": {
        "breaks": "Sums whose terms span the whole range of the format.",
        "source": "Blanchard, Higham & Higham 2021, section 4",
    },
    "overflow_edge": {
        "breaks": "exp() of a logit that was never shifted by the maximum.",
        "source": "Higham, ASNA, section 1.18",
    },
    "underflow_edge": {
        "breaks": "Terms that flush to zero, and logarithms of them.",
        "source": "pytorch/pytorch#11752",
    },
    "common_offset": {
        "breaks": "The difference lse − z[y], which cancels when all logits share a large offset.",
        "source": "Blanchard, Higham & Higham 2021, equation 3.10",
    },
    "ties": {
        "breaks": "Code that assumes that the maximum is unique.",
        "source": "https://github.com/jax-ml/jax/issues/24397",
    },
    "confident": {
        "breaks": "Losses so small that 1 − p rounds to 1: the log1p form is needed.",
        "source": "optax documentation",
    },
    "tail_mass": {
        "breaks": "A sum of 128,255 tiny terms beside one large: absorbed term by term.",
        "source": "Higham 1993, The accuracy of floating point summation",
    },
    "masked": {"breaks": "−inf − (−inf) when a whole block is masked.", "source": "linkedin/Liger-Kernel#542"},
    "subnormal": {"breaks": "Kernels that flush subnormal numbers to zero.", "source": "IEEE 754-2019, section 7.5"},
    "mixed_scales": {"breaks": "Rows of very different magnitude in one batch.", "source": "built here"},
    "one_class": {"breaks": "V = 1, where the loss is exactly zero.", "source": "built here"},
    "two_classes": {"breaks": "V = 2, where the softmax is a sigmoid.", "source": "built here"},
    "recorded/gpt2": {
        "breaks": "Logits of a trained language model on held-out text.",
        "source": "recorded, GPT-2 124M",
    },
    "recorded/resnet50": {"breaks": "Logits of an image classifier.", "source": "recorded, ResNet-50"},
}

# name, framework, loss, claim for 32 and 64 bits, form
IMPLEMENTATIONS = (
    ("numpy_log1p", "numpy", CE, "relative", "log1p"),
    ("numpy_shifted_log_sum", "numpy", CE, "absolute", "stable"),
    ("numpy_lse_minus_target", "numpy", CE, "absolute", "stable"),
    ("numpy_clipped_1e_7", "numpy", CE, "inaccurate", "clipped"),
    ("numpy_clipped_1e_15", "numpy", CE, "inaccurate", "clipped"),
    ("numpy_naive", "numpy", CE, "inaccurate", "naive"),
    ("scipy_logsumexp", "numpy", CE, "absolute", "stable"),
    ("scipy_log_softmax", "numpy", CE, "absolute", "stable"),
    ("torch_log1p", "torch", CE, "relative", "log1p"),
    ("torch_cross_entropy", "torch", CE, "absolute", "stable"),
    ("torch_cross_entropy_loss_module", "torch", CE, "absolute", "stable"),
    ("torch_log_softmax_nll", "torch", CE, "absolute", "stable"),
    ("torch_logsumexp_gather", "torch", CE, "absolute", "stable"),
    ("torch_compile", "torch", CE, "absolute", "stable"),
    ("torch_clipped_1e_7", "torch", CE, "inaccurate", "clipped"),
    ("torch_naive", "torch", CE, "inaccurate", "naive"),
    ("liger_cross_entropy", "torch", CE, "absolute", "stable"),
    ("optax_softmax_cross_entropy", "jax", CE, "absolute", "missing"),
    ("jax_log_softmax", "jax", CE, "absolute", "missing"),
    ("numpy_bce_stable", "numpy", BCE, "absolute", "stable"),
    ("numpy_bce_naive", "numpy", BCE, "inaccurate", "naive"),
    ("torch_bce_with_logits", "torch", BCE, "absolute", "stable"),
    ("torch_bce_naive", "torch", BCE, "inaccurate", "naive"),
    ("torch_bce_logsigmoid", "torch", BCE, "absolute", "stable"),
)  # fmt: skip

BAD_FOR = {
    "naive": {"overflow_edge", "underflow_edge", "common_offset", "wide", "confident", "subnormal", "mixed_scales"},
    "clipped": {"underflow_edge", "wide", "confident", "tail_mass", "recorded/gpt2"},
}


def make_run(
    *,
    dtypes: Sequence[str] = DTYPES,
    families: Mapping[str, Mapping[str, Any]] = FAMILIES,
    implementations: Sequence[tuple[str, str, str, str, str]] = IMPLEMENTATIONS,
    timings: bool = True,
    complete: bool = True,
    seed: int = 20240607,
) -> Run:
    """A run with grades of every kind, non-finite results, skips, known failures and, if asked for, timings."""
    rng = random.Random(seed)
    results = [
        result
        for entry in implementations
        for dtype in dtypes
        if dtype in _dtypes_of(entry[1])
        for family in families
        if not (entry[2] == BCE and family in {"tail_mass", "one_class", "two_classes"})
        for what in ("loss", "gradient")
        if (result := _result(rng, entry, dtype, family, what)) is not None
    ]
    losses = {entry[2] for entry in implementations}
    return Run(
        environment=ENVIRONMENT,
        results=tuple(results),
        families={name: {**entry, "losses": sorted(losses)} for name, entry in families.items()},
        implementations=tuple(_declared(entry) for entry in implementations),
        timings=_timings(rng, implementations) if timings else (),
        complete=complete,
    )


ENVIRONMENT = {
    "versions": {
        "cross-entropy-harness": "0.1.0",
        "numpy": "2.3.4",
        "scipy": "1.16.2",
        "torch": "2.13.0",
        "mpmath": "1.3.0",
    },
    "python": "3.12.4",
    "platform": "Linux-6.8-x86_64-glibc2.39",
    "cpu": "AMD EPYC 9654",
    "cores": 16,
    "threads": {"torch": 8, "openblas": 8},
    "commit": "9fe1770c5b1d",
    "seed": 20240607,
    "started": "2024-06-07T03:12:45Z",
}


def _dtypes_of(framework: str) -> tuple[str, ...]:
    return DTYPES[:2] if framework == "numpy" else DTYPES


def _declared(entry: tuple[str, str, str, str, str]) -> dict[str, Any]:
    name, framework, loss, claim, form = entry
    known = (
        KnownFailure(("tail_mass",), "The tail is absorbed.", "pytorch/pytorch#11752")
        if name == "torch_compile"
        else None
    )
    declaration = Declaration(
        name=name,
        framework=framework,
        loss=loss,
        grades={dtype: Grade(_claim(claim, dtype)) for dtype in _dtypes_of(framework)},
        requires={"optax": "optax>=0.2"} if name.startswith("optax") else {},
        known_failures=(known,) if known else (),
        summary=f"The {form} form, in {framework}.",
    )
    missing = form == "missing"
    reason = "jax is not installed: pip install 'cross-entropy-harness[jax]'" if missing else ""
    return {**declaration.to_json(), "available": not missing, "reason": reason}


def _claim(claim: str, dtype: str) -> str:
    return "storage" if dtype in DTYPES[2:] and claim == "absolute" else claim


def _result(
    rng: random.Random, entry: tuple[str, str, str, str, str], dtype: str, family: str, what: str
) -> Result | None:
    name, framework, loss, claim, form = entry
    if name.startswith("scipy") and what == "gradient":
        return None
    claimed = _claim(claim, dtype)
    base: dict[str, Any] = {
        "implementation": name, "framework": framework, "loss": loss, "dtype": dtype, "device": "cpu",
        "backend": "triton-interpreter" if name.startswith("liger") else "native", "family": family, "what": what,
    }  # fmt: skip
    if form == "missing":
        return None
    if name == "torch_bce_logsigmoid" and family == "masked":
        return Result(**base, rows=64, judged=0, claimed=claimed, grade=None, outcome=Outcome.SKIPPED,
                      detail="does not claim masked classes")  # fmt: skip
    if name == "liger_cross_entropy" and family == "subnormal" and dtype == "float64":
        return Result(**base, rows=64, judged=0, claimed=claimed, grade=None, outcome=Outcome.RAISED,
                      detail="RuntimeError: <kernel> expects float32 & bfloat16, got float64")  # fmt: skip
    return _measured(rng, base, claimed, form, name)


def _measured(rng: random.Random, base: dict[str, Any], claimed: str, form: str, name: str) -> Result:
    family, dtype, what = base["family"], base["dtype"], base["what"]
    bad = family in BAD_FOR.get(form, ()) and not (dtype == "float64" and family in {"wide", "confident"})
    infinite = bad and form == "naive" and family in {"overflow_edge", "common_offset", "wide"}
    known = name in {"torch_compile", "torch_cross_entropy"} and family == "tail_mass" and dtype == "float32"
    failing = (name, family, what) == ("numpy_lse_minus_target", "common_offset", "loss")
    if form == "log1p":
        grade = Grade.FAITHFUL if family in {"one_class", "two_classes", "moderate"} else Grade.RELATIVE
    elif bad or known or failing:
        grade = Grade.INACCURATE
    elif dtype in DTYPES[2:]:
        grade = Grade.STORAGE if rng.random() < 0.7 else Grade.ABSOLUTE
    else:
        grade = Grade.RELATIVE if family in {"moderate", "two_classes"} else Grade.ABSOLUTE
    ratio = 10 ** rng.uniform(-2.5, -0.4) if grade is not Grade.INACCURATE else 10 ** rng.uniform(1, 8)
    outcome = Outcome.PASSED
    if known:
        outcome = (
            Outcome.UNEXPECTED_PASS if name == "torch_cross_entropy" and what == "gradient" else Outcome.KNOWN_FAILURE
        )
        grade = Grade.ABSOLUTE if outcome is Outcome.UNEXPECTED_PASS else grade
    elif not grade.meets(Grade(claimed)):
        outcome = Outcome.FAILED
    elif family == "common_offset" and dtype in DTYPES[2:]:
        outcome, ratio = Outcome.NOT_JUDGED, 0.0
    elif infinite:
        outcome = Outcome.KNOWN_FAILURE
    nan = infinite and what == "gradient"
    got = ("nan" if nan else "inf") if infinite else _round(rng.uniform(0, 12), dtype).hex()
    size = float("nan") if nan else float("inf") if infinite else ratio * UNIT[dtype] * rng.uniform(1, 40)
    # Witnesses come from the rows of one batch per family and dtype, so that several results share a row.
    row = rng.randrange(12)
    own = random.Random(f"{family} {dtype} {row}")
    logits = [_round(own.gauss(0, 8), dtype).hex() for _ in range(own.choice((2, 3, 12, 200)))]
    return Result(
        **base,
        rows=64,
        judged=0 if outcome is Outcome.NOT_JUDGED else 64 if dtype in DTYPES[:2] else rng.choice((40, 58, 64)),
        claimed=claimed,
        grade=grade,
        outcome=outcome,
        max_ulp=float("inf") if infinite else ratio * rng.uniform(1, 200),
        max_abs=size,
        max_rel=None if family == "one_class" else size,
        max_bound_ratio=float("inf") if infinite else ratio,
        bound_ratios={"relative": ratio * 900, "absolute": ratio, "storage": ratio / 3000},
        nonfinite=rng.randint(1, 64) if infinite else 0,
        negative=rng.randint(0, 3) if bad and what == "loss" and not infinite else 0,
        witness={"family": family, "seed": 1, "row": row, "column": 1 if what == "gradient" else None, "dtype": dtype,
                 "classes": len(logits), "target": 1, "upstream": _round(own.gauss(0, 1), dtype).hex(), "got": got,
                 "want": rng.uniform(0, 12).hex(), "want_low": "0x0.0p+0", "logits": logits, "options": {}},
        output_dtype=dtype,
        detail="The tail is absorbed term by term." if known else "exp overflows" if infinite else
               f"{ratio:.3g} times the absolute bound" if outcome is Outcome.FAILED else "",
        thread="pytorch/pytorch#11752" if known else "",
    )  # fmt: skip


def _round(value: float, dtype: str) -> float:
    """Rounded to about the format's precision, so that the hexadecimal form is as short as a real one."""
    scale = 0.25 / UNIT[dtype]
    return round(value * scale) / scale


def _timings(rng: random.Random, implementations: Sequence[tuple[str, str, str, str, str]]) -> tuple[Timing, ...]:
    made = []
    for dtype, shape in (("float32", (4096, 1000)), ("float32", (64, 128256)), ("bfloat16", (64, 128256))):
        base = tuple(0.004 * (1 + 0.1 * rng.random()) for _ in range(9))
        for name, framework, loss, _, form in implementations:
            if loss != CE or form == "missing" or dtype not in _dtypes_of(framework):
                continue
            factor = 1.0 if name == "torch_cross_entropy" else 10 ** rng.uniform(-0.25, 1.4)
            seconds = tuple(b * factor * (1 + 0.15 * rng.random() * (factor != 1)) for b in base)
            ratios = sorted(s / b for s, b in zip(seconds, base, strict=True))
            whats = ("forward + backward", "forward") if name == "torch_cross_entropy" else ("forward + backward",)
            whats = ("forward",) if name.startswith("scipy") else whats
            failed = name == "torch_compile" and dtype == "bfloat16"
            middle = None if failed else ratios[4]
            made += [
                Timing(name, framework, loss, dtype, "cpu", what, shape, () if failed else seconds,
                       "torch_cross_entropy", middle, "compiler not found" if failed else "")
                for what in whats
            ]  # fmt: skip
    return tuple(made)
