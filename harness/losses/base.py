"""What a loss declares: one object per loss holds its formula, truth, bounds, semantics and families.

Adding a loss is one file in this package that defines a `Loss`; everything else follows from it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

__all__ = ["Loss"]

Array = np.ndarray[Any, Any]


class Loss(ABC):
    """A loss, the mathematical function, named as in ``torch.nn.functional``."""

    name: ClassVar[str]
    formula: ClassVar[str]
    options: ClassVar[tuple[str, ...]]
    elementwise: ClassVar[bool]
    """Whether the unreduced output is [N, K] (one loss per element) instead of [N] (one per row)."""

    @abstractmethod
    def draw_target(self, rng: np.random.Generator, logits: Array, labels: Array) -> Array:
        """A target for logits [N, V] of any supported dtype, given the label [N] that each row is about."""

    def output_shape(self, logits: Array) -> tuple[int, ...]:
        """The shape of the unreduced loss."""
        return logits.shape if self.elementwise else logits.shape[:1]
