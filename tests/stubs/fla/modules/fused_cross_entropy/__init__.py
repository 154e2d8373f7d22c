"""The call of fla-core 0.6.0 without its kernels: remembers what it is given; row i's loss is i + 1, or 0."""

from __future__ import annotations

import warnings
from typing import Any

import torch

warnings.warn("Triton is not supported on current platform, roll back to CPU.", stacklevel=2)

CALLS: list[dict[str, Any]] = []


def cross_entropy_loss(
    logits,
    target,
    label_smoothing=0.0,
    logit_scale=1.0,
    lse_square_scale=0.0,
    logit_softcapping=None,
    ignore_index=-100,
    inplace_backward=False,
    process_group=None,
):
    CALLS.append(dict(locals()))
    losses = torch.arange(1.0, len(target) + 1) * (target != ignore_index)
    return losses, torch.zeros_like(losses)
