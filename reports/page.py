"""The page: what the other modules draw from a run, put through the templates into one HTML text."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harness.grades import Outcome
from harness.run import Run
from reports import model, numbers, speed, tradeoff, trends
from reports.claims import claims
from reports.compiled import compiled_table
from reports.heatmap import heat_map, state_of
from reports.marks import LEGEND, mark_of
from reports.overview import family_notes, overviews
from reports.summary import commands, facts, missing, summary

__all__ = ["asset", "environment", "render"]


def render(run: Run, history: trends.History | None = None, compiled: Mapping[str, Any] | None = None) -> str:
    """The report of a run: one self-contained HTML page that needs no network.

    The same run gives the same text, character for character.

    Parameters
    ----------
    run : Run
        The record to show; it may be incomplete, or empty.
    history : mapping of str to sequence of (str, float), optional
        By the name of a series, its points in time: an ISO 8601 date and a value, of which smaller is better.
    compiled : mapping, optional
        The JSON data of a compilation, as ``xent compile --json`` writes it.

    Returns
    -------
    str
        The page, to be written as UTF-8.

    Raises
    ------
    RunFileError
        For a run with a grade or an outcome that is none of ours; the message has the word.
    """
    rows = model.subjects(run)
    heat = heat_map(run, rows)
    notes = family_notes(run)
    template = environment().get_template("page.html.j2")
    page = template.render(
        run=run,
        style=asset("page.css"),
        script=asset("page.js"),
        data=Markup(heat.data),  # heat_map escapes it for a script element
        heat=heat,
        summary=summary(run, rows),
        facts=facts(run),
        missing=missing(run),
        commands=commands(run),
        dtypes=model.dtypes(run),
        families=notes,
        overviews=overviews(run, rows, heat),
        speed=speed.tables(run),
        pictures=tradeoff.pictures(run),
        trends=trends.trends(history or {}),
        claims=claims(run, rows),
        compiled=compiled_table(compiled),
        anchors={note.name: note.anchor for note in notes},
        legend=LEGEND,
    )
    # A lone surrogate, which a file name can smuggle in, has no UTF-8: it becomes a question mark.
    return page.encode("utf-8", "replace").decode("utf-8")


@cache
def environment() -> Environment:
    """The templates, set up so that whatever goes into one is inert unless it is marked as ours."""
    made = Environment(
        loader=PackageLoader("reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"figure": numbers.figure, "linked": numbers.linked, "mark": mark_of, "state": state_of}
    made.globals |= {"count": numbers.count, "whats": model.WHATS, "Outcome": Outcome}
    return made


def asset(name: str) -> Markup:
    """A file of ours beside the templates, put into the page as it is."""
    return Markup(files("reports").joinpath("templates", name).read_text(encoding="utf-8"))
