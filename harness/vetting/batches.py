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
QUICK_LOGITS = 1500
QUICK_SIZE = 1000


def family_batches(context: Context, dtype: str) -> list[Batch]:
    """A batch of each family that fits the loss, the target and the claimed options."""
    drawn = [make_batch(f.name, context.loss, dtype, context.seed) for f in families_for(context.loss, dtype)]
    fitting = []
    for batch in drawn:
        if any(name not in context.claims for name in batch.options):
            continue
        if context.definition.elementwise:
            if not np.isinf(batch.logits.astype(np.float64)).any():  # a convention of this loss, not a fault
                fitting.append(batch)
        elif context.indices == (batch.target.ndim == 1):
            fitting.append(batch)
        elif not context.indices and "ignore_index" not in batch.options:
            q = context.soften(batch.target, batch.logits)
            fitting.append(replace(batch, target=batch.format.round(q)))
    if context.quick:
        fitting = [b if b.logits.size <= QUICK_LOGITS else _first_rows(b) for b in fitting]
        fitting = [b for b in fitting if b.logits.size <= QUICK_LOGITS]
    return fitting


def _first_rows(batch: Batch) -> Batch:
    return batch.rows(slice(0, QUICK_LOGITS // batch.logits.shape[1]))


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
        labels = rng.integers(0, v, n)
        logits[0, -1] += np.log(max(v, 2)) + 1  # a dropped last block is most of the mass
        if n > 1:
            labels[1] = v - 1
            logits[2] *= 0.01  # every class counts
            logits[3, 0] += np.log(max(v, 2)) + 1
        batches.append(context.batch(dtype, f"size {v}", logits=logits, labels=labels))
    for n in ROWS:
        batches.append(context.batch(dtype, f"{n} rows", n, 10))
    return batches


def by_dtype(context: Context, dtypes: tuple[str, ...]) -> tuple[Mapping[str, list[Batch]], Mapping[str, list[Batch]]]:
    """Families and sizes for each dtype."""
    return {d: family_batches(context, d) for d in dtypes}, {d: size_batches(context, d) for d in dtypes}
