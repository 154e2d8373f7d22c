"""Liger's fused linear cross-entropy (liger-kernel): a few rows' logits at a time, by torch, then its Triton kernel.

Good: logits are never whole in memory, and their gradient takes their place. Bad: both are stored in the input's
format, and so is, in 16 bits, the projection's gradient between one chunk of rows and the next (``accum_dtype=None``,
Liger's default); the kernel's sum contains its largest term, as in `liger_cross_entropy`. With an upstream gradient per
row everything is computed once more in the backward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.declaration import implementation

if TYPE_CHECKING:
    from torch import Tensor


@implementation(
    framework="triton",
    loss="linear_cross_entropy",
    grade={"float32": "absolute", "bfloat16": "storage", "float16": "storage"},
    devices=("cpu", "cuda"),
    requires={"liger_kernel": "liger-kernel==0.8.5"},
)
def liger_linear_cross_entropy(
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
    """Liger's fused linear cross-entropy, with its own defaults."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy as fused

    result: Tensor = fused(
        hidden,
        projection,
        target,
        bias=linear_bias,
        ce_weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
    return result
