"""Hidden states and a projection: what makes a linear layer followed by cross-entropy lose digits, classes or rows.

Small, so that truth, which has no fast path here, stays cheap: some thousands of products of h and W in each batch.
"""

from __future__ import annotations

import numpy as np

from harness.families.base import LINEAR, Array, Draw, family, random_labels
from harness.formats import Format

_ROWS, _FEATURES = 12, 32


def _hidden(rng: np.random.Generator, rows: int = _ROWS, features: int = _FEATURES) -> Array:
    return rng.standard_normal((rows, features))


def _projection(rng: np.random.Generator, classes: int, features: int = _FEATURES) -> Array:
    """Rows that make logits of a spread of about 2 of standard normal hidden states."""
    return np.asarray(2.0 * rng.standard_normal((classes, features)) / np.sqrt(features))


@family(
    "linear_random",
    breaks="A projection's gradient that takes its rows' upstream gradients for equal, or leaves the last rows out.",
    source="linkedin/Liger-Kernel#1298",
    losses=(LINEAR,),
)
def linear_random(rng: np.random.Generator, form: Format) -> Draw:
    """12 rows, 40 classes, 32 features; logits of a spread of 2."""
    return Draw(_hidden(rng), random_labels(rng, _ROWS, 40), projection=_projection(rng, 40))


@family(
    "linear_cancellation",
    breaks="Dot products whose partial sums are kept in 16 bits, since here they are far larger than the logit.",
    source="Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1",
    losses=(LINEAR,),
)
def linear_cancellation(rng: np.random.Generator, form: Format) -> Draw:
    """The second half of the features takes away what the first adds, 30 times a logit, but for a random remainder."""
    half = _FEATURES // 2
    large = 4.0 * (1.0 + rng.random((_ROWS, half)))
    hidden = np.concatenate([large, large], axis=1)
    weights = np.round(16.0 * rng.uniform(1.0, 4.0, (24, half))) / 16.0
    projection = np.concatenate([weights, -weights], axis=1)
    # What is left over is drawn once, and exact where the halves are.
    hidden[:, 0], projection[:, 0] = rng.standard_normal(_ROWS), rng.standard_normal(24)
    hidden[:, half], projection[:, half] = 1.0, 2.0 * rng.standard_normal(24)
    return Draw(hidden, random_labels(rng, _ROWS, 24), projection=projection)


@family(
    "linear_confident",
    breaks="Gradients below a threshold that are dropped, or a sum whose largest term absorbs the others.",
    source="apple/ml-cross-entropy, filter_eps; pytorch/pytorch#195678",
    losses=(LINEAR,),
)
def linear_confident(rng: np.random.Generator, form: Format) -> Draw:
    """The target leads by 4, …, 26: one class along each row's own direction, the others across all of them."""
    hidden = np.linalg.qr(rng.standard_normal((_FEATURES, _ROWS)))[0].T * np.linspace(4.0, 26.0, _ROWS)[:, None]
    projection = np.concatenate(
        [hidden / np.linalg.norm(hidden, axis=1, keepdims=True), np.zeros((28, _FEATURES))], axis=0
    )
    projection[_ROWS:] = 0.02 * rng.standard_normal((28, _FEATURES))
    labels = np.arange(_ROWS)
    labels[-1] = 0  # and one that is confident and wrong
    return Draw(hidden, labels, projection=projection)


@family(
    "linear_many_small",
    breaks="Blocks of the gradient that are dropped since each entry is small, though together they are all there is.",
    source="cut-cross-entropy 25.1.1, filter_eps",
    losses=(LINEAR,),
)
def linear_many_small(rng: np.random.Generator, form: Format) -> Draw:
    """One class leads 599 others by 10.5 to 12.5: each has a probability below 3e-5, and a large row of weights."""
    hidden = np.ones((4, 8))
    hidden[:, 2] = [10.5, 11.0, 12.0, 12.5]
    hidden[:, 3:] = 0.25 * rng.standard_normal((4, 5))
    projection = np.zeros((600, 8))
    steps = 16.0 + rng.integers(0, 8, 600) / 8.0  # what bfloat16 holds
    projection[:, 0], projection[:, 1] = steps, -steps
    projection[:, 3:] = 0.25 * rng.standard_normal((600, 5))
    projection[0] = [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    return Draw(hidden, np.zeros(4, dtype=np.int64), projection=projection)


@family(
    "linear_near_ties",
    breaks="Gradients that are differences of nearly equal rows of the projection, in sums that round each of them.",
    source="Blanchard, Higham & Higham 2021",
    losses=(LINEAR,),
)
def linear_near_ties(rng: np.random.Generator, form: Format) -> Draw:
    """Rows of the projection that differ by some ulp of the format, and one hidden state that none of them tells."""
    base = rng.standard_normal(_FEATURES)
    projection = base * (1.0 + 2.0 ** (2 - form.precision) * rng.integers(-4, 5, (16, _FEATURES)))
    hidden = _hidden(rng)
    hidden[0] = 0.0
    return Draw(hidden, random_labels(rng, _ROWS, 16), projection=projection)


@family(
    "linear_partial_block",
    breaks="Kernels that take classes or features in blocks of a power of two, and drop or count the partial one.",
    source="apple/ml-cross-entropy#59",
    losses=(LINEAR,),
)
def linear_partial_block(rng: np.random.Generator, form: Format) -> Draw:
    """131 classes, 35 features: the last feature weighs most, and the last class is likeliest in the first row."""
    hidden, projection = _hidden(rng, 6, 35), _projection(rng, 131, 35)
    hidden[:, -1] = np.resize([2.0, -2.0], 6)
    projection[:, -1] = rng.choice([-1.0, 1.0], 131)
    projection[-1] = 2.0 * hidden[0] / np.linalg.norm(hidden[0])
    labels = random_labels(rng, 6, 128)
    labels[1:3] = 130
    return Draw(hidden, labels, projection=projection)


@family(
    "linear_one_feature",
    breaks="Kernels that pad the features to a block of sixteen, and read what is beside them.",
    source="linkedin/Liger-Kernel#1298",
    losses=(LINEAR,),
)
def linear_one_feature(rng: np.random.Generator, form: Format) -> Draw:
    """D = 1, 5 classes, hidden states from -8 to 8; two classes tie."""
    projection = rng.standard_normal((5, 1))
    projection[3] = projection[2]
    return Draw(np.linspace(-8.0, 8.0, _ROWS)[:, None], random_labels(rng, _ROWS, 5), projection=projection)


@family(
    "linear_ignore_index",
    breaks="Ignored rows that are counted, or add to the projection's gradient what their label -100 points at.",
    source="linkedin/Liger-Kernel#1298, apple/ml-cross-entropy#59",
    losses=(LINEAR,),
)
def linear_ignore_index(rng: np.random.Generator, form: Format) -> Draw:
    """A third of the rows has label -100, the first and the last among them; their hidden states are large."""
    hidden, labels = _hidden(rng), random_labels(rng, _ROWS, 20)
    ignored = [0, 4, 7, _ROWS - 1]
    hidden[ignored] *= 8.0
    labels[ignored] = -100
    return Draw(hidden, labels, options={"ignore_index": -100}, projection=_projection(rng, 20))


@family(
    "linear_options",
    breaks="Weights, smoothing and bias that are right one by one, or that reach the loss and not the gradients.",
    source="pytorch/pytorch#69339",
    losses=(LINEAR,),
)
def linear_options(rng: np.random.Generator, form: Format) -> Draw:
    """Class weights with two zeros, ε = 0.1 and a bias at once."""
    weight = rng.permutation([0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 0.0])
    options = {"weight": weight, "label_smoothing": 0.1, "linear_bias": rng.standard_normal(10)}
    return Draw(_hidden(rng), random_labels(rng, _ROWS, 10), options=options, projection=_projection(rng, 10))


@family(
    "linear_soft_targets",
    breaks="Code that takes the target's largest class for all of it, behind a projection.",
    source="tensorflow/tensorflow#21271",
    losses=(LINEAR,),
)
def linear_soft_targets(rng: np.random.Generator, form: Format) -> Draw:
    """A target that is uniform on the simplex of 10 classes."""
    labels, target = random_labels(rng, _ROWS, 10), rng.dirichlet(np.ones(10), _ROWS)
    return Draw(_hidden(rng), labels, target, projection=_projection(rng, 10))
