"""Rows: what the search for the worst input and the strategies work on, one row of a batch at a time.

A *row* has every number exact in the batch's format. What is left open is drawn from *dice*: a random stream in the
search, Hypothesis in the strategies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from harness.batch import Batch
from harness.families.base import BCE
from harness.formats import Format

__all__ = ["Dice", "RandomDice", "Row", "batch_of", "cross", "random_row", "resize", "rows_of", "with_variants"]

Array = np.ndarray[Any, Any]


class Dice(Protocol):
    """What a part draws from. The first choice and the number nearest zero are the simplest ones."""

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high]."""

    def real(self, low: float, high: float) -> float:
        """A real in [low, high]."""

    def normal(self, size: int) -> Array:
        """Ordinary logits [size], of mean 0 and a spread of about one."""


class RandomDice:
    """Dice on a random stream."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def integer(self, low: int, high: int) -> int:
        """See `Dice`."""
        return int(self.rng.integers(low, high + 1))

    def real(self, low: float, high: float) -> float:
        """See `Dice`."""
        return float(self.rng.uniform(low, high))

    def normal(self, size: int) -> Array:
        """See `Dice`."""
        return self.rng.standard_normal(size)


@dataclass(frozen=True, eq=False)
class Row:
    """One row of a batch.

    Parameters
    ----------
    logits : float64 array [V]
        Exact in the row's format; finite, or ``-inf`` for a masked class.
    label : int
        The class that the row is about; never a masked one.
    target : float64 array [V] or None
        For an element-wise loss the targets in [0, 1].
    upstream : float
        Upstream gradient.
    """

    logits: Array
    label: int
    target: Array | None = None
    upstream: float = 1.0

    @property
    def key(self) -> bytes:
        """What tells two rows apart."""
        target = b"" if self.target is None else self.target.tobytes()
        return b"".join((self.logits.tobytes(), target, repr((self.label, self.upstream)).encode()))


def random_row(dice: Dice, loss: str, classes: int, form: Format) -> Row:
    """An ordinary row: standard normal logits, any label, hard targets where the loss is element-wise."""
    logits = form.round(dice.normal(classes)).astype(np.float64)
    label = dice.integer(0, classes - 1)
    if loss != BCE:
        return Row(logits, label)
    return Row(logits, label, np.array([float(dice.integer(0, 1)) for _ in range(classes)]))


def cross(dice: Dice, one: Row, other: Row) -> Row:
    """A row with each logit (and target) from one of two rows of as many classes."""
    first = np.array([dice.integer(0, 1) for _ in one.logits], dtype=bool)
    logits = np.where(first, one.logits, other.logits)
    if one.target is not None and other.target is not None:
        return replace(one, logits=logits, target=np.where(first, one.target, other.target))
    if np.isneginf(logits[one.label]):
        logits[one.label] = one.logits[one.label]
    return replace(one, logits=logits)


def batch_of(rows: Sequence[Row], loss: str, form: Format, *, family: str = "", seed: int = 0) -> Batch:
    """The batch of some rows of as many classes."""
    logits = np.stack([row.logits for row in rows])
    upstream = np.array([row.upstream for row in rows])
    if loss == BCE:
        target = form.round(np.stack([row.target for row in rows if row.target is not None]))
        upstream = np.repeat(upstream[:, None], logits.shape[1], axis=1)
    else:
        target = np.array([row.label for row in rows], dtype=np.int64)
    return Batch(loss, form.round(logits), target, form.round(upstream), family=family, seed=seed)


def with_variants(batch: Batch, logits: Array) -> Batch:
    """A batch [N, V] with several variants of each row's logits [N, M, V] in turn, exact in its format: [N M, V]."""
    n, m, v = logits.shape
    target, upstream = (np.repeat(array, m, axis=0) for array in (batch.target, batch.upstream))
    return replace(batch, logits=batch.format.round(logits.reshape(n * m, v)), target=target, upstream=upstream)


def rows_of(batch: Batch) -> list[Row]:
    """The rows of a batch without options that the parts can work on: finite, but for masked classes without label."""
    if batch.options or (batch.loss != BCE and batch.target.ndim != 1):
        return []
    z, found = batch.logits.astype(np.float64), []
    allowed = np.isfinite(z) | (np.isneginf(z) & (batch.loss != BCE))
    for i in np.flatnonzero(allowed.all(axis=1)):
        upstream = float(batch.upstream[i].flat[0])
        if batch.loss == BCE:
            found.append(Row(z[i], 0, batch.target[i].astype(np.float64), upstream))
        elif 0 <= batch.target[i] < z.shape[1] and z[i, batch.target[i]] > -np.inf:
            found.append(Row(z[i], int(batch.target[i]), None, upstream))
    return found


def resize(dice: Dice, row: Row, classes: int) -> Row:
    """The row with another number of classes: the label and some others, or copies of some for those that are new."""
    size = len(row.logits)
    kept = [row.label, *range(min(row.label, classes)), *range(row.label + 1, size)][:classes]
    kept += [dice.integer(0, size - 1) for _ in range(classes - len(kept))]
    target = None if row.target is None else row.target[kept]
    return Row(row.logits[kept], 0, target, row.upstream)
