"""Reductions: `mean` and `sum` against the truth of the whole batch, with every option that enters the denominator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.vetting.checks import Failed, Finding, Skipped, inspection
from harness.vetting.context import Context
from harness.vetting.examination import Probe

__all__: list[str] = []

_MANY = (260, 700)
"""So many rows, drawn from the seed, that a kernel reduces them in more than one block."""


@inspection(reduction="mean and sum are those of the rows: divided by the weights of the rows that count, or by N")
def reductions(context: Context, dtype: str) -> Iterator[Finding]:
    """Each reduction under each set of claimed options."""
    names = ("mean", "sum") if context.examiner.claims.reduction else ("mean",) * context.examiner.mean_only
    if not names:
        yield Skipped("reduction", "reduction is not claimed, and the output has one loss per row")
        return
    for word, options in _option_sets(context):
        for n in (7, 1) if options else (7, 1, int(context.rng("rows").integers(*_MANY))):
            labels = _labels(context, n, 5, word, options)
            if labels is None:
                continue
            batch = context.batch(dtype, f"reduction{word}", n, 5, labels=labels, options=options)
            for name in names:
                for problem in context.examiner.examine(batch, Probe(reduction=name)).problems:
                    found = context.found(problem, "reduction")
                    yield Failed("reduction", found.detail, problem) if problem.what != "call" else found
            if options and n > 1 and not (context.interpreted or context.brief):
                yield from _many(context, batch)


def _many(context: Context, few: Batch) -> Iterator[Finding]:
    """The mean of the rows over and over, more of them than 8 bits count, and than a block has."""
    batch, reference = context.over_and_over(few, int(context.rng("many rows").integers(*_MANY)))
    for problem in context.examiner.examine(batch, Probe(reduction="mean"), reference).problems:
        yield context.under("reduction", problem)


def _labels(context: Context, n: int, v: int, word: str, options: Mapping[str, Any]) -> Any:
    """Labels, some of them ignored where that is an option; None where every row would be."""
    labels = context.rng("labels", word).integers(0, v, n)
    if "ignore_index" not in options:
        return labels
    if n == 1:
        return None
    labels[labels == options["ignore_index"]] = v - 1
    labels[1::3] = options["ignore_index"]
    return labels


def _option_sets(context: Context) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "", {}
    claims = context.claims
    width = 5
    weight = np.array([0.5, 2.0, 1.5, 3.0, 0.25])[:width]
    if "weight" in claims:
        yield ", weight", {"weight": weight}
    if "pos_weight" in claims:
        yield ", pos_weight", {"pos_weight": weight[::-1].copy()}
    if "label_smoothing" in claims:
        yield ", label_smoothing", {"label_smoothing": 0.125}
    if not context.indices:
        return
    if "ignore_index" in claims:
        yield ", ignore_index", {"ignore_index": -100}
        yield ", ignore_index inside", {"ignore_index": 2}
        if "weight" in claims:
            yield ", weight and ignore_index", {"weight": weight, "ignore_index": -100}
            if "label_smoothing" in claims:
                yield (
                    ", weight, ignore_index and label_smoothing",
                    {"weight": weight, "ignore_index": -100, "label_smoothing": 0.125},
                )
