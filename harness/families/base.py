"""What a family is, how one is registered, and the random streams that batches are drawn from.

A family draws exact reals (float64) for a format; rounding them to that format is `make_batch`'s business. Magnitudes
are chosen per format so that the derived bounds mean something on most rows: |z|·u stays well under one, u being the
unit roundoff of the arithmetic that is expected for the format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from harness.formats import DTYPES, Format

__all__ = [
    "BCE",
    "CROSS_ENTROPY",
    "LINEAR",
    "REGISTRY",
    "Draw",
    "Drawer",
    "Family",
    "also_draws",
    "draw_upstream",
    "family",
    "random_labels",
    "streams",
]

Array = np.ndarray[Any, Any]

CROSS_ENTROPY = "cross_entropy"
BCE = "binary_cross_entropy_with_logits"
LINEAR = "linear_cross_entropy"


@dataclass(frozen=True, eq=False)
class Draw:
    """What a family drew: reals, not yet rounded to a format.

    Parameters
    ----------
    logits : float64 array [N, V]
        May hold ``-inf`` (a masked class), and ``+inf`` for an element-wise loss.
    labels : int64 array [N]
        The class that each row is about, or the batch's ``ignore_index``.
    probabilities : float64 array [N, V], optional
        A target to be used as it is; without one the loss makes its own from the labels.
    options : mapping
        Options of the loss; float64 arrays among them are rounded like the logits.
    projection : float64 array [V, D], optional
        For ``linear_cross_entropy``, whose hidden states [N, D] `logits` then are.
    """

    logits: Array
    labels: Array
    probabilities: Array | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    projection: Array | None = None


Drawer = Callable[[np.random.Generator, Format], Draw]


@dataclass(frozen=True)
class Family:
    """A named generator of batches.

    Parameters
    ----------
    name : str
        As the command line spells it, such as ``"ties"`` or ``"recorded/ocr_8210"``.
    breaks : str
        One sentence: what kind of wrong code this breaks, and why.
    source : str
        Where that is known from: a paper, or an upstream thread such as ``"pytorch/pytorch#11752"``.
    draws : mapping of str to callable
        For each loss that the family serves, the function that draws for it.
    dtypes : tuple of str
        The formats that it draws for.
    """

    name: str
    breaks: str
    source: str
    draws: Mapping[str, Drawer]
    dtypes: tuple[str, ...] = DTYPES

    @property
    def losses(self) -> tuple[str, ...]:
        """Names of the losses that the family serves."""
        return tuple(self.draws)


REGISTRY: dict[str, Family] = {}


def family(
    name: str, *, breaks: str, source: str, losses: tuple[str, ...] = (CROSS_ENTROPY,), dtypes: tuple[str, ...] = DTYPES
) -> Callable[[Drawer], Drawer]:
    """Register a function ``(rng, format) -> Draw`` as a family; the function itself is returned unchanged.

    Raises
    ------
    ValueError
        Where a family of that name exists already.
    """

    def register(draw: Drawer) -> Drawer:
        if name in REGISTRY:
            raise ValueError(f"a family named {name!r} is registered already")
        REGISTRY[name] = Family(name, breaks, source, dict.fromkeys(losses, draw), dtypes)
        return draw

    return register


def also_draws(name: str, loss: str) -> Callable[[Drawer], Drawer]:
    """Let a registered family draw in another way for one loss: its hard inputs lie elsewhere there."""

    def register(draw: Drawer) -> Drawer:
        known = REGISTRY[name]
        REGISTRY[name] = replace(known, draws={**known.draws, loss: draw})
        return draw

    return register


def streams(seed: int, *words: str, count: int = 3) -> list[np.random.Generator]:
    """Independent random streams that depend on the seed and the words alone, not on the process or its hash seed.

    Raises
    ------
    ValueError
        For a negative seed.
    """
    if seed < 0:
        raise ValueError(f"seed {seed} is negative: choose 0 or more")
    digest = hashlib.sha256("\0".join(words).encode()).digest()
    entropy = [seed, *np.frombuffer(digest, dtype="<u4").tolist()]
    return [np.random.Generator(np.random.PCG64(child)) for child in np.random.SeedSequence(entropy).spawn(count)]


# At most three significant bits: exact in every format. Without 1, which hides a forgotten product.
_UPSTREAM = np.array([0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0])


def draw_upstream(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """An upstream gradient (float64): mixed signs and magnitudes in [0.25, 4], no zeros, no ones, exact everywhere.

    From two entries on, both signs and two magnitudes occur.
    """
    size = int(np.prod(shape))
    magnitudes = np.resize(rng.permutation(_UPSTREAM), size)
    signs = np.resize(np.array([-1.0, 1.0]), size)
    return np.asarray(rng.permutation(magnitudes) * rng.permutation(signs)).reshape(shape)


def random_labels(rng: np.random.Generator, rows: int, classes: int) -> Array:
    """Uniform labels, int64 [N]."""
    return rng.integers(0, classes, rows)
