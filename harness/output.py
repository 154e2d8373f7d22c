"""An *output*: what one call of an implementation gave back, as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.grades import Outcome

__all__ = ["Output"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Output:
    """What one call gave back, not yet judged.

    Parameters
    ----------
    loss : array or None
        The loss, in the dtype that came back ([N], [N, K] or a scalar); None where the call failed.
    gradient : array or None
        The gradient with respect to the logits, times the upstream gradient; None where there is none.
    outcome : Outcome
        `PASSED` where the call returned arrays; else `RAISED`, `CRASHED`, `TIMED_OUT` or `UNAVAILABLE`.
    detail : str
        One line: the exception, the exit status or signal, the limit.
    backend : str
        ``"native"``, or the interpreter that it ran in.
    seconds : float
        Wall-clock of the call.
    flushed : frozenset of str
        The formats whose subnormal results the framework itself flushes to zero there, as its bridge found out before
        any implementation was imported: a legitimate deviation, ``flush_to_zero``.
    """

    loss: Array | None = None
    gradient: Array | None = None
    outcome: Outcome = Outcome.PASSED
    detail: str = ""
    backend: str = "native"
    seconds: float = 0.0
    flushed: frozenset[str] = frozenset()
