"""The batches of a vetting: every family and every size that a candidate's claims let it take, drawn from one seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from harness.batch import Batch
from harness.families import families_for, make_batch
from harness.vetting.context import Context
from harness.vetting.scale import Scale

__all__ = ["by_dtype", "family_batches", "row_batches", "size_batches"]


def family_batches(context: Context, dtype: str) -> list[Batch]:
    """A batch of each family that fits the loss, the target and the claimed options."""
    drawn = [make_batch(f.name, context.loss, dtype, context.seed) for f in families_for(context.loss, dtype)]
    fitting = []
    for batch in (_claimed(context, batch) for batch in drawn):
        if batch is None:
            continue
        if context.definition.elementwise:
            if not np.isinf(batch.logits.astype(np.float64)).any():  # a convention of this loss, not a fault
                fitting.append(batch)
        elif context.indices == (batch.target.ndim == 1):
            fitting.append(batch)
        elif not context.indices and "ignore_index" not in batch.options:
            q = context.soften(batch.target, batch.logits)
            fitting.append(replace(batch, target=batch.format.round(q)))
    return [shorter for batch in fitting if (shorter := _at_most(_sampled(batch, context.scale), context.scale))]


def _claimed(context: Context, batch: Batch) -> Batch | None:
    """The batch, if all its options are claimed; of combined options two claimed ones are enough, and the rest go."""
    options = {name: value for name, value in batch.options.items() if name in context.claims}
    if len(options) == len(batch.options):
        return batch
    if not batch.family.startswith("options_") or len(options) < 2:
        return None
    target = batch.target
    if "ignore_index" in batch.options and "ignore_index" not in options:
        classes = np.arange(len(target)) % batch.logits.shape[1]
        target = np.where(target == batch.options["ignore_index"], classes, target)
    return replace(batch, options=options, target=target)


def _sampled(batch: Batch, scale: Scale) -> Batch:
    """Rows from all over the batch, as many as the scale allows; masks are kept whole where their rows are not many."""
    rows, classes = batch.logits.shape
    most = min(scale.family_rows or rows, (scale.family_elements or rows * classes) // classes)
    if most >= rows or (batch.family.startswith("masked") and most):
        return batch
    return batch.rows(np.unique(np.linspace(0, rows - 1, most).round().astype(int)))


def _at_most(batch: Batch, scale: Scale) -> Batch | None:
    """The first rows, so many that no more numbers than that are to be solved; None where those would be too few.

    Masks are kept whole: where one begins and ends is what each of those rows is about.
    """
    numbers, at_least = scale.numbers, scale.fewest_rows
    logits = batch.logits.astype(np.float64)
    if not len(logits):
        return None
    costs = np.cumsum([np.unique(row[np.isfinite(row)]).size for row in logits])
    if batch.family.startswith("masked") or costs[-1] <= numbers:
        return batch
    rows = int(np.searchsorted(costs, numbers, side="right"))
    if rows < at_least:
        return batch if at_least == 2 and len(logits) <= 2 else None
    return batch.rows(slice(0, rows))


def size_batches(context: Context, dtype: str) -> list[Batch]:
    """One batch for each number of classes, the mass or the target in the last of them."""
    rng = context.rng("sizes", dtype)
    odd = [int(rng.integers(*bounds)) for bounds in context.scale.odd_sizes]
    batches = []
    for v in (*context.scale.sizes, *odd):
        n = 4 if v < 32000 else 1
        logits = rng.standard_normal((n, v))
        labels = rng.integers(v // 2, v, n)  # in the upper half, where an index of too few bits has wrapped
        logits[0, -1] += np.log(max(v, 2)) + 1  # a dropped last block is most of the mass
        if n > 1:
            labels[1:3] = v - 1, rng.integers(0, v)
            logits[2] *= 0.01  # every class counts
            logits[3, 0] += np.log(max(v, 2)) + 1
        batches.append(context.batch(dtype, f"size {v}", logits=logits, labels=labels))
    return batches


def row_batches(context: Context, dtype: str) -> list[Batch]:
    """One batch for each number of rows."""
    return [context.batch(dtype, f"{n} rows", n, 10) for n in context.scale.rows]


def by_dtype(context: Context, dtypes: tuple[str, ...]) -> tuple[Mapping[str, list[Batch]], Mapping[str, list[Batch]]]:
    """Families and sizes for each dtype."""
    families, sizes = {}, {}
    for dtype in dtypes:
        first, second = family_batches(context, dtype), size_batches(context, dtype)
        if context.brief and not context.examiner.mean_only:
            first, second = _alike(first, first), _alike(second, first)
        families[dtype], sizes[dtype] = first, [*second, *row_batches(context, dtype)]
    return families, sizes


def _alike(batches: list[Batch], models: list[Batch]) -> list[Batch]:
    """The batches, their rows over and over up to the most that a model of as many classes has: of few shapes."""
    most: dict[int, int] = {}
    for model in models:
        rows, classes = model.logits.shape
        most[classes] = max(rows, most.get(classes, 0))
    return [_repeated(batch, most.get(batch.logits.shape[1], 0)) for batch in batches]


def _repeated(batch: Batch, rows: int) -> Batch:
    """The batch, with its rows over and over where it has fewer than that."""
    return batch if rows <= len(batch.logits) else batch.rows(np.arange(rows) % len(batch.logits))
