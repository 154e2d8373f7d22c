"""Confident rows: one class leads by far, rightly or wrongly, or leads over a tail of very many small classes."""

from __future__ import annotations

import math

import numpy as np

from harness.families.base import BCE, Array, Draw, also_draws, family, random_labels
from harness.formats import Format

_SHAPE = (64, 10)


def _smallest_doubt(form: Format) -> float:
    """The smallest 1 - p asked for: 1e-300, or where the arithmetic's normal numbers end."""
    return max(1e-300, 4.0 * form.arithmetic.smallest_normal)


def _logit(doubt: Array) -> Array:
    """log(p / (1 - p)) for 1 - p = doubt."""
    return np.asarray(np.log1p(-doubt) - np.log(doubt))


@family(
    "confident",
    breaks="Code that forms log(1 + tiny) or p - 1, and so returns a loss or a true-class gradient of exactly zero.",
    source="linkedin/Liger-Kernel#1329, pytorch/pytorch#195678",
)
def confident(rng: np.random.Generator, form: Format) -> Draw:
    """The label leads nine equal classes: by 20 in row 0, then p = .9, .99, .999, .9999, then 1 - p down to 1e-300."""
    doubts = np.concatenate([[0.1, 0.01, 0.001, 0.0001], np.geomspace(0.1, _smallest_doubt(form), 59)])
    gaps = np.concatenate([[20.0], _logit(doubts) + math.log(9.0)])
    # Where the label stands: on the gap, at zero, or half of it above zero.
    bottom = gaps * np.resize([0.0, 0.0, 0.0, 0.0, -1.0, -0.5], 64)
    logits = np.repeat(bottom[:, None], 10, axis=1)
    labels = random_labels(rng, *_SHAPE)
    logits[np.arange(64), labels] = bottom + gaps
    return Draw(logits, labels)


@also_draws("confident", BCE)
def confident_binary(rng: np.random.Generator, form: Format) -> Draw:
    """Every element right with 1 - p from 1e-1 to 1e-300; the first four are ±40 and ±100 (pytorch 195529 and 2221)."""
    doubts = 10.0 ** rng.uniform(math.log10(_smallest_doubt(form)), -1.0, _SHAPE)
    logits = rng.choice([-1.0, 1.0], _SHAPE) * _logit(doubts)
    logits[0, :4] = 40.0, -40.0, 100.0, -100.0
    return Draw(logits, random_labels(rng, *_SHAPE), probabilities=(logits > 0).astype(np.float64))


def _errors(form: Format) -> Array:
    """Gaps [64] by which another class leads: 104, then 1 up to a fair condition number, then four near the maximum."""
    fair = {"float64": 1e12, "float16": 2e4}.get(form.name, 1e5)
    extreme = form.largest * np.array([2.0**-12, 2.0**-6, 2.0**-3, 2.0**-2])
    return np.concatenate([[104.0], np.geomspace(1.0, fair, 59), extreme])


@family(
    "wrong_confident",
    breaks="Clipped probabilities and clamped logarithms, since the loss is large and clipping makes it a constant.",
    source="pytorch/pytorch#50658, keras-team/keras#17634",
)
def wrong_confident(rng: np.random.Generator, form: Format) -> Draw:
    """Another class leads the label by the gap, which is then the loss; the rest is further down."""
    gaps = _errors(form)
    bottom = gaps * np.resize([0.0, -0.5], 64)
    logits = bottom[:, None] - rng.uniform(0.0, 5.0, _SHAPE)
    labels = random_labels(rng, *_SHAPE)
    leader = (labels + rng.integers(1, 10, 64)) % 10
    logits[np.arange(64), labels] = bottom
    logits[np.arange(64), leader] = bottom + gaps
    return Draw(logits, labels)


@also_draws("wrong_confident", BCE)
def wrong_confident_binary(rng: np.random.Generator, form: Format) -> Draw:
    """Every element wrong: the loss is the logit's magnitude."""
    logits = rng.choice([-1.0, 1.0], _SHAPE) * _errors(form)[:, None] * rng.uniform(0.5, 1.0, _SHAPE)
    return Draw(logits, random_labels(rng, *_SHAPE), probabilities=(logits < 0).astype(np.float64))


@family(
    "tail_mass",
    breaks="Sums that start from the largest exponential, which absorb a tail of 128,255 terms that each lie below u.",
    source="Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 4.2; torch on a CPU is 10 % off",
)
def tail_mass(rng: np.random.Generator, form: Format) -> Draw:
    """Row 0: the label is class 0, over an equal tail, with loss .00196. Row 1: it stands inside a tail of its own.

    In row 1 the tail's terms lie below the unit roundoff of the storage format (float16, bfloat16: loss .58), scatter
    around that of float32 (loss about .002), or lie below that of float64 (loss 1e-11).
    """
    classes = 128256
    logits = np.zeros((2, classes))
    labels = np.array([0, rng.integers(classes // 4, classes)])
    logits[0, 0] = math.log((classes - 1) / math.expm1(0.00196))
    gap = {"float64": 37.0, "float32": 18.0}.get(form.name, 12.0)
    if form.bits == 32:
        logits[1] = rng.uniform(-1.0, 1.0, classes)
    logits[1, labels[1]] = gap
    return Draw(logits, labels)
