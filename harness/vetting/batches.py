"""The batches of a vetting: every family and every size that a candidate's claims let it take, drawn from one seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from harness.batch import Batch
from harness.families import families_for, make_batch
from harness.vetting.context import Context

__all__ = ["family_batches", "size_batches"]

SIZES = (1, 2, 3, 127, 129, 1000, 4097, 32000, 65537, 131072)
ROWS = (1, 257)
QUICK_SIZE = 1000
NUMBERS, QUICK_NUMBERS = 1 << 16, 1500
"""So many different numbers of a batch are solved at most: truth takes time by them, and equal logits cost as one."""


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
    most = QUICK_NUMBERS if context.quick else NUMBERS
    return [shorter for batch in fitting if (shorter := _at_most(batch, most, at_least=1 if context.quick else 2))]


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


def _at_most(batch: Batch, numbers: int, at_least: int) -> Batch | None:
    """The first rows, so many that no more numbers than that are to be solved; None where those would be too few.

    Masks are kept whole: where one begins and ends is what each of those rows is about.
    """
    logits = batch.logits.astype(np.float64)
    costs = np.cumsum([np.unique(row[np.isfinite(row)]).size for row in logits])
    if batch.family.startswith("masked") or not costs.size or costs[-1] <= numbers:
        return batch
    rows = int(np.searchsorted(costs, numbers, side="right"))
    if rows < at_least:
        return batch if at_least == 2 and len(logits) <= 2 else None
    return batch.rows(slice(0, rows))


def size_batches(context: Context, dtype: str) -> list[Batch]:
    """One batch for each number of classes, the mass or the target in the last of them; and for one row and many."""
    chosen = [v for v in SIZES if not context.quick or v <= QUICK_SIZE]
    rng = context.rng("sizes", dtype)
    odd = [int(rng.integers(5, 120)), int(rng.integers(130, 999))]  # sizes that nobody can have prepared for
    if not context.quick:
        odd.append(int(rng.integers(2000, 4000)))
    batches = []
    for v in (*chosen, *odd):
        n = 4 if v < 32000 else 1
        logits = rng.standard_normal((n, v))
        labels = rng.integers(v // 2, v, n)  # in the upper half, where an index of too few bits has wrapped
        logits[0, -1] += np.log(max(v, 2)) + 1  # a dropped last block is most of the mass
        if n > 1:
            labels[1:3] = v - 1, rng.integers(0, v)
            logits[2] *= 0.01  # every class counts
            logits[3, 0] += np.log(max(v, 2)) + 1
        batches.append(context.batch(dtype, f"size {v}", logits=logits, labels=labels))
    for n in ROWS:
        batches.append(context.batch(dtype, f"{n} rows", n, 10))
    return batches


def by_dtype(context: Context, dtypes: tuple[str, ...]) -> tuple[Mapping[str, list[Batch]], Mapping[str, list[Batch]]]:
    """Families and sizes for each dtype."""
    return {d: family_batches(context, d) for d in dtypes}, {d: size_batches(context, d) for d in dtypes}
