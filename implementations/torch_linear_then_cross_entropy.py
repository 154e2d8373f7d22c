"""F.linear, then F.cross_entropy: the two calls that fused forms stand for, and what they are compared with.

Good: nothing new. Bad: the logits are whole in memory, in the input's format: in 16 bits each is off by half an ulp of
its own before the loss begins; and what `torch_cross_entropy` loses is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.declaration import implementation

if TYPE_CHECKING:
    from torch import Tensor


@implementation(
    framework="torch",
    loss="linear_cross_entropy",
    grade={"float64": "absolute", "float32": "absolute", "bfloat16": "storage", "float16": "storage"},
    targets=("indices", "probabilities"),
)
def torch_linear_then_cross_entropy(
    hidden: Tensor,
    projection: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """F.linear, then F.cross_entropy: what the fused forms are compared with."""
    import torch.nn.functional as F

    return F.cross_entropy(
        F.linear(hidden, projection, linear_bias),
        target,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
