"""A batch settled: by the fast path as far as its certificate goes, by mpmath for the rest, and a sample by both."""

from __future__ import annotations

import os
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from harness import certified as real
from harness import fast
from harness.fast.audit import ELEMENTWISE, Referee, referee
from harness.fast.certificate import FACTOR
from harness.fast.solved import Solved

__all__ = ["settle"]

Array = np.ndarray[Any, Any]


def settle(loss: str, problem: Any, scale: Array | Fraction, judge: Referee | None = None) -> Solved:
    """The certified truth of a batch.

    Parameters
    ----------
    loss : str
        Name of the loss.
    problem : Problem
        The batch, as the loss states it.
    scale : float64 array of the unreduced output's shape, or Fraction
        What the gradient is multiplied by.
    judge : Referee, optional
        Who samples; the process's own by default.

    Returns
    -------
    Solved
        Everything is settled: 2^-90 relative or 2^-1074 absolute.

    Raises
    ------
    harness.fast.audit.TruthDisagreement
        Where the fast path and mpmath disagree.
    """
    shape = problem.upstream.shape
    solved = None
    if os.environ.get("XENT_FAST") != "off":
        solved = fast.solve(loss, problem, *_pair(scale, shape))
    if solved is None:
        solved = Solved.empty(shape, problem.logits.shape)
    elif solved.settled.any():
        (judge or referee).look(loss, problem, solved, scale)
    if len(shape) > 1:
        _settle_elements(problem, solved, scale)
    else:
        _settle_rows(problem, solved, scale)
    return solved


def _pair(scale: Array | Fraction, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """A scale as pairs; NaN, which no certificate covers, where a fraction is beyond what a pair can hold."""
    if not isinstance(scale, Fraction):
        return scale, np.broadcast_to(0.0, shape)
    try:
        high = float(scale)
        low = float(scale - Fraction(high))
    except OverflowError:
        high = low = 0.0
    if scale and not 1 / FACTOR <= abs(high) <= FACTOR:
        high = float("nan")
    return np.broadcast_to(high, shape), np.broadcast_to(low, shape)


def _settle_rows(problem: Any, solved: Solved, scale: Array | Fraction) -> None:
    for row in np.flatnonzero(~solved.settled).tolist():
        truth = problem.solve(row, scale if isinstance(scale, Fraction) else scale[row])
        solved.loss_hi[row], solved.loss_lo[row] = real.split(truth.losses[0])
        solved.grad_hi[row], solved.grad_lo[row] = truth.gradient_hi, truth.gradient_lo
        solved.settled[row] = True


def _settle_elements(problem: Any, solved: Solved, scale: Array | Fraction) -> None:
    """All open elements, as one row."""
    rest = ~solved.settled
    if not rest.any():
        return
    part = replace(problem, **{name: getattr(problem, name)[rest][None] for name in ELEMENTWISE})
    truth = part.solve(0, scale if isinstance(scale, Fraction) else scale[rest])
    solved.loss_hi[rest], solved.loss_lo[rest] = np.array([real.split(loss) for loss in truth.losses]).T
    solved.grad_hi[rest], solved.grad_lo[rest] = truth.gradient_hi, truth.gradient_lo
    solved.settled[:] = True
