"""What is asked of a candidate in one call, and what came of it: a probe, an examination, and the problems with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.judge import Judgement
from harness.vetting.session import Reply

__all__ = ["Examination", "Probe", "Problem"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Probe:
    """How to call, and what of the result to judge.

    ``reduction`` is None for the candidate's own unreduced form, or ``"mean"`` or ``"sum"``; ``gradient`` is whether to
    differentiate; ``in_sequence`` calls row by row (or batch by batch) in the same memory; ``together`` computes all
    losses of a sequence, each from memory of its own, before the first is differentiated; ``no_grad`` calls with
    gradients switched off, in a framework that has such a switch; ``threads`` is how many the framework may use, where
    that can be set, 0 for as many as always.
    """

    reduction: str | None = None
    gradient: bool = True
    backwards: int = 1
    layout: str = "contiguous"
    in_sequence: bool = False
    together: bool = False
    no_grad: bool = False
    threads: int = 0


@dataclass(frozen=True, eq=False)
class Problem:
    """Something wrong with one call.

    Parameters
    ----------
    what : str
        ``"loss"``, ``"gradient"`` or ``"call"``.
    kind : str
        ``"inaccurate"``, ``"nonfinite"``, ``"hidden_nan"``, ``"form"``, ``"no_gradient"``, ``"raised"``, ``"crashed"``,
        ``"timed_out"``.
    detail : str
        One line.
    batch, probe : Batch, Probe
        The call.
    row, column : int or None
        Where, in the batch.
    got, want : float or None
        The value there, and the truth.
    calls : tuple of Batch
        The calls of the sequence, in the same memory, of which the last is this one; empty where it stands alone.
    """

    what: str
    kind: str
    detail: str
    batch: Batch
    probe: Probe
    row: int | None = None
    column: int | None = None
    got: float | None = None
    want: float | None = None
    calls: tuple[Batch, ...] = ()


@dataclass(frozen=True, eq=False)
class Examination:
    """One call, judged."""

    reply: Reply
    problems: tuple[Problem, ...]
    judgements: Mapping[str, Judgement] = field(default_factory=dict)
    loss: Array | None = None
    gradient: Array | None = None

    def of(self, what: str) -> Problem | None:
        """The problem with the loss, the gradient, or the call, if there is one."""
        return next((p for p in self.problems if p.what == what), None)
