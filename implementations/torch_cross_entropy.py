"""torch.nn.functional.cross_entropy and its module: −Σ w_j q_j log_softmax(z)_j.

Good: every option, never overflows, a common offset costs nothing. Bad: the sum of exponentials contains its largest
term, exactly 1, which absorbs a tail below u: in float32 a gap of 20 has loss 0, and the target's gradient is lost at
high confidence (pytorch/pytorch#195678). In 16 bits the log-probabilities are rounded to the input's format.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.declaration import KnownFailure, implementation

if TYPE_CHECKING:
    from torch import Tensor

_GRADES = {"float64": "absolute", "float32": "absolute", "bfloat16": "storage", "float16": "storage"}
_KNOWN_FAILURES = (
    KnownFailure(
        ("uniform_128256",),
        "The CPU kernel sums in float16, which overflows from 65,520 equal classes on: the loss is ∞.",
        dtypes=("float16",),
    ),
)


@implementation(
    framework="torch",
    loss="cross_entropy",
    devices=("cpu", "cuda"),
    grade=_GRADES,
    targets=("indices", "probabilities"),
    known_failures=_KNOWN_FAILURES,
)
def torch_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """torch.nn.functional.cross_entropy."""
    import torch.nn.functional as F

    return F.cross_entropy(
        logits,
        target,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )


@implementation(
    framework="torch",
    loss="cross_entropy",
    devices=("cpu", "cuda"),
    grade=_GRADES,
    targets=("indices", "probabilities"),
    known_failures=_KNOWN_FAILURES,
)
def torch_cross_entropy_module(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """torch.nn.CrossEntropyLoss."""
    from torch import nn

    loss = nn.CrossEntropyLoss(
        weight=weight, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction=reduction
    )
    result: Tensor = loss(logits, target)
    return result
