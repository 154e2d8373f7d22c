"""torch.logsumexp(z) − z_y.

Good: never overflows, and keeps no [N, V] log-probabilities. Bad: lse is rounded to the size of the largest logit
before z_y is taken away, so a common offset of all logits eats the loss.
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
def torch_logsumexp_gather(logits: Tensor, target: Tensor) -> Tensor:
    """Log-sum-exp minus the target's logit."""
    import torch

    return torch.logsumexp(logits, dim=1) - logits.gather(1, target[:, None])[:, 0]
