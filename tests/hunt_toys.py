"""Toy implementations with a planted fault each, in a file that a worker imports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.declaration import Declaration
from harness.worker import Worker

SOURCE = '''
"""Toys."""
import os
import numpy as np
from harness.declaration import implementation


def declare(function):
    return implementation(framework="numpy", loss="cross_entropy", grade="absolute")(function)


def losses(logits, target):
    z = logits.astype(np.float64)
    m = z.max(axis=1, keepdims=True)
    gaps = np.where(np.isneginf(z), -np.inf, z - m)
    others = np.exp(gaps)
    np.put_along_axis(others, z.argmax(axis=1)[:, None], 0.0, axis=1)
    return m[:, 0] - z[np.arange(len(z)), target] + np.log1p(others.sum(axis=1))


@declare
def toy_right(logits, target):
    return losses(logits, target).astype(logits.dtype)


@declare
def toy_offset_fault(logits, target):
    """A thousandth too much where every logit is above 50 and the label leads by more than 8."""
    z = logits.astype(np.float64)
    rows = np.arange(len(z))
    label = z[rows, target]
    z[rows, target] = -np.inf
    hit = (z.min(axis=1, where=z > -np.inf, initial=np.inf) > 50) & (label - z.max(axis=1) > 8)
    return (losses(logits, target) * np.where(hit, 1.001, 1.0)).astype(logits.dtype)


@declare
def toy_negative(logits, target):
    """A loss that falls below zero, by a hundredth of it, where it is beyond 40."""
    loss = losses(logits, target)
    return np.where(loss > 40, -0.01 * loss, loss).astype(logits.dtype)


@declare
def toy_overflow(logits, target):
    """Nothing is shifted."""
    with np.errstate(all="ignore"):
        return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(target)), target]


@declare
def toy_mean(logits, target):
    """Only the mean, and no keyword."""
    return losses(logits, target).mean().astype(logits.dtype)


@declare
def toy_raises(logits, target):
    if logits.max() > 30:
        raise ValueError("no logit above 30, please")
    return losses(logits, target).astype(logits.dtype)


@declare
def toy_wrong_shape(logits, target):
    return losses(logits, target).astype(logits.dtype)[:, None]
'''


@contextmanager
def toys(folder: Path) -> Iterator[tuple[Worker, dict[str, Declaration]]]:
    """A worker that knows the toys, and their declarations by name."""
    path = folder / "toys.py"
    path.write_text(SOURCE)
    with Worker("numpy", timeout=30.0) as worker:
        declarations, reasons = worker.describe([path])
        assert reasons == {}
        yield worker, {declaration.name: declaration for declaration in declarations}
