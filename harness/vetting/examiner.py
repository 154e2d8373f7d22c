"""The examiner: one call of the candidate, judged against the truth, and what is wrong with it.

Every check is made of examinations. An examination never trusts the candidate: what came back is an array or is not,
and the judge says what it is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.grades import Grade, Outcome
from harness.judge import Judgement, judge
from harness.losses import loss_named
from harness.output import Output
from harness.reference import Reference, reference_of
from harness.vetting import maxima
from harness.vetting.drivers import FACTORS, Call
from harness.vetting.session import Claims, Reply, Session

__all__ = ["Examination", "Examiner", "Gone", "Probe", "Problem", "rearranged", "stack"]

Array = np.ndarray[Any, Any]

MOST_ELEMENTS = 640
"""Calls that a batch of an element-wise loss is taken apart into, for a candidate that only gives means."""


class Gone(Exception):
    """The candidate has died or hung too often to be worth another call; `hung` is how it ended last."""

    def __init__(self, deaths: int, last: Reply) -> None:
        super().__init__(f"it died or hung {deaths} times, and is called no more: {last.detail}")
        self.hung = last.outcome is Outcome.TIMED_OUT


@dataclass(frozen=True)
class Probe:
    """How to call, and what of the result to judge.

    ``reduction`` is None for the candidate's own unreduced form, or ``"mean"`` or ``"sum"``; ``gradient`` is whether to
    differentiate; ``in_sequence`` calls row by row (or batch by batch) in the same memory; ``together`` computes all
    losses of a sequence, each from memory of its own, before the first is differentiated; ``no_grad`` calls with
    gradients switched off, in a framework that has such a switch; ``threads`` is how many the framework may use, where
    that can be set, 0 for as many as always.
    """

    reduction: str | None = None
    gradient: bool = True
    backwards: int = 1
    layout: str = "contiguous"
    in_sequence: bool = False
    together: bool = False
    no_grad: bool = False
    threads: int = 0


@dataclass(frozen=True, eq=False)
class Problem:
    """Something wrong with one call.

    Parameters
    ----------
    what : str
        ``"loss"``, ``"gradient"`` or ``"call"``.
    kind : str
        ``"inaccurate"``, ``"nonfinite"``, ``"hidden_nan"``, ``"form"``, ``"no_gradient"``, ``"raised"``, ``"crashed"``,
        ``"timed_out"``.
    detail : str
        One line.
    batch, probe : Batch, Probe
        The call.
    row, column : int or None
        Where, in the batch.
    got, want : float or None
        The value there, and the truth.
    calls : tuple of Batch
        The calls of the sequence, in the same memory, of which the last is this one; empty where it stands alone.
    """

    what: str
    kind: str
    detail: str
    batch: Batch
    probe: Probe
    row: int | None = None
    column: int | None = None
    got: float | None = None
    want: float | None = None
    calls: tuple[Batch, ...] = ()


@dataclass(frozen=True, eq=False)
class Examination:
    """One call, judged."""

    reply: Reply
    problems: tuple[Problem, ...]
    judgements: Mapping[str, Judgement] = field(default_factory=dict)
    loss: Array | None = None
    gradient: Array | None = None

    def of(self, what: str) -> Problem | None:
        """The problem with the loss, the gradient, or the call, if there is one."""
        return next((p for p in self.problems if p.what == what), None)


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

    def __init__(
        self, session: Session, claims: Claims, required: Mapping[str, Grade], differentiates: bool = True
    ) -> None:
        self.session, self.claims, self.required, self.differentiates = session, claims, required, differentiates
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
        sent = batch if reduction == "none" else _with_scalar(batch)
        reply = self._call(sent, self._call_for(probe, reduction))
        if reply.outcome is not Outcome.PASSED:
            if "after/logits" in reply.arrays:
                self._inspect(reply, sent, probe)
            return Examination(reply, (self._failure(reply, batch, probe),))
        self._inspect(reply, sent, probe)
        return self._judged(batch, probe, reply, reply.arrays, reduction, reference)

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
                whole, reference = _elements(whole, reference)
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
        seen = self._judged(whole, probe, reply, arrays, "none", reference)
        if self.mean_only or probe.together:
            return seen
        return replace(seen, problems=tuple(_within(problem, batches) for problem in seen.problems))

    def examine_each(self, batches: Sequence[Batch], probe: Probe = Probe()) -> tuple[Examination, ...]:
        """Call the candidate on batches of one shape in turn, in the same memory, and judge each result by itself.

        Unlike those of `examine_sequence`, the batches may differ in their options, and be reduced.
        """
        reduction = probe.reduction or ("mean" if self.mean_only else "none")
        sent = batches if reduction == "none" else [_with_scalar(batch) for batch in batches]
        self._guard()
        reply = self.session.sequence(sent, self._call_for(probe, reduction))
        if reply.outcome is not Outcome.PASSED:
            return (Examination(reply, (self._failure(reply, batches[-1], probe),)),)
        self._note_state(reply, batches[-1], probe)
        seen = []
        for turn, batch in enumerate(batches):
            own = {n.partition("/")[2]: a for n, a in reply.arrays.items() if n.partition("/")[0] == str(turn)}
            judged = self._judged(batch, probe, reply, own, reduction, None)
            calls = tuple(batches[: turn + 1])
            seen.append(replace(judged, problems=tuple(replace(p, calls=calls) for p in judged.problems)))
        return tuple(seen)

    def part(self, batch: Batch, seen: Examination, rows: Array) -> Examination:
        """Some rows of what came of a batch, judged: the others hold what no truth is asked of."""
        own = {
            name: array[rows]
            for name, array in (("loss", seen.loss), ("gradient", seen.gradient))
            if array is not None and array.shape[:1] == batch.logits.shape[:1]
        }
        return self._judged(batch.rows(rows), Probe(), seen.reply, own, "none", None)

    def as_good(self, batch: Batch, probe: Probe, seen: Examination, what: str, other: Array) -> bool:
        """Whether another array, float64, in place of a call's loss or gradient would be right, and of its dtype."""
        arrays = {name: array for name in ("loss", "gradient") if (array := getattr(seen, name)) is not None}
        with np.errstate(over="ignore"):
            cast = other.astype(arrays[what].dtype)
        if other.shape != cast.shape or not np.array_equal(cast.astype(np.float64), other, equal_nan=True):
            return False
        reduction = probe.reduction or ("mean" if self.mean_only else "none")
        return not self._judged(batch, probe, seen.reply, {**arrays, what: cast}, reduction, None).problems

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
        return self._judged(given, probe, seen.reply, arrays, reduction, None).of("gradient")

    def look(self, batch: Batch, reduction: str | None = None, threads: int = 0) -> Examination:
        """Call the candidate and judge nothing: for inputs on which conventions differ."""
        probe = Probe(reduction=reduction)
        name = reduction or ("mean" if self.mean_only else "none")
        sent = batch if name == "none" else _with_scalar(batch)
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
        if self.session.deaths >= self.MOST_DEATHS:
            raise Gone(self.session.deaths, self.session.last_death)

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

    def _judged(
        self,
        batch: Batch,
        probe: Probe,
        reply: Reply,
        arrays: Mapping[str, Array],
        reduction: str,
        reference: Reference | None,
    ) -> Examination:
        loss = arrays.get("loss")
        if loss is None:
            return Examination(reply, (Problem("call", "form", "no loss came back", batch, probe),))
        reference = reference or reference_of(batch)
        gradient = arrays.get("gradient")
        output = Output(
            _no_wider(loss, batch),
            None if gradient is None else _no_wider(gradient, batch),
            flushed=self.claims.flushed,
        )
        scalar = float(batch.upstream.reshape(-1)[0]) if batch.upstream.size else 1.0
        judgements = judge(batch, reference, output, reduction=reduction, upstream=scalar)
        problems = [
            problem
            for what, judgement in judgements.items()
            if (problem := self._problem(what, judgement, batch, probe, reference, output, reduction)) is not None
        ]
        if reply.no_gradient and probe.gradient and self.differentiates:
            problems.append(Problem("gradient", "no_gradient", reply.detail, batch, probe))
        return Examination(reply, tuple(problems), judgements, loss, arrays.get("gradient"))

    def _problem(
        self,
        what: str,
        judgement: Judgement,
        batch: Batch,
        probe: Probe,
        reference: Reference,
        output: Output,
        reduction: str,
    ) -> Problem | None:
        """What is wrong with a judged loss or gradient, if anything."""
        if judgement.outcome in (Outcome.WRONG_SHAPE, Outcome.WRONG_DTYPE):
            return Problem(what, "form", judgement.detail, batch, probe)
        ranks = judgement.grades
        if ranks is None:
            return None
        bad = ranks > self.required[batch.dtype].rank
        if not bad.any():
            return None
        got = output.loss if what == "loss" else output.gradient
        assert got is not None
        value = got.astype(np.float64)
        index = _worst(bad, value)
        hi = _truth_at(what, reference, reduction, index, batch)
        found = float(value[index])
        kind = "inaccurate" if np.isfinite(found) else "nonfinite"
        if np.isnan(hi):
            kind = "hidden_nan"
        elif kind == "nonfinite" and np.isinf(hi) and found == hi:
            kind = "inaccurate"
        where = "" if not index else f"row {index[0]}" + (f", class {index[1]}" if len(index) > 1 else "") + ": "
        count = f" ({int(bad.sum())} of {bad.size} values)" if bad.size > 1 else ""
        digits = 17 if got.dtype == np.float64 else 9
        detail = f"{where}got {found:.{digits}g}, want {hi:.{digits}g}{count}"
        if what == "gradient" and reduction == "none":
            detail += maxima.advice(bad, got, batch, reference, self.required[batch.dtype])
        row = int(index[0]) if index else None
        column = int(index[1]) if len(index) > 1 else None
        return Problem(what, kind, detail, batch, probe, row, column, found, hi)


def _no_wider(array: Array, batch: Batch) -> Array:
    """A float64 result of narrower input as float32, which is all that is asked: what overflows there, may overflow."""
    if array.dtype != np.float64 or batch.dtype == "float64":
        return array
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _within(problem: Problem, batches: Sequence[Batch]) -> Problem:
    """The problem, with the calls up to the one that shows it."""
    if problem.row is None:
        return problem
    return replace(problem, calls=tuple(batches[: problem.row // len(batches[0].logits) + 1]))


def _worst(bad: Array, value: Array) -> tuple[int, ...]:
    """The index of a bad value, a non-finite one first."""
    broken = bad & ~np.isfinite(value)
    flat = int(np.argmax(broken if broken.any() else bad))
    return tuple(int(i) for i in np.unravel_index(flat, bad.shape))


def _truth_at(what: str, reference: Reference, reduction: str, index: tuple[int, ...], batch: Batch) -> float:
    if reduction == "none":
        return float((reference.loss_hi if what == "loss" else reference.grad_hi)[index])
    reduced = reference.reduced(reduction, float(batch.upstream.reshape(-1)[0]))
    return float(reduced.loss_hi) if what == "loss" else float(reduced.grad_hi[index])


def _with_scalar(batch: Batch) -> Batch:
    """The batch with its first upstream element as the only one, for a reduced output."""
    first = batch.upstream.reshape(-1)[:1] if batch.upstream.size else np.ones(1, batch.upstream.dtype)
    return replace(batch, upstream=first.reshape(()))


def _elements(batch: Batch, reference: Reference | None) -> tuple[Batch, Reference | None]:
    """A batch [N, K] of an element-wise loss as one of single elements, [N·K, 1], up to `MOST_ELEMENTS` of them.

    Its truth, where it is known, is rearranged likewise.
    """

    def column(array: Array) -> Array:
        return np.ascontiguousarray(array.reshape(-1, 1)[:MOST_ELEMENTS])

    alone = replace(batch, logits=column(batch.logits), target=column(batch.target), upstream=column(batch.upstream))
    return alone, None if reference is None else rearranged(reference, alone, column)


def rearranged(reference: Reference, batch: Batch, pick: Callable[[Array], Array]) -> Reference:
    """The truth of a batch whose rows (or elements) `pick` takes from those of a solved one."""
    return replace(
        reference,
        problem=loss_named(batch.loss).problem(batch.logits, batch.target, batch.upstream, batch.options),
        loss_hi=pick(reference.loss_hi),
        loss_lo=pick(reference.loss_lo),
        grad_hi=pick(reference.grad_hi),
        grad_lo=pick(reference.grad_lo),
    )


def stack(batches: Sequence[Batch]) -> Batch:
    """Batches of one shape and one set of options as one batch: rows are independent, so their truth is too."""
    first = batches[0]
    return replace(
        first,
        logits=np.concatenate([b.logits for b in batches]),
        target=np.concatenate([b.target for b in batches]),
        upstream=np.concatenate([b.upstream for b in batches]),
    )
