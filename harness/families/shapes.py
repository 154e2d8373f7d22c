"""The smallest numbers of classes: one, where there is nothing to decide, and two, where all is one difference."""

from __future__ import annotations

import numpy as np

from harness.families.base import Draw, family, random_labels
from harness.formats import Format


@family(
    "one_class",
    breaks="Code that squeezes away an axis of length one, or gives noise where loss and gradient are exactly 0.",
    source="Blanchard, Higham & Higham 2021; pytorch/pytorch#16028",
)
def one_class(rng: np.random.Generator, form: Format) -> Draw:
    """V = 1, magnitudes from 1e-3 to 1e4 with either sign; the first logit is 0."""
    logits = rng.choice([-1.0, 1.0], (64, 1)) * 10.0 ** rng.uniform(-3.0, 4.0, (64, 1))
    logits[0] = 0.0
    return Draw(logits, np.zeros(64, dtype=np.int64))


@family(
    "two_classes",
    breaks="A gradient formed as p - 1, which loses the true class while the other keeps its half of the same number.",
    source="pytorch/pytorch#195678, jax-ml/jax#40384, scipy/scipy#18295",
)
def two_classes(rng: np.random.Generator, form: Format) -> Draw:
    """V = 2: [37.42994775023705, 0], [40, 0], [0, -40], [0, 0] with label 0, then gaps from ±.001 to ±10,000."""
    gaps = np.geomspace(1e-3, 1e4, 64) * np.resize([1.0, -1.0], 64)
    logits = np.stack([gaps, np.zeros(64)], axis=1)
    logits[1::4] = np.stack([np.zeros(16), gaps[1::4]], axis=1)
    labels = random_labels(rng, 64, 2)
    logits[:4] = [[37.42994775023705, 0.0], [40.0, 0.0], [0.0, -40.0], [0.0, 0.0]]
    labels[:4] = 0
    return Draw(logits, labels)
