"""Accuracy: every family and every size against the truth, loss and gradient apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.grades import Grade
from harness.reference import Reference
from harness.vetting.checks import Deviates, Failed, Finding, Skipped, inspection
from harness.vetting.context import Context
from harness.vetting.examination import Examination, Probe
from harness.vetting.rearranged import rearranged

__all__ = ["check_of"]

Array = np.ndarray[Any, Any]

_CHECKS = {
    "masked*": "masked_classes",
    "option_weight*": "option_weight",
    "option_pos_weight*": "option_pos_weight",
    "option_ignore_index*": "option_ignore_index",
    "option_label_smoothing*": "option_label_smoothing",
    "options_*": "options_combined",
}
ENOUGH = 3
VERY_MANY = 65536 + 64
_CLASSES_WITH_OPTIONS = (1100, 1700)
"""More than a block has, and so few that no sum of weighted losses over them is beyond float16."""


def check_of(family: str) -> str | None:
    """The check that a family belongs to, if it is one of its own."""
    return next((check for pattern, check in _CHECKS.items() if fnmatchcase(family, pattern)), None)


@inspection(
    accuracy="the loss is as accurate as the grade asks, on every family",
    gradient_accuracy="the gradient is as accurate as the grade asks, on every family",
    nonfinite="no NaN and no infinity where the true value is finite",
    masked_classes="a class of logit -inf has probability 0 and gradient 0, wherever it is",
    option_weight="class weights scale each row's loss and gradient, zeros included",
    option_ignore_index="ignored rows have loss 0 and gradient 0, also for an index inside [0, V)",
    option_label_smoothing="smoothing spreads ε evenly over all V classes",
    option_pos_weight="pos_weight scales the positive term",
    options_combined="options combine as each does alone, every set of them",
)
def families(context: Context, dtype: str) -> Iterator[Finding]:
    """Every family that the candidate's claims let it take."""
    batches = context.families[dtype]
    if context.without_gradient():
        yield Skipped("gradient_accuracy", "the candidate has no gradient")
    for check in ("option_weight", "option_ignore_index", "option_label_smoothing", "option_pos_weight"):
        if not any(check_of(b.family) == check for b in batches):
            yield Skipped(check, f"{check.removeprefix('option_')} is not claimed, or is none of this loss and target")
    if not any(check_of(b.family) == "options_combined" for b in batches):
        yield Skipped("options_combined", "not claimed together")
    if not any(check_of(b.family) == "masked_classes" for b in batches):
        yield Skipped("masked_classes", "infinite logits are a convention of this loss: see the deviations")
    lost: list[str] = []
    flushed: list[str] = []
    failures: dict[str, int] = {}
    for batch in batches:
        own = check_of(batch.family)
        if min(failures.get("loss", 0), failures.get("gradient", 0)) >= ENOUGH and own is None:
            continue
        reference = context.reference(batch)
        seen = context.examiner.examine(batch, Probe(), reference)
        if batch.family == "soft_targets_unnormalised" and seen.problems and not seen.of("call"):
            detail = context.said(seen.problems[0])
            yield Deviates("unnormalised_targets", f"targets are taken to sum to one: {detail}")
            continue
        unclear = _zero_mass_on_masked(batch)
        if seen.problems and not seen.of("call") and unclear.any():
            yield Deviates("zero_mass_on_masked_class", context.said(seen.problems[0]))
            if unclear.all():
                continue
            batch, reference = _without(batch, reference, unclear)
            seen = context.examiner.examine(batch, Probe(), reference)
        spilt = _overflowed(seen, reference)
        if spilt.any():
            yield Deviates("overflowed_gradient", context.said(seen.problems[-1]))
            if spilt.all():
                continue
            batch, reference = _without(batch, reference, spilt)
            seen = context.examiner.examine(batch, Probe(), reference)
        context.grade(dtype, seen)
        for problem in seen.problems:
            failures[problem.what] = failures.get(problem.what, 0) + 1
        yield from context.attribute(seen, own or "accuracy", own or "gradient_accuracy", own or "nonfinite")
        lost += _lost_targets(context, batch, reference, seen)
        flushed += [
            f"{what}, {batch.family}: {judged.detail.removeprefix('flush_to_zero: ')}"
            for what, judged in seen.judgements.items()
            if judged.detail.startswith("flush_to_zero")
        ]
    if lost:
        yield Deviates("target_gradient_lost", f"{lost[0]} ({len(lost)} such entries)")
    if flushed:
        yield Deviates("flush_to_zero", flushed[0])


def _zero_mass_on_masked(batch: Batch) -> Array:
    """The rows that give no mass to a class whose log-probability is -inf, or rounds to it: bool [N].

    0 · -inf is NaN in most libraries, and 0 in the model.
    """
    logits = batch.logits.astype(np.float64)
    if batch.target.shape != logits.shape or batch.upstream.ndim != 1 or not logits.size:
        return np.zeros(len(logits), dtype=bool)
    with np.errstate(over="ignore", invalid="ignore"):
        masked = logits - logits.max(axis=1, keepdims=True) < -batch.format.largest
    return np.asarray((masked & (batch.target == 0)).any(axis=1))


def _overflowed(seen: Examination, reference: Reference) -> Array:
    """The rows whose loss is rightly infinite, and whose gradient is not finite: bool [N].

    Forms that take logsumexp of z - z_y have no difference left to differentiate there; others still have p - y.
    """
    loss, gradient = seen.loss, seen.gradient
    if (
        loss is None
        or gradient is None
        or loss.ndim != 1
        or loss.shape != reference.loss_hi.shape
        or gradient.shape != reference.grad_hi.shape
    ):
        return np.zeros(len(reference.loss_hi), dtype=bool)
    with np.errstate(over="ignore"):
        rightly = np.isinf(reference.loss_hi.astype(loss.dtype).astype(np.float64))
    infinite = rightly & (loss.astype(np.float64) == np.inf)
    return np.asarray(infinite & ~np.isfinite(gradient.astype(np.float64)).all(axis=1))


def _without(batch: Batch, reference: Reference, rows: Array) -> tuple[Batch, Reference]:
    kept = batch.rows(~rows)
    return kept, rearranged(reference, kept, lambda array: array[~rows])


def _lost_targets(context: Context, batch: Batch, reference: Reference, seen: Examination) -> list[str]:
    """Target entries of the gradient that are off by more than half, where the `storage` grade lets them."""
    judged = seen.judgements.get("gradient")
    if (
        seen.gradient is None
        or judged is None
        or judged.grades is None
        or batch.format.bits > 16
        or batch.target.ndim > 1
    ):
        return []
    if seen.gradient.shape != batch.logits.shape or context.examiner.required[dtype_of(batch)] is not Grade.STORAGE:
        return []
    rows = np.flatnonzero((batch.target >= 0) & (batch.target < batch.logits.shape[1]))
    columns = batch.target[rows]
    want, got = reference.grad_hi[rows, columns], seen.gradient.astype(np.float64)[rows, columns]
    ranks = judged.grades[rows, columns]
    off = (np.abs(got - want) > 0.5 * np.abs(want)) & (ranks == Grade.STORAGE.rank) & (np.abs(want) > 1e-6)
    return [
        f"{batch.family}, row {rows[i]}: got {got[i]:.4g}, want {want[i]:.4g} in {batch.dtype}"
        for i in np.flatnonzero(off)
    ]


def dtype_of(batch: Batch) -> str:
    """The batch's dtype, by name."""
    return batch.dtype


@inspection(sizes="right for one class and for 131,072, for one row and for many")
def sizes(context: Context, dtype: str) -> Iterator[Finding]:
    """Batches of many sizes; the mass sits where a kernel that drops its last block would miss it."""
    for batch in context.sizes[dtype]:
        seen = context.examiner.examine(batch, Probe(), context.reference(batch))
        context.grade(dtype, seen)
        for problem in seen.problems:
            if problem.kind in ("crashed", "timed_out"):
                yield context.found(problem, "sizes")
            else:
                yield Failed("sizes", context.said(problem), problem)
    for rows, between in context.scale.tall:
        yield from _many_rows(context, dtype, rows, int(context.rng("many classes", str(rows)).integers(*between)))
    classes = int(context.rng("many classes with options").integers(*_CLASSES_WITH_OPTIONS))
    options = _every_option(context, classes)
    if options and not context.brief:
        yield from _many_rows(context, dtype, 3, classes, options)
    if context.scale.very_many_rows:
        yield from _many_rows(context, dtype, VERY_MANY, 3)
    empty = context.batch(dtype, "empty batch", 0)
    seen = context.survives(empty)
    if seen.problems:
        yield Deviates("empty_batch", seen.problems[0].detail)
    elif seen.loss is not None and seen.loss.size and not np.isnan(seen.loss.astype(float)).all():
        yield Deviates("empty_batch", f"the mean over no rows is {seen.loss.astype(float)}; torch has nan")


def _every_option(context: Context, classes: int) -> dict[str, Any]:
    """All claimed options at once; few different weights, since truth takes time by different numbers."""
    values = {
        "weight": np.resize([0.5, 1.0, 0.25], classes),
        "pos_weight": np.resize([2.0, 1.0, 4.0], classes),
        "label_smoothing": 0.125,
    }
    return {name: value for name, value in values.items() if name in context.claims}


def _many_rows(
    context: Context, dtype: str, rows: int, classes: int, options: Mapping[str, Any] | None = None
) -> Iterator[Finding]:
    """Few different rows, over and over; `VERY_MANY` are more than 16 bits count, or a CUDA grid's second axis has."""
    rng = context.rng("some rows", str(rows))
    # Of few different numbers, which is what truth takes time by.
    logits = np.rint(rng.normal(0, 16, (67 if classes < 10 else 3, classes))) / 8
    few = context.batch(dtype, "some rows", logits=logits, options=options)
    batch, reference = context.over_and_over(replace(few, family=f"{rows} rows"), rows)
    probes = [] if context.examiner.mean_only else [Probe()]
    if context.examiner.mean_only or (context.examiner.claims.reduction and not options):
        probes.append(Probe(reduction="mean"))  # the sum over so many may be beyond the format, their mean is not
    for probe in probes:
        for found in context.examiner.examine(batch, probe, reference).problems:
            if found.kind in ("crashed", "timed_out"):
                yield context.found(found, "sizes")
            else:  # without its batch, whose rows alone show nothing
                yield Failed("sizes", context.said(found))
