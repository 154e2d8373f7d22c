"""Behaviour over calls: determinism, replay, late calls, rows that do not meet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.formats import named
from harness.vetting.checks import Deviates, Failed, Finding, Skipped, inspection
from harness.vetting.context import CLASSES, ROWS, Context
from harness.vetting.examination import Examination, Probe, Problem

__all__: list[str] = []

Array = np.ndarray[Any, Any]


@inspection(deterministic="the same inputs give the same bits")
def deterministic(context: Context, dtype: str) -> Iterator[Finding]:
    """The same call three times, of few rows, of wide ones, and of many as their mean."""
    shapes = ((16, 1000, None), (8, 33, None), (257, 10, "mean"))
    for n, v, reduction in shapes[: 1 if context.brief else None]:
        if reduction is None or context.examiner.claims.reduction:
            yield from _three_times(context, context.batch(dtype, "same inputs", n, v), Probe(reduction=reduction))


def _three_times(context: Context, batch: Batch, probe: Probe) -> Iterator[Finding]:
    first = context.examiner.look(batch, probe.reduction)
    for _ in range(2):
        again = context.examiner.look(batch, probe.reduction)
        for what in ("loss", "gradient"):
            a, b = getattr(first, what), getattr(again, what)
            if a is not None and (b is None or a.shape != b.shape or a.tobytes() != b.tobytes()):
                yield Failed("deterministic", f"the {what} differs between two calls on the same inputs")
                return


@inspection(no_replay="new values at the same address, of the same shape, give new results")
def replay(context: Context, dtype: str) -> Iterator[Finding]:
    """Batches that agree in what a cache might look at: shape, address, sum, first elements, logits or target alone."""
    fmt = named(dtype)
    a = context.batch(dtype, "in the same memory", 4)  # a shape of its own: what was kept, was kept here
    logits = a.logits.astype(np.float64)
    moved = np.roll(logits, 1, axis=1)  # the same numbers, at other classes than the target's
    last = logits.copy()
    last[-1, -1] += 3
    middle = logits.copy()
    middle[2, 4] -= 3
    rolled = replace(a, target=np.roll(a.target, 1, axis=a.target.ndim - 1))
    if a.target.ndim == 1:
        rolled = replace(a, target=(a.target + 1) % a.logits.shape[1])
    batches = [
        a,
        replace(a, logits=fmt.round(moved)),
        rolled,
        replace(a, logits=fmt.round(last)),
        replace(a, logits=fmt.round(middle)),
        replace(a, upstream=-a.upstream),
        replace(a, logits=fmt.round(-logits)),
        a,
    ]
    seen = context.examiner.examine_sequence(batches, Probe(in_sequence=True))
    for problem in seen.problems:
        yield context.found(problem, "no_replay")
    for options in _changing_options(context, a.logits.shape[1]):
        sent = replace(a, options={n: fmt.round(o) if isinstance(o, np.ndarray) else o for n, o in options.items()})
        for problem in context.examiner.examine(sent).problems:
            yield context.found(problem, "no_replay")
    yield from _changed_in_place(context, a)
    if context.examiner.claims.reduction:
        for mean in context.examiner.examine_each(batches[:4], Probe(reduction="mean")):
            for problem in mean.problems:
                yield context.under("no_replay", problem)


def _changed_in_place(context: Context, batch: Batch) -> Iterator[Finding]:
    """The very same weights with other numbers in them, as those that follow the frequencies of classes have."""
    names = [name for name in context.claims if name in ("weight", "pos_weight")]
    drawn = context.rng("weights in place").integers(8, 32, (3, batch.logits.shape[1])) / 8
    given = [replace(batch, options=dict.fromkeys(names, batch.format.round(each))) for each in drawn]
    for seen in context.examiner.examine_each(given) if names else ():
        for problem in seen.problems:
            found = context.found(problem, "no_replay")
            yield (
                found
                if problem.what == "call"
                else Failed("no_replay", f"weights changed in place: {found.detail}", problem)
            )
            return


def _changing_options(context: Context, classes: int) -> Iterator[dict[str, Any]]:
    """Options for calls on the same logits and target: of each claimed option one value, another, and the first."""
    rng = context.rng("changing options")
    first, second = rng.integers(8, 32, (2, classes)) / 8
    values: dict[str, tuple[Any, Any]] = {"label_smoothing": (0.25, 0.5)}
    values |= {"weight": (first, second), "pos_weight": (first, second)}
    if context.indices:
        values["ignore_index"] = (-100, 2)
    for name, (one, other) in values.items():
        if name in context.claims:
            yield from ({name: one}, {name: other}, {name: one})


@inspection(overlapping_calls="several losses of one shape are differentiated after the last of them was computed")
def overlapping(context: Context, dtype: str) -> Iterator[Finding]:
    """Three batches of one shape: all losses first, then all gradients, as a step with several terms has it."""
    batches = [context.batch(dtype, f"overlapping calls {turn}") for turn in range(3)]
    seen = context.examiner.examine_sequence(batches, Probe(in_sequence=True, together=True))
    for problem in seen.problems:
        yield context.found(problem, "overlapping_calls")
    if seen.problems or not context.examiner.claims.reduction:
        return
    for mean in context.examiner.examine_each(batches, Probe(reduction="mean", together=True)):
        for problem in mean.problems:
            found = context.found(problem, "overlapping_calls")  # by itself, the last call shows nothing
            yield found if problem.what == "call" else Failed("overlapping_calls", found.detail)


@inspection(late_calls="still right after many calls")
def late(context: Context, dtype: str) -> Iterator[Finding]:
    """Hundreds of small calls, every one of them judged."""
    count, turns = context.scale.late_calls
    each = ROWS if context.brief else 3  # few, since a witness shows them all
    for turn in range(turns):
        big = context.batch(dtype, f"late calls {turn}", each * count)
        batches = [big.rows(slice(i, i + each)) for i in range(0, each * count, each)]
        seen = context.examiner.examine_sequence(batches, Probe(in_sequence=True), big)
        for problem in seen.problems:
            found = context.found(problem, "late_calls")
            yield (
                found
                if problem.what == "call"
                else replace(
                    found, detail=f"call {(problem.row or 0) // each + 1} of {count} in a row: {problem.detail}"
                )
            )
        if seen.problems:
            return


@inspection(row_independence="a row's result depends on that row alone")
def rows(context: Context, dtype: str) -> Iterator[Finding]:
    """Rows far above the others, permuted, split, and beside NaN and infinity."""
    batch = context.batch(dtype, "rows")
    logits = batch.logits.astype(np.float64)
    far = {"float64": 2000.0}.get(dtype, 200.0)
    lifted = logits.copy()
    lifted[0] += far
    lifted[1] -= far
    apart = context.batch(dtype, "one row far above the others", logits=lifted)
    for problem in context.examiner.examine(
        apart, Probe(reduction="mean") if context.examiner.mean_only else Probe()
    ).problems:
        yield context.found(problem, "row_independence")
    if context.examiner.mean_only:
        return
    plain = context.examiner.examine(batch)
    yield from _compare(context, dtype, batch, plain, np.random.default_rng(context.seed).permutation(8), "permuted")
    alone = np.arange(4) if not context.brief else np.arange(ROWS) % 4  # of no shape that is to be compiled for
    yield from _compare(context, dtype, batch, plain, alone, "without the other rows")
    for poison in (np.nan, np.inf):
        poisoned = logits.copy()
        poisoned[1, 3] = poisoned[5] = poison
        clean = np.array([0, 2, 3, 4, 6, 7])
        sent = replace(batch, logits=named(dtype).round(poisoned), family=f"rows beside {poison}")
        seen = context.survives(sent)
        if seen.problems:
            (problem, *_) = seen.problems
            died = Failed("row_independence", context.said(problem), problem)
            raised = Deviates("poisoned_rows", f"raises where another row holds {poison}: {problem.detail}")
            yield died if problem.kind in ("crashed", "timed_out") else raised
            continue
        for what in ("loss", "gradient"):
            got, want = getattr(seen, what), getattr(plain, what)
            if got is not None and want is not None and got.shape == want.shape:
                a, b = got[clean].astype(np.float64), want[clean].astype(np.float64)
                if not np.array_equal(np.isfinite(a), np.isfinite(b)):
                    yield Failed(
                        "row_independence", f"{poison} in other rows makes the {what} of clean rows non-finite"
                    )
                    return
        for problem in context.examiner.part(sent, seen, clean).problems if not plain.problems else ():
            yield Failed("row_independence", f"{poison} in other rows, among the clean ones: {context.said(problem)}")


def _compare(
    context: Context,
    dtype: str,
    batch: Batch,
    plain: Examination,
    order: Array,
    how: str,
) -> Iterator[Finding]:
    sent = replace(batch.rows(order), family=f"rows {how}")
    seen = context.examiner.examine(sent)
    for problem in seen.problems:
        yield context.found(problem, "row_independence")
    for what in ("loss", "gradient"):
        a, b = getattr(plain, what), getattr(seen, what)
        comparable = a is not None and b is not None and not seen.problems and len(a) == len(batch.logits)
        if comparable and a[order].tobytes() != b.tobytes():
            yield Deviates("row_independence", f"the {what} of rows {how} differs in its last bits, within the grade")


@inspection(nan_propagates="a NaN in a row that counts never comes out finite, nor does one in the upstream gradient")
def nan(context: Context, dtype: str) -> Iterator[Finding]:
    """A NaN first, last, in the middle and at the target, one in each row."""
    batch = context.batch(dtype, "NaN in a row", labels=np.array([3, 3, 3, 3, 0, 8, 1, 2]))
    logits = batch.logits.astype(np.float64)
    for row, column in enumerate((0, 8, 6, 3)):
        logits[row, column] = np.nan
    sent = replace(batch, logits=named(dtype).round(logits))
    for reduction in (None, "mean", "sum") if context.examiner.claims.reduction else (None,):
        seen = context.survives(sent, reduction)
        if seen.problems:
            call = seen.problems[0]
            if call.kind != "raised":
                yield context.found(call, "nan_propagates")
            else:
                yield Deviates("nan_raises", f"raises for a NaN logit: {call.detail}")
            return
        yield from _hidden(seen, sent, logits, reduction)
    weights = [name for name in context.claims if name in ("weight", "pos_weight")]
    if weights:
        given = dict.fromkeys(weights, np.linspace(1.0, 2.0, CLASSES))
        sent = replace(sent, options={name: named(dtype).round(value) for name, value in given.items()})
        seen = context.survives(sent)
        if not seen.problems:
            yield from _hidden(seen, sent, logits, None)
    yield from _upstream_nan(context, dtype)


def _upstream_nan(context: Context, dtype: str) -> Iterator[Finding]:
    """Upstream gradients that are not finite, which is how a loss scale that was too large shows."""
    batch = context.batch(dtype, "upstream gradient")
    scalar = context.examiner.mean_only
    for value in (np.nan, np.inf):
        given = batch.upstream.astype(np.float64)
        given[[0, 3]] = value
        seen = context.survives(replace(batch, upstream=batch.format.round(given)))
        if seen.problems or seen.gradient is None:
            return
        rows: Array = np.asarray(np.isfinite(seen.gradient.astype(np.float64)).all(axis=1))
        if rows[[0, 3]].any():
            yield Failed("nan_propagates", f"an upstream gradient of {value} gives a finite gradient")
        if not scalar and not rows[[1, 2, 4, 5]].all():
            yield Failed("row_independence", f"an upstream gradient of {value} makes that of other rows non-finite")


def _hidden(seen: Examination, sent: Batch, logits: Array, reduction: str | None) -> Iterator[Finding]:
    """What is finite although the logits of its row hold NaN."""
    assert seen.loss is not None
    value = seen.loss.astype(np.float64)
    if np.isfinite(value if value.ndim == 0 else _poisoned(value, logits)).any():
        what = f"the {reduction or 'mean'} over rows" if value.ndim == 0 else "a row"
        problem = _problem(seen, sent, reduction)
        yield Failed("nan_propagates", f"{what} whose logits hold NaN has a finite loss", problem)
    gradient = seen.gradient
    if gradient is not None and gradient.shape == logits.shape:
        rows = [np.isfinite(gradient.astype(np.float64)[r]).all() for r in range(4)]
        if any(rows):
            problem = _problem(seen, sent, reduction)
            yield Failed("nan_propagates", "a row whose logits hold NaN has a finite gradient", problem)


def _poisoned(value: Array, logits: Array) -> Array:
    return value[np.isnan(logits)] if value.ndim == 2 else value[:4]


def _problem(seen: Examination, batch: Batch, reduction: str | None) -> Problem:
    value = float(np.ravel(seen.loss.astype(np.float64))[0]) if seen.loss is not None else float("nan")
    probe = Probe(reduction=reduction)
    return Problem("loss", "hidden_nan", "a NaN came out finite", batch, probe, 0, None, value, float("nan"))


@inspection(inputs_untouched="logits, target, weights and upstream gradient are as they were, after the backward too")
def untouched(context: Context, dtype: str) -> Iterator[Finding]:
    """Noted at every call; two more here, so that the check never rests on others."""
    reduction = "mean" if context.examiner.mean_only else None
    names = [name for name in context.claims if name in ("weight", "pos_weight")]
    weights = {name: np.linspace(0.5, 4.0, CLASSES) for name in names}
    for word, gradient in (("inputs", True), ("inputs again", False)):
        batch = context.batch(dtype, word, options=weights)
        context.examiner.examine(batch, Probe(reduction=reduction, gradient=gradient))
    problem = context.examiner.altered_inputs.get(dtype)
    if problem is not None:
        yield Failed("inputs_untouched", context.said(problem), problem)
    if context.examiner.session.source.framework == "jax":
        yield Skipped("inputs_untouched", "JAX arrays cannot be written to")
