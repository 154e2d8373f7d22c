"""The losses: one file each, listed here."""

from __future__ import annotations

from harness.losses.base import Loss, Problem, RowTruth
from harness.losses.binary_cross_entropy_with_logits import BinaryCrossEntropyWithLogits
from harness.losses.cross_entropy import CrossEntropy
from harness.losses.linear_cross_entropy import LinearCrossEntropy

__all__ = ["LOSSES", "LOSSES_OF_LOGITS", "Loss", "Problem", "RowTruth", "loss_named", "loss_of_logits"]

LOSSES: dict[str, Loss] = {
    loss.name: loss for loss in (CrossEntropy(), BinaryCrossEntropyWithLogits(), LinearCrossEntropy())
}

LOSSES_OF_LOGITS = tuple(name for name, loss in LOSSES.items() if not loss.inputs)
"""Those that take logits and target, and nothing else."""


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


def loss_of_logits(name: str) -> Loss:
    """The loss of that name, for what works on logits and target alone.

    Raises
    ------
    ValueError
        For an unknown name, or a loss that takes more; the message says where that one is judged.
    """
    loss = loss_named(name)
    if loss.inputs:
        raise ValueError(
            f"{name} takes a {loss.inputs[0]} beside its first two inputs, which only `xent accuracy` and `xent truth` "
            f"know of: choose from {', '.join(LOSSES_OF_LOGITS)}, or declare the code as an implementation"
        )
    return loss
