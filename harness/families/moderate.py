"""Ordinary rows: what most tests stop at. Random logits of several widths and spreads, and rows that are all equal."""

from __future__ import annotations

import math

import numpy as np

from harness.families.base import BCE, CROSS_ENTROPY, Draw, Drawer, family, random_labels
from harness.formats import Format

_SHAPES = {
    "moderate": (32, 128),
    "moderate_2": (64, 2),
    "moderate_3": (64, 3),
    "moderate_8": (64, 8),
    "moderate_1000": (16, 1000),
}
_BREAKS = {
    "moderate": "Wrong formulas, dropped terms and a gradient that ignores the upstream vector, on ordinary rows.",
    "moderate_2": "Kernels that pad or unroll over the classes and count the padding, most visible with two classes.",
    "moderate_3": "Kernels that assume a power of two classes, and read or count a fourth one.",
    "moderate_8": "Code whose error hides under a bound that grows with the number of classes, which is small here.",
    "moderate_1000": "Kernels that take the classes in blocks of a power of two and drop or repeat the partial one.",
}
_SOURCES = {
    "moderate": "linkedin/Liger-Kernel#1298",
    "moderate_2": "NVIDIA-BioNeMo/bionemo-recipes#631",
    "moderate_3": "apple/ml-cross-entropy#59",
    "moderate_8": "Blanchard, Higham & Higham 2021",
    "moderate_1000": "apple/ml-cross-entropy#59",
}


def _drawer(rows: int, classes: int) -> Drawer:
    def draw(rng: np.random.Generator, form: Format) -> Draw:
        return Draw(rng.standard_normal((rows, classes)), random_labels(rng, rows, classes))

    return draw


for _name, _shape in _SHAPES.items():
    _losses = (CROSS_ENTROPY, BCE) if _name == "moderate" else (CROSS_ENTROPY,)
    family(_name, breaks=_BREAKS[_name], source=_SOURCES[_name], losses=_losses)(_drawer(*_shape))


@family(
    "wide",
    breaks="Softmax followed by a logarithm, since the probability of a far class loses its digits or becomes zero.",
    source="keras-team/keras#17634",
    losses=(CROSS_ENTROPY, BCE),
)
def wide(rng: np.random.Generator, form: Format) -> Draw:
    """Uniform over nine tenths of the range in which exp is finite: ±80, in float64 ±639."""
    spread = 0.9 * math.log(form.arithmetic.largest)
    return Draw(rng.uniform(-spread, spread, (32, 128)), random_labels(rng, 32, 128))


@family(
    "mixed_scales",
    breaks="Sums that absorb small terms and tests of closeness that only the largest number decides.",
    source="Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 4.2",
    losses=(CROSS_ENTROPY, BCE),
)
def mixed_scales(rng: np.random.Generator, form: Format) -> Draw:
    """Signed magnitudes, log-uniform from the smallest number up to a top that rises from row to row, from 0.01 on.

    The last top is where the condition number is still fair. In every other row the label is the largest logit's.
    """
    shape = (32, 128)
    low = math.log10(form.smallest_subnormal)
    top = np.linspace(-2.0, {"float64": 12.0, "float16": 4.0}.get(form.name, 4.5), 32)[:, None]
    # Half of the entries within six decades of the top, or nearly all would be zero beside the few large ones.
    bottom = np.where(rng.random(shape) < 0.5, low, np.maximum(top - 6.0, low))
    logits = rng.choice([-1.0, 1.0], shape) * 10.0 ** rng.uniform(bottom, top, shape)
    labels = np.where(np.arange(32) % 2 == 0, logits.argmax(axis=1), random_labels(rng, *shape))
    return Draw(logits, labels)


def _equal_rows(rows: int, classes: int) -> Drawer:
    """Rows of one level each; the first is zero."""
    levels = np.resize(np.array([0.0, 1.0, -1.0, 8.0, -8.0, 100.0, -100.0, 0.375, 1e4, -1e4]), rows)

    def draw(rng: np.random.Generator, form: Format) -> Draw:
        return Draw(np.repeat(levels[:, None], classes, axis=1), random_labels(rng, rows, classes))

    return draw


family(
    "uniform",
    breaks="Code that is off by a constant, since every loss here is log V and every gradient entry is known.",
    source="pytorch/pytorch#2195, jax-ml/jax#13529",
    losses=(CROSS_ENTROPY, BCE),
)(_equal_rows(64, 10))
family(
    "uniform_1000",
    breaks="Sums kept in 16 bits, which stop growing once a term of one is less than half their spacing.",
    source="pytorch/pytorch#61523",
)(_equal_rows(16, 1000))
family(
    "uniform_128256",
    breaks="Sums of exponentials kept in float16, which overflow from 65,520 equal classes on.",
    source="jax-ml/jax#40409",
)(_equal_rows(2, 128256))
