"""flash-attn's Triton cross-entropy: online softmax over blocks of 16,384 classes, log-sum-exp kept for the backward.

Good: nothing of size [N, V] is made beside the gradient, the logits are left alone, and the loss is float32 whatever
they are; the target's entry is formed in float32 before it is rounded. Bad: log-sum-exp minus a logit, so that a common
offset costs digits; probabilities are exp(z − lse), which has the error of lse; and a first block that is masked as a
whole gives NaN (Dao-AILab/flash-attention#1930). float64 is computed in float32. There are no class weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.declaration import Kernel, implementation

if TYPE_CHECKING:
    from torch import Tensor

# Left to itself, the installation of the package compiles CUDA code, for up to hours. Its Triton kernels need none of
# it, with a GPU or without; FORCE_BUILD keeps it from looking for a build for the CUDA of a torch that has none.
_REQUIRES = {
    "flash_attn": "pip install wheel && FLASH_ATTENTION_FORCE_BUILD=TRUE FLASH_ATTENTION_SKIP_CUDA_BUILD=TRUE "
    "pip install --no-deps --no-build-isolation flash-attn==2.8.3"
}
_OPTIONS = {
    "smoothing": "fp32",
    "logit_scale": "fp32",
    "lse_square_scale": "fp32",
    "ignore_index": "i32",
    "total_classes": "i32",
    "class_start_idx": "i32",
    "n_cols": "i32",
}


def _kernel(which: str, dtype: str, block: int, warps: int, *, smoothing: bool = False) -> Kernel:
    """A kernel as it is launched for V = 32,000 and beyond, on one device."""
    pointers: dict[str, Any] = {"logits_ptr": f"*{dtype}:16", "lse_ptr": "*fp32:16", "labels_ptr": "*i64:16"}
    arguments: dict[str, Any] = pointers | _OPTIONS | {"logits_row_stride": "i32:16"}
    if which == "fwd":
        arguments |= {"loss_ptr": "*fp32:16", "z_loss_ptr": "*fp32:16", "SPLIT": False, "PRECOMPUTED_LSE": False}
    else:
        arguments |= {"dlogits_ptr": f"*{dtype}:16", "dloss_ptr": "*fp32:16"}
        arguments |= {"dlogits_row_stride": "i32:16", "dloss_row_stride": 1}
    arguments |= {"BLOCK_SIZE": block, "HAS_SMOOTHING": smoothing}
    name = f"{'forward' if which == 'fwd' else 'backward'} {dtype}" + (", smoothing" if smoothing else "")
    return Kernel(name, f"implementations._flash_attn:cross_entropy_{which}_kernel", arguments, {"num_warps": warps})


_KERNELS = (
    _kernel("fwd", "fp32", 16384, 16),
    _kernel("bwd", "fp32", 4096, 8),
    _kernel("fwd", "bf16", 16384, 16),
    _kernel("bwd", "bf16", 4096, 8),
    _kernel("fwd", "bf16", 16384, 16, smoothing=True),
    _kernel("bwd", "bf16", 4096, 8, smoothing=True),
)


@implementation(
    framework="triton",
    loss="cross_entropy",
    grade={"float32": "absolute", "bfloat16": "absolute", "float16": "absolute"},
    devices=("cpu", "cuda"),
    requires=_REQUIRES,
    kernels=_KERNELS,
)
def flash_attn_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    temperature: float = 1.0,
    z_loss: float = 0.0,
) -> Tensor:
    """flash-attn's fused kernels, without the package around them."""
    from implementations._flash_attn import cross_entropy_loss
    from implementations._unreduced import reduced

    losses, _ = cross_entropy_loss(
        logits,
        target,
        label_smoothing=label_smoothing,
        logit_scale=1.0 / temperature,
        lse_square_scale=z_loss,
        ignore_index=ignore_index,
        inplace_backward=False,  # it would write the gradient over the caller's logits
    )
    return reduced(losses, target, ignore_index, reduction)
