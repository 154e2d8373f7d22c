"""A *mark*: the letter and colour that one result, or the worst of several, gets on the page."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from harness.grades import Grade, Outcome
from harness.run import Result, RunFileError

__all__ = ["BLANK", "LEGEND", "Mark", "grade_of", "mark_of", "outcome_of", "worst"]


@dataclass(frozen=True)
class Mark:
    """How a result is shown.

    Parameters
    ----------
    glyph : str
        The sign in the cell, so that nothing depends on colour alone.
    css : str
        The class that colours it.
    label : str
        The words for it.
    severity : int
        0 for the best, counting up; negative where nothing was measured.
    meaning : str
        One sentence for the legend.
    """

    glyph: str
    css: str
    label: str
    severity: int
    meaning: str = ""

    @property
    def measured(self) -> bool:
        """Whether the mark says anything about accuracy."""
        return self.severity >= 0


GRADES = {
    Grade.FAITHFUL: Mark("F", "F", "faithful", 0, "Within one unit in the last place of the output format."),
    Grade.RELATIVE: Mark(
        "R", "R", "relative", 1, "A few roundings from the truth relative to the loss itself, however small."
    ),
    Grade.ABSOLUTE: Mark(
        "A",
        "A",
        "absolute",
        2,
        "A few roundings from the truth on the scale of the logits: a tiny loss may read as 0.",
    ),
    Grade.STORAGE: Mark(
        "S", "S", "storage", 3, "As accurate as arithmetic in the 16-bit input format allows, and no better."
    ),
    Grade.INACCURATE: Mark("X", "X", "inaccurate", 4, "Finite, but beyond every bound that the input justifies."),
}
NAN = Mark("NaN", "N n", "NaN", 5, "NaN where the truth is a finite number.")
INFINITE = Mark("∞", "N", "infinite", 5, "Infinite where the truth is a finite number.")
ERROR = Mark("!", "E", "no result", 6, "No usable result: an exception, a crash, a time limit, a wrong shape or dtype.")
UNJUDGED = Mark("·", "U", "not judged", -1, "No bound means anything for this input in this format: shown, not judged.")
BLANK = Mark("", "B", "not run", -2, "Does not apply, or is not installed.")
LEGEND = (*GRADES.values(), INFINITE, NAN, ERROR, UNJUDGED, BLANK)

_NO_RESULT = {Outcome.WRONG_SHAPE, Outcome.WRONG_DTYPE, Outcome.RAISED, Outcome.CRASHED, Outcome.TIMED_OUT}


def grade_of(text: str | None) -> Grade | None:
    """The grade of that name, None for None.

    Raises
    ------
    RunFileError
        For a word that is no grade.
    """
    if text is None:
        return None
    try:
        return Grade(text)
    except ValueError:
        raise RunFileError(f"the run has a result of grade {text!r}: expected one of {', '.join(Grade)}") from None


def outcome_of(result: Result) -> Outcome:
    """The result's outcome.

    Raises
    ------
    RunFileError
        For a word that is no outcome.
    """
    try:
        return Outcome(result.outcome)
    except ValueError:
        raise RunFileError(
            f"the run has a result of outcome {result.outcome!r}: expected one of {', '.join(Outcome)}"
        ) from None


def mark_of(result: Result | None) -> Mark:
    """The mark of one result; `BLANK` where there is none."""
    if result is None:
        return BLANK
    outcome, grade = outcome_of(result), grade_of(result.grade)
    if outcome in (Outcome.SKIPPED, Outcome.UNAVAILABLE):
        return BLANK
    if outcome in _NO_RESULT:
        return ERROR
    if outcome is Outcome.NONFINITE or result.nonfinite:
        return NAN if _is_nan(result) else INFINITE
    if outcome is Outcome.NOT_JUDGED:
        return UNJUDGED
    if grade is None:
        return ERROR if outcome in (Outcome.FAILED, Outcome.KNOWN_FAILURE) else UNJUDGED
    return GRADES[grade]


def worst(marks: Iterable[Mark]) -> Mark:
    """The worst of some marks; `BLANK` of none."""
    return max(marks, key=lambda mark: mark.severity, default=BLANK)


def _is_nan(result: Result) -> bool:
    got = (result.witness or {}).get("got")
    return got == "nan" or (got is None and result.max_abs is not None and math.isnan(result.max_abs))
