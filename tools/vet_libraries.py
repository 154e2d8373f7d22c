"""Vet the libraries' own losses (examples/libraries), and write what comes out as docs/libraries.md.

    python tools/vet_libraries.py [--only PATTERN] [--quick] [--seed S] [-o docs/libraries.md]

Every failure and every deviation must have an explanation here: exit status 1 where one has none, which is how a new
release that behaves differently is noticed.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness.environment import describe_environment  # noqa: E402
from harness.files import write_atomically  # noqa: E402
from harness.vetting.settings import Options  # noqa: E402
from harness.vetting.verdict import Verdict  # noqa: E402
from harness.vetting.vet import vet  # noqa: E402

DOCUMENT = ROOT / "docs" / "libraries.md"
FOLDER = ROOT / "examples" / "libraries"
PACKAGES = ("torch", "jax", "jaxlib", "optax", "scipy", "scikit-learn", "numpy")

BCE = {"loss": "binary_cross_entropy_with_logits", "target": "probabilities"}
PROBABILITIES = {"target": "probabilities"}
SCIPY = {"gradient": "scipy_softmax_gradient"}

LIBRARIES: dict[str, tuple[str, dict[str, Any]]] = {
    "torch_losses.py:cross_entropy": ("`torch.nn.functional.cross_entropy`, class indices", {}),
    "torch_losses.py:cross_entropy_of_probabilities": ("the same, class probabilities", PROBABILITIES),
    "torch_losses.py:CrossEntropyLoss": ("`torch.nn.CrossEntropyLoss`", {}),
    "torch_losses.py:log_softmax_and_nll": ("`log_softmax`, then `nll_loss`", {}),
    "torch_losses.py:bce_with_logits": ("`torch.nn.functional.binary_cross_entropy_with_logits`", BCE),
    "jax_losses.py:log_softmax": ("`jax.nn.log_softmax` at the target", {}),
    "jax_losses.py:logsumexp": ("`jax.nn.logsumexp` minus the target's logit", {}),
    "jax_losses.py:optax_integer_labels": ("`optax.softmax_cross_entropy_with_integer_labels`", {}),
    "jax_losses.py:optax_probabilities": ("`optax.softmax_cross_entropy`", PROBABILITIES),
    "jax_losses.py:optax_sigmoid": ("`optax.sigmoid_binary_cross_entropy`", BCE),
    "numpy_losses.py:scipy_log_softmax": ("`scipy.special.log_softmax` at the target", SCIPY),
    "numpy_losses.py:scipy_logsumexp": ("`scipy.special.logsumexp` minus the target's logit", SCIPY),
    "numpy_losses.py:sklearn_log_loss": ("`sklearn.metrics.log_loss` of `scipy.special.softmax`", {}),
}
"""Candidate → what it is, and how to vet it."""


@dataclass(frozen=True)
class Explanation:
    """Why a candidate (a pattern) fails a check or deviates, in which dtypes, and where that is discussed upstream."""

    candidate: str
    checks: tuple[str, ...]
    text: str
    thread: str = ""
    dtypes: tuple[str, ...] = ()

    def fits(self, candidate: str, check: str, dtype: str) -> bool:
        """Whether this explains a finding."""
        return (
            fnmatchcase(candidate, self.candidate)
            and any(fnmatchcase(check, pattern) for pattern in self.checks)
            and (not self.dtypes or dtype in self.dtypes)
        )


SIXTEEN = ("bfloat16", "float16")
EXPLANATIONS: tuple[Explanation, ...] = (
    Explanation(
        "torch_losses.py:bce_with_logits",
        ("infinite_logits",),
        "The other outcome's logarithm is -∞ for an infinite logit, and 0 · -∞ is NaN.",
        "pytorch/pytorch#49844",
    ),
    Explanation(
        "torch_losses.py:*",
        ("gradient_accuracy", "accuracy", "nonfinite", "sizes"),
        "The CPU kernel of log_softmax sums the exponentials of float16 logits in float16, which overflows from 65,520 "
        "equal classes on: the loss is ∞ (NaN for probabilities), the gradient 0. No thread is known. The same rows in "
        "bfloat16, or after `.float()`, are right.",
        dtypes=("float16",),
    ),
    Explanation(
        "torch_losses.py:*",
        ("ignored_nan",),
        "The gradient of an ignored row is its softmax times 0, and NaN · 0 is NaN. The other rows stay clean.",
    ),
    Explanation(
        "torch_losses.py:*",
        ("target_gradient_lost",),
        "The logarithm of the probability is rounded to 16 bits, so that p - 1 is 0 from p = 0.998 on in bfloat16; the "
        "same absorption loses the last digits in float64.",
        "pytorch/pytorch#195678",
    ),
    Explanation(
        "jax_losses.py:optax_sigmoid",
        ("infinite_logits",),
        "The other outcome's logarithm is -∞ for an infinite logit, and 0 · -∞ is NaN.",
        "google-deepmind/optax#896",
    ),
    Explanation(
        "jax_losses.py:*",
        ("gradient_accuracy", "accuracy", "nonfinite", "sizes"),
        "Exponentials of float16 logits are summed in float16, which overflows from 65,520 equal classes on: the loss "
        "is ∞ (NaN for probabilities), the gradient 0.",
        "jax-ml/jax#40409",
        dtypes=("float16",),
    ),
    Explanation(
        "jax_losses.py:*",
        ("target_gradient_lost",),
        "The logarithm of the probability is rounded to 16 bits, so that p - 1 is 0 at high confidence.",
        "jax-ml/jax#13529",
    ),
    Explanation(
        "jax_losses.py:*",
        ("label_out_of_range",),
        "XLA cannot raise: a label beyond the classes gives NaN, a negative one counts from the end, as in NumPy.",
        "google-deepmind/optax#1185",
    ),
    Explanation("jax_losses.py:*", ("flush_to_zero",), "XLA flushes subnormal numbers to zero on the CPU."),
    Explanation(
        "jax_losses.py:optax_probabilities",
        ("zero_mass_on_masked_class",),
        "Every class's logarithm is multiplied by its target, and 0 · -∞ is NaN; `optax.safe_softmax_cross_entropy` "
        "leaves such classes out.",
        "google-deepmind/optax#896",
    ),
    Explanation(
        "torch_losses.py:*",
        ("zero_mass_on_masked_class",),
        "Every class's logarithm is multiplied by its target, and 0 · -∞ is NaN. No thread is known for torch.",
    ),
    Explanation(
        "*",
        ("plus_inf",),
        "Conventions differ on a logit of +∞: ∞ - ∞ is NaN in the model, as in torch; forms that subtract the target's "
        "finite logit from an infinite log-sum-exp say ∞, and scikit-learn refuses.",
    ),
    Explanation("*", ("storage_grade",), "Intermediate results are rounded to the input's 16 bits.", dtypes=SIXTEEN),
    Explanation(
        "numpy_losses.py:scipy_*",
        ("label_out_of_range",),
        "NumPy's own indexing takes the target's logit here, and a negative index counts from the end.",
    ),
    Explanation(
        "numpy_losses.py:sklearn_log_loss",
        ("accuracy", "masked_classes", "target_on_masked_class"),
        "Probabilities are clipped at ε of their dtype: a row's loss ends at -log ε, which is 36.04 in float64 and "
        "15.94 in float32.",
        "scikit-learn/scikit-learn#17399",
    ),
    Explanation(
        "numpy_losses.py:sklearn_log_loss",
        ("crash", "sizes"),
        "Labels of a single class are refused with an error.",
        "scikit-learn/scikit-learn#18523",
    ),
    Explanation(
        "numpy_losses.py:sklearn_log_loss",
        ("nan_raises", "empty_batch"),
        "Its input is validated: NaN and an empty array raise.",
    ),
    Explanation("numpy_losses.py:sklearn_log_loss", ("wider_output",), "A metric is a Python float, which is float64."),
)


@dataclass(frozen=True)
class Found:
    """One candidate's verdict, and the seconds that it took."""

    candidate: str
    verdict: Verdict
    seconds: float

    @property
    def findings(self) -> list[tuple[str, str, str, str]]:
        """(kind, check, dtype, detail) of every failure and every deviation."""
        failed = [("failed", check.name, check.dtype, check.detail) for check in self.verdict.failed]
        return failed + [("deviation", d.check, d.dtype, d.detail) for d in self.verdict.deviations]

    @property
    def unexplained(self) -> list[str]:
        """The findings that no explanation fits, in words."""
        return [
            f"{self.candidate}: {kind} {check} in {dtype}: {detail}"
            for kind, check, dtype, detail in self.findings
            if not explained(self.candidate, check, dtype)
        ]


def explained(candidate: str, check: str, dtype: str) -> Explanation | None:
    """The first explanation that fits."""
    return next((e for e in EXPLANATIONS if e.fits(candidate, check, dtype)), None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Vet, print, write; the exit status."""
    asked = _parse(arguments)
    seed = secrets.randbelow(2**32) if asked.seed is None else asked.seed
    found = []
    for candidate, (_, options) in LIBRARIES.items():
        if fnmatchcase(candidate, asked.only):
            start = time.monotonic()
            verdict = vet(f"{FOLDER / candidate}", Options(seed=seed, quick=asked.quick, shrink=False, **options))
            found.append(Found(candidate, verdict, time.monotonic() - start))
            print(f"{candidate}: {verdict.verdict}, {verdict.message} ({found[-1].seconds:.0f} s)", flush=True)
    unexplained = [words for f in found for words in f.unexplained]
    print("\n".join(f"unexplained: {words}" for words in unexplained))
    output = asked.output or (DOCUMENT if asked.only == "*" else None)
    if output:
        write_atomically(output, document(found, seed, asked.quick).encode())
        print(f"page: {output}")
    return 1 if unexplained else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="candidates such as 'torch_losses.py:*'")
    parser.add_argument("--quick", action="store_true", help="leave out what takes long")
    parser.add_argument("--seed", type=int, help="what every input is drawn from; fresh by default")
    parser.add_argument("-o", "--output", type=Path, help=f"where the page goes; {DOCUMENT.name} if all is vetted")
    return parser.parse_args(arguments)


def document(found: Sequence[Found], seed: int, quick: bool) -> str:
    """The page as Markdown."""
    versions = describe_environment(seed, 1).get("versions", {})
    named = ", ".join(f"{k} {v}" for k, v in sorted(versions.items()) if k in PACKAGES)
    how = "`--quick`" if quick else "in full"
    parts = [
        "# What vetting says of the libraries\n",
        f"Generated by `python tools/vet_libraries.py`, vetted {how}, seed {seed}, with {named}: do not edit. The "
        "candidates are in [examples/libraries](../examples/libraries). A *deviation* is a legitimate difference in "
        "convention, and no failure without `--strict`. Where a library is rejected, it is really wrong there, in that "
        "dtype; the others count.\n",
        "| loss | candidate | verdict | because of | grade by dtype |",
        "|---|---|---|---|---|",
    ]
    for f in found:
        grades = ", ".join(f"{dtype} {grade}" for dtype, grade in f.verdict.grades.items())
        because = ", ".join(dict.fromkeys(check.dtype for check in f.verdict.failed))
        name = f"{LIBRARIES[f.candidate][0]} | `{f.candidate}`"
        parts.append(f"| {name} | **{f.verdict.verdict}** | {because} | {grades} |")
    for f in found:
        parts += ["", f"## {LIBRARIES[f.candidate][0]}\n", *_findings(f)]
    return "\n".join(parts) + "\n"


def _findings(found: Found) -> list[str]:
    """One line for each explanation, with the checks and dtypes that it explains, and what was seen first."""
    groups: dict[Explanation | None, list[tuple[str, str, str, str]]] = {}
    for finding in found.findings:
        groups.setdefault(explained(found.candidate, finding[1], finding[2]), []).append(finding)
    lines = []
    for explanation, group in groups.items():
        kind = "Fails" if any(g[0] == "failed" for g in group) else "Deviates"
        checks = ", ".join(f"`{check}`" for check in dict.fromkeys(g[1] for g in group))
        dtypes = ", ".join(dict.fromkeys(g[2] for g in group))
        text = explanation.text if explanation else "Not explained."
        thread = _link(explanation.thread) if explanation and explanation.thread else ""
        lines.append(f"- **{kind}** {checks} in {dtypes}. {text}{thread}\n  Seen: {group[0][3]}")
    return lines or ["Nothing to report: every check passed, and no convention differs."]


def _link(thread: str) -> str:
    repository, _, number = thread.partition("#")
    return f" ([{thread}](https://github.com/{repository}/issues/{number}))"


if __name__ == "__main__":
    sys.exit(main())
