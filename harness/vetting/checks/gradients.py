"""The upstream gradient: how the chain rule is applied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.vetting.checks import Deviates, Failed, Finding, Skipped, inspection
from harness.vetting.context import Context
from harness.vetting.drivers import FACTORS
from harness.vetting.examination import Probe

__all__: list[str] = []

Array = np.ndarray[Any, Any]


@inspection(
    upstream_gradient="the gradient is scaled by each row's own upstream gradient: both signs, zeros, scalars too",
    repeated_backward="differentiating the same result again gives the same, scaled by the upstream gradient of then",
)
def upstream(context: Context, dtype: str) -> Iterator[Finding]:
    """Upstream gradients of ones, of mixed signs, with zeros; and the same result differentiated again."""
    if context.without_gradient():
        for name in ("upstream_gradient", "repeated_backward"):
            yield Skipped(name, "the candidate has no gradient")
        return
    batch = context.batch(dtype, "upstream gradient")
    ones = replace(batch, upstream=np.ones_like(batch.upstream))
    plain = context.examiner.examine(ones)
    if plain.of("gradient") is not None or plain.of("call") is not None:
        yield Skipped("upstream_gradient", "the gradient is wrong with an upstream gradient of ones already")
        yield Skipped("repeated_backward", "the gradient is wrong at the first time already")
        return
    zeros = batch.upstream.copy()
    zeros.reshape(-1)[::3] = 0
    sizes = _of_every_size(context, batch)
    found: list[Finding] = []
    for given in (batch.upstream, zeros, -batch.upstream, sizes):
        found += _wrong(context, replace(batch, upstream=given), Probe())
    for reduction in ("mean", "sum"):
        if context.examiner.claims.reduction or (context.examiner.mean_only and reduction == "mean"):
            if context.examiner.examine(ones, Probe(reduction=reduction)).of("gradient") is not None:
                continue
            for scalar in (-1.75, 0.0, -np.abs(sizes).max(), -np.abs(sizes).min()):
                given = np.full_like(batch.upstream, scalar)
                found += _wrong(context, replace(batch, upstream=given), Probe(reduction=reduction))
    yield from found
    yield from _repeated(context, dtype, scaled=not found)


def _of_every_size(context: Context, batch: Batch) -> Array:
    """An upstream gradient of both signs, from tiny, as the mean of many rows has it, to large, as scaled losses."""
    rng = context.rng("size of the upstream gradient", batch.dtype)
    low, high = (-12, 10) if batch.dtype == "float16" else (-30, 20)
    size = batch.upstream.size
    powers = 2.0 ** rng.permutation(np.linspace(low, high, size).round())
    signs = rng.permutation(np.resize([-1.0, 1.0], size))
    values = context.digits(batch.dtype, signs * powers * rng.uniform(1.0, 2.0, size))
    return batch.format.round(values.reshape(batch.upstream.shape))


def _wrong(context: Context, batch: Batch, probe: Probe) -> Iterator[Finding]:
    seen = context.examiner.examine(batch, probe)
    for problem in seen.problems:
        if problem.what == "gradient":
            yield Failed("upstream_gradient", context.said(problem), problem)


@inspection(
    without_gradient="the loss is the same where no gradient is asked for, as in an evaluation, with the options too"
)
def evaluation(context: Context, dtype: str) -> Iterator[Finding]:
    """Tensors that require no gradient, and, in torch, gradients switched off: code takes other paths there.

    Each twice, on numbers of its own: those paths can keep an earlier answer, too.
    """
    framework = context.examiner.session.source.framework
    if framework == "numpy":
        yield Skipped("without_gradient", "a NumPy candidate is always called so")
        return
    reductions = (None, "mean") if context.examiner.claims.reduction or context.examiner.mean_only else (None,)
    switches = (False, True)[: 1 + (framework == "torch")]
    shapes = ((8, 9, 40.0), (16, 1000, 2.0), (8, 33, 3.0))
    for n, v, spread in shapes[: 2 if context.brief else None]:
        for turn, (_, reduction, no_grad) in enumerate(product(range(2), reductions, switches)):
            batch = context.batch(dtype, f"without a gradient {turn}, {v} classes", n, v, spread=spread)
            probe = Probe(reduction=reduction, gradient=False, no_grad=no_grad)
            for problem in context.examiner.examine(batch, probe).problems:
                yield context.under("without_gradient", problem)


_OVERWRITTEN = "modified by an inplace operation"
"""In torch's own words: the first backward has written to what the second one needs, which only eager torch notices."""


def _repeated(context: Context, dtype: str, scaled: bool) -> Iterator[Finding]:
    """The same result again, by rows and as the mean, which kernels differentiate in the forward."""
    reductions = ("mean",) if context.examiner.mean_only else (None, "mean")[: 1 + context.examiner.claims.reduction]
    for reduction in reductions:
        found = list(_repeated_as(context, dtype, reduction, scaled))
        yield from found
        if found:
            return


def _repeated_as(context: Context, dtype: str, reduction: str | None, scaled: bool) -> Iterator[Finding]:
    """With another upstream gradient only where one alone scales the gradient as it should."""
    batch = context.batch(dtype, "repeated backward")
    probe = Probe(reduction=reduction, backwards=len(FACTORS))
    seen = context.examiner.examine(batch, probe)
    call = seen.of("call")
    refused = call is not None and call.kind == "raised" and _OVERWRITTEN not in call.detail
    if call is not None and refused:  # as what torch.compile makes does: refusing is not being wrong
        yield Deviates("repeated_backward", f"the second backward is refused: {call.detail}")
        return
    if call is not None:
        yield Failed("repeated_backward", f"the second backward: {call.detail}", call)
        return
    first, second = seen.reply.arrays.get("gradient"), seen.reply.arrays.get("gradient1")
    if first is None or second is None:
        yield Skipped("repeated_backward", "there is no gradient")
    elif first.shape != second.shape or not np.array_equal(first, second, equal_nan=True):
        off = np.abs(first.astype(float) - second.astype(float)).max() if first.shape == second.shape else np.nan
        yield Failed("repeated_backward", f"the second gradient differs from the first by up to {off:.3g}")
    elif scaled and (third := context.examiner.differentiated(2, batch, probe, seen)) is not None:
        detail = f"with another upstream gradient than before, {context.said(third)}"
        yield Failed("repeated_backward", detail, replace(third, probe=Probe(reduction=reduction)))
