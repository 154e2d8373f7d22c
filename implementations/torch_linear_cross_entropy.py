"""A linear layer and cross-entropy in torch: F.linear_cross_entropy, whole and in chunks of rows.

Good: in chunks the logits are never whole in memory, and are kept in float32 where the input has 16 bits. Bad: whole,
they are stored in the input's format, so that in 16 bits a logit is off by half an ulp of its own before the loss
begins; and in all of them the sum of exponentials contains its largest term, as in `torch_cross_entropy`.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from harness.declaration import implementation

with suppress(ModuleNotFoundError):  # an older torch, which has no such name, is to be listed with the command instead
    from torch.nn import LinearCrossEntropyOptions

if TYPE_CHECKING:
    from torch import Tensor

_GRADES = {"float64": "absolute", "float32": "absolute", "bfloat16": "storage", "float16": "storage"}


@implementation(
    framework="torch",
    loss="linear_cross_entropy",
    grade=_GRADES,
    targets=("indices", "probabilities"),
    requires={"torch": "torch>=2.13"},
)
def torch_linear_cross_entropy(
    hidden: Tensor,
    projection: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """torch.nn.functional.linear_cross_entropy, whole: all logits at once."""
    import torch.nn.functional as F

    return F.linear_cross_entropy(
        hidden,
        projection,
        target,
        linear_bias=linear_bias,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )


@implementation(
    framework="torch",
    loss="linear_cross_entropy",
    grade=_GRADES,
    requires={"torch": "torch>=2.13"},
)
def torch_linear_cross_entropy_chunked(
    hidden: Tensor,
    projection: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """torch.nn.functional.linear_cross_entropy with LinearCrossEntropyOptions: a few rows' logits at a time."""
    import torch.nn.functional as F

    return F.linear_cross_entropy(
        hidden,
        projection,
        target,
        linear_bias=linear_bias,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        options=LinearCrossEntropyOptions(),
    )
