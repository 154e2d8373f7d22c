"""Conventions: inputs on which libraries legitimately differ. A difference is a deviation; what spreads fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from harness.formats import named
from harness.vetting.checks import Deviates, Failed, Finding, Skipped, inspection
from harness.vetting.context import CLASSES, ROWS, Context
from harness.vetting.examination import Problem

__all__: list[str] = []

Array = np.ndarray[Any, Any]


def _shown(value: Array | None) -> str:
    if value is None:
        return "nothing"
    flat = value.astype(np.float64).ravel()
    return " ".join(f"{x:.6g}" for x in flat[:6]) + (" …" if flat.size > 6 else "")


def _died(problem: Problem | None) -> bool:
    return problem is not None and problem.kind in ("crashed", "timed_out")


@inspection(label_out_of_range="a label outside [0, V) does not bring the process down; what it does is reported")
def out_of_range(context: Context, dtype: str) -> Iterator[Finding]:
    """Labels V and -1 (and -100 where it is not claimed as ignored)."""
    if not context.indices:
        yield Skipped("label_out_of_range", "targets are no class indices")
        return
    for label in (9, -1) if "ignore_index" in context.claims else (9, -1, -100):
        batch = context.batch(dtype, f"label {label} of 9 classes", labels=np.array([1, label, 2, 0, 3, 4, 5, 6]))
        seen = context.survives(batch)
        call = seen.of("call")
        if _died(call):
            assert call is not None
            yield Failed("label_out_of_range", context.said(call), call)
        elif call is None:
            yield Deviates("label_out_of_range", f"label {label} of 9 classes gives {_shown(seen.loss)}; torch raises")


@inspection(
    all_ignored="a batch of ignored rows only gives zeros, and does not bring the process down",
    ignored_nan="a NaN in an ignored row stays there",
)
def ignored(context: Context, dtype: str) -> Iterator[Finding]:
    """Nothing but ignored rows; and one ignored row that holds NaN."""
    if "ignore_index" not in context.claims or not context.indices:
        for name in ("all_ignored", "ignored_nan"):
            yield Skipped(name, "ignore_index is not claimed")
        return
    batch = context.batch(dtype, "every row ignored", labels=np.full(ROWS, -100), options={"ignore_index": -100})
    for reduction in (None, "mean", "sum") if context.examiner.claims.reduction else (None,):
        seen = context.survives(batch, reduction)
        call = seen.of("call")
        if call is not None:
            died = Failed("all_ignored", context.said(call), call)
            yield died if _died(call) else Deviates("all_ignored", call.detail)
            continue
        nan_expected = reduction == "mean" or (reduction is None and context.examiner.mean_only)
        value = np.zeros(1) if seen.loss is None else seen.loss.astype(np.float64)
        if nan_expected and not np.isnan(value).all():
            yield Deviates("all_ignored", f"the mean over nothing is {_shown(seen.loss)}; torch has nan")
        elif not nan_expected and (value != 0).any():
            yield Failed("all_ignored", f"ignored rows have loss {_shown(seen.loss)}, not 0")
        if seen.gradient is not None and (seen.gradient.astype(np.float64) != 0).any():
            yield Deviates("all_ignored", f"the gradient of ignored rows is {_shown(seen.gradient)}, not 0")
    for reduction in (None, "mean", "sum") if context.examiner.claims.reduction else (None,):
        yield from _ignored_nan(context, dtype, reduction)


def _ignored_nan(context: Context, dtype: str, reduction: str | None) -> Iterator[Finding]:
    batch = context.batch(
        dtype, "NaN in an ignored row", labels=np.array([1, -100, 2, 0, 5, 8, 7, 3]), options={"ignore_index": -100}
    )
    clean = context.survives(batch, reduction)
    logits = batch.logits.astype(np.float64)
    logits[1] = np.nan
    seen = context.survives(replace(batch, logits=named(dtype).round(logits)), reduction)
    call = seen.of("call") or clean.of("call")
    if call is not None:
        yield context.found(call, "ignored_nan")
        return
    assert seen.loss is not None
    assert clean.loss is not None
    loss, expected = seen.loss.astype(np.float64), clean.loss.astype(np.float64)
    if np.isnan(loss).any() and not np.isnan(expected).any():
        where = f"the {reduction or 'mean'}" if loss.ndim == 0 else "the loss"
        yield Failed("ignored_nan", f"a NaN in an ignored row makes {where} {_shown(seen.loss)}")
    if seen.gradient is None:
        return
    gradient = seen.gradient.astype(np.float64)
    if np.isnan(np.delete(gradient, 1, axis=0)).any():
        yield Failed("ignored_nan", "a NaN in an ignored row reaches the gradient of other rows")
    elif np.isnan(gradient[1]).any():
        yield Deviates("ignored_nan", "the gradient of an ignored row that held NaN is NaN, not 0")


@inspection("masked_classes")
def low_masks(context: Context, dtype: str) -> Iterator[Finding]:
    """Masked classes beside logits that lie lower than the finite numbers which are made to stand for -inf.

    As low as the bounds still mean something, which in 16 bits is not low enough for any of them.
    """
    if not context.indices or named(dtype).bits == 16:
        yield Skipped("masked_classes", "the target gives masked classes a mass, or the dtype has too few digits")
        return
    levels = np.resize([-2e3, -3e4, -1e6, *([-4e9, -4e12] if dtype == "float64" else [])], ROWS)
    logits = levels[:, None] + np.resize([0.0, -np.inf, 1.0, -1.0, -np.inf, 2.0, -np.inf, 1.0, 0.0], (ROWS, CLASSES))
    labels = context.rng("low masks", dtype).choice([0, 2, 3, 5, 7, 8], ROWS)
    seen = context.examiner.examine(context.batch(dtype, "masked and very low", logits=logits, labels=labels))
    yield from context.attribute(seen, "masked_classes", "masked_classes", "masked_classes")


@inspection(conventions="infinite logits, masked targets and the like do not bring the process down")
def conventions(context: Context, dtype: str) -> Iterator[Finding]:
    """What libraries make of infinities and of masses that do not sum to one; reported, not judged."""
    for word, batch, want in _special_batches(context, dtype):
        seen = context.survives(batch)
        call = seen.of("call")
        if call is not None:
            died = Failed("conventions", context.said(call), call)
            yield died if _died(call) else Deviates(word, f"raises: {call.detail}")
            continue
        got = np.ravel(seen.loss.astype(np.float64))[:1] if seen.loss is not None else np.array([np.nan])
        if not np.array_equal(got, [want], equal_nan=True) and not np.isclose(got[0], want, rtol=0.05):
            yield Deviates(word, f"the loss is {got[0]:.6g}; modelled as {want:.6g}")


def _special_batches(context: Context, dtype: str) -> Iterator[tuple[str, Any, float]]:
    inf = np.inf
    if context.definition.elementwise:
        for x, t, want in ((-inf, 0.0, 0.0), (inf, 1.0, 0.0), (-inf, 1.0, inf)):
            batch = context.batch(dtype, f"logit {x}, target {t}", logits=np.full((ROWS, CLASSES), x))
            yield "infinite_logits", replace(batch, target=named(dtype).round(np.full((ROWS, CLASSES), t))), want
        return
    level = np.zeros((ROWS, CLASSES))
    masked, full = level.copy(), level.copy()
    masked[:, 0], full[:, 0] = -inf, inf
    first, second = np.zeros(ROWS, dtype=int), np.ones(ROWS, dtype=int)
    if context.indices:
        yield "plus_inf", context.batch(dtype, "+inf", logits=full, labels=second), np.nan
        yield "target_on_masked_class", context.batch(dtype, "masked target", logits=masked, labels=first), inf
        if "label_smoothing" in context.claims:
            options = {"label_smoothing": 0.125}
            batch = context.batch(dtype, "smoothing", logits=masked, labels=second, options=options)
            yield "smoothing_with_masked_class", batch, inf
        if "weight" in context.claims:
            none = {"weight": np.zeros(CLASSES)}
            batch = context.batch(dtype, "weights", logits=level, labels=second, options=none)
            yield "zero_weights", batch, np.nan if context.examiner.mean_only else 0.0
        return
    sure, short = level.copy(), level.copy()
    sure[:, 1], short[:, :2] = 1.0, (0.5, 0.25)
    batch = context.batch(dtype, "zero mass on a masked class", logits=masked, probabilities=sure)
    yield "zero_mass_on_masked_class", batch, float(np.log(CLASSES - 1))
    batch = context.batch(dtype, "unnormalised", logits=level, probabilities=short)
    yield "unnormalised_targets", batch, 0.75 * float(np.log(CLASSES))
