"""How the NumPy path cuts a batch: blocks of rows and columns that fit the cache, wide 16-bit rows by their values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.fast.distinct import WIDE, Distinct, distinct
from harness.fast.exponential import difference, position

__all__ = ["BLOCK", "Block", "blocks", "column_blocks", "groups", "top_of_rows"]

Array = np.ndarray[Any, Any]

BLOCK = 8192
"""Entries worked on at once: some thirty arrays of them stay in a second-level cache."""

_GROUP = 8 * BLOCK


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows of a batch, or one row by its distinct values.

    Parameters
    ----------
    rows : int64 array [n]
        Which rows.
    z : float64 array [n, U]
        Their logits, one column for each class, or each value.
    by_value : Distinct, optional
        What the columns stand for, if it is not the classes.
    """

    rows: Array
    z: Array
    by_value: Distinct | None = None

    def columns_of(self, classes: Array) -> Array:
        """The columns [n] of one class per row."""
        result: Array = classes if self.by_value is None else self.by_value.place[classes]
        return result

    def one_hot(self, classes: Array) -> Array:
        """1 in the column of one class per row, else 0: float64 [n, U]."""
        result: Array = (np.arange(self.z.shape[1]) == self.columns_of(classes)[:, None]) * 1.0
        return result

    def sum(self, digit: Array, cols: slice = slice(None)) -> Array:
        """Row sums [n] of integers [n, columns], one for each class that the columns stand for."""
        result: Array = (digit if self.by_value is None else digit * self.by_value.counts[cols]).sum(axis=1)
        return result

    def taken(self, array: Array) -> Array:
        """The rows of a float64 array [N, V], by the columns."""
        result: Array = array[self.rows] if self.by_value is None else array[self.rows][:, self.by_value.members]
        return result

    def put(self, array: Array, values: Array) -> None:
        """Write values [n, U] into the rows of an array [N, V]."""
        if self.by_value is None:
            array[self.rows] = values
        else:
            np.take(values[0], self.by_value.place, out=array[self.rows[0]], mode="clip")


def blocks(z: Array, wanted: Array, special: Callable[[int], set[int]] | None) -> Iterator[Block]:
    """The wanted rows of logits [N, V].

    Parameters
    ----------
    z, wanted : float64 array [N, V] and bool array [N]
        The batch, and which rows.
    special : callable, optional
        The classes of a row that need columns of their own; without it columns are classes.
    """
    n, v = z.shape
    step = max(1, BLOCK // v)
    for start in range(0, n, step):
        rows = np.flatnonzero(wanted[start : start + step]) + start
        if len(rows):
            by_value = None
            if v >= WIDE and special is not None:
                row = int(rows[0])
                by_value = distinct(z[row], special(row) | {int(z[row].argmax())})
            yield Block(rows, z[rows] if by_value is None else by_value.values[None], by_value)


def groups(wanted: Iterator[Block]) -> Iterator[list[Block]]:
    """Blocks whose rows' own numbers are worth computing together."""
    group: list[Block] = []
    for block in wanted:
        if group and sum(other.z.size for other in group) + block.z.size > _GROUP:
            yield group
            group = []
        group.append(block)
    if group:
        yield group


def column_blocks(columns: int) -> Iterator[slice]:
    """Columns to work on at once."""
    return (slice(start, min(start + BLOCK, columns)) for start in range(0, columns, BLOCK))


def top_of_rows(z: Array) -> tuple[Array, Array, Array]:
    """The class to leave out of each row (its first maximum), the maximum, and the next exponential's exponent: [N]."""
    at = np.arange(len(z))
    top = z.argmax(axis=1)
    m = z[at, top]
    second = z.copy()
    second[at, top] = -np.inf
    return top, m, position(difference(second.max(axis=1), m)[0]) >> 10
