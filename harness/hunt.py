"""The hunt: a search for the input on which an implementation is worst, by one metric, in a given time.

An evolutionary search over rows. Populations of rows, one for each number of classes, are bred by the parts of
`harness.parts` and by crossing; which part is used goes by what it has gained so far. Truth is certified for every row
that is looked at, so that what is found is a fact. The same seed and number of evaluations give the same result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.breeding import Breeder, Island
from harness.declaration import Declaration
from harness.evaluation import Candidate, Evaluator, HuntError
from harness.families import families_for, make_batch
from harness.families.base import streams
from harness.formats import Format, named
from harness.losses import loss_of_logits
from harness.rows import RandomDice, Row, resize, rows_of
from harness.scoring import Metric
from harness.worker import Worker
from harness.worst_case import ELEMENTS, KEPT_CLASSES, WorstCase, holds, load_all

__all__ = ["CLASSES", "STARTS", "Hunt", "HuntProgress", "Hunted", "hunt"]

CLASSES = (2, 3, 8, 10, 64, 1000)
FIRST_LOOK = 2000
"""Rows after which a hunt looks not only at the children that it breeds, but also at what is next to them."""

NEARBY = 127
"""So many variants of each child: they are drawn, called and solved as one array, and cost little besides the truth."""

STARTS = ("random", "families", "worst")


@dataclass(frozen=True)
class Hunt:
    """What is hunted for, and for how long.

    Parameters
    ----------
    dtype : str
        Of the logits.
    what : str
        ``"loss"`` or ``"gradient"``.
    metric : Metric
        What is to be as large as possible.
    seconds : float
        Time to spend; infinite where only `evaluations` counts.
    evaluations : int or None
        Rows to look at, about; None where only `seconds` counts.
    seed : int
        Of the search and of the families that it starts from.
    starts : tuple of str
        Where the first rows come from: some of `STARTS`.
    classes : tuple of int
        Numbers of classes; for an element-wise loss, whose elements are independent, always `ELEMENTS`.
    """

    dtype: str
    what: str = "loss"
    metric: Metric = Metric.ULP
    seconds: float = 60.0
    evaluations: int | None = None
    seed: int = 0
    starts: tuple[str, ...] = STARTS
    classes: tuple[int, ...] = CLASSES


@dataclass
class HuntProgress:
    """How far a hunt is: the share of its time or of its evaluations, the rows looked at, the worst value so far."""

    share: float = 0.0
    evaluations: int = 0
    best: float = -np.inf


@dataclass(frozen=True)
class Hunted:
    """What a hunt has found.

    `worst` is None where no row counted; `smallest` is the worst one that may be kept, of few classes and no masks;
    `complete` is False after an interrupt.
    """

    worst: WorstCase | None
    smallest: WorstCase | None
    evaluations: int
    seconds: float
    complete: bool = True


def hunt(
    request: Hunt,
    declaration: Declaration,
    worker: Worker,
    show: Callable[[HuntProgress], None] = lambda progress: None,
) -> Hunted:
    """Search until the time, or the number of evaluations, is spent; an interrupt keeps the worst so far.

    It also ends at a value that is not finite where it should be: nothing is worse.

    Parameters
    ----------
    request : Hunt
        What to look for.
    declaration : Declaration
        Of the implementation.
    worker : Worker
        A process that knows it.
    show : callable
        Told of the progress after each generation.

    Raises
    ------
    HuntError
        Where the implementation cannot be called in the dtype, does not give what the contract asks for, or computes a
        loss of more than logits and target.
    WorstCaseError
        Where earlier worst cases are among the starts, and a file of them is damaged.
    """
    form = named(request.dtype)
    try:
        elementwise = loss_of_logits(declaration.loss).elementwise
    except ValueError as error:
        raise HuntError(f"{declaration.name} cannot be hunted: {error}") from None
    if elementwise:
        request = replace(request, classes=(ELEMENTS,))
    evaluator = Evaluator(declaration, worker, form, request.what, request.metric, request.seed)
    (rng,) = streams(request.seed, "hunt", declaration.name, *_words(request), count=1)
    breeder = Breeder(rng, declaration.loss, form)
    start, complete = time.monotonic(), True
    islands: list[Island] = []
    try:
        starts = _starts(request, declaration.loss, form)
        islands += [Island(v, [r for r in starts if len(r.logits) == v]) for v in request.classes]
        for progress in _generations(islands, breeder, evaluator, request, start):
            show(progress)
    except KeyboardInterrupt:
        complete = False
    best = _best(islands)
    smallest = _best_to_keep(islands)
    return Hunted(
        None if best is None else evaluator.worst_case(best),
        None if smallest is None else evaluator.worst_case(smallest),
        evaluator.evaluations,
        time.monotonic() - start,
        complete,
    )


def _best(islands: Sequence[Island]) -> Candidate | None:
    return max((i.best for i in islands if i.best is not None), key=lambda c: c.score, default=None)


def _best_to_keep(islands: Sequence[Island]) -> Candidate | None:
    """The worst row of few classes and none of them masked: what masks do to an implementation is another matter."""
    pool = [c for i in islands if i.classes in KEPT_CLASSES for c in (*i.population, i.best) if c is not None]
    return max((c for c in pool if np.isfinite(c.row.logits).all()), key=lambda c: c.score, default=None)


def _generations(
    islands: Sequence[Island], breeder: Breeder, evaluator: Evaluator, request: Hunt, start: float
) -> Iterator[HuntProgress]:
    """Breed one generation after the other, until the time is spent."""
    turn = 0
    while True:
        island = _next(islands, turn)
        turn += 1
        children = breeder.children(island, islands)
        variants = breeder.nearby(children, _nearby(evaluator, request))
        candidates = evaluator.worst_of([child.row for child in children], variants)
        for child, candidate in zip(children, candidates, strict=True):
            breeder.learn(child, candidate.score)
        island.add(candidates)
        best = max(i.score for i in islands)
        share = (time.monotonic() - start) / request.seconds
        if request.evaluations is not None:
            share = max(share, evaluator.evaluations / request.evaluations)
        yield HuntProgress(min(share, 1.0), evaluator.evaluations, best)
        if share >= 1 or best == np.inf:
            return


def _nearby(evaluator: Evaluator, request: Hunt) -> int:
    """How many variants of each child to look at too: none until it is known where to look.

    Where only time counts, none either if the implementation is slow.
    """
    if evaluator.evaluations < FIRST_LOOK or (request.evaluations is None and evaluator.is_slow):
        return 0
    return NEARBY


def _next(islands: Sequence[Island], turn: int) -> Island:
    """In every other turn the island on which least was spent, and otherwise the one with the worst row."""
    least = min(islands, key=lambda island: island.spent)
    if turn % 2 == 0 or least.spent == 0:
        return least
    return max(islands, key=lambda island: island.score)


def _starts(request: Hunt, loss: str, form: Format) -> list[Row]:
    """Rows to begin from, of the numbers of classes that are asked for."""
    rows: list[Row] = []
    if "families" in request.starts:
        for family in families_for(loss, form.name):
            if family.name.startswith("worst_cases"):
                continue
            rows += rows_of(make_batch(family.name, loss, form.name, request.seed))
    if "worst" in request.starts:
        for case in load_all():
            row = Row(case.reals, case.target if isinstance(case.target, int) else 0, case.targets)
            reals = row.logits if row.target is None else np.concatenate([row.logits, row.target])
            if case.loss == loss and holds(form, reals):
                rows.append(row)
    dice = RandomDice(streams(request.seed, "starts", loss, form.name, count=1)[0])
    fitting = [row for row in rows if len(row.logits) in request.classes]
    longer = [row for row in rows if len(row.logits) not in request.classes]
    shorter = [(row, max((v for v in request.classes if v < len(row.logits)), default=0)) for row in longer]
    fitting += [resize(dice, row, v) for row, v in shorter if v]
    return fitting if request.what == "gradient" else [replace(row, upstream=1.0) for row in fitting]


def _words(request: Hunt) -> tuple[str, ...]:
    return request.dtype, request.what, str(request.metric)
