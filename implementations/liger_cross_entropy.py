"""Liger's fused Triton kernel (liger-kernel): the gradient computed in the forward, over the logits themselves.

Good: nothing of size [N, V] is made, and the backward only scales. Bad: the sum contains its largest term, exactly 1,
which absorbs a tail below u; the loss is log-sum-exp minus a logit, so that a common offset costs digits, and is stored
in the logits' format; and a forward that a backward may follow overwrites the logits. Here the kernel gets a copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.declaration import Kernel, implementation

if TYPE_CHECKING:
    from torch import Tensor

_NONE = dict.fromkeys(("z_loss_ptr", "token_accuracy_ptr", "predicted_tokens_ptr"))
_NO = dict.fromkeys(("RETURN_Z_LOSS", "RETURN_TOKEN_ACCURACY", "RETURN_PREDICTED_TOKENS", "HAS_SOFTCAPPING"), False)


def _kernel(dtype: str, warps: int, *targets: str, weighted: bool = False) -> Kernel:
    """The kernel as it is launched for V = 32,000 and beyond, unreduced and with gradients."""
    arguments: dict[str, Any] = {
        "X_ptr": f"*{dtype}:16",
        "X_stride": "i32",
        "Y_ptr": "*i64:16",
        "Y_stride": 1,
        "weight_ptr": f"*{dtype}:16" if weighted else None,
        "loss_ptr": f"*{dtype}:16",
        **_NONE,
        "loss_stride": 1,
        "token_accuracy_stride": "i32",
        "predicted_tokens_stride": "i32",
        "n_cols": "i32",
        "n_non_ignore": "i32",
        "sum_non_ignore_weight": "fp32" if weighted else "i32",
        "weight_sum": "fp32",
        "ignore_index": "i32",
        "lse_square_scale": 0.0,
        "label_smoothing": 0.1 if weighted else 0.0,
        "reduction": "none",
        "softcap": None,
        **_NO,
        "BLOCK_SIZE": 32768,
        "HAS_WEIGHT": weighted,
        "HAS_GRADIENTS": True,
    }
    name = f"forward and gradient {dtype}" + (", weight and smoothing" if weighted else "") + f", {warps} warps"
    return Kernel(
        name, "liger_kernel.ops.cross_entropy:liger_cross_entropy_kernel", arguments, {"num_warps": warps}, targets
    )


# How many warps it takes depends on the device.
_KERNELS = (
    _kernel("fp32", 32, "sm_80", "sm_90", "sm_100", "sm_120"),
    _kernel("fp32", 16, "gfx942"),
    _kernel("bf16", 32, "sm_80", "sm_90"),
    _kernel("bf16", 8, "sm_100", "sm_120"),
    _kernel("bf16", 16, "gfx942"),
    _kernel("bf16", 32, "sm_80", "sm_90", weighted=True),
)


@implementation(
    framework="triton",
    loss="cross_entropy",
    grade={"float32": "absolute", "bfloat16": "absolute", "float16": "absolute"},
    devices=("cpu", "cuda"),
    requires={"liger_kernel": "liger-kernel==0.8.5"},
    kernels=_KERNELS,
)
def liger_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    softcap: float = 0.0,
    z_loss: float = 0.0,
) -> Tensor:
    """Liger's fused kernel, on a copy of the logits, which it overwrites with their gradient."""
    from liger_kernel.transformers.functional import liger_cross_entropy as fused

    result: Tensor = fused(
        logits.clone(),
        target,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
        lse_square_scale=z_loss,
        softcap=softcap or None,
    )
    return result
