"""The fast path to truth: double-double arithmetic with a computed certificate; what it leaves open, mpmath settles.

See docs/theory.md, sections 10 and 11, for the error analysis. `solve` is the entry; a loss that has no kernel here is
left to mpmath.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from harness.fast import binary_cross_entropy_with_logits, cross_entropy
from harness.fast.paths import Path, best
from harness.fast.solved import Solved
from harness.fast.tables import Tables, standard

__all__ = ["KERNELS", "Solved", "solve"]

Array = np.ndarray[Any, Any]

KERNELS: dict[str, Callable[[Any, Array, Array, Path, Tables], Solved]] = {
    "cross_entropy": cross_entropy.solve,
    "binary_cross_entropy_with_logits": binary_cross_entropy_with_logits.solve,
}


def solve(
    loss: str, problem: Any, scale_hi: Array, scale_lo: Array, path: Path | None = None, tables: Tables | None = None
) -> Solved | None:
    """The truth of a batch, as far as it is certified.

    Parameters
    ----------
    loss : str
        Name of the loss.
    problem : Problem
        The batch, as the loss states it.
    scale_hi, scale_lo : float64 array, of the unreduced output's shape
        What the gradient is multiplied by, as a pair.
    path, tables : optional
        Which path to take, and with which tables: for tests.

    Returns
    -------
    Solved or None
        None for a loss that has no fast path. Settled values are within 2^-91 relative or 2^-1074 absolute.
    """
    kernel = KERNELS.get(loss)
    if kernel is None:
        return None
    return kernel(problem, scale_hi, scale_lo, path or best(problem.logits.size), tables or standard())
