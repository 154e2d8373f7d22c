"""The referee: a small sample of what the fast path settled, solved again through mpmath, in every run.

How many entries are looked at is a share of all those solved by the process, so that it costs little however the work
is cut into calls; which ones follows from the numbers themselves. Rows of up to `FULL_ROW` classes are solved again
as a whole, and now and then a wider one, since only that shows what entries are worth in which large terms cancel. Of
the others, mpmath checks what ties its numbers together: the ratios of sampled probabilities, that
the gradient sums to zero (exactly, in `math.fsum`), and for one target class the loss that the gradient's entries
imply.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from typing import Any

import numpy as np
from mpmath import libmp

from harness import certified as real
from harness.fast.solved import Solved

__all__ = ["FULL_ROW", "Referee", "TruthDisagreement", "referee"]

Array = np.ndarray[Any, Any]
Scale = Array | Fraction

SHARE = 1 / 4096
"""Of the entries solved, how many are solved again: mpmath takes some 14 µs for one, so that this adds 4 ns to each."""

FULL_ROW = 256
SAMPLED = 16

WHOLE = 1 / 64
"""Of the wider rows that are looked at, how many are solved again as a whole all the same, after the first."""

_CONTRACT = Fraction(1, 2**90)
_FLOOR = Fraction(1, 2**1074)
_PREC = 160
_AT_ONCE = 4096


class TruthDisagreement(ArithmeticError):
    """The fast path and mpmath disagree beyond the contract: one of them is wrong, and no result can be trusted."""


class Referee:
    """Keeps count of what was solved, and looks at some of it.

    Parameters
    ----------
    share : float
        How many entries to solve again, of those solved.
    """

    def __init__(self, share: float = SHARE) -> None:
        self.share = share
        self.owed: dict[str, float] = {}
        self.looked_at = 0

    def look(self, loss: str, problem: Any, solved: Solved, scale: Scale) -> None:
        """Solve a sample again, where one is due; the first call of a process for a loss always has one.

        Raises
        ------
        TruthDisagreement
            Naming the row, the class and both values.
        """
        first = loss not in self.owed
        self.owed[loss] = self.owed.get(loss, 0.0) + self.share * solved.grad_hi.size
        if not first and self.owed[loss] <= 0:
            return
        pick = _pick(solved)
        if solved.settled.ndim > 1:
            cost = _look_at_elements(problem, solved, scale, pick)
        else:
            widest = problem.logits.shape[1] if not first and pick.random() < WHOLE else FULL_ROW
            cost = _look_at_row(problem, solved, scale, pick, widest)
        self.owed[loss] -= cost
        self.looked_at += cost


referee = Referee()


def _pick(solved: Solved) -> np.random.Generator:
    """Choices that follow from the numbers."""
    digest = hashlib.sha256(np.ascontiguousarray(solved.loss_hi).data)
    digest.update(solved.grad_hi[:1, :512].tobytes())
    return np.random.default_rng(int.from_bytes(digest.digest()[:8], "little"))


def _scale_at(scale: Scale, index: Any) -> Fraction:
    return scale if isinstance(scale, Fraction) else Fraction(float(scale[index]))


def _look_at_elements(problem: Any, solved: Solved, scale: Scale, pick: np.random.Generator) -> int:
    chosen = np.unique(pick.integers(0, solved.settled.size, 2 * SAMPLED))
    chosen = pick.permutation(chosen[solved.settled.reshape(-1)[chosen]])[:SAMPLED]
    if not len(chosen):
        chosen = np.flatnonzero(solved.settled)[:SAMPLED]
    rows, columns = np.unravel_index(chosen, solved.settled.shape)
    parts = {name: getattr(problem, name)[rows, columns][None] for name in ELEMENTWISE}
    again: Any = replace(problem, **parts).solve(0, scale if isinstance(scale, Fraction) else scale[rows, columns])
    for i, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        where = f"row {row}, element {column}"
        _compare(f"{where}: loss", solved, "loss", (row, column), *real.split(again.losses[i]))
        _compare(f"{where}: gradient", solved, "grad", (row, column), again.gradient_hi[i], again.gradient_lo[i])
    return len(chosen)


ELEMENTWISE = ("logits", "target", "weight", "pos_weight", "upstream")


def _look_at_row(problem: Any, solved: Solved, scale: Scale, pick: np.random.Generator, widest: int) -> int:
    at = np.flatnonzero(solved.settled & problem.counted)
    if not len(at):
        return 0
    row = int(pick.choice(at))
    classes = int(solved.grad_hi.shape[1])
    if classes > widest:
        _look_across(problem, solved, _scale_at(scale, row), row, pick)
        return SAMPLED + classes // 128
    again = problem.solve(row, scale if isinstance(scale, Fraction) else scale[row])
    _compare(f"row {row}: loss", solved, "loss", (row,), *real.split(again.losses[0]))
    for j in range(classes):
        where = f"row {row}, class {j}: gradient"
        _compare(where, solved, "grad", (row, j), again.gradient_hi[j], again.gradient_lo[j])
    return classes


def _compare(where: str, solved: Solved, what: str, index: tuple[int, ...], hi: float, lo: float) -> None:
    got = float(getattr(solved, f"{what}_hi")[index]), float(getattr(solved, f"{what}_lo")[index])
    if got == (hi, lo):
        return
    if all(map(math.isfinite, (*got, hi, lo))):
        want = Fraction(hi) + Fraction(lo)
        # Both keep the contract: 2^-90, and mpmath's own 2^-99 with the rounding to a pair.
        if (
            abs(Fraction(got[0]) + Fraction(got[1]) - want)
            <= max(_CONTRACT * abs(want) * (1 + _CONTRACT), _FLOOR) + _FLOOR
        ):
            return
    _disagree(where, got, (float(hi), float(lo)))


def _disagree(where: str, got: Any, want: Any) -> None:
    raise TruthDisagreement(
        f"{where}: the fast path gives {got!r}, mpmath {want!r}; please report the inputs, and set XENT_FAST=off to go "
        "on with mpmath alone"
    )


# A row that is too wide to be solved again


def _look_across(problem: Any, solved: Solved, scale: Fraction, row: int, pick: np.random.Generator) -> None:
    words = solved.grad_hi[row], solved.grad_lo[row]
    total, size = math.fsum(chain(*map(_numbers, words))), math.fsum(map(abs, _numbers(words[0])))
    if not abs(total) <= 2.0**-88 * size + len(words[0]) * 2.0**-1074:
        _disagree(f"row {row}: the sum of the gradient, of size {size!r}", total, 0.0)
    z = problem.logits[row]
    top = int(np.argmax(z))
    reference = _spread(problem, solved, scale, row, top)
    if not reference:
        return
    chosen = np.unique(pick.integers(0, len(z), SAMPLED)).tolist()
    for j in chosen:
        got = _spread(problem, solved, scale, row, j)
        ratio = Fraction(0) if np.isneginf(z[j]) else _exp(Fraction(z[j]) - Fraction(z[top]))
        t = abs(scale) * _mass(problem, row, j)
        allowed = 4 * _CONTRACT * (abs(reference) * ratio + abs(got) + t) + 4 * _FLOOR
        if abs(got - reference * ratio) > allowed:
            _disagree(f"row {row}, class {j}: gradient plus target mass", float(got), float(reference * ratio))
    if problem.labels is not None and not problem.smoothing:
        _look_at_loss(problem, solved, scale, row, top, reference)


def _numbers(array: Array) -> Iterator[float]:
    """An array's numbers as Python's own, which take four times its memory, some at a time."""
    return chain.from_iterable(array[start : start + _AT_ONCE].tolist() for start in range(0, len(array), _AT_ONCE))


def _spread(problem: Any, solved: Solved, scale: Fraction, row: int, j: int) -> Fraction:
    """T p_j times the scale, from the gradient's entry."""
    entry = Fraction(float(solved.grad_hi[row, j])) + Fraction(float(solved.grad_lo[row, j]))
    return Fraction(entry + scale * _mass(problem, row, j))


def _mass(problem: Any, row: int, j: int) -> Fraction:
    """t_j, exactly."""
    if problem.labels is None:
        q = Fraction(float(problem.probabilities[row, j]))
    else:
        q = Fraction(int(problem.labels[row] == j))
    w = Fraction(1) if problem.weight is None else Fraction(float(problem.weight[j]))
    epsilon = Fraction(problem.smoothing)
    return Fraction(w * ((1 - epsilon) * q + epsilon / int(problem.logits.shape[1])))


def _look_at_loss(problem: Any, solved: Solved, scale: Fraction, row: int, top: int, reference: Fraction) -> None:
    """The loss that the gradient implies: -w log(1 - x) with x = -g_y / (w scale), or w (z_top - z_y - log p_top)."""
    y = int(problem.labels[row])
    w = _mass(problem, row, y)
    z = problem.logits[row]
    if np.isneginf(z[y]):
        return
    x = -(Fraction(float(solved.grad_hi[row, y])) + Fraction(float(solved.grad_lo[row, y]))) / (w * scale)
    if x < Fraction(1, 2):
        want = -w * _log(1 - x, x)
        allowed = 8 * _CONTRACT * want
    else:
        share = reference / (w * scale)
        want = w * (Fraction(float(z[top])) - Fraction(float(z[y])) - _log(share, 1 - share))
        allowed = 8 * _CONTRACT * (want + w)
    got = Fraction(float(solved.loss_hi[row])) + Fraction(float(solved.loss_lo[row]))
    if abs(got - want) > allowed + 4 * _FLOOR / abs(scale):
        _disagree(f"row {row}: loss, from the gradient", float(got), float(want))


def _raw(value: Fraction, prec: int) -> real.Exact:
    return real.quotient(real.exact(value.numerator), real.exact(value.denominator), prec)


def _exp(value: Fraction) -> Fraction:
    """e^value for value <= 0; 0 below e^-1200."""
    return Fraction(0) if value < -1200 else real.to_fraction(real.exponential(_raw(value, _PREC + 16), _PREC))


def _log(value: Fraction, distance: Fraction) -> Fraction:
    """log(value), where value = 1 - distance: with as many bits more as that has leading zeros."""
    if distance == 0:
        return Fraction(0)
    size = abs(distance)
    extra = max(0, size.denominator.bit_length() - size.numerator.bit_length() + 1)
    if extra > 200:
        return -distance
    result: real.Exact = libmp.mpf_log(_raw(value, _PREC + 2 * extra), _PREC + extra, "n")
    return real.to_fraction(result)
