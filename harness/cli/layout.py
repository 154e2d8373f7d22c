"""How the commands lay out text: on standard output, for any width, with names in one piece."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import Console
from rich.text import Text

__all__ = ["WITHOUT_TERMINAL", "grouped", "wide_console"]

WITHOUT_TERMINAL = 170
"""Columns of output that goes to a file or a pipe."""


class _Console(Console):
    """A console that leaves a closed pipe to the command, whose exit status says something else."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def wide_console() -> Console:
    """Standard output: as wide as the terminal, or 170 columns where there is none."""
    return _Console(highlight=False, width=None if sys.stdout.isatty() else WITHOUT_TERMINAL)


def grouped(
    header: Sequence[str],
    groups: Mapping[str, Sequence[Sequence[Text | str]]],
    *,
    width: int,
    right: Iterable[str] = (),
    dispensable: Iterable[str] = (),
) -> Iterator[Text]:
    """Rows in columns, each group under a heading that may be wider than the first column.

    Parameters
    ----------
    header : sequence of str
        Names of the columns.
    groups : mapping of str to sequence of rows
        For each heading its rows, a cell per column.
    width : int
        Columns of the terminal.
    right : iterable of str
        Columns to be aligned on the right.
    dispensable : iterable of str
        Columns to be left out, in this order, until the rest fits.
    """
    rows = [row for group in groups.values() for row in group]
    widths = {
        name: max(len(name), *(len(row[i]) for row in rows)) if rows else len(name) for i, name in enumerate(header)
    }
    for name in dispensable:
        if 2 + sum(widths.values()) + 2 * (len(widths) - 1) > width:
            del widths[name]

    def line(cells: Sequence[Text | str]) -> Text:
        text = Text("  ", no_wrap=True, overflow="ellipsis")
        for name, cell in zip(header, cells, strict=True):
            if name in widths:
                padding = " " * (widths[name] - len(cell))
                text.append_text(Text.assemble(*([padding, cell] if name in right else [cell, padding]), "  "))
        text.rstrip()
        return text

    title = line(header)
    title.stylize("bold")
    yield title
    for heading, group in groups.items():
        yield Text(heading, style="bold")
        yield from map(line, group)
