"""Targets that are class probabilities: spread, nearly one-hot, not summing to one."""

from __future__ import annotations

import numpy as np

from harness.families.base import Array, Draw, family, random_labels
from harness.formats import Format


def _draw(rng: np.random.Generator, probabilities: Array) -> Draw:
    """Logits with a spread of 3 under a given target."""
    rows, classes = probabilities.shape
    logits = 3.0 * rng.standard_normal((rows, classes))
    return Draw(logits, random_labels(rng, rows, classes), probabilities=probabilities)


@family(
    "soft_targets",
    breaks="Code that takes the target's largest class for all of it, or forms the entropy of the target and adds it.",
    source="tensorflow/tensorflow#21271",
)
def soft_targets(rng: np.random.Generator, form: Format) -> Draw:
    """Uniform on the simplex, every fourth row with zeros for a third of the classes; the sums are 1 up to rounding."""
    mass: Array = rng.dirichlet(np.ones(10), 64)
    mass[::4, :3] = 0.0
    return _draw(rng, mass / mass.sum(axis=1, keepdims=True))


@family(
    "soft_targets_nearly_one_hot",
    breaks="Code that drops small target probabilities, or multiplies a zero one by a large logarithm.",
    source="tensorflow/tensorflow#21271",
)
def soft_targets_nearly_one_hot(rng: np.random.Generator, form: Format) -> Draw:
    """1 - δ on one class and δ on another, δ = 2^-2, …, 2^-p; zero elsewhere; every eighth row exactly one-hot."""
    rows = np.arange(64)
    # 1 - 2^-p is halfway between two numbers or exact: δ stays where the format still tells it from 0.
    exponents = 2 + rows % (form.precision - 1)
    delta = np.where(rows % 8 == 0, 0.0, 2.0**-exponents)
    first = random_labels(rng, 64, 10)
    second = (first + rng.integers(1, 10, 64)) % 10
    probabilities = np.zeros((64, 10))
    probabilities[rows, first] = 1.0 - delta
    probabilities[rows, second] = delta
    return _draw(rng, probabilities)


@family(
    "soft_targets_unnormalised",
    breaks="Code that takes the target's sum for one, where it is a factor of the log-sum-exp and of the softmax.",
    source="scikit-learn/scikit-learn#17399",
)
def soft_targets_unnormalised(rng: np.random.Generator, form: Format) -> Draw:
    """Random targets whose sums run from 1/8 to 8; the last row's is 0."""
    sums = np.geomspace(0.125, 8.0, 64)
    sums[-1] = 0.0
    return _draw(rng, rng.dirichlet(np.ones(10), 64) * sums[:, None])
