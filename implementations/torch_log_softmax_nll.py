"""F.nll_loss(F.log_softmax(z), y): what F.cross_entropy does for class indices, in two steps.

Good and bad as torch_cross_entropy: safe against overflow and offsets, blind to a tail below u.
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
            ("uniform_128256",),
            "The CPU kernel sums in float16, which overflows from 65,520 equal classes on: the loss is ∞.",
            dtypes=("float16",),
        ),
    ),
)
def torch_log_softmax_nll(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Log-softmax, then the negative log-likelihood."""
    import torch.nn.functional as F

    return F.nll_loss(F.log_softmax(logits, dim=1), target, weight, ignore_index=ignore_index, reduction=reduction)
