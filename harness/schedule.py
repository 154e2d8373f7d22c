"""The schedule: in which order the batches of a plan are done, by whom, and what that order decides.

Batches of one dtype and shape stand together, since compilers compile for both, and the most work comes first, so that
processes finish together. The order that counts, where it matters which of two calls comes first, is that of the
schedule, and not the one in which things happened.
"""

from __future__ import annotations

import bisect
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.tasks import Cell

__all__ = ["Deal", "Late", "Step", "scheduled", "work_of"]

OVERHEAD_LOGITS = 50_000
"""What a call costs besides its logits, in logits: mostly compiling, where something is compiled."""


def work_of(cell: Cell) -> int:
    """How much work a cell is, in logits; none where it is skipped."""
    return 0 if cell.why_not else OVERHEAD_LOGITS + cell.batch.logits.size


@dataclass(frozen=True, eq=False)
class Step:
    """The cells of one batch that are to be called, by place in the plan; `rank` is the step's own in the schedule."""

    rank: int
    cells: tuple[int, ...]
    dtype: str


def scheduled(cells: Sequence[Cell]) -> list[list[Step]]:
    """The steps, in groups of one loss, dtype and shape: the group with the most work first, else as planned."""
    batches: dict[int, list[int]] = {}
    for index, cell in enumerate(cells):
        if not cell.why_not:
            batches.setdefault(id(cell.batch), []).append(index)
    groups: dict[tuple[object, ...], list[list[int]]] = {}
    for called in batches.values():
        batch = cells[called[0]].batch
        groups.setdefault((batch.loss, batch.dtype, batch.logits.shape), []).append(called)
    work = {key: sum(work_of(cells[i]) for called in group for i in called) for key, group in groups.items()}
    schedule: list[list[Step]] = []
    rank = 0
    for key in sorted(groups, key=lambda key: -work[key]):
        schedule.append([Step(rank + i, tuple(called), str(key[1])) for i, called in enumerate(groups[key])])
        rank += len(groups[key])
    return schedule


class Late:
    """Which calls were given up for time, by their place in the schedule.

    Whether a cell counts as called depends on the calls *before it in the schedule*, not on those that happened to be
    over: a call too many is done for nothing, and its result is not kept.
    """

    def __init__(self) -> None:
        self._ranks: defaultdict[str, list[int]] = defaultdict(list)

    def add(self, name: str, rank: int) -> None:
        """Note a call."""
        bisect.insort(self._ranks[name], rank)

    def times(self, name: str, before: int) -> int:
        """How many there are of an implementation before a place in the schedule."""
        return bisect.bisect_left(self._ranks[name], before)


class Deal:
    """Deals steps out to lanes, each of which goes through one group after the other.

    So a process that has compiled for a shape mostly gets the next batch of that shape, and next the groups of that
    dtype, for which some compile once for all shapes. One without work takes the later half of what another has left.
    """

    def __init__(self, groups: Iterable[Sequence[Step]], lanes: int) -> None:
        self._waiting = list(groups)
        self._lanes: list[deque[Step]] = [deque() for _ in range(lanes)]
        self._dtypes: list[set[str]] = [set() for _ in range(lanes)]

    def next(self, lane: int) -> Step | None:
        """The next step of a lane; None where nothing is left for it."""
        if not self._lanes[lane]:
            self._lanes[lane] = deque(self._group(lane)) if self._waiting else self._half_of_another()
        return self._lanes[lane].popleft() if self._lanes[lane] else None

    def _group(self, lane: int) -> Sequence[Step]:
        """The first group of a dtype that the lane has had, else of one that none has had, else the first."""
        own, taken = self._dtypes[lane], set[str]().union(*self._dtypes)
        wanted = [
            *(group for group in self._waiting if group[0].dtype in own),
            *(group for group in self._waiting if group[0].dtype not in taken),
            *self._waiting,
        ][0]
        self._waiting.remove(wanted)
        own.add(wanted[0].dtype)
        return wanted

    def _half_of_another(self) -> deque[Step]:
        longest = max(self._lanes, key=len)
        taken = [longest.pop() for _ in range((len(longest) + 1) // 2)]
        return deque(reversed(taken))
