"""The words of a judgement: how accurate a result is (`Grade`) and what became of it (`Outcome`)."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Grade", "Outcome"]


class Grade(StrEnum):
    """How accurate a result is, from best to worst; the bounds are derived in docs/theory.md."""

    FAITHFUL = "faithful"
    RELATIVE = "relative"
    ABSOLUTE = "absolute"
    STORAGE = "storage"
    INACCURATE = "inaccurate"

    @property
    def rank(self) -> int:
        """0 for the best grade, counting up."""
        return list(Grade).index(self)

    def meets(self, required: Grade) -> bool:
        """Whether this grade is `required` or better."""
        return self.rank <= required.rank

    @staticmethod
    def worst(grades: list[Grade]) -> Grade:
        """The worst of some grades; `FAITHFUL` of none."""
        return max(grades, key=lambda g: g.rank, default=Grade.FAITHFUL)


class Outcome(StrEnum):
    """What became of one check or one result. Each member carries advice for the reader."""

    PASSED = "passed"
    FAILED = "failed"
    KNOWN_FAILURE = "known_failure"
    UNEXPECTED_PASS = "unexpected_pass"
    NOT_JUDGED = "not_judged"
    SKIPPED = "skipped"
    NONFINITE = "nonfinite"
    WRONG_SHAPE = "wrong_shape"
    WRONG_DTYPE = "wrong_dtype"
    RAISED = "raised"
    CRASHED = "crashed"
    TIMED_OUT = "timed_out"
    UNAVAILABLE = "unavailable"

    @property
    def advice(self) -> str:
        """One sentence: what this means, or what to do about it."""
        return _ADVICE[self]

    @property
    def is_failure(self) -> bool:
        """Whether this outcome makes a run fail."""
        return self not in _HARMLESS


_ADVICE = {
    Outcome.PASSED: "As accurate as claimed.",
    Outcome.FAILED: "Less accurate than claimed: see the witness.",
    Outcome.KNOWN_FAILURE: "Fails as its declaration says it does; the reason and the upstream thread stand there.",
    Outcome.UNEXPECTED_PASS: "Listed as a known failure, but it passes: the entry can be deleted.",
    Outcome.NOT_JUDGED: "No row has a bound that means anything at this grade: shown, neither accepted nor rejected.",
    Outcome.SKIPPED: "Does not apply: the implementation does not claim what this needs.",
    Outcome.NONFINITE: "NaN or infinity where the true value is finite in this format.",
    Outcome.WRONG_SHAPE: "The result's shape is not the one that the contract asks for.",
    Outcome.WRONG_DTYPE: "The result's dtype is narrower than the input's, or not a floating-point one.",
    Outcome.RAISED: "The call raised an exception.",
    Outcome.CRASHED: "The worker process died in the call.",
    Outcome.TIMED_OUT: "The call did not return within the time limit.",
    Outcome.UNAVAILABLE: "What it needs is not installed: the detail has the command that installs it.",
}
_HARMLESS = {Outcome.PASSED, Outcome.KNOWN_FAILURE, Outcome.NOT_JUDGED, Outcome.SKIPPED, Outcome.UNAVAILABLE}
