"""Masked classes: logits of -inf, of probability exactly zero. The target is never among them."""

from __future__ import annotations

import numpy as np

from harness.families.base import BCE, Array, Draw, also_draws, family, random_labels
from harness.formats import Format

_CLASSES = 1000


def _masks(rng: np.random.Generator) -> list[Array]:
    """Which classes are masked, row by row, before the target is freed: 16 × bool [V]."""
    index = np.arange(_CLASSES)
    every = np.ones(_CLASSES, dtype=bool)
    scattered = [rng.random(_CLASSES) < share for share in (0.3, 0.9, 0.99)]
    first = [index < size for size in (128, 256, 512, 999)]
    blocks = [index >= 500, index % 2 == 0, (index >= 128) & (index < 256), (index < 128) | (index >= 872), index >= 1]
    one_left = every.copy()
    one_left[rng.integers(0, _CLASSES)] = False
    return [*scattered, *first, *blocks, one_left, every, every.copy(), ~every]


@family(
    "masked",
    breaks="Code that forms inf - inf in a block that is masked as a whole, or 0 · inf in the gradient, and gives NaN.",
    source="google-deepmind/optax#896, tinygrad/tinygrad#17822, pytorch/pytorch#31829",
)
def masked(rng: np.random.Generator, form: Format) -> Draw:
    """Scattered masks, whole blocks of 128 and more from either end, all but one class, all but the target, none."""
    masks = np.stack(_masks(rng))
    logits = 3.0 * rng.standard_normal(masks.shape)
    labels = np.array([_label(rng, mask) for mask in masks])
    masks[np.arange(len(masks)), labels] = False
    logits[masks] = -np.inf
    return Draw(logits, labels)


def _label(rng: np.random.Generator, mask: Array) -> int:
    """A class that is not masked, or any where all are."""
    free = np.flatnonzero(~mask)
    return int(rng.choice(free) if free.size else rng.integers(0, mask.size))


@also_draws("masked", BCE)
def masked_binary(rng: np.random.Generator, form: Format) -> Draw:
    """A third of the logits are infinite with the target that makes their loss 0; the others' targets are soft."""
    shape = (64, 10)
    infinite = rng.choice([-np.inf, np.inf], shape)
    certain = rng.random(shape) < 1 / 3
    logits = np.where(certain, infinite, 3.0 * rng.standard_normal(shape))
    target = np.where(certain, infinite > 0, rng.integers(0, 9, shape) / 8.0)
    return Draw(logits, random_labels(rng, *shape), probabilities=target)
