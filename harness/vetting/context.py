"""What an inspection has at hand: the examiner, the candidate's claims, and batches drawn for this vetting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.families.base import draw_upstream, streams
from harness.formats import named
from harness.grades import Grade
from harness.losses import Loss, loss_named
from harness.reference import Reference, reference_of
from harness.vetting.examination import Examination, Probe, Problem
from harness.vetting.examiner import Examiner
from harness.vetting.findings import Failed, Finding
from harness.vetting.rearranged import rearranged
from harness.vetting.scale import Scale, scale_for

__all__ = ["CLASSES", "ROWS", "Context"]

Array = np.ndarray[Any, Any]

ROWS, CLASSES = 8, 9
"""The usual shape: what compiles for each shape is to meet few of them."""

_KIND_CHECKS = {"raised": "crash", "crashed": "crash", "timed_out": "time_limit", "form": "output_form"}


@dataclass(eq=False)
class Context:
    """One vetting under way.

    Parameters
    ----------
    examiner : Examiner
        Calls and judges.
    loss : str
        Which loss the candidate is vetted as.
    target : str
        ``"indices"`` or ``"probabilities"``.
    seed : int
        What everything is drawn from.
    quick : bool
        Whether to leave out what takes long.
    solved : mapping
        Truth that is being solved elsewhere, by batch; `reference` waits for it.
    interpreted : bool
        Whether the candidate runs in an interpreter, which takes its time.
    grades : dict
        Per dtype, the worst grade over the judged rows of the numerical checks.
    """

    examiner: Examiner
    loss: str
    target: str
    seed: int
    quick: bool = False
    solved: Mapping[int, Callable[[], Reference]] = field(default_factory=dict)
    families: Mapping[str, list[Batch]] = field(default_factory=dict)
    sizes: Mapping[str, list[Batch]] = field(default_factory=dict)
    interpreted: bool = False
    grades: dict[str, Grade] = field(default_factory=dict)

    @property
    def scale(self) -> Scale:
        """How large the inputs are, and how many."""
        return scale_for(self.quick, self.interpreted, self.brief)

    @property
    def definition(self) -> Loss:
        """The loss's declaration."""
        return loss_named(self.loss)

    @property
    def claims(self) -> tuple[str, ...]:
        """The claimed options."""
        return self.examiner.claims.options

    @property
    def indices(self) -> bool:
        """Whether targets are class indices."""
        return self.target == "indices" and not self.definition.elementwise

    def rng(self, *words: str) -> np.random.Generator:
        """A random stream that depends on the seed and the words."""
        return streams(self.seed, "vet", *words, count=1)[0]

    def reference(self, batch: Batch) -> Reference:
        """The truth of a batch."""
        waiting = self.solved.get(id(batch))
        return waiting() if waiting else reference_of(batch)

    def batch(
        self,
        dtype: str,
        word: str,
        n: int = ROWS,
        v: int = CLASSES,
        *,
        spread: float = 2.0,
        logits: Array | None = None,
        labels: Array | None = None,
        probabilities: Array | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Batch:
        """A moderate batch in a dtype, its logits, labels and options drawn or given (float64, to be rounded)."""
        fmt, rng = named(dtype), self.rng(word, dtype)
        drawn = rng.standard_normal((n, v)) * spread
        z = fmt.round(drawn if logits is None else logits)
        n, v = z.shape
        drawn_labels = rng.integers(0, v, n)
        y = drawn_labels if labels is None else np.asarray(labels)
        if self.definition.elementwise:
            target = self.definition.draw_target(rng, z, np.where((y >= 0) & (y < v), y, 0))
        elif self.indices:
            target = y.astype(np.int64)
        else:
            q = probabilities if probabilities is not None else self.soften(y, z)
            target = fmt.round(q)
        given = {name: fmt.round(o) if isinstance(o, np.ndarray) else o for name, o in (options or {}).items()}
        upstream = fmt.round(draw_upstream(rng, self.definition.output_shape(z)))
        return Batch(self.loss, z, target, upstream, given, family=word, seed=self.seed)

    def hard(self, dtype: str, word: str, options: Mapping[str, Any], labels: Array | None = None) -> Batch:
        """Eight rows of nine classes on which short cuts show: far up and down, masked, sure, and surely wrong.

        Not so far that a mean over them would say nothing of the others. Masked are classes without a mass; there are
        none where every class has one, and where infinite logits or their products with 0 are a matter of convention.
        """
        batch = self.batch(dtype, word, labels=labels, options=options)
        logits = batch.logits.astype(np.float64)
        rows = np.arange(8)
        class_of = batch.target if batch.target.ndim == 1 else batch.target.argmax(axis=1)
        y = np.where((class_of >= 0) & (class_of < 9), class_of, 0)
        far = 800.0 if dtype == "float64" else 120.0
        logits[rows[:2]] += [[far], [-far]]
        logits[2, (y[2] + 4) % 9] += far / 2
        logits[3, y[3]] += 15.0
        logits[4, y[4]] -= 15.0
        if self.indices and "label_smoothing" not in options:
            logits[5, (y[5] + np.array([1, 3, 8])) % 9] = -np.inf
            logits[6, (y[6] + np.arange(1, 9)) % 9] = -np.inf
        return replace(batch, logits=named(dtype).round(logits))

    def over_and_over(self, few: Batch, rows: int) -> tuple[Batch, Reference]:
        """So many rows of few different ones, and their truth, which costs what that of the few does."""
        known = self.reference(few)
        order = np.arange(rows) % len(few.logits)
        batch = few.rows(order)
        return batch, rearranged(known, batch, lambda array: array[order])

    def digits(self, dtype: str, values: Array) -> Array:
        """The values rounded to digits that the next narrower format lacks, and to few more: float64.

        That is enough for rounding them to the wrong format to show. The product with a short number is exact, so that
        right code has the roundings that the bounds allow for, and no more; in 16 bits, where there is no narrower
        format, the numbers are short themselves.
        """
        mantissa, exponent = np.frexp(values)
        scale = 2.0 ** {64: 30, 32: 15}.get(named(dtype).bits, 3)
        return np.asarray(np.ldexp(np.rint(mantissa * scale) / scale, exponent))

    def soften(self, labels: Array, logits: Array) -> Array:
        """Probabilities [N, V] for labels: one-hot in even rows; in odd ones a quarter goes to the largest logit."""
        n, v = logits.shape
        q = np.zeros((n, v))
        q[np.arange(n), labels] = 1.0
        odd = np.arange(n) % 2 == 1
        other = logits.astype(np.float64).argmax(axis=1)
        q[np.arange(n)[odd], labels[odd]] -= 0.25
        q[np.arange(n)[odd], other[odd]] += 0.25
        return q

    @property
    def brief(self) -> bool:
        """Whether a quick look is at code that XLA compiles for each shape and each set of options."""
        return self.quick and self.examiner.session.source.framework == "jax" and not self.interpreted

    def without_gradient(self) -> bool:
        """Whether there is no gradient to check."""
        return not self.examiner.differentiates

    def grade(self, dtype: str, examination: Examination) -> None:
        """Let an examination count towards the dtype's grade."""
        reached = [j.grade for j in examination.judgements.values() if j.grade is not None]
        if reached:
            self.grades[dtype] = Grade.worst([*reached, self.grades.get(dtype, Grade.FAITHFUL)])

    def attribute(
        self, examination: Examination, loss: str = "accuracy", gradient: str = "gradient_accuracy", nonfinite: str = ""
    ) -> Iterator[Finding]:
        """The findings of an examination, each under the check that it belongs to."""
        for problem in examination.problems:
            yield self.found(problem, loss if problem.what == "loss" else gradient, nonfinite)

    def found(self, problem: Problem, check: str, nonfinite: str = "") -> Failed:
        """One problem under its check: what it is about, unless the call itself went wrong."""
        name = _KIND_CHECKS.get(problem.kind, check)
        if problem.kind == "form" and check not in ("accuracy", "gradient_accuracy"):
            name = check
        if problem.kind == "nonfinite" and nonfinite:
            name = nonfinite
        if problem.kind == "hidden_nan":
            name = "nan_propagates"
        return Failed(name, self.said(problem), problem)

    def under(self, check: str, problem: Problem) -> Failed:
        """One problem under this very check, whatever is wrong with the result, unless the call itself went wrong."""
        found = self.found(problem, check)
        return found if problem.what == "call" else Failed(check, found.detail, problem)

    def said(self, problem: Problem) -> str:
        """A problem as one line, with the batch that showed it."""
        what = "" if problem.what == "call" else f"{problem.what}, "
        reduction = f", reduction {problem.probe.reduction}" if problem.probe.reduction else ""
        shape = " × ".join(map(str, problem.batch.logits.shape))
        return f"{what}{problem.batch.family} ({shape}{reduction}): {problem.detail}"

    def survives(self, batch: Batch, reduction: str | None = None, threads: int = 0) -> Examination:
        """Examine a batch only for what comes back, without judging it against a truth that conventions differ on.

        Where no call has gone wrong, the loss and the gradient have the shapes that they should have.
        """
        seen = self.examiner.look(batch, reduction, threads)
        scalar = reduction is not None or self.examiner.mean_only
        expected = () if scalar else batch.upstream.shape
        for what, array, shape in (("loss", seen.loss, expected), ("gradient", seen.gradient, batch.logits.shape)):
            if array is not None and array.shape != shape and not seen.problems:
                detail = f"{what}: expected shape {list(shape)}, got {list(array.shape)}"
                return replace(seen, problems=(Problem("call", "form", detail, batch, Probe(reduction)),))
        return seen
