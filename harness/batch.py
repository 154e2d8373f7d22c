"""A *batch*: the inputs of one call of an implementation, every number exactly representable in the batch's dtype."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from harness.formats import Format, format_of

__all__ = ["Batch"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs of one call.

    Parameters
    ----------
    loss : str
        Name of the loss, as in ``torch.nn.functional``.
    logits : array [N, V]
        float64, float32, float16 or bfloat16 (``ml_dtypes``). With a `projection`, the hidden states [N, D].
    target : array
        int64 [N] class indices, or [N, V] of the logits' dtype.
    upstream : array
        Upstream gradient of the unreduced output's shape ([N], or [N, K] for an element-wise loss), of the logits'
        dtype.
    options : mapping
        Keyword options (``weight`` and ``pos_weight`` are arrays of the logits' dtype; the rest are Python scalars).
        ``reduction`` is not among them: batches are unreduced.
    family : str
        Name of the family that made it.
    seed : int
        The seed that it was made from.
    projection : array [V, D], optional
        Of the logits' dtype: what ``linear_cross_entropy`` makes logits of the hidden states with.
    """

    loss: str
    logits: Array
    target: Array
    upstream: Array
    options: Mapping[str, Any] = field(default_factory=dict)
    family: str = ""
    seed: int = 0
    projection: Array | None = None

    @property
    def classes(self) -> int:
        """V."""
        return int(self.logits.shape[1]) if self.projection is None else len(self.projection)

    @property
    def gradient_shape(self) -> tuple[int, ...]:
        """The gradient's shape: the logits', or [N + V, D], the hidden states' rows and then the projection's."""
        rows, columns = self.logits.shape
        return (rows, columns) if self.projection is None else (rows + len(self.projection), columns)

    @property
    def format(self) -> Format:
        """The logits' format."""
        return format_of(self.logits)

    @property
    def dtype(self) -> str:
        """The logits' dtype, by name."""
        return self.format.name

    @property
    def target_kind(self) -> str:
        """``"indices"`` or ``"probabilities"``: for an element-wise loss always the latter."""
        return "indices" if self.target.ndim == 1 else "probabilities"

    def rows(self, index: Any) -> Batch:
        """The batch that holds only some rows, selected as NumPy would select them."""
        return replace(self, logits=self.logits[index], target=self.target[index], upstream=self.upstream[index])
