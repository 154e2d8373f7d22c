"""Rows in which only small differences between large, or equal, logits matter."""

from __future__ import annotations

import math

import numpy as np

from harness.families.base import Array, Draw, family, random_labels
from harness.formats import Format

_ABSORBS = "log-sum-exp minus the target's logit, which cancels: the offset swallows the digits of the loss"


def _spacing(form: Format, value: float) -> float:
    """Distance to the next number away from zero, 2^(e-p+1), for a normal number of the format."""
    return math.ldexp(1.0, math.floor(math.log2(abs(value))) + 1 - form.precision)


def _largest_offset(form: Format) -> float:
    """Integers are exact up to 2^p; and the bound of the arithmetic means something up to about 2^p/16."""
    return min(2.0 ** (form.precision - 1), 2.0 ** (form.arithmetic.precision - 4))


def _offsets(form: Format, count: int) -> Array:
    """Integers [count], from 10 up to the largest offset, with alternating signs."""
    signs = np.resize(np.array([1.0, 1.0, -1.0, -1.0]), count)
    return np.asarray(np.rint(np.geomspace(10.0, _largest_offset(form), count)) * signs)


@family(
    "common_offset",
    breaks=f"The form {_ABSORBS}.",
    source="ml-explore/mlx#4188, pytorch/pytorch#11752",
)
def common_offset(rng: np.random.Generator, form: Format) -> Draw:
    """Two classes: [2, -1] + c and [c, c] in turn, label 0; float32 and float64 start with the published table.

    The table is [2, -1] + c for c = 0, 1e4, 1e6, 1e8. In float32 the last one rounds to a tie, of loss log 2.
    """
    offsets = _offsets(form, 64)
    if form.bits > 16:
        offsets[[0, 2, 4, 6]] = 0.0, 1e4, 1e6, 1e8
    logits = np.repeat(offsets[:, None], 2, axis=1)
    logits[::2] += np.array([2.0, -1.0])
    labels = np.where(np.arange(64) < 8, 0, random_labels(rng, 64, 2))
    return Draw(logits, labels)


@family(
    "common_offset_random",
    breaks=f"The form {_ABSORBS}, here with ten classes and of either sign.",
    source="pytorch/pytorch#38839",
)
def common_offset_random(rng: np.random.Generator, form: Format) -> Draw:
    """Ten random differences within ±6, multiples of the spacing at the offset, so that adding it is exact."""
    offsets = _offsets(form, 64)
    quanta = np.array([_spacing(form, 2 * abs(c) + 16) for c in offsets])[:, None]
    differences = np.rint(rng.uniform(-6.0, 6.0, (64, 10)) / quanta) * quanta
    return Draw(offsets[:, None] + differences, random_labels(rng, 64, 10))


@family(
    "ties",
    breaks="Code that takes out, or counts, one maximum only, and differences of a large log-sum-exp.",
    source="Blanchard, Higham & Higham 2021; ml-explore/mlx#4188",
)
def ties(rng: np.random.Generator, form: Format) -> Draw:
    """From 2 to 1000 classes tie exactly for the maximum; in the first row all 1000 do, at 1e4."""
    levels = np.resize(np.array([1e4, 0.0, 1.0, -7.5, -1e4, 100.0]), 16)
    counts = np.resize(np.array([1000, 2, 3, 10, 100, 999, 500]), 16)
    logits = np.empty((16, 1000))
    labels = random_labels(rng, 16, 1000)
    for row, (level, count) in enumerate(zip(levels, counts, strict=True)):
        step = max(1.0, _spacing(form, level or 1.0))
        logits[row] = level - step * rng.uniform(1.0, 10.0, 1000)
        tied = rng.permutation(1000)[:count]
        logits[row, tied] = level
        if row % 2 == 0:
            labels[row] = tied[0]
    return Draw(logits, labels)


@family(
    "near_ties",
    breaks="Code that finds the maximum by rounding or in a narrower format, since the classes are a few ulp apart.",
    source="Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 1.7",
)
def near_ties(rng: np.random.Generator, form: Format) -> Draw:
    """Every class within 3 ulp of the largest, at magnitudes from 0.5 to 2000 and of either sign."""
    levels = form.round(np.resize([0.5, 1.0, 8.0, 100.0, 1000.0], 64) * rng.uniform(1.0, 2.0, 64)).astype(np.float64)
    steps = np.array([_spacing(form, level) for level in levels])[:, None]
    magnitudes = levels[:, None] - rng.integers(0, 4, (64, 10)) * steps
    return Draw(magnitudes * np.resize([1.0, -1.0], 64)[:, None], random_labels(rng, 64, 10))
