"""The call of flash-attn 2.8.3 without its kernels: remembers what it is given; row i's loss is i + 1, or 0."""

from __future__ import annotations

from typing import Any

import torch

CALLS: list[dict[str, Any]] = []
cross_entropy_fwd_kernel = "forward"
cross_entropy_bwd_kernel = "backward"


def cross_entropy_loss(
    logits,
    labels,
    precomputed_lse=None,
    label_smoothing=0.0,
    logit_scale=1.0,
    lse_square_scale=0.0,
    ignore_index=-100,
    inplace_backward=False,
    process_group=None,
):
    CALLS.append(dict(locals()))
    with torch.cuda.device(logits.device.index):  # None for a tensor on the CPU
        losses = torch.arange(1.0, len(labels) + 1) * (labels != ignore_index)
    return losses, torch.zeros_like(losses)
