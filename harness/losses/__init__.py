"""The losses: one file each, listed here."""

from __future__ import annotations

from harness.losses.base import Loss, Problem, RowTruth
from harness.losses.binary_cross_entropy_with_logits import BinaryCrossEntropyWithLogits
from harness.losses.cross_entropy import CrossEntropy

__all__ = ["LOSSES", "Loss", "Problem", "RowTruth", "loss_named"]

LOSSES: dict[str, Loss] = {loss.name: loss for loss in (CrossEntropy(), BinaryCrossEntropyWithLogits())}


def loss_named(name: str) -> Loss:
    """The loss of that name.

    Raises
    ------
    ValueError
        For an unknown name; the message lists the losses.
    """
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}: choose from {', '.join(LOSSES)}")
    return LOSSES[name]
