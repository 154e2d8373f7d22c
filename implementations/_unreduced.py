"""The reduction of a kernel that gives a loss per row, as the packages of such kernels do it in their modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def reduced(losses: Tensor, target: Tensor, ignore_index: int, reduction: str) -> Tensor:
    """The losses [N] as they are, their sum, or their sum over the number of rows that are not ignored.

    Raises
    ------
    ValueError
        For a reduction that is none of ``"none"``, ``"mean"`` and ``"sum"``.
    """
    if reduction == "none":
        return losses
    if reduction not in ("mean", "sum"):
        raise ValueError(f'reduction {reduction!r} is unknown: choose from "none", "mean", "sum"')
    total = losses.sum()
    return total / (target != ignore_index).sum() if reduction == "mean" else total
