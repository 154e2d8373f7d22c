"""The heat-map: one grid per dtype and loss, and the data behind its cells as one compact JSON text.

A grid holds only marks; everything else about a cell stands once in the page's JSON and is shown by the page's script
on demand. Words, reasons and logits repeat a great deal: a text that stands there more than once is kept in a table and
replaced by its index, the commonest with the shortest index.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from harness.grades import Outcome
from harness.run import Result, Run
from reports.marks import BLANK, Mark, mark_of, outcome_of
from reports.model import WHATS, Subject, dtypes, families, losses
from reports.numbers import figure, linked
from reports.witness import shortened

__all__ = ["FIELDS", "Cell", "Grid", "Half", "HeatMap", "Row", "heat_map"]

FIELDS = (
    "what", "label", "css", "grade", "claimed", "outcome", "rows", "judged", "ulp", "abs", "rel", "ratio", "ratios",
    "nonfinite", "negative", "detail", "thread", "url", "dtype", "backend",
    "row", "column", "target", "logits", "upstream", "got", "want", "more",
)  # fmt: skip
"""What the page's JSON says of a result, in this order."""


@dataclass(frozen=True)
class Half:
    """One half of a cell: the loss or the gradient."""

    mark: Mark
    state: str
    """``"f"`` for a failure, ``"k"`` for a known one, else ``""``."""


@dataclass(frozen=True)
class Cell:
    """One implementation on one family: its number in the page's data (None: no result), and the two halves."""

    number: int | None
    halves: tuple[Half, ...]


@dataclass(frozen=True)
class Row:
    """A row of a grid."""

    subject: Subject
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Grid:
    """Implementation × family for one dtype and loss; `absent` names those of which nothing was measured."""

    dtype: str
    loss: str
    families: tuple[str, ...]
    rows: tuple[Row, ...]
    absent: tuple[Subject, ...]


@dataclass(frozen=True)
class HeatMap:
    """All grids, in the order of the dtypes, and the JSON text behind their cells (safe inside a script element)."""

    grids: tuple[Grid, ...]
    data: str
    numbers: dict[tuple[str, str, str, str, str, str], int]
    """The cell's number by (implementation, device, backend, loss, dtype, family)."""

    def number_of(self, result: Result) -> int | None:
        """The number of the cell that shows a result."""
        return self.numbers.get(_key(result))


def heat_map(run: Run, rows: Sequence[Subject]) -> HeatMap:
    """The heat-map of a run, its rows in the order given."""
    book = _Book()
    grids = tuple(
        grid
        for dtype in dtypes(run)
        for loss in losses(rows)
        if (grid := _grid(run, [s for s in rows if s.loss == loss], dtype, loss, book)) is not None
    )
    return HeatMap(grids, book.dump(), book.numbers)


def _grid(run: Run, rows: Sequence[Subject], dtype: str, loss: str, book: _Book) -> Grid | None:
    columns = tuple(families(run, loss))
    in_dtype = [s for s in rows if any(key[0] == dtype for key in s.results)]
    if not in_dtype:
        return None
    shown = [s for s in in_dtype if any(outcome_of(r) not in _NOT_RUN for r in s.results.values() if r.dtype == dtype)]
    made = tuple(Row(s, tuple(_cell(s, dtype, family, book) for family in columns)) for s in shown)
    return Grid(dtype, loss, columns, made, tuple(s for s in rows if s not in shown))


_NOT_RUN = {Outcome.SKIPPED, Outcome.UNAVAILABLE}


def _cell(subject: Subject, dtype: str, family: str, book: _Book) -> Cell:
    results = [subject.results.get((dtype, family, what)) for what in WHATS]
    halves = tuple(Half(mark_of(result), state_of(result)) for result in results)
    present = [result for result in results if result is not None]
    return Cell(book.add(subject, dtype, family, present) if present else None, halves)


def state_of(result: Result | None) -> str:
    """``"f"`` for a failure, ``"k"`` for a known failure, else ``""``: the ring or corner that a mark gets."""
    if result is None:
        return ""
    outcome = outcome_of(result)
    return "k" if outcome is Outcome.KNOWN_FAILURE else "f" if outcome.is_failure else ""


class _Book:
    """Collects the cells' data."""

    def __init__(self) -> None:
        self.cells: list[list[list[str]]] = []
        self.numbers: dict[tuple[str, str, str, str, str, str], int] = {}

    def add(self, subject: Subject, dtype: str, family: str, results: Sequence[Result]) -> int:
        """Takes a cell's results; gives the cell's number."""
        title = f"{subject.name} ({subject.qualifier})" if subject.qualifier else subject.name
        self.cells.append([[title, dtype, family], *map(_record, results)])
        self.numbers[_key(results[0])] = len(self.cells) - 1
        return len(self.cells) - 1

    def dump(self) -> str:
        """The JSON text, safe inside a script element."""
        uses = Counter(text for cell in self.cells for record in cell for text in record)
        table = ["", *(text for text, n in uses.most_common() if n > 1 and text)]
        index = {text: i for i, text in enumerate(table)}
        data = {
            "fields": FIELDS,
            "strings": table,
            "cells": [[[index.get(text, text) for text in record] for record in cell] for cell in self.cells],
            "advice": {outcome.value: outcome.advice for outcome in Outcome},
        }
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        # Nothing in a script element may look like markup: "</script>" would end it, "<!--" would change its parsing.
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _record(result: Result) -> list[str]:
    """The result's fields in the order of `FIELDS`, without the empty ones at the end."""
    told = _told(result)
    record = [told.get(name, "") for name in FIELDS]
    while record and not record[-1]:
        record.pop()
    return record


def _told(result: Result) -> dict[str, str]:
    """A result as the strings that the page shows."""
    mark = mark_of(result)
    label = outcome_of(result).value.replace("_", " ") if mark is BLANK else mark.label
    ratios = {name: value for name, value in result.bound_ratios.items() if value is not None}
    urls = [piece.url for piece in linked(result.thread) if piece.url]
    return {
        "what": result.what,
        "label": label,
        "css": " ".join(filter(None, (mark.css, state_of(result)))),
        "grade": result.grade or "",
        "claimed": result.claimed or "",
        "outcome": result.outcome,
        "rows": f"{result.rows:,}",
        "judged": f"{result.judged:,}",
        "ulp": figure(result.max_ulp),
        "abs": figure(result.max_abs),
        "rel": figure(result.max_rel),
        "ratio": figure(result.max_bound_ratio),
        "ratios": " ".join(f"{name}:{figure(value)}" for name, value in ratios.items()),
        "nonfinite": f"{result.nonfinite:,}",
        "negative": f"{result.negative:,}",
        "detail": result.detail,
        "thread": result.thread,
        "url": urls[0] if urls else "",
        "dtype": result.output_dtype if result.output_dtype and result.output_dtype != result.dtype else "",
        "backend": "" if result.backend == "native" else result.backend,
        **shortened(result.witness or {}),
    }


def _key(result: Result) -> tuple[str, str, str, str, str, str]:
    return (result.implementation, result.device, result.backend, result.loss, result.dtype, result.family)
