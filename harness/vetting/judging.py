"""From what a call gave back to what is wrong with it: the judge's grades against the grade that is required."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.grades import Grade, Outcome
from harness.judge import Judgement, judge
from harness.output import Output
from harness.reference import Reference, reference_of
from harness.vetting import maxima
from harness.vetting.examination import Examination, Probe, Problem
from harness.vetting.session import Reply

__all__ = ["Terms", "judged"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Terms:
    """What is asked of a candidate.

    Parameters
    ----------
    required : mapping of str to Grade
        The grade that each dtype must reach.
    flushed : frozenset of str
        The formats whose subnormal results are zero where it runs.
    differentiates : bool
        Whether it has a gradient.
    """

    required: Mapping[str, Grade]
    flushed: frozenset[str]
    differentiates: bool


def judged(
    terms: Terms,
    batch: Batch,
    probe: Probe,
    reply: Reply,
    arrays: Mapping[str, Array],
    reduction: str,
    reference: Reference | None,
) -> Examination:
    """What a call gave back, judged.

    Parameters
    ----------
    terms : Terms
        What is asked of the candidate.
    batch, probe : Batch, Probe
        The call.
    reply : Reply
        How it ended.
    arrays : mapping of str to array
        ``"loss"`` and ``"gradient"``, of this batch.
    reduction : str
        ``"none"``, ``"mean"`` or ``"sum"``.
    reference : Reference or None
        The truth, where it is known already.
    """
    loss = arrays.get("loss")
    if loss is None:
        return Examination(reply, (Problem("call", "form", "no loss came back", batch, probe),))
    reference = reference or reference_of(batch)
    gradient = arrays.get("gradient")
    output = Output(
        _no_wider(loss, batch),
        None if gradient is None else _no_wider(gradient, batch),
        flushed=terms.flushed,
    )
    scalar = float(batch.upstream.reshape(-1)[0]) if batch.upstream.size else 1.0
    judgements = judge(batch, reference, output, reduction=reduction, upstream=scalar)
    problems = [
        problem
        for what, judgement in judgements.items()
        if (problem := _problem(terms, what, judgement, batch, probe, reference, output, reduction)) is not None
    ]
    if reply.no_gradient and probe.gradient and terms.differentiates:
        problems.append(Problem("gradient", "no_gradient", reply.detail, batch, probe))
    return Examination(reply, tuple(problems), judgements, loss, arrays.get("gradient"))


def _problem(
    terms: Terms,
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
    bad = ranks > terms.required[batch.dtype].rank
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
        detail += maxima.advice(bad, got, batch, reference, terms.required[batch.dtype])
    row = int(index[0]) if index else None
    column = int(index[1]) if len(index) > 1 else None
    return Problem(what, kind, detail, batch, probe, row, column, found, hi)


def _no_wider(array: Array, batch: Batch) -> Array:
    """A float64 result of narrower input as float32, which is all that is asked: what overflows there, may overflow."""
    if array.dtype != np.float64 or batch.dtype == "float64":
        return array
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


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
