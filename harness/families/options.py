"""The options of a loss, on ordinary rows: one set of options for each batch, every value unlike its default."""

from __future__ import annotations

import numpy as np

from harness.families.base import BCE, CROSS_ENTROPY, Array, Draw, also_draws, family, random_labels
from harness.formats import Format

_SHAPE = (64, 10)
_WEIGHTS = np.array([0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 0.0])
_POSITIVE_WEIGHTS = np.array([0.125, 0.25, 0.5, 0.75, 1.25, 1.5, 2.0, 3.0, 5.0, 8.0])


def _logits(rng: np.random.Generator) -> Array:
    return 3.0 * rng.standard_normal(_SHAPE)


def _labels(rng: np.random.Generator) -> Array:
    """Labels [64] among which every class occurs."""
    return rng.permutation(np.resize(np.arange(10), 64))


@family(
    "option_weight",
    breaks="Class weights that are ignored, applied to the wrong class, or divided by: two of the ten are zero.",
    source="pytorch/pytorch#31295",
    losses=(CROSS_ENTROPY, BCE),
)
def option_weight(rng: np.random.Generator, form: Format) -> Draw:
    """Class weights from 0 to 3; a row whose class has weight 0 has loss and gradient 0."""
    return Draw(_logits(rng), _labels(rng), options={"weight": rng.permutation(_WEIGHTS)})


@family(
    "option_pos_weight",
    breaks="A positive weight that is ignored, or that multiplies the whole loss in place of its positive term.",
    source="tensorflow/tensorflow, weighted_cross_entropy_with_logits at logit 0",
    losses=(BCE,),
)
def option_pos_weight(rng: np.random.Generator, form: Format) -> Draw:
    """Positive weights from 1/8 to 8; the first row's logits are 0, where a formula with abs has a kink."""
    logits = _logits(rng)
    logits[0] = 0.0
    return Draw(logits, _labels(rng), options={"pos_weight": rng.permutation(_POSITIVE_WEIGHTS)})


def _ignoring(rng: np.random.Generator, labels: Array, ignore_index: int) -> Array:
    """The labels with a quarter of the rows ignored, the first row among them."""
    rows = rng.permutation(np.arange(1, 64))[:15]
    labels[[0, *rows]] = ignore_index
    return labels


@family(
    "option_ignore_index",
    breaks="Ignored rows that leave a loss or a gradient behind, or whose label -100 is used to index the logits.",
    source="linkedin/Liger-Kernel#1298, microsoft/onnxruntime#28004",
)
def option_ignore_index(rng: np.random.Generator, form: Format) -> Draw:
    """A quarter of the rows has label -100, the first row among them."""
    return Draw(_logits(rng), _ignoring(rng, _labels(rng), -100), options={"ignore_index": -100})


@family(
    "option_ignore_index_inside",
    breaks="Code that takes any label inside the range as counted, or knows -100 only.",
    source="pytorch/pytorch#108148",
)
def option_ignore_index_inside(rng: np.random.Generator, form: Format) -> Draw:
    """The ignored index is class 3, so that rows of class 3 are ignored."""
    return Draw(_logits(rng), _ignoring(rng, _labels(rng), 3), options={"ignore_index": 3})


@family(
    "option_label_smoothing",
    breaks="Label smoothing that is ignored, or spread over the V - 1 other classes only.",
    source="linkedin/Liger-Kernel#243, pytorch/pytorch#148884",
)
def option_label_smoothing(rng: np.random.Generator, form: Format) -> Draw:
    """ε = 0.1."""
    return Draw(_logits(rng), _labels(rng), options={"label_smoothing": 0.1})


@family(
    "options_combined",
    breaks="Options that are right one by one and wrong together, such as weights that miss the smoothed classes.",
    source="pytorch/pytorch#69339, pytorch/pytorch#104776",
)
def options_combined(rng: np.random.Generator, form: Format) -> Draw:
    """Class weights, ε = 0.1 and rows ignored by -100 at once."""
    labels = _ignoring(rng, _labels(rng), -100)
    options = {"weight": rng.permutation(_WEIGHTS), "label_smoothing": 0.1, "ignore_index": -100}
    return Draw(_logits(rng), labels, options=options)


@also_draws("options_combined", BCE)
def options_combined_binary(rng: np.random.Generator, form: Format) -> Draw:
    """Weights and positive weights at once."""
    options = {"weight": rng.permutation(_WEIGHTS), "pos_weight": rng.permutation(_POSITIVE_WEIGHTS)}
    return Draw(_logits(rng), _labels(rng), options=options)


@family(
    "options_soft_targets",
    breaks="Weights and smoothing that work for class indices and are dropped, or applied per row, for probabilities.",
    source="pytorch/pytorch#104776",
)
def options_soft_targets(rng: np.random.Generator, form: Format) -> Draw:
    """Class weights and ε = 0.1 with a target that is uniform on the simplex."""
    options = {"weight": rng.permutation(_WEIGHTS), "label_smoothing": 0.1}
    return Draw(_logits(rng), random_labels(rng, *_SHAPE), rng.dirichlet(np.ones(10), 64), options)
