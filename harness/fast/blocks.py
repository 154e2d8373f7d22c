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

_PLACES = 64 * BLOCK
"""Of rows by value, so many classes' places are kept at once: 4 MiB."""


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows of a batch, by their classes or by their distinct values.

    Parameters
    ----------
    rows : int64 array [n]
        Which rows.
    z : float64 array [n, U]
        Their logits, one column for each class, or each value. Rows with fewer values repeat their last column.
    by_value : tuple of Distinct
        What the columns of each row stand for, if it is not the classes.
    counts : int64 array [n, U], optional
        How many classes each column stands for then; 0 for a repeated one.
    """

    rows: Array
    z: Array
    by_value: tuple[Distinct, ...] = ()
    counts: Array | None = None

    @classmethod
    def of_values(cls, rows: list[int], by_value: list[Distinct]) -> Block:
        """Rows by their values; the last column is no special class: one more, counted 0 times, changes nothing."""
        width = max(len(row.values) for row in by_value)
        counts = np.zeros((len(rows), width), np.int64)
        for count, row in zip(counts, by_value, strict=True):
            count[: len(row.counts)] = row.counts
        z = np.stack([_widened(row.values, width) for row in by_value])
        return cls(np.array(rows), z, tuple(by_value), counts)

    def columns_of(self, classes: Array) -> Array:
        """The columns [n] of one class per row."""
        if not self.by_value:
            return classes
        return np.array([row.place[j] for row, j in zip(self.by_value, classes.tolist(), strict=True)])

    def one_hot(self, classes: Array) -> Array:
        """1 in the column of one class per row, else 0: float64 [n, U]."""
        result: Array = (np.arange(self.z.shape[1]) == self.columns_of(classes)[:, None]) * 1.0
        return result

    def sum(self, digit: Array, cols: slice = slice(None)) -> Array:
        """Row sums [n] of integers [n, columns], one for each class that the columns stand for."""
        result: Array = (digit if self.counts is None else digit * self.counts[:, cols]).sum(axis=1)
        return result

    def taken(self, array: Array) -> Array:
        """The rows of a float64 array [N, V], by the columns; a view where that is one row by its classes."""
        if not self.by_value:
            result: Array = array[self.rows[0] :][:1] if len(self.rows) == 1 else array[self.rows]
            return result
        width = self.z.shape[1]
        chosen = zip(self.rows.tolist(), self.by_value, strict=True)
        return np.stack([_widened(array[row][found.members], width) for row, found in chosen])

    def room(self, array: Array) -> Array:
        """Room for numbers [n, U] on their way into an array [N, V]: there where that is one row by its classes."""
        return np.empty(self.z.shape) if self.by_value else self.taken(array)

    def put(self, array: Array, values: Array) -> None:
        """Write values [n, U] into the rows of an array [N, V], if they are not there already."""
        if not self.by_value and not np.may_share_memory(array, values):
            array[self.rows] = values
        for row, found, value in zip(self.rows.tolist(), self.by_value, values, strict=False):
            np.take(value, found.place, out=array[row], mode="clip")

    @property
    def size(self) -> int:
        """What it holds in memory, in entries."""
        return int(self.z.size) + sum(len(row.place) for row in self.by_value)


def _widened(values: Array, width: int) -> Array:
    """Values [U] with the last one repeated up to a width."""
    return np.concatenate([values, np.full(width - len(values), values[-1])])


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
    if v >= WIDE and special is not None:
        yield from _wide_blocks(z, np.flatnonzero(wanted).tolist(), special)
        return
    step = max(1, BLOCK // v)
    for start in range(0, n, step):
        rows = np.flatnonzero(wanted[start : start + step]) + start
        if len(rows):
            yield Block(rows, z[start : start + 1] if step == 1 else z[rows])


def _wide_blocks(z: Array, rows: list[int], special: Callable[[int], set[int]]) -> Iterator[Block]:
    """Rows by their values, several at once where these are few; a row that has too many by its classes."""
    together: list[int] = []
    found: list[Distinct] = []
    for row in rows:
        by_value = distinct(z[row], special(row) | {int(z[row].argmax())})
        if by_value is None:
            yield Block(np.array([row]), z[row : row + 1])
            continue
        width = max(len(other.values) for other in (*found, by_value))
        full = (len(found) + 1) * width > BLOCK or (len(found) + 1) * z.shape[1] > _PLACES
        if found and full:
            yield Block.of_values(together, found)
            together, found = [], []
        together.append(row)
        found.append(by_value)
    if found:
        yield Block.of_values(together, found)


def groups(wanted: Iterator[Block]) -> Iterator[list[Block]]:
    """Blocks whose rows' own numbers are worth computing together."""
    group: list[Block] = []
    for block in wanted:
        if group and sum(other.size for other in group) + block.size > (_PLACES if block.by_value else _GROUP):
            yield group
            group = []
        group.append(block)
    if group:
        yield group


def column_blocks(columns: int) -> Iterator[slice]:
    """Columns to work on at once, about equally many each time."""
    step = max(1, -(-columns // max(1, -(-columns // BLOCK))))
    return (slice(start, min(start + step, columns)) for start in range(0, columns, step))


def top_of_rows(z: Array) -> tuple[Array, Array, Array]:
    """The class to leave out of each row (its first maximum), the maximum, and the next exponential's exponent: [N]."""
    at = np.arange(len(z))
    top = z.argmax(axis=1)
    m = z[at, top]
    if len(z) == 1:  # may be wide: without a copy
        second = np.array([max(part.max(initial=-np.inf) for part in np.split(z[0], [top[0], top[0] + 1])[::2])])
    else:
        others = z.copy()
        others[at, top] = -np.inf
        second = others.max(axis=1)
    return top, m, position(difference(second, m)[0]) >> 10
