"""A wrong answer has no speed: what a timed call gave back is judged against certified truth before it counts.

A result that is bit for bit one that was judged needs no second look; any other is judged anew, in whatever round it
comes. Of a large batch some rows are judged, drawn from the batch's seed, the first and the last among them: of the
others, every value must be finite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.declaration import Declaration
from harness.grades import Grade, Outcome
from harness.judge import Judgement, judge
from harness.output import Output
from harness.reference import Reference, reference_of
from harness.timed import Timed

__all__ = ["CHECKED_LOGITS", "Checker", "Verdict"]

Array = np.ndarray[Any, Any]

CHECKED_LOGITS = 1 << 17
"""Logits of the rows that are judged, about: their truth and judgement take some tenths of a second."""


@dataclass(frozen=True)
class Verdict:
    """What a result is worth.

    Parameters
    ----------
    outcome : Outcome
        `PASSED`, or what is wrong.
    detail : str
        One line on that.
    grade : Grade or None
        The grade, where it could be judged.
    max_ulp : float or None
        Largest error, in ulp of the output's format.
    """

    outcome: Outcome = Outcome.PASSED
    detail: str = ""
    grade: Grade | None = None
    max_ulp: float | None = None

    def __or__(self, other: Verdict) -> Verdict:
        """The verdict on both: the first that did not pass, else the worse grade and the larger error."""
        for one in (self, other):
            if one.outcome is not Outcome.PASSED:
                return one
        grades = [v.grade for v in (self, other) if v.grade is not None]
        errors = [v.max_ulp for v in (self, other) if v.max_ulp is not None]
        return Verdict(grade=Grade.worst(grades) if grades else None, max_ulp=max(errors, default=None))


class Checker:
    """Judges the results of timed calls on one batch.

    Parameters
    ----------
    batch : Batch
        The inputs of the calls.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self._judged: dict[tuple[str, str], Verdict] = {}
        self._scalars: set[str] = set()

    def known(self, framework: str) -> frozenset[str]:
        """Digests of results that have been judged, and need not be sent again."""
        return frozenset(name for of, name in self._judged if of == framework)

    def __call__(self, timed: Timed, declaration: Declaration) -> Verdict:
        """The verdict on all results of some calls."""
        verdict = Verdict()
        for digests in timed.digests:
            for what, name in digests.items():
                key = (declaration.framework, name)
                if key not in self._judged:
                    self._judged[key] = self._judge(what, name, digests, timed, declaration)
                verdict |= self._judged[key]
        return verdict

    def _judge(
        self, what: str, name: str, digests: Mapping[str, str], timed: Timed, declaration: Declaration
    ) -> Verdict:
        array = timed.arrays[name]
        if what == "loss" and array.ndim == 0:
            self._scalars.add(name)
        mean = digests["loss"] in self._scalars and "reduction" not in declaration.options
        if not np.isfinite(array.astype(np.float64, copy=False)).all():
            return Verdict(Outcome.NONFINITE, f"the {what} is not finite everywhere")
        judged = self._against_truth(what, array, timed.flushed, mean)
        return _verdict(judged, self._gate)

    def _against_truth(self, what: str, array: Array, flushed: frozenset[str], mean: bool) -> Judgement:
        if mean:
            upstream = float(self.batch.upstream[0])
            output = _output(what, array, flushed)
            return judge(self.batch, reference_of(self.batch), output, reduction="mean", upstream=upstream)[what]
        expected = self.batch.logits.shape if what == "gradient" else self.batch.upstream.shape
        rows = array[self._rows] if array.shape == expected else array
        return judge(self._sample, self._reference, _output(what, rows, flushed))[what]

    @property
    def _gate(self) -> Grade:
        return Grade.STORAGE if self.batch.format.bits == 16 else Grade.ABSOLUTE

    @cached_property
    def _rows(self) -> Array:
        """The rows that are judged: all of them where they are few."""
        rows, classes = self.batch.logits.shape
        wanted = max(2, CHECKED_LOGITS // max(1, classes))
        if rows <= wanted:
            return np.arange(rows)
        between = 1 + np.random.default_rng([self.batch.seed, rows, classes]).permutation(rows - 2)[: wanted - 2]
        return np.sort(np.array([0, *between.tolist(), rows - 1]))

    @cached_property
    def _sample(self) -> Batch:
        return self.batch.rows(self._rows)

    @cached_property
    def _reference(self) -> Reference:
        return reference_of(self._sample)


def _output(what: str, array: Array, flushed: frozenset[str]) -> Output:
    return Output(array, flushed=flushed) if what == "loss" else Output(gradient=array, flushed=flushed)


def _verdict(judged: Judgement, gate: Grade) -> Verdict:
    """The verdict that a judgement at the gate comes to."""
    if judged.outcome is not Outcome.PASSED or judged.grade is None:
        words = str(judged.outcome).replace("_", " ")
        return Verdict(judged.outcome, f"the {judged.what}: {judged.detail or words}", judged.grade, judged.max_ulp)
    if judged.grade.meets(gate):
        return Verdict(grade=judged.grade, max_ulp=judged.max_ulp)
    ratio = judged.bound_ratios.get(str(gate))
    beyond = "" if ratio is None else f", {ratio:.3g} times the {gate} bound"
    return Verdict(Outcome.FAILED, f"the {judged.what} is {judged.grade}{beyond}", judged.grade, judged.max_ulp)
