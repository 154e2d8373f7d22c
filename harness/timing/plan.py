"""What is timed beside what: groups of implementations that take turns on one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.batch import Batch
from harness.bridges.stopwatch import Task
from harness.declaration import Declaration
from harness.formats import named

__all__ = ["BASELINE", "LOSS", "Contender", "Group", "plan", "speed_batch"]

BASELINE = "torch_cross_entropy"
"""What the others are compared with; where it cannot run, the first implementation that can."""

LOSS = "cross_entropy"

# Signs mixed, exact in every format, and no ones: a forgotten product would show.
_UPSTREAM = (-2.0, -0.5, 0.75, 1.5)


@dataclass(frozen=True)
class Contender:
    """An implementation in one mode (``"eager"`` or ``"compiled"``)."""

    declaration: Declaration
    mode: str = "eager"

    @property
    def name(self) -> str:
        """The implementation's name, with the mode where that is not the ordinary one."""
        return self.declaration.name if self.mode == "eager" else f"{self.declaration.name} ({self.mode})"


@dataclass(frozen=True, eq=False)
class Group:
    """What takes turns: implementations on one batch, at one of forward, backward, or both.

    Parameters
    ----------
    batch : Batch
        The inputs.
    what, device : str
        As in `Task`.
    contenders : tuple of Contender
        Who takes part, the baseline among them.
    baseline : Contender
        Whom the others are compared with.
    weighed : bool
        Whether peak memory is measured too.
    """

    batch: Batch
    what: str
    device: str
    contenders: tuple[Contender, ...]
    baseline: Contender
    weighed: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """(N, V) of the logits."""
        rows, classes = self.batch.logits.shape
        return rows, classes

    @property
    def label(self) -> str:
        """The group in a few words."""
        return f"{self.what} {self.shape[0]} × {self.shape[1]} {self.batch.dtype}"

    def task(self, contender: Contender) -> Task:
        """What one of them has to do."""
        return Task(self.what, contender.mode, self.device)


def speed_batch(shape: tuple[int, int], dtype: str, seed: int) -> Batch:
    """Standard normal logits [N, V] with random labels; what is drawn depends on the seed and the shape alone."""
    rows, classes = shape
    rng = np.random.default_rng([seed, rows, classes])
    form = named(dtype)
    logits = form.round(rng.standard_normal(shape))
    upstream = form.round(rng.choice(np.array(_UPSTREAM), rows))
    return Batch(LOSS, logits, rng.integers(0, classes, rows), upstream, family="speed", seed=seed)


def plan(
    declarations: Sequence[Declaration],
    shapes: Sequence[tuple[int, int]],
    dtypes: Sequence[str] = ("float32",),
    whats: Sequence[str] = ("forward", "forward+backward"),
    *,
    modes: Sequence[str] = ("eager",),
    device: str = "cpu",
    seed: int = 0,
    baseline: str = BASELINE,
    memory: bool = False,
) -> list[Group]:
    """The groups, by dtype, shape and what.

    Parameters
    ----------
    declarations : sequence of Declaration
        What to time, of those that take class indices.
    shapes : sequence of (int, int)
        (N, V) of the logits.
    dtypes, whats, modes : sequence of str
        All combinations.
    device : str
        ``"cpu"`` or ``"cuda"``.
    seed : int
        What the batches are drawn from.
    baseline : str
        Name of the implementation to compare with; it takes part, eager, wherever it takes the dtype.
    memory : bool
        Whether peak memory is measured too: on the largest shape of each dtype, whatever else is timed there last.
    """
    usable = [d for d in declarations if d.loss == LOSS and "indices" in d.targets]
    largest = max(shapes, key=lambda shape: shape[0] * shape[1], default=None)
    groups = []
    for dtype in dtypes:
        chosen = [d for d in usable if dtype in d.grades]
        for shape in shapes if chosen else ():
            batch = speed_batch(shape, dtype, seed)
            for what in whats:
                able = [d for d in chosen if what == "forward" or d.has_gradient]
                if able:
                    first = next((d for d in able if d.name == baseline), able[0])
                    weighed = memory and shape == largest and what == whats[-1]
                    groups.append(
                        Group(batch, what, device, _contenders(able, first, modes), Contender(first), weighed)
                    )
    return groups


def _contenders(able: Sequence[Declaration], first: Declaration, modes: Sequence[str]) -> tuple[Contender, ...]:
    made = [Contender(d, mode) for d in able for mode in modes]
    return tuple(made if Contender(first) in made else [Contender(first), *made])
