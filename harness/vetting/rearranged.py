"""Batches taken apart and put together, and their truth with them: rows are independent, so nothing is solved again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.losses import loss_named
from harness.reference import Reference

__all__ = ["elements", "rearranged", "stack", "with_scalar"]

Array = np.ndarray[Any, Any]

MOST_ELEMENTS = 640
"""Calls that a batch of an element-wise loss is taken apart into, for a candidate that only gives means."""


def with_scalar(batch: Batch) -> Batch:
    """The batch with its first upstream element as the only one, for a reduced output."""
    first = batch.upstream.reshape(-1)[:1] if batch.upstream.size else np.ones(1, batch.upstream.dtype)
    return replace(batch, upstream=first.reshape(()))


def elements(batch: Batch, reference: Reference | None) -> tuple[Batch, Reference | None]:
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
