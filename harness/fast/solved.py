"""What the fast path gives back: the numbers, and which of them it vouches for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Solved"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Solved:
    """Truth as far as the fast path certifies it.

    Parameters
    ----------
    loss_hi, loss_lo : float64 array [N] or [N, K]
        Losses in nats, as pairs.
    grad_hi, grad_lo : float64 array [N, V]
        Gradients times the scale, as pairs.
    settled : bool array [N] or [N, K]
        Which rows (elements, for an element-wise loss) are certified, loss and gradient; the others hold nothing of
        use.
    """

    loss_hi: Array
    loss_lo: Array
    grad_hi: Array
    grad_lo: Array
    settled: Array

    @classmethod
    def empty(cls, outputs: tuple[int, ...], inputs: tuple[int, ...]) -> Solved:
        """Nothing settled yet."""
        return cls(
            np.empty(outputs), np.empty(outputs), np.empty(inputs), np.empty(inputs), np.zeros(outputs, dtype=bool)
        )

    @property
    def arrays(self) -> tuple[Array, Array, Array, Array]:
        """The four arrays of numbers."""
        return self.loss_hi, self.loss_lo, self.grad_hi, self.grad_lo

    def settle(self, live: Array, nothing: Array) -> None:
        """Vouch for the rows that are live, and for those that are `nothing`: all zeros there."""
        np.copyto(self.settled, live | nothing)
        for array in self.arrays:
            array[nothing] = 0.0
