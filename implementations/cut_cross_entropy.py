"""Cut cross-entropy (cut-cross-entropy, Apple): logits block by block inside Triton kernels, never in memory.

Good: memory for neither logits nor their gradient; blocks of the gradient that are negligible everywhere are skipped.
Bad: which those are is decided by ``filter_eps``, by default a 32nd of the format's ε: a block of probabilities that
are all below it adds nothing to either gradient, however many there are and however large what they are multiplied by.
``filter_eps=None`` drops nothing. Both store the gradient of the logits in 16 bits; the backward knows no other format.
The target's logit is another dot product than those of the log-sum-exp: a confident row's loss may be negative.
``impl="torch_compile"`` is other code: `torch.compile` of a matrix product in the input's format and a cross-entropy in
float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.declaration import KnownFailure, implementation

if TYPE_CHECKING:
    from torch import Tensor

_REQUIRES = {"cut_cross_entropy": "cut-cross-entropy==25.1.1"}
_NARROW = {"bfloat16": "storage", "float16": "storage"}


@implementation(
    framework="triton",
    loss="linear_cross_entropy",
    grade=_NARROW,
    devices=("cpu", "cuda"),
    requires=_REQUIRES,
    known_failures=(
        KnownFailure(
            ("linear_many_small",),
            "filter_eps drops blocks of probabilities below a 32nd of ε, which together are most of the gradient here.",
            what=("gradient",),
        ),
    ),
    slow=True,
)
def cut_cross_entropy(
    hidden: Tensor, projection: Tensor, target: Tensor, *, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """Cut cross-entropy as it comes: small gradients are dropped (filter_eps)."""
    from cut_cross_entropy import linear_cross_entropy as cut

    result: Tensor = cut(hidden, projection, target, ignore_index=ignore_index, reduction=reduction)
    return result


@implementation(
    framework="triton", loss="linear_cross_entropy", grade=_NARROW, devices=("cpu", "cuda"), requires=_REQUIRES
)
def cut_cross_entropy_unfiltered(
    hidden: Tensor, projection: Tensor, target: Tensor, *, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """Cut cross-entropy with filter_eps=None: every gradient is computed."""
    from cut_cross_entropy import linear_cross_entropy as cut

    result: Tensor = cut(hidden, projection, target, ignore_index=ignore_index, reduction=reduction, filter_eps=None)
    return result


@implementation(
    framework="torch",
    loss="linear_cross_entropy",
    grade={"float32": "absolute", "bfloat16": "storage"},
    requires=_REQUIRES,
    slow=True,
)
def cut_cross_entropy_compiled(
    hidden: Tensor, projection: Tensor, target: Tensor, *, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """Cut cross-entropy's impl="torch_compile": a compiled matrix product and cross-entropy in float32."""
    from cut_cross_entropy import linear_cross_entropy as cut

    result: Tensor = cut(
        hidden, projection, target, ignore_index=ignore_index, reduction=reduction, impl="torch_compile"
    )
    return result
