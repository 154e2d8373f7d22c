"""Evaluation: rows in, candidates out. Calls an implementation on many rows at once and scores each against truth."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.declaration import Declaration
from harness.formats import FORMATS, Format
from harness.grades import Outcome
from harness.judge import judge
from harness.output import Output
from harness.reference import Reference, reference_of
from harness.rows import Row, batch_of, with_variants
from harness.scoring import Metric, Scores, bound_of, score
from harness.witness import hexadecimal
from harness.worker import Worker, WorkerError
from harness.worst_case import WorstCase

__all__ = ["Candidate", "Evaluator", "HuntError"]


Array = np.ndarray[Any, Any]

SLOW = 1e-3
"""Seconds for one row: what an interpreted kernel takes."""


class HuntError(ValueError):
    """An implementation that cannot be hunted; the message says what it did and on what."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A row that has been looked at, with its worst value: see `harness.scoring.Scores`."""

    row: Row
    score: float
    column: int
    got: float
    hi: float
    lo: float
    ulp: float
    ratio: float


class Evaluator:
    """Looks at rows: what one implementation makes of them in one format, by one metric.

    Parameters
    ----------
    declaration : Declaration
        Of the implementation.
    worker : Worker
        A process that knows it.
    form : Format
        The logits'.
    what : str
        ``"loss"`` or ``"gradient"``.
    metric : Metric
        What the score is.
    seed : int
        Of the search, for the record.

    Attributes
    ----------
    evaluations : int
        Rows looked at.
    calling : float
        Seconds that the implementation took for them.
    """

    def __init__(
        self, declaration: Declaration, worker: Worker, form: Format, what: str, metric: Metric, seed: int = 0
    ) -> None:
        self.declaration, self.worker, self.form = declaration, worker, form
        self.what, self.metric, self.seed = what, metric, seed
        self.grade = bound_of(declaration, form.name)
        self.evaluations = 0
        self.calling = 0.0
        self._row_by_row = False
        self._output_dtype = form.name
        self._versions = _versions(worker)

    def __call__(self, rows: Sequence[Row]) -> list[Candidate]:
        """Look at rows of as many classes.

        Raises
        ------
        HuntError
            Where a call fails or gives something that is not of the contract's form.
        """
        return self.worst_of(rows, np.stack([row.logits for row in rows])[:, None])

    def worst_of(self, rows: Sequence[Row], logits: Array) -> list[Candidate]:
        """Look at variants [N, M, V] of the logits of N rows, all in one call; the worst variant of each row.

        Raises
        ------
        HuntError
            As for rows.
        """
        variants = logits.shape[1]
        batch = with_variants(batch_of(rows, self.declaration.loss, self.form), logits)
        output = self._call(batch)
        self.evaluations += len(batch.logits)
        scores = self._scores(batch, reference_of(batch, kept=False), output)
        which = scores.score.reshape(len(rows), variants).argmax(axis=1)
        at = np.arange(len(rows)) * variants + which
        fields = (scores.score, scores.column, scores.got, scores.hi, scores.lo, scores.ulp, scores.ratio)
        columns = [array[at].tolist() for array in fields]
        worst = [replace(row, logits=logits[i, which[i]]) if which[i] else row for i, row in enumerate(rows)]
        return [Candidate(row, *values) for row, *values in zip(worst, *columns, strict=True)]

    @property
    def is_slow(self) -> bool:
        """Whether the implementation takes so long for each row that many rows at once would take too long."""
        return self._row_by_row or self.calling > SLOW * self.evaluations

    def worst_case(self, candidate: Candidate) -> WorstCase:
        """The record of a candidate."""
        row, declaration = candidate.row, self.declaration
        per_row = self.what == "loss" and row.target is None
        return WorstCase(
            implementation=declaration.name,
            framework=declaration.framework,
            loss=declaration.loss,
            dtype=self.form.name,
            output_dtype=self._output_dtype,
            what=self.what,
            metric=str(self.metric),
            value=candidate.score,
            logits=tuple(map(hexadecimal, row.logits.tolist())),
            target=row.label if row.target is None else tuple(map(hexadecimal, row.target.tolist())),
            upstream=hexadecimal(row.upstream),
            column=None if per_row else candidate.column,
            got=hexadecimal(candidate.got),
            want=hexadecimal(candidate.hi),
            want_low=hexadecimal(candidate.lo),
            ulp=candidate.ulp,
            bound_ratio=None if math.isnan(candidate.ratio) else candidate.ratio,
            bound=str(self.grade),
            versions=self._versions,
            found={"seed": self.seed, "evaluations": self.evaluations},
        )

    def _scores(self, batch: Batch, reference: Reference, output: Output) -> Scores:
        got = output.loss if self.what == "loss" else output.gradient
        if got is None:
            raise HuntError(f"{self.declaration.name} has no gradient: hunt its loss")
        wanted = batch.upstream.shape if self.what == "loss" else batch.logits.shape
        if got.shape != wanted or FORMATS.get(got.dtype.name, self.form).bits < self.form.bits:
            judged = judge(batch, reference, output)[self.what]
            raise HuntError(f"{self.declaration.name}: {judged.detail or judged.outcome}")
        self._output_dtype = got.dtype.name
        return score(self.metric, self.what, reference, output, self.form, self.grade)

    def _call(self, batch: Batch) -> Output:
        """The unreduced output; of an implementation that gives only means, row by row."""
        rows = [batch.rows(slice(i, i + 1)) for i in range(len(batch.logits))] if self._row_by_row else [batch]
        outputs = [self._checked(part) for part in rows]
        loss = outputs[0].loss
        assert loss is not None
        if loss.ndim == 0 and not self._row_by_row and batch.upstream.ndim == 1:
            self._row_by_row = True
            return self._call(batch)
        if not self._row_by_row:
            return outputs[0]
        losses = np.concatenate([np.reshape(o.loss, 1) for o in outputs if o.loss is not None])
        gradients = [output.gradient for output in outputs if output.gradient is not None]
        return replace(outputs[0], loss=losses, gradient=np.concatenate(gradients) if gradients else None)

    def _checked(self, batch: Batch) -> Output:
        start = time.monotonic()
        output = self.worker.call(self.declaration.name, batch, gradient=self.what == "gradient")
        self.calling += time.monotonic() - start
        if output.outcome is Outcome.PASSED:
            return output
        row = self._culprit(batch) if len(batch.logits) > 1 else 0
        shown = "" if row is None else ", on " + _shown(batch, row)
        outcome = str(output.outcome).replace("_", " ")
        raise HuntError(f"{self.declaration.name} in {self.form.name}: {outcome}: {output.detail}{shown}")

    def _culprit(self, batch: Batch) -> int | None:
        """A row on which the call fails by itself too."""
        first, end = 0, len(batch.logits)
        while end - first > 1:
            middle = (first + end) // 2
            first, end = (first, middle) if self._fails(batch, first, middle) else (middle, end)
        return first if self._fails(batch, first, end) else None

    def _fails(self, batch: Batch, first: int, end: int) -> bool:
        part = batch.rows(slice(first, end))
        return self.worker.call(self.declaration.name, part, gradient=False).outcome is not Outcome.PASSED


def _versions(worker: Worker) -> dict[str, str]:
    """What runs in a worker; nothing where it does not start, which the first call will say."""
    try:
        found: dict[str, Any] = worker.environment()
    except WorkerError:
        return {}
    return {"python": str(found["python"]), **{str(name): str(v) for name, v in found["versions"].items()}}


def _shown(batch: Batch, row: int) -> str:
    """A row in a few words; decimal, since this is for a message."""
    logits = batch.logits[row].astype(np.float64).tolist()
    values = ", ".join("-inf" if math.isinf(z) else f"{z:.9g}" for z in logits[:8])
    return f"[{values}{', …' if len(logits) > 8 else ''}], target {batch.target[row].tolist()}"
