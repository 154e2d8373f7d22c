"""Breeding: populations of rows, and how a generation of children is made from one.

Which parts are applied to a child goes by what each has gained so far over the parents that it was applied to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.evaluation import Candidate
from harness.formats import Format
from harness.parts import PARTS, apply, stepped
from harness.rows import RandomDice, Row, cross, random_row, resize

__all__ = ["Breeder", "Child", "Island"]

Array = np.ndarray[Any, Any]

POPULATION = 24
STALE = 40
"""Generations without a gain after which a population starts anew."""

TOURNAMENT = 3
_FRESH, _MIGRANT, _CROSSED = 0.2, 0.23, 0.36
"""Of a generation's children, the shares (each up to the next) that are new, come from elsewhere, have two parents."""


@dataclass(frozen=True, eq=False)
class Child:
    """A row to be looked at, the parts that it owes to, and the score of its parent (infinite without one)."""

    row: Row
    parts: tuple[str, ...] = ()
    parent: float = np.inf


@dataclass
class Island:
    """The population of one number of classes, best first, with the rows that it may start from."""

    classes: int
    starts: list[Row]
    spent: float = 0.0
    stale: int = 0
    population: list[Candidate] = field(default_factory=list)
    best: Candidate | None = None

    @property
    def rows_per_call(self) -> int:
        """Constant, so that a compiler runs once; fewer of the long rows, whose truth takes long."""
        return max(4, min(48, 1024 // self.classes))

    @property
    def score(self) -> float:
        """Of the best row that it has ever had."""
        return -np.inf if self.best is None else self.best.score

    def add(self, candidates: Sequence[Candidate]) -> None:
        """Keep the best, of equal rows one, of equal scores three: the rest would only be copies."""
        pool = sorted([*self.population, *candidates], key=lambda c: -c.score)
        seen: set[bytes] = set()
        counts: dict[float, int] = {}
        self.population = []
        for candidate in pool:
            counts[candidate.score] = counts.get(candidate.score, 0) + 1
            if candidate.row.key in seen or counts[candidate.score] > 3 or candidate.score == -np.inf:
                continue
            seen.add(candidate.row.key)
            self.population.append(candidate)
        del self.population[POPULATION:]
        self.spent += len(candidates) * (12 + self.classes)
        self.stale += 1
        if self.population and self.population[0].score > self.score:
            self.best, self.stale = self.population[0], 0


class Breeder:
    """Makes children: draws where from, and which parts are applied."""

    def __init__(self, rng: np.random.Generator, loss: str, form: Format) -> None:
        self.rng, self.dice, self.loss, self.form = rng, RandomDice(rng), loss, form
        self._largest = form.largest
        self.names = list(PARTS)
        self.tried = dict.fromkeys(self.names, 4.0)
        self.gained = dict.fromkeys(self.names, 1.0)

    def children(self, island: Island, islands: Sequence[Island]) -> list[Child]:
        """A generation; of a population that has not gained anything for long, a new one begins."""
        if island.stale > STALE:
            keep = island.best is not None and self.rng.random() < 0.5
            island.population, island.stale = ([island.best] if keep and island.best else []), 0
        return [self._child(island, islands) for _ in range(island.rows_per_call)]

    def nearby(self, children: Sequence[Child], count: int) -> Array:
        """Logits of the children and next to them, all drawn at once: [children, 1 + count, V], themselves first.

        In every other variant all logits move by up to so many numbers of the format, few or many; in the others one
        does. Masked classes stay masked.
        """
        z = np.stack([child.row.logits for child in children])[:, None]
        n, _, v = z.shape
        steps = np.zeros((n, 1 + count, v))
        everywhere = steps[:, 1::2]
        sizes = 2.0 ** self.rng.integers(0, max(2, self.form.precision // 2), (*everywhere.shape[:2], 1))
        everywhere[:] = np.rint(self.rng.uniform(-1.5, 1.5, everywhere.shape) * sizes)
        alone = steps[:, 2::2]
        sizes = 2.0 ** self.rng.integers(0, self.form.precision, (*alone.shape[:2], 1))
        one = self.rng.integers(0, v, (*alone.shape[:2], 1))
        np.put_along_axis(alone, one, sizes * self.rng.choice([-1.0, 1.0], sizes.shape), axis=2)
        with np.errstate(over="ignore"):
            moved = np.where(np.isneginf(z), z, np.clip(stepped(z, steps, self.form), -self._largest, self._largest))
        return np.where(steps == 0, z, moved)

    def learn(self, child: Child, score: float) -> None:
        """Credit the parts of a child with whether it gained over its parent."""
        for name in child.parts:
            self.tried[name] += 1
            self.gained[name] += score > child.parent

    def _child(self, island: Island, islands: Sequence[Island]) -> Child:
        draw = float(self.rng.random())
        if not island.population or draw < _FRESH:
            return Child(self._new(island))
        others = [other for other in islands if other is not island and other.best is not None]
        if draw < _MIGRANT and others:
            best = others[self.dice.integer(0, len(others) - 1)].best
            assert best is not None
            return Child(resize(self.dice, best.row, island.classes))
        parent = self._parent(island)
        row = cross(self.dice, parent.row, self._parent(island).row) if draw < _CROSSED else parent.row
        names = self._parts()
        for name in names:
            row = apply(PARTS[name], self.dice, row, self.form)
        return Child(row, tuple(names), parent.score)

    def _start(self, island: Island) -> Row:
        if not island.starts or self.rng.random() < 0.25:
            return random_row(self.dice, self.loss, island.classes, self.form)
        return island.starts[self.dice.integer(0, len(island.starts) - 1)]

    def _new(self, island: Island) -> Row:
        """A start with some parts, whatever they have gained: what a climb never comes near is found like this."""
        row = self._start(island)
        for _ in range(self.dice.integer(0, 4)):
            name = self.names[self.dice.integer(0, len(self.names) - 1)]
            row = apply(PARTS[name], self.dice, row, self.form)
        return row

    def _parent(self, island: Island) -> Candidate:
        picks = self.rng.integers(0, len(island.population), TOURNAMENT)
        return island.population[int(picks.min())]

    def _parts(self) -> list[str]:
        weights = np.array([self.gained[name] / self.tried[name] for name in self.names]) + 0.02
        count = min(int(self.rng.geometric(0.55)), 4)
        return [self.names[i] for i in self.rng.choice(len(self.names), count, p=weights / weights.sum())]
