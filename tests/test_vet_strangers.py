"""No false alarm: what a stranger's right code may do beside the usual, and what is still not let through with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.families import make_batch
from harness.grades import Grade
from harness.reference import reference_of
from harness.vetting import maxima
from harness.vetting.guest import signature_of
from harness.vetting.settings import Options
from harness.vetting.source import CannotJudge
from harness.vetting.verdict import Verdict
from harness.vetting.vet import vet

LOSS = """
import math, sys
import numpy as np

def rows(z, y):
    with np.errstate(all="ignore"):
        shifted = z - z.max(axis=1, keepdims=True)
        return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(y)), y]

"""


def vetted(tmp_path: Path, code: str, *checks: str, dtype: str = "float32", **options: str) -> Verdict:
    path = tmp_path / "numpy_stranger.py"
    path.write_text(LOSS + code, encoding="utf-8")
    given = Options(dtypes=(dtype,), quick=True, seed=3, checks=checks, shrink=False, **options)  # type: ignore[arg-type]
    return vet(f"{path}:loss", given)


WITHOUT_DEFAULTS = """
def loss(z, y, weight, ignore_index, reduction):
    kept = y != ignore_index
    y = np.where(kept, y, 0)
    w = np.where(kept, 1 if weight is None else weight[y], 0).astype(z.dtype)
    each = np.where(kept, w * rows(np.where(kept[:, None], z, 0), y), 0).astype(z.dtype)
    if reduction == "none":
        return each
    return each.sum() if reduction == "sum" else each.sum() / w.sum()
"""
CHECKS = ("output_form", "accuracy", "option_weight", "option_ignore_index", "options_combined", "reduction")


def test_options_without_defaults_are_given_at_every_call(tmp_path: Path) -> None:
    found = vetted(tmp_path, WITHOUT_DEFAULTS, *CHECKS, "late_calls", "outside_the_harness")
    assert found.verdict == "accepted", found.message
    assert {c.name for c in found.checks if c.outcome == "passed"} >= {*CHECKS, "outside_the_harness"}


def test_a_wrong_one_of_them_is_rejected_with_code_that_gives_them(tmp_path: Path) -> None:
    wrong = WITHOUT_DEFAULTS.replace("return each\n", "return each * 1.01\n")
    found = vetted(tmp_path, wrong, "accuracy")
    (witness,) = (check.witness for check in found.failed if check.name == "accuracy")
    assert witness is not None
    assert witness["options"] == {"weight": None, "ignore_index": -100, "reduction": "none"}
    assert "weight=None, ignore_index=-100, reduction='none')" in witness["code"]


@pytest.mark.parametrize(
    ("parameters", "unset", "needs"),
    [
        ("weight, ignore_index=-100", ["weight"], []),
        ("reduction", [], []),
        ("pos_weight, /", [], ["pos_weight"]),
        ("*, label_smoothing, scale", ["label_smoothing"], ["scale"]),
    ],
)
def test_which_options_have_no_default(parameters: str, unset: list[str], needs: list[str]) -> None:
    names: dict[str, object] = {}
    exec(f"def f(z, y, {parameters}): ...\nclass C:\n def __init__(self, {parameters}): ...", names)
    for found, is_class in ((names["f"], False), (names["C"], True)):
        said = signature_of(found, is_class)  # type: ignore[arg-type]
        assert (said["unset"], said["needs"]) == (unset, needs)


def test_other_parameters_without_a_default_are_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(CannotJudge, match=r"contract does not give: scale; give them defaults, or vet a function"):
        vetted(tmp_path, "def loss(z, y, scale): return rows(z, y)")


def test_a_longdouble_is_a_wider_output(tmp_path: Path) -> None:
    found = vetted(tmp_path, "def loss(z, y): return rows(z.astype(np.longdouble), y)", "output_form", "accuracy")
    assert found.verdict == "accepted", found.message
    assert [deviation.check for deviation in found.deviations] == ["wider_output"]


@pytest.mark.parametrize(("factor", "failed"), [("1", set()), ("(1 + 1e-3)", {"accuracy", "masked_classes"})])
def test_a_wider_output_may_overflow_where_the_asked_for_would(factor: str, failed: set[str], tmp_path: Path) -> None:
    """In float64 the true losses of `format_maximum` are finite, in float32 they are not."""
    code = f"def loss(z, y): return rows(z, y).astype(np.float64) * {factor}"
    found = vetted(tmp_path, code, "accuracy", "nonfinite")
    assert {check.name for check in found.failed} == failed


INSIDE = """
def loss(z, y):
    inside = any(name.startswith("harness") for name in sys.modules)
    return rows(z, y) if inside else CHANGED
"""


@pytest.mark.parametrize(
    ("changed", "failed", "deviations"),
    [
        ("rows(z, y)", [], []),
        ("np.nextafter(rows(z, y), np.float32(9))", [], ["outside_the_harness"]),
        ("rows(z, y) * np.float32(1.001)", ["outside_the_harness"], []),
        ("rows(z, y)[:, None]", ["outside_the_harness"], []),
        ("rows(z, y).astype(float) + 1e-12", ["outside_the_harness"], []),
    ],
    ids=["the same", "its last bit", "a thousandth", "another shape", "another dtype"],
)
def test_other_results_outside_have_to_be_as_good(
    changed: str, failed: list[str], deviations: list[str], tmp_path: Path
) -> None:
    found = vetted(tmp_path, INSIDE.replace("CHANGED", changed), "outside_the_harness")
    assert [check.name for check in found.failed] == failed
    assert [deviation.check for deviation in found.deviations] == deviations


THROUGH = """
def loss(z, y):
    return rows(z, y)

def slope(z, y, upstream):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    g = p.copy()
    g[np.arange(len(y)), y] -= 1
    g[np.arange(len(y)), z.argmax(axis=1)] += np.where(z.shape[1] > 100, np.float32(RESIDUE), 0)
    return (g * upstream[:, None]).astype(z.dtype)
"""
ADVICE = "detach the maximum"


@pytest.mark.parametrize(("residue", "advised"), [("1e-6", True), ("1e-2", False)])
def test_a_residue_at_the_maximum_is_a_failure_and_small_ones_come_with_advice(
    residue: str, advised: bool, tmp_path: Path
) -> None:
    code = THROUGH.replace("RESIDUE", residue)
    found = vetted(tmp_path, code, "gradient_accuracy", gradient="slope")
    (detail,) = (check.detail for check in found.failed if check.name == "gradient_accuracy")
    assert (ADVICE in detail) is advised, detail


@pytest.mark.parametrize("entries", [1, 2])
def test_the_advice_is_for_one_entry_of_a_row(entries: int) -> None:
    batch = make_batch("uniform_1000", "cross_entropy", "float32", 0)
    reference = reference_of(batch)
    gradient, bad = reference.grad_hi.copy(), np.zeros(batch.logits.shape, bool)
    gradient[3, :entries] += 1e-7  # all logits are the largest, so that each could be meant
    bad[3, :entries] = True
    advice = maxima.advice(bad, gradient, batch, reference, Grade.ABSOLUTE)
    assert (ADVICE in advice) is (entries == 1)
