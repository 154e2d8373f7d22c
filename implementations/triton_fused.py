"""Our own fused kernel, in Triton: log1p of the sum without its largest term, and minus the others' sum for the target.

Good: one read of the logits forward, one read and one write backward, nothing of size [N, V] beside them; small losses
and the target's gradient at high confidence are kept, in every dtype; an offset of all logits costs nothing. Bad: two
reads where a kernel that writes the gradient in its forward needs one and a scalar upstream gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.declaration import Kernel, implementation

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK, _WIDE_BACKWARD_BLOCK = 8192, 4096  # what is chosen for V = 32,000 and beyond
_FORWARD = ("loss", "top", "rest")
_BACKWARD = ("mass", "upstream", "top", "rest")
_NUMBERS = ("n_rows", "n_classes", "ignored", "stride_n")


def _kernel(which: str, dtype: str, *, every_option: bool = False) -> Kernel:
    """A kernel as it is launched on a contiguous [N, V] of a dtype; with every option, or with none."""
    wide = "fp64" if dtype == "fp64" else "fp32"
    backward = which == "backward"
    arguments: dict[str, Any] = {"logits": f"*{dtype}:16", "target": "*i64:16", "weight": f"*{dtype}:16"}
    arguments |= dict.fromkeys(_BACKWARD if backward else _FORWARD, f"*{wide}:16")
    arguments |= dict.fromkeys(_NUMBERS, "i32") | {"stride_v": 1, "stride_target": 1, "stride_weight": 1}
    if backward:
        arguments |= {"stride_upstream": 1, "stride_gradient_n": "i32", "stride_gradient_v": 1}
        arguments["gradient"] = f"*{dtype}:16"
    chosen = {"SMOOTHING": 0.1, "CAP": 30.0, "Z_LOSS": 1e-4, "WEIGHTED": True}
    arguments |= chosen if every_option else {"SMOOTHING": 0.0, "CAP": 0.0, "Z_LOSS": 0.0, "WEIGHTED": False}
    arguments |= {"WIDE": f"tl.{'float64' if wide == 'fp64' else 'float32'}", "ROWS": 1}
    arguments |= {"BLOCK": _WIDE_BACKWARD_BLOCK if backward and wide == "fp64" else _BLOCK}
    name = f"{which} {dtype}" + (", every option" if every_option else "")
    return Kernel(name, f"implementations._triton_kernel:_{which}_kernel", arguments, {"num_warps": 8})


_KERNELS = (
    *(_kernel(which, dtype) for dtype in ("fp32", "bf16", "fp64") for which in ("forward", "backward")),
    *(_kernel(which, "bf16", every_option=True) for which in ("forward", "backward")),
)


@implementation(
    framework="triton",
    loss="cross_entropy",
    grade={"float64": "relative", "float32": "relative", "bfloat16": "relative", "float16": "relative"},
    devices=("cpu", "cuda"),
    kernels=_KERNELS,
)
def triton_fused_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """A fused Triton kernel that keeps small losses and the target's gradient."""
    from implementations._triton_kernel import fused_cross_entropy

    result: Tensor = fused_cross_entropy(
        logits,
        target,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
    return result
