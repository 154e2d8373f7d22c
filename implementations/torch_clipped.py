"""−log(clamp(softmax(z)_y, 1e-7, 1 − 1e-7)) in torch.

Good: always finite in float32. Bad: the loss saturates at 16.1 and autograd gives a zero gradient beyond, so the worst
rows teach nothing. In 16 bits the upper end does nothing, because 1 − 1e-7 rounds to 1; in float16 1e-7 is
subnormal too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.declaration import KnownFailure, implementation

if TYPE_CHECKING:
    from torch import Tensor


@implementation(
    framework="torch",
    loss="cross_entropy",
    devices=("cpu", "cuda"),
    grade={"float64": "absolute", "float32": "absolute", "bfloat16": "storage", "float16": "storage"},
    known_failures=(
        KnownFailure(
            ("confident", "one_class", "tail_mass", "masked"),
            "A probability above 1 − ε is replaced by it: no loss is below ε, and the gradient is zero.",
            "keras-team/keras#9664",
            dtypes=("float64", "float32"),
        ),
        KnownFailure(
            (
                "uniform_128256",
                "common_offset_random",
                "ties",
                "masked",
                "recorded/ocr_8210",
                "recorded/charlm_trained",
            ),
            "In float16 1/p overflows for p below 1.5e-5: the gradient is NaN before the clip is reached.",
            dtypes=("float16",),
            what=("gradient",),
        ),
        KnownFailure(
            (
                "wide",
                "worst_cases_*",
                "mixed_scales",
                "underflow_edge",
                "format_maximum",
                "wrong_confident",
                "masked",
                "two_classes",
                "recorded/charlm_diverging",
            ),
            "A probability below ε is replaced by ε: the loss saturates at −log ε and its gradient is zero.",
            "keras-team/keras#17634",
        ),
    ),
)
def torch_clipped(logits: Tensor, target: Tensor) -> Tensor:
    """Softmax clamped to [1e-7, 1 − 1e-7], then the logarithm."""
    import torch

    p = torch.softmax(logits, dim=1).gather(1, target[:, None])[:, 0]
    return -torch.log(p.clamp(1e-7, 1 - 1e-7))
