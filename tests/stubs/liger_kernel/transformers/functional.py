"""The call of liger-kernel 0.8.5 without its kernel: remembers what it is given, and overwrites the logits."""

from __future__ import annotations

from typing import Any

CALLS: list[dict[str, Any]] = []


def liger_cross_entropy(
    input,
    target,
    weight=None,
    size_average=None,
    ignore_index=-100,
    reduce=None,
    reduction="mean",
    label_smoothing=0.0,
    lse_square_scale=0.0,
    softcap=None,
    return_z_loss=False,
    return_token_accuracy=False,
    return_predicted_tokens=False,
):
    CALLS.append(dict(locals()))
    input.zero_()
    return input.sum()
