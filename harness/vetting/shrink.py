"""Shrinking: from a call that shows a problem to the smallest one found that still shows it.

Rows go first, then classes, then digits. Each step is kept only if the same kind of problem, loss or gradient, is still
there; the number of tries is bounded, so that what comes out is small and not necessarily smallest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.vetting.examination import Problem
from harness.vetting.examiner import Examiner, Gone

__all__ = ["shrink"]

Array = np.ndarray[Any, Any]

TRIES = 80
SECONDS = 6.0
MOST_EQUAL = 512
"""At most so many equal calls are made in a row where no two show what a sequence of calls has shown."""


def shrink(examiner: Examiner, problem: Problem, tries: int = TRIES) -> Problem:
    """The problem on the smallest input found in so many tries; the problem itself where nothing smaller shows it."""
    if problem.what == "call" and problem.kind in ("crashed", "timed_out", "altered"):
        return problem
    if len(problem.calls) > 1 and (problem.probe.reduction or any(batch.options for batch in problem.calls)):
        return problem  # each call was judged by itself: no batch of fewer rows stands for them
    if len(problem.calls) > 1 and tries >= TRIES and not _alone(examiner, problem):
        return _few_calls(examiner, problem)
    search = _Search(examiner, problem, tries)
    for reduce in (_rows, _classes, _digits, _upstream):
        search.descend(reduce)
    return search.best


def _alone(examiner: Examiner, problem: Problem) -> bool:
    """Whether the last call of a sequence shows the problem by itself, in a fresh process."""
    examiner.session.close()  # what it has kept of earlier calls is gone
    try:
        seen = examiner.examine(problem.calls[-1], replace(problem.probe, in_sequence=False))
    except (Gone, ValueError):
        return False
    return any((p.what, p.kind) == (problem.what, problem.kind) for p in seen.problems)


def _few_calls(examiner: Examiner, problem: Problem) -> Problem:
    """The problem as that of the last of a few calls in a fresh process: of two, where two show it."""
    *before, last = problem.calls
    rows = len(last.logits)
    for one in (before[-1], before[0]):
        examiner.session.close()
        try:
            seen = examiner.examine_sequence([one, last], problem.probe)
        except (Gone, ValueError):
            break
        for found in seen.problems:
            if found.what == problem.what and found.row is not None and found.row >= rows:
                return replace(found, batch=last, row=found.row % rows, calls=(one, last))
    assert problem.row is not None
    alone = replace(problem, batch=last, row=problem.row % rows)
    return _over_and_over(examiner, alone) or alone


def _over_and_over(examiner: Examiner, problem: Problem) -> Problem | None:
    """The problem as that of the last of equal calls in a fresh process, of one row if that will do."""
    assert problem.row is not None
    session = examiner.session
    count = max(1, min(MOST_EQUAL, int(SECONDS * session.asked / max(session.spent, 1e-9))))  # there is time for these
    for batch in (problem.batch.rows(slice(problem.row, problem.row + 1)), problem.batch):
        session.close()
        try:
            seen = examiner.examine_sequence([batch] * count, problem.probe)
        except (Gone, ValueError):
            return None
        rows = len(batch.logits)
        for found in seen.problems:
            if found.what == problem.what and found.row is not None:
                calls = (batch,) * (found.row // rows + 1)
                return replace(found, batch=batch, row=found.row % rows, calls=calls)
    return None


class _Search:
    """The smallest problem so far, and what is left to spend on a smaller one."""

    def __init__(self, examiner: Examiner, problem: Problem, tries: int) -> None:
        self.examiner, self.best = examiner, problem
        self.tries = tries
        self.deadline = time.monotonic() + SECONDS

    def descend(self, reduce: Callable[[Problem], Iterator[Batch]]) -> None:
        """Take smaller batches as long as one of them still shows the problem."""
        found = True
        while found:
            found = False
            for batch in reduce(self.best):
                if self.tries <= 0 or time.monotonic() > self.deadline:
                    return
                self.tries -= 1
                smaller = self._still(batch)
                if smaller is not None:
                    self.best, found = smaller, True
                    break

    def _still(self, batch: Batch) -> Problem | None:
        probe = replace(self.best.probe, in_sequence=False, together=False)
        try:
            seen = self.examiner.examine(batch, probe)
        except (Gone, ValueError):
            return None
        return next((p for p in seen.problems if (p.what, p.kind) == (self.best.what, self.best.kind)), None)


def _rows(problem: Problem) -> Iterator[Batch]:
    """The row that shows it alone; else halves."""
    batch = problem.batch
    n = len(batch.logits)
    if n <= 1:
        return
    if problem.row is not None:
        yield batch.rows(slice(problem.row, problem.row + 1))
    half = n // 2
    yield batch.rows(slice(0, half))
    yield batch.rows(slice(half, n))


def _classes(problem: Problem) -> Iterator[Batch]:
    """Without a part of the classes, the target's always kept."""
    batch = problem.batch
    v = batch.logits.shape[1]
    if len(batch.logits) != 1 or v <= 1 or problem.probe.layout != "contiguous":
        return
    part = v // 2
    while part >= 1:
        for start in range(0, v, part):
            kept = np.ones(v, dtype=bool)
            kept[start : start + part] = False
            smaller = _without(batch, kept)
            if smaller is not None:
                yield smaller
        part //= 2
        if v > 64 and part < v // 8:  # for wide rows the outer loop comes again, with half the classes
            return


def _without(batch: Batch, kept: Array) -> Batch | None:
    if not kept.any():
        return None
    options = {
        name: value[..., kept]
        if isinstance(value, np.ndarray) and value.ndim and value.shape[-1] == len(kept)
        else value
        for name, value in batch.options.items()
    }
    target = batch.target
    if target.ndim == 1:
        label = int(target[0])
        ignored = label == batch.options.get("ignore_index", -100)
        if not ignored:
            if not kept[label]:
                return None
            target = np.array([int(kept[:label].sum())])
    else:
        target = target[:, kept]
    upstream = batch.upstream[:, kept] if batch.upstream.ndim == 2 else batch.upstream
    return replace(batch, logits=batch.logits[:, kept], target=target, upstream=upstream, options=options)


def _digits(problem: Problem) -> Iterator[Batch]:
    """Shorter numbers: whole ones, then one decimal; shifted to begin at zero."""
    batch = problem.batch
    logits = batch.logits.astype(np.float64)
    finite = np.isfinite(logits)
    low = logits[finite].min() if finite.any() else 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # near the format's maximum, or beside infinities
        shorter = np.round(logits - low), np.round(logits), logits - low, np.round(logits, 1)
    for candidate in shorter:
        rounded = batch.format.round(np.where(finite, candidate, logits))
        if not np.array_equal(np.isfinite(rounded.astype(np.float64)), finite):
            continue  # beyond the format: another problem
        # Shorter by its written length, so that this ends.
        if len(str(rounded.tolist())) < len(str(batch.logits.tolist())):
            yield replace(batch, logits=rounded)


def _upstream(problem: Problem) -> Iterator[Batch]:
    """An upstream gradient of -2 throughout, or of ones where that shows it too."""
    batch = problem.batch
    if problem.what != "gradient":
        return
    for value in (1.0, -2.0):
        if not (batch.upstream == value).all() and not (batch.upstream == 1).all():
            yield replace(batch, upstream=np.full_like(batch.upstream, value))
