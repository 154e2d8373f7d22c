"""A comparison on a terminal: the headline, a table for each kind of change, and what was compared with what."""

from __future__ import annotations

from rich.text import Text

from harness.cli.layout import grouped, wide_console
from harness.compare import Comparison
from harness.compare.sections import Section, headline, how, sections

__all__ = ["print_comparison"]

SHOWN = 20
"""Rows of a table; a broken framework has hundreds, which the Markdown and JSON files keep."""


def print_comparison(found: Comparison) -> None:
    """Print a comparison to standard output.

    Raises
    ------
    BrokenPipeError
        Where nobody reads it.
    """
    console = wide_console()
    for section in sections(found):
        console.print(Text(section.title, style="bold red" if section.bad else "bold"))
        for line in _lines(section, console.width):
            console.print(line, soft_wrap=False, overflow="fold")
        console.print()
    if how(found):
        console.print(Text(how(found), style="dim"))
        console.print()
    console.print(Text(headline(found), style="bold red" if found.worse else "bold"))


def _lines(section: Section, width: int) -> list[Text]:
    rows = [[Text(text) for text in row] for row in section.rows[:SHOWN]]
    header, _, *lines = grouped(section.header, {"": rows}, width=width, right=("p", "noise", "change", "counts from"))
    more = len(section.rows) - SHOWN
    return [header, *lines, *([Text(f"  … and {more} more", style="dim")] if more > 0 else [])]
