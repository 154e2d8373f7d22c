"""What the tests of the fast path share: batches of every kind, and the comparison with mpmath."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from harness import certified as real
from harness import fast
from harness.fast.paths import Path
from harness.fast.tables import Tables
from harness.formats import DTYPES, FORMATS
from harness.losses import Problem, loss_named

Array = np.ndarray[Any, Any]

CE, BCE = "cross_entropy", "binary_cross_entropy_with_logits"
RELATIVE, ABSOLUTE = Fraction(1, 2**90), Fraction(1, 2**1074)


def solve(
    loss: str, problem: Problem, path: Path | None = None, tables: Tables | None = None
) -> tuple[fast.Solved, list[str]]:
    """What the fast path settles of a batch, and where mpmath says that it breaks the contract."""
    solved = fast.solve(loss, problem, np.array(problem.upstream), np.zeros(problem.upstream.shape), path, tables)
    assert solved is not None
    return solved, list(faults(problem, solved))


def faults(problem: Problem, solved: fast.Solved) -> Iterator[str]:
    """One line for each settled value that is further from mpmath's than the contract allows."""
    for row in np.flatnonzero(solved.settled.reshape(len(solved.settled), -1).any(axis=1)).tolist():
        truth = problem.solve(row, problem.upstream[row])
        losses = np.array([real.split(value) for value in truth.losses])
        elements = np.flatnonzero(solved.settled[row]).tolist() if solved.settled.ndim > 1 else None
        for j in [0] if elements is None else elements:
            index = (row,) if elements is None else (row, j)
            got = solved.loss_hi[index], solved.loss_lo[index]
            if not close(*got, *losses[j]):
                yield f"row {row}, loss {j}: {got} for {losses[j]}"
        for j in range(len(truth.gradient_hi)) if elements is None else elements:
            got = solved.grad_hi[row, j], solved.grad_lo[row, j]
            want = truth.gradient_hi[j], truth.gradient_lo[j]
            if not close(*got, *want):
                yield f"row {row}, gradient {j}: {got} for {want}"


def close(hi: float, lo: float, want_hi: float, want_lo: float) -> bool:
    """Whether a pair is within the contract of mpmath's, whose own 2^-99 does not matter here."""
    if (hi, lo) == (want_hi, want_lo):
        return True
    if not np.isfinite([hi, lo, want_hi, want_lo]).all():
        return False
    want = Fraction(want_hi) + Fraction(want_lo)
    return abs(Fraction(hi) + Fraction(lo) - want) <= max(RELATIVE * abs(want), ABSOLUTE)


def bit_patterns(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> Array:
    """Numbers of a format by random bit pattern; NaN and +inf, which no row survives, replaced."""
    if dtype == "float64":
        values = rng.integers(-(2**63), 2**63, shape, dtype=np.int64).view(np.float64)
    elif dtype == "float32":
        values = rng.integers(0, 2**32, shape, dtype=np.uint32).view(np.float32)
    else:
        values = rng.integers(0, 2**16, shape, dtype=np.uint16).view(FORMATS[dtype].dtype)
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(values.astype(np.float64)), values, FORMATS[dtype].dtype.type(0.5))


def drawn(seed: int, rows: int) -> Iterator[tuple[str, Problem]]:
    """Batches of every loss, option and dtype, over magnitudes from 2^-60 to 2^20, ties, masks and bit patterns."""
    rng = np.random.default_rng(seed)
    for dtype in DTYPES:
        for v in (1, 3, 300):
            for scale in (2.0**-60, 2.0**-8, 1.0, 30.0, 400.0, 2.0**14, 0.0):
                z = FORMATS[dtype].round(rng.standard_normal((rows, v)) * scale)
                if scale == 0:
                    z = bit_patterns(rng, dtype, (rows, v))
                if scale == 30.0:
                    z = FORMATS[dtype].round(np.rint(z.astype(np.float64)))
                yield from variants(rng, dtype, z)


def variants(rng: np.random.Generator, dtype: str, z: Array) -> Iterator[tuple[str, Problem]]:
    """A batch with each kind of target and option."""
    fmt = FORMATS[dtype]
    n, v = z.shape
    label = rng.integers(0, v, n)
    up = fmt.round(rng.standard_normal(n) * 2.0 ** rng.integers(-8, 8, n))
    w = fmt.round(rng.uniform(0, 2, v) * rng.integers(0, 5, v).clip(0, 1))
    masked = z.copy()
    masked[rng.uniform(size=z.shape) < 0.2] = -np.inf
    masked[:, -1] = fmt.round(0.25)
    soft = fmt.round(rng.dirichlet(np.ones(v), n) * (rng.uniform(size=(n, v)) < 0.7))
    ce, bce = loss_named(CE), loss_named(BCE)
    yield CE, ce.problem(z, label, up, {})
    yield CE, ce.problem(masked, label, up, {"weight": w, "ignore_index": 0})
    yield CE, ce.problem(z, label, up, {"weight": w, "label_smoothing": 0.1, "ignore_index": v - 1})
    yield CE, ce.problem(masked, soft, up, {"weight": w})
    yield CE, ce.problem(z, soft, None, {"label_smoothing": 0.25})
    yield CE, ce.problem(z, np.eye(v)[label], up, {})
    target = rng.uniform(0, 1, z.shape)
    target = fmt.round(np.where(rng.uniform(size=z.shape) < 0.5, np.rint(target), target))
    ups = fmt.round(rng.standard_normal(z.shape))
    yield BCE, bce.problem(masked, target, ups, {"weight": w, "pos_weight": fmt.round(rng.uniform(0, 3, v))})
