"""Hypothesis strategies: rows and batches built from the parts that the hunt searches with.

Needs ``hypothesis``, which only tests and those who write them have. An example shrinks towards few parts, few
classes and small numbers; `witness` makes a family of what is left. A property that tells Hypothesis how bad each
example is, by ``hypothesis.target``, makes it climb.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from harness.batch import Batch
from harness.families.base import CROSS_ENTROPY
from harness.formats import named
from harness.parts import PARTS, apply
from harness.rows import Row, batch_of, random_row, rows_of
from harness.snippet import family_snippet

__all__ = ["CLASSES", "batches", "rows", "witness"]

CLASSES = (2, 3, 8, 10)
_MOST_PARTS = 6


class _DrawnDice:
    """Dice on Hypothesis: what is drawn shrinks to the low end, and reals to zero where that is within their range."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw

    def integer(self, low: int, high: int) -> int:
        """See `harness.rows.Dice`."""
        return self.draw(st.integers(low, high))

    def real(self, low: float, high: float) -> float:
        """See `harness.rows.Dice`."""
        return self.draw(st.floats(low, high))

    def normal(self, size: int) -> np.ndarray[Any, Any]:
        """Multiples of 1/16 up to 4 in magnitude: short numbers, exact in every format."""
        return np.array(self.draw(st.lists(st.integers(-64, 64), min_size=size, max_size=size))) / 16


@st.composite
def rows(
    draw: st.DrawFn, loss: str = CROSS_ENTROPY, dtype: str = "float32", classes: int = 2, parts: Sequence[str] = ()
) -> Row:
    """One row, from an ordinary one by a few parts.

    Parameters
    ----------
    draw : callable
        Hypothesis's.
    loss, dtype : str
        Of the row.
    classes : int
        V.
    parts : sequence of str
        Names of `PARTS` to build with; all of them if there are none.
    """
    dice, form = _DrawnDice(draw), named(dtype)
    row = random_row(dice, loss, classes, form)
    for name in draw(st.lists(st.sampled_from(list(parts) or list(PARTS)), max_size=_MOST_PARTS)):
        row = apply(PARTS[name], dice, row, form)
    return row


@st.composite
def batches(
    draw: st.DrawFn,
    loss: str = CROSS_ENTROPY,
    dtype: str = "float32",
    *,
    classes: Sequence[int] = CLASSES,
    most_rows: int = 4,
    parts: Sequence[str] = (),
) -> Batch:
    """A batch of up to so many rows without options, every number exact in the dtype.

    Parameters
    ----------
    draw : callable
        Hypothesis's.
    loss, dtype : str
        Of the batch.
    classes : sequence of int
        Numbers of classes to choose from, the simplest first.
    most_rows : int
        N is from 1 to this.
    parts : sequence of str
        Names of `PARTS` to build with; all of them if there are none.

    Examples
    --------
    >>> from hypothesis import given
    >>> @given(batches(dtype="float32"))
    ... def test_my_loss(batch): ...
    """
    size = draw(st.sampled_from(list(classes)))
    count = draw(st.integers(1, most_rows))
    drawn = [draw(rows(loss, dtype, size, parts)) for _ in range(count)]
    return batch_of(drawn, loss, named(dtype), family="hypothesis")


def witness(batch: Batch, row: int = 0, *, name: str = "witness", about: str = "") -> str:
    """A row of a batch as the source of a family: see `harness.snippet.family_snippet`.

    Parameters
    ----------
    batch : Batch
        Without options.
    row : int
        Which row of it.
    name, about : str
        Of the family.
    """
    (found,) = rows_of(batch.rows(slice(row, row + 1)))
    breaks = "What broke on this row, in one sentence."
    return family_snippet(found, batch.loss, batch.dtype, name=name, breaks=breaks, source="Hypothesis", about=about)
