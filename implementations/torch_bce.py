"""Binary cross-entropy from logits in torch: F.binary_cross_entropy_with_logits, and sigmoid then BCELoss.

Stable: (1 − t) x + softplus(−x) with a log-sigmoid inside. Never overflows, but for x < 0 the two parts
cancel: x = −40, t = 0 has loss 0 where 4.2e-18 is true, although its mirror image x = 40, t = 1 has it. The gradient of
that mirror image is 0 (pytorch/pytorch#195529).

Naive: p = σ(x) rounds to 1 from x = 17 on in float32, and BCELoss clamps its logarithms at −100: finite, but wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.declaration import KnownFailure, implementation

if TYPE_CHECKING:
    from torch import Tensor

_FAILING = (
    "worst_cases_*",
    "moderate",
    "wide",
    "mixed_scales",
    "uniform",
    "overflow_edge",
    "underflow_edge",
    "format_maximum",
    "confident",
    "wrong_confident",
    "masked",
    "option_weight",
)


@implementation(
    framework="torch",
    devices=("cpu", "cuda"),
    loss="binary_cross_entropy_with_logits",
    grade={"float64": "absolute", "float32": "absolute", "bfloat16": "storage", "float16": "storage"},
    targets=("probabilities",),
    known_failures=(
        KnownFailure(
            ("masked",),
            "An infinite logit whose loss is 0 gives ∞ − ∞, or 0·∞: NaN.",
            "pytorch/pytorch#49844",
            what=("loss",),
        ),
    ),
)
def torch_bce_with_logits(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """torch.nn.functional.binary_cross_entropy_with_logits."""
    import torch.nn.functional as F

    return F.binary_cross_entropy_with_logits(logits, target, weight=weight, pos_weight=pos_weight, reduction=reduction)


@implementation(
    framework="torch",
    devices=("cpu", "cuda"),
    loss="binary_cross_entropy_with_logits",
    grade={"float64": "absolute", "float32": "absolute", "bfloat16": "storage", "float16": "storage"},
    targets=("probabilities",),
    known_failures=(
        KnownFailure(
            _FAILING,
            "BCELoss divides by p (1 − p) in float16, where it is 0 for p = 1: the gradient is 0/0.",
            dtypes=("float16",),
            what=("gradient",),
        ),
        KnownFailure(
            _FAILING,
            "1 − p has lost its digits long before p rounds to 1, and from there on the logarithm is clamped at −100.",
            "pytorch/pytorch#103316",
        ),
    ),
)
def torch_bce_naive(logits: Tensor, target: Tensor, *, weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """Sigmoid, then torch.nn.BCELoss."""
    import torch

    loss: Tensor = torch.nn.BCELoss(weight=weight, reduction=reduction)(torch.sigmoid(logits), target)
    return loss
