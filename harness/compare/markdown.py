"""A comparison as Markdown, for a pull request or the summary of a job."""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness.compare.comparison import Comparison
from harness.compare.sections import Section, headline, how, sections

__all__ = ["cell", "markdown", "table"]


def markdown(found: Comparison) -> str:
    """The comparison as GitHub-flavoured Markdown, ending in a newline."""
    lines = [f"**{cell(headline(found))}**", ""]
    for section in sections(found):
        lines += [*table(section), ""]
    lines.append(cell(how(found)))
    return "\n".join(lines) + "\n"


def table(section: Section) -> Iterator[str]:
    """A heading and a table, a line at a time."""
    yield f"### {section.title}"
    yield ""
    yield f"| {' | '.join(section.header)} |"
    yield f"|{'---|' * len(section.header)}"
    for row in section.rows:
        yield f"| {' | '.join(cell(text) for text in row)} |"


def cell(text: str) -> str:
    """Text that Markdown shows as it is, on one line: names and messages may come from strangers."""
    flat = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]<>#|~&!])", r"\\\1", flat)
