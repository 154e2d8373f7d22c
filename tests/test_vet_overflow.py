"""A loss that is rightly infinite: its gradient may be lost, and no other; one of another shape is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.vetting.settings import Options
from harness.vetting.vet import vet

SPILT = """
import numpy as np

def loss(z, y):
    with np.errstate(all="ignore"):
        shifted = z - z.max(axis=1, keepdims=True)
        return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(y)), y]

def gradient(z, y, upstream):
    with np.errstate(all="ignore"):
        e = np.exp(z - z.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    p *= upstream[:, None]
    p[loss(z, y) > LIMIT] = np.nan
    return p
"""


@pytest.mark.parametrize(("limit", "verdict"), [("3.4028235e38", "accepted"), ("1e37", "rejected")])
def test_a_gradient_may_be_lost_where_the_loss_is_rightly_infinite_and_nowhere_else(
    limit: str, verdict: str, tmp_path: Path
) -> None:
    path = tmp_path / "numpy_spilt.py"
    path.write_text(SPILT.replace("LIMIT", limit), encoding="utf-8")
    checks = ("accuracy", "gradient_accuracy", "nonfinite")
    options = Options(gradient="gradient", dtypes=("float32",), quick=True, seed=3, checks=checks, shrink=False)
    found = vet(f"{path}:loss", options)
    assert found.verdict == verdict
    assert [check.name for check in found.failed] == ([] if verdict == "accepted" else ["nonfinite"])
    assert "overflowed_gradient" in {deviation.check for deviation in found.deviations}


def test_a_gradient_of_another_shape_is_rejected_for_its_form(tmp_path: Path) -> None:
    """Its rows are not the batch's, so that none of them is a row whose loss is infinite."""
    path = tmp_path / "numpy_transposed.py"
    path.write_text(SPILT.replace("LIMIT", "np.inf").replace("return p", "return p.T"), encoding="utf-8")
    checks = ("accuracy", "gradient_accuracy", "nonfinite")
    options = Options(gradient="gradient", dtypes=("float32",), quick=True, seed=3, checks=checks, shrink=False)
    found = vet(f"{path}:loss", options)
    assert found.verdict == "rejected"
    assert {check.name for check in found.failed} == {"output_form", "masked_classes"}
    details = {check.name: check.detail for check in found.failed}
    assert "expected shape [11, 128], got [128, 11]" in details["output_form"]
