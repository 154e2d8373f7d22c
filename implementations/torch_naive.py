"""−log(softmax(z))[y] in torch.

Good: torch's softmax is shifted, so nothing overflows. Bad: p_y underflows for a gap of 104 in float32 (745 in float64,
17 in float16): the loss is ∞ and its gradient NaN. The logarithm is taken of every class, so that any class of
probability 0, a masked one too, makes the row's gradient NaN. A loss below u comes out as a multiple of u, or 0.
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
            ("uniform_128256", "common_offset_random", "confident", "tail_mass", "masked", "recorded/*"),
            "In float16 1/p, which autograd forms for every class, overflows for p below 1.5e-5: the gradient is NaN.",
            dtypes=("float16",),
        ),
        KnownFailure(
            ("masked", "format_maximum", "ties"),
            "The logarithm is taken of every class: one whose probability is 0 makes the whole row's gradient 0·∞.",
            what=("gradient",),
        ),
        KnownFailure(
            (
                "wide",
                "worst_cases_*",
                "mixed_scales",
                "underflow_edge",
                "wrong_confident",
                "two_classes",
                "recorded/charlm_diverging",
            ),
            "The target's probability underflows: log(0) is −∞, and its gradient is 0·∞.",
        ),
    ),
)
def torch_naive(logits: Tensor, target: Tensor) -> Tensor:
    """Softmax, then the logarithm."""
    import torch

    return -torch.log(torch.softmax(logits, dim=1)).gather(1, target[:, None])[:, 0]
