"""The edges of a format: where exp overflows, where it underflows, subnormal numbers, the largest finite number.

For a 16-bit format there are two edges, its own and float32's, in which correct code computes: rows alternate.
"""

from __future__ import annotations

import math

import numpy as np

from harness.families.base import BCE, CROSS_ENTROPY, Array, Draw, also_draws, family, random_labels
from harness.formats import Format

_ROWS, _CLASSES = 64, 10
_SHAPE = (_ROWS, _CLASSES)


def _alternating(form: Format, edge: Array) -> Array:
    """`edge` is [2]: the value for the format and for its arithmetic; rows [N] take turns."""
    return np.resize(edge, _ROWS)


def _overflow_tops(form: Format) -> Array:
    """Largest logit of each row [N]: from 3 below to 3 above the logarithm of the largest number."""
    edge = np.array([math.log(form.largest), math.log(form.arithmetic.largest)])
    return _alternating(form, edge) + np.linspace(-3.0, 3.0, _ROWS)


@family(
    "overflow_edge",
    breaks="Exponentials of unshifted logits, and their sums, which overflow above the log of the largest number.",
    source="Blanchard, Higham & Higham 2021",
)
def overflow_edge(rng: np.random.Generator, form: Format) -> Draw:
    """One class on the edge, the others up to 5 below it; the label is the top class in half of the rows."""
    top = _overflow_tops(form)
    logits = top[:, None] - rng.uniform(0.0, 5.0, _SHAPE)
    leader = random_labels(rng, *_SHAPE)
    logits[np.arange(_ROWS), leader] = top
    labels = np.where(np.arange(_ROWS) % 4 < 2, leader, random_labels(rng, *_SHAPE))
    return Draw(logits, labels)


@also_draws("overflow_edge", BCE)
def overflow_edge_binary(rng: np.random.Generator, form: Format) -> Draw:
    """Logits of both signs on the edge: exp(x) overflows for one, exp(-x) for the other."""
    logits = rng.choice([-1.0, 1.0], _SHAPE) * (_overflow_tops(form)[:, None] + rng.uniform(-0.5, 0.5, _SHAPE))
    return Draw(logits, random_labels(rng, *_SHAPE))


def _underflow_gaps(form: Format) -> Array:
    """Gap of each row [N]: from where exp(-gap) is still normal to where it rounds to zero."""
    forms = (form, form.arithmetic)
    first = np.array([-math.log(f.smallest_normal) - 2.0 for f in forms])
    # Half of the smallest subnormal is where rounding to zero starts; it is itself not a float64 number there.
    last = np.array([math.log(2.0) - math.log(f.smallest_subnormal) + 2.0 for f in forms])
    return _alternating(form, first) + np.linspace(0.0, 1.0, _ROWS) * _alternating(form, last - first)


@family(
    "underflow_edge",
    breaks="Exponentials that are flushed to zero or lose digits, which gives log 0, 0/0 or a loss of exactly zero.",
    source="NVIDIA/Megatron-LM#5522",
)
def underflow_edge(rng: np.random.Generator, form: Format) -> Draw:
    """Every third row: a leader that is the label; a leader that is not; no leader, so that all exponentials vanish."""
    logits = -_underflow_gaps(form)[:, None] - rng.uniform(0.0, 1.0, _SHAPE)
    leader = random_labels(rng, *_SHAPE)
    other = (leader + rng.integers(1, _CLASSES, _ROWS)) % _CLASSES
    kind = np.arange(_ROWS) // 2 % 3
    rows = np.flatnonzero(kind < 2)
    logits[rows, leader[rows]] = 0.0
    return Draw(logits, np.where(kind == 1, other, leader))


@also_draws("underflow_edge", BCE)
def underflow_edge_binary(rng: np.random.Generator, form: Format) -> Draw:
    """Hard targets: right in two elements of three (a loss of exp(-gap)), wrong in the third (a loss of gap)."""
    signs = rng.choice([-1.0, 1.0], _SHAPE)
    logits = signs * (_underflow_gaps(form)[:, None] + rng.uniform(-0.5, 0.5, _SHAPE))
    right = rng.integers(0, 3, _SHAPE) > 0
    return Draw(logits, random_labels(rng, *_SHAPE), probabilities=((signs > 0) == right).astype(np.float64))


@family(
    "subnormal",
    breaks="Code that divides by a logit, or tests its sign, at subnormal numbers and at zeros of both signs.",
    source="pytorch/pytorch#2195",
    losses=(CROSS_ENTROPY, BCE),
)
def subnormal(rng: np.random.Generator, form: Format) -> Draw:
    """Every logit subnormal, one in eight a zero of either sign; the first row is zeros of both signs only."""
    steps = np.floor(2.0 ** rng.uniform(0.0, form.precision - 1, _SHAPE))
    steps[rng.random(_SHAPE) < 0.125] = 0.0
    steps[0] = 0.0
    signs = rng.choice([-1.0, 1.0], _SHAPE)
    signs[0] = np.resize([1.0, -1.0], _CLASSES)
    return Draw(signs * steps * form.smallest_subnormal, random_labels(rng, *_SHAPE))


@family(
    "format_maximum",
    breaks="Masks made of the most negative finite number, and differences of logits that overflow and then give NaN.",
    source="tensorflow/tensorflow#55682",
)
def format_maximum(rng: np.random.Generator, form: Format) -> Draw:
    """Four rows of eight are masked with minus the largest number; in the others it leads, or everything is that large.

    Where the label is 2·largest below the leader, the true loss is beyond the format and infinity is the right answer.
    """
    big = form.largest
    logits = rng.standard_normal(_SHAPE)
    labels = random_labels(rng, *_SHAPE)
    other = (labels + rng.integers(1, _CLASSES, _ROWS)) % _CLASSES
    for row, (label, rival) in enumerate(zip(labels, other, strict=True)):
        kind = row % 8
        if kind < 4:
            mask = rng.random(_CLASSES) < (0.3, 0.6, 0.9, 1.0)[kind]
            mask[rival], mask[label] = True, False
            logits[row, mask] = -big
        elif kind == 4:
            logits[row] = -big
            logits[row, label] = big
        elif kind == 5:
            logits[row] = -big
            logits[row, rival] = big
        elif kind == 6:
            logits[row] = -big / 2
            logits[row, rival] = big / 2
        else:
            logits[row] = big if row % 16 == 7 else -big
    return Draw(logits, labels)


@also_draws("format_maximum", BCE)
def format_maximum_binary(rng: np.random.Generator, form: Format) -> Draw:
    """The largest number with either sign, against hard targets, right and wrong: a loss of 0 or of the largest number.

    Three elements in four are ordinary, so that the rows still say something.
    """
    huge = rng.random(_SHAPE) < 0.25
    logits = np.where(huge, rng.choice([-form.largest, form.largest], _SHAPE), rng.standard_normal(_SHAPE))
    return Draw(logits, random_labels(rng, *_SHAPE), probabilities=rng.integers(0, 2, _SHAPE).astype(np.float64))
