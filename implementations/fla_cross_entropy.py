"""fla's Triton cross-entropy (flash-linear-attention): whole rows up to 65,536 classes, then parts that are joined.

Good: one program looks at a row at once, so that it needs no rescaling; the logits are left alone; the loss is float32
whatever they are; the target's entry is formed in float32 before it is rounded. Bad: log-sum-exp minus a logit, so that
a common offset costs digits; probabilities are exp(z − lse), which has the error of lse; and beyond 65,536 classes, a
part that is masked as a whole gives NaN. float64 is computed in float32. There are no class weights.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from harness.declaration import Kernel, implementation

if TYPE_CHECKING:
    from torch import Tensor

_V = 32_000  # a constant of the kernel, which is compiled for each
_OPTIONS = {
    "label_smoothing": 0.0,
    "logit_scale": 1.0,
    "lse_square_scale": 0.0,
    "logit_softcapping": None,
    "ignore_index": -100,
    "V": _V,
    "V_TOTAL": _V,
    "V_START": 0,
}


def _kernel(which: str, dtype: str, **options: Any) -> Kernel:
    """A kernel as it is launched for V = 32,000."""
    arguments: dict[str, Any] = {"logits": f"*{dtype}:16", "target": "*i64:16", "lse": "*fp32:16", "s_logits": "i32:16"}
    arguments |= _OPTIONS | options
    if which == "fwd":
        arguments |= {"loss": "*fp32:16", "z_loss": "*fp32:16", "N": "i32", "BV": 32768, "SPLIT": False}
    else:
        arguments |= {"dloss": "*fp32:16", "dlogits": f"*{dtype}:16", "s_dloss": 1, "s_dlogits": "i32:16", "BV": 4096}
    name = f"{'forward' if which == 'fwd' else 'backward'} {dtype}" + "".join(f", {key}" for key in options)
    return Kernel(
        name,
        f"fla.modules.fused_cross_entropy.ops:cross_entropy_{which}_kernel",
        arguments,
        {"num_warps": 16 if which == "fwd" else 8},
    )


_KERNELS = (
    _kernel("fwd", "fp32"),
    _kernel("bwd", "fp32"),
    _kernel("fwd", "bf16"),
    _kernel("bwd", "bf16"),
    _kernel("fwd", "bf16", label_smoothing=0.1),
    _kernel("bwd", "bf16", label_smoothing=0.1),
)


@implementation(
    framework="triton",
    loss="cross_entropy",
    grade={"float32": "absolute", "bfloat16": "absolute", "float16": "absolute"},
    devices=("cpu", "cuda"),
    requires={"fla": "fla-core==0.6.0"},
    kernels=_KERNELS,
)
def fla_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    softcap: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
) -> Tensor:
    """fla's fused kernels, through its function: its module's class asks for a GPU."""
    from implementations._unreduced import reduced

    with warnings.catch_warnings():  # without a GPU its import says that it "rolls back to CPU"
        warnings.filterwarnings("ignore", "Triton is not supported on current platform", UserWarning)
        from fla.modules.fused_cross_entropy import cross_entropy_loss

    losses, _ = cross_entropy_loss(
        logits,
        target,
        label_smoothing=label_smoothing,
        logit_scale=1.0 / temperature,
        lse_square_scale=z_loss,
        logit_softcapping=softcap or None,
        ignore_index=ignore_index,
        inplace_backward=False,  # it would write the gradient over the caller's logits
    )
    return reduced(losses, target, ignore_index, reduction)
