"""The examiner: one call of the candidate, judged against the truth, and what is wrong with it.

Every check is made of examinations. An examination never trusts the candidate: what came back is an array or is not,
and the judge says what it is worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.grades import Grade, Outcome
from harness.reference import Reference
from harness.vetting.drivers import FACTORS, Call
from harness.vetting.examination import Examination, Probe, Problem
from harness.vetting.judging import Terms, judged
from harness.vetting.rearranged import elements, stack, with_scalar
from harness.vetting.session import Claims, Reply, Session

__all__ = ["Examiner", "Gone"]

Array = np.ndarray[Any, Any]


class Gone(Exception):
    """The candidate is called no more: it has died or hung too often, or taken too long; `hung` is whether by time."""

    def __init__(self, why: str, hung: bool) -> None:
        super().__init__(f"{why}, and is called no more")
        self.hung = hung


class Examiner:
    """Calls one candidate and judges what comes back.

    Parameters
    ----------
    session : Session
        Where the candidate runs.
    claims : Claims
        What it claims.
    required : mapping of str to Grade
        The grade that each dtype must reach.
    differentiates : bool
        Whether it has a gradient.
    """

    MOST_DEATHS = 3
    MOST_TIME, MOST_TIMES = 900.0, 45.0
    """Seconds that all calls together may take, or so many times what one may, whichever is more."""

    def __init__(
        self, session: Session, claims: Claims, required: Mapping[str, Grade], differentiates: bool = True
    ) -> None:
        self.session, self.claims, self.required, self.differentiates = session, claims, required, differentiates
        self.terms = Terms(required, claims.flushed, differentiates)
        self.mean_only = False
        self.altered_inputs: dict[str, Problem] = {}
        self.altered_state: dict[str, tuple[str, Problem]] = {}

    def examine(
        self,
        batch: Batch,
        probe: Probe = Probe(),
        reference: Reference | None = None,
    ) -> Examination:
        """Call the candidate on a batch and judge the result."""
        if probe.in_sequence or (self.mean_only and probe.reduction is None and self._rowwise(batch)):
            rows = [batch.rows(slice(i, i + 1)) for i in range(len(batch.logits))]
            return self.examine_sequence(rows, probe, batch, reference)
        reduction = probe.reduction or ("mean" if self.mean_only else "none")
        sent = batch if reduction == "none" else with_scalar(batch)
        reply = self._call(sent, self._call_for(probe, reduction))
        if reply.outcome is not Outcome.PASSED:
            if "after/logits" in reply.arrays:
                self._inspect(reply, sent, probe)
            return Examination(reply, (self._failure(reply, batch, probe),))
        self._inspect(reply, sent, probe)
        return judged(self.terms, batch, probe, reply, reply.arrays, reduction, reference)

    def examine_sequence(
        self,
        batches: Sequence[Batch],
        probe: Probe = Probe(),
        whole: Batch | None = None,
        reference: Reference | None = None,
    ) -> Examination:
        """Call the candidate on batches of one shape in turn, in the same memory, and judge all results as one batch.

        A candidate that only gives means is called on one row at a time (on one element, of an element-wise loss), the
        mean of which is its loss.
        """
        whole = stack(batches) if whole is None else whole
        if self.mean_only:
            if whole.upstream.ndim > 1:
                whole, reference = elements(whole, reference)
            rows = (whole.rows(slice(i, i + 1)) for i in range(len(whole.logits)))
            batches = [replace(row, upstream=row.upstream.reshape(())) for row in rows]
        if not batches:
            return Examination(Reply(Outcome.PASSED), ())
        self._guard()
        reply = self.session.sequence(batches, self._call_for(probe, "none"))
        if reply.outcome is not Outcome.PASSED:
            return Examination(reply, (self._failure(reply, whole, probe),))
        self._note_state(reply, whole, probe)
        try:
            arrays = {
                name: np.concatenate([np.atleast_1d(reply.arrays[f"{i}/{name}"]) for i in range(len(batches))])
                for name in ("loss", "gradient")
                if f"0/{name}" in reply.arrays
            }
            if self.mean_only:
                arrays["loss"] = arrays["loss"].reshape(whole.upstream.shape)
        except (KeyError, ValueError) as error:
            return Examination(reply, (Problem("call", "form", f"shapes differ between calls: {error}", whole, probe),))
        seen = judged(self.terms, whole, probe, reply, arrays, "none", reference)
        if self.mean_only or probe.together:
            return seen
        return replace(seen, problems=tuple(_within(problem, batches) for problem in seen.problems))

    def examine_each(self, batches: Sequence[Batch], probe: Probe = Probe()) -> tuple[Examination, ...]:
        """Call the candidate on batches of one shape in turn, in the same memory, and judge each result by itself.

        Unlike those of `examine_sequence`, the batches may differ in their options, and be reduced.
        """
        reduction = probe.reduction or ("mean" if self.mean_only else "none")
        sent = batches if reduction == "none" else [with_scalar(batch) for batch in batches]
        self._guard()
        reply = self.session.sequence(sent, self._call_for(probe, reduction))
        if reply.outcome is not Outcome.PASSED:
            return (Examination(reply, (self._failure(reply, batches[-1], probe),)),)
        self._note_state(reply, batches[-1], probe)
        seen = []
        for turn, batch in enumerate(batches):
            own = {n.partition("/")[2]: a for n, a in reply.arrays.items() if n.partition("/")[0] == str(turn)}
            alone = judged(self.terms, batch, probe, reply, own, reduction, None)
            calls = tuple(batches[: turn + 1])
            seen.append(replace(alone, problems=tuple(replace(p, calls=calls) for p in alone.problems)))
        return tuple(seen)

    def part(self, batch: Batch, seen: Examination, rows: Array) -> Examination:
        """Some rows of what came of a batch, judged: the others hold what no truth is asked of."""
        own = {
            name: array[rows]
            for name, array in (("loss", seen.loss), ("gradient", seen.gradient))
            if array is not None and array.shape[:1] == batch.logits.shape[:1]
        }
        return judged(self.terms, batch.rows(rows), Probe(), seen.reply, own, "none", None)

    def as_good(self, batch: Batch, probe: Probe, seen: Examination, what: str, other: Array) -> bool:
        """Whether another array, float64, in place of a call's loss or gradient would be right, and of its dtype."""
        arrays = {name: array for name in ("loss", "gradient") if (array := getattr(seen, name)) is not None}
        with np.errstate(over="ignore"):
            cast = other.astype(arrays[what].dtype)
        if other.shape != cast.shape or not np.array_equal(cast.astype(np.float64), other, equal_nan=True):
            return False
        reduction = probe.reduction or ("mean" if self.mean_only else "none")
        return not judged(self.terms, batch, probe, seen.reply, {**arrays, what: cast}, reduction, None).problems

    def differentiated(self, turn: int, batch: Batch, probe: Probe, seen: Examination) -> Problem | None:
        """What is wrong with the gradient of a call that differentiated its result several times, at one of those.

        The gradient is judged against the truth for the upstream gradient that was given at that time.
        """
        gradient = seen.reply.arrays.get(f"gradient{turn or ''}")
        if seen.loss is None or gradient is None:
            return None
        given = replace(batch, upstream=(batch.upstream * batch.upstream.dtype.type(FACTORS[turn])))
        arrays = {"loss": seen.loss, "gradient": gradient}
        reduction = probe.reduction or "none"
        return judged(self.terms, given, probe, seen.reply, arrays, reduction, None).of("gradient")

    def look(self, batch: Batch, reduction: str | None = None, threads: int = 0) -> Examination:
        """Call the candidate and judge nothing: for inputs on which conventions differ."""
        probe = Probe(reduction=reduction)
        name = reduction or ("mean" if self.mean_only else "none")
        sent = batch if name == "none" else with_scalar(batch)
        reply = self._call(sent, replace(self._call_for(probe, name), threads=threads))
        if reply.outcome is Outcome.PASSED:  # what the very first call does to the process is not seen again
            self._inspect(reply, sent, probe)
        problems = () if reply.outcome is Outcome.PASSED else (self._failure(reply, batch, probe),)
        return Examination(reply, problems, loss=reply.arrays.get("loss"), gradient=reply.arrays.get("gradient"))

    def _rowwise(self, batch: Batch) -> bool:
        """Whether the mean over one row is that row's loss: not where weights or ignored rows enter the denominator."""
        return not batch.options

    def _call_for(self, probe: Probe, reduction: str) -> Call:
        options = self.claims.given | ({"reduction": reduction} if self.claims.reduction else {})
        gradient = probe.gradient and self.differentiates and not probe.no_grad
        return Call(options, gradient, probe.backwards, probe.layout, probe.together, probe.no_grad, probe.threads)

    def _guard(self) -> None:
        session = self.session
        if session.deaths >= self.MOST_DEATHS:
            last = session.last_death
            raise Gone(f"it died or hung {session.deaths} times ({last.detail})", last.outcome is Outcome.TIMED_OUT)
        limit = max(self.MOST_TIME, self.MOST_TIMES * session.timeout)
        if session.spent > limit:
            why = f"it took {session.spent:.0f} s for {session.asked} calls"
            raise Gone(f"{why}, more than {limit:.0f} s together (see --timeout)", True)

    def _call(self, batch: Batch, call: Call) -> Reply:
        self._guard()
        reply = self.session.call(batch, call)
        if reply.no_gradient:
            plain = self.session.call(batch, replace(call, gradient=False))
            return (
                plain if plain.outcome is not Outcome.PASSED else replace(plain, detail=reply.detail, no_gradient=True)
            )
        return reply

    def _failure(self, reply: Reply, batch: Batch, probe: Probe) -> Problem:
        kind = "form" if reply.outcome is Outcome.WRONG_SHAPE else str(reply.outcome)
        return Problem("call", kind, reply.detail, batch, probe)

    def _inspect(self, reply: Reply, sent: Batch, probe: Probe) -> None:
        """Note what the call did beside its result: to its inputs, and to the process."""
        expected = {"logits": sent.logits, "target": sent.target, "upstream": sent.upstream}
        expected |= {name: value for name, value in sent.options.items() if isinstance(value, np.ndarray)}
        for name, before in expected.items():
            after = reply.arrays.get(f"after/{name}")
            if (
                after is None
                or after.shape != before.shape
                or after.tobytes() != np.ascontiguousarray(before).tobytes()
            ):
                detail = f"{name} was changed by the call"
                self.altered_inputs.setdefault(sent.dtype, Problem("call", "altered", detail, sent, probe))
        for what in reply.marked:
            detail = f"the {what} was changed by the call"
            self.altered_inputs.setdefault(sent.dtype, Problem("call", "altered", detail, sent, probe))
        self._note_state(reply, sent, probe)

    def _note_state(self, reply: Reply, sent: Batch, probe: Probe) -> None:
        for name in reply.altered:
            if name == "recursion limit":  # torch.compile raises it whenever it compiles; no value depends on it
                continue
            # A first call may import and compile, which touches these without altering any value.
            if name in ("warnings filters", "random state", "numpy random state") and self.session.calls <= 3:
                continue
            problem = Problem("call", "altered", f"a call changed the {name} of the process", sent, probe)
            self.altered_state.setdefault(sent.dtype, (name, problem))


def _within(problem: Problem, batches: Sequence[Batch]) -> Problem:
    """The problem, with the calls up to the one that shows it."""
    if problem.row is None:
        return problem
    return replace(problem, calls=tuple(batches[: problem.row // len(batches[0].logits) + 1]))
