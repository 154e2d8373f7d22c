"""Time of one call of an implementation, forward, on one batch.

Implementations are reached by discovery, never imported by name. asv_runner runs ``setup`` before every timed call, and
times one call by itself then: what ``setup`` does is cached, and the shapes are large enough for one call to be timed.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from harness.declaration import Implementation
from harness.discovery import discover

ROWS = 64


@functools.cache
def prepared(name: str, classes: int) -> Callable[[], Any]:
    """A call of an implementation on float32 logits [64, classes], made and looked at once.

    Raises
    ------
    NotImplementedError
        Where the implementation cannot run here; asv then skips the benchmark.
    RuntimeError
        Where the result is not a cross-entropy.
    """
    (found,) = discover([name])
    if not found.available:
        raise NotImplementedError(f"{name} cannot run here: {found.reason}")
    declared: Implementation = getattr(importlib.import_module(found.module), name).__xent_implementation__
    rng = np.random.default_rng(classes)
    logits: Any = rng.standard_normal((ROWS, classes)).astype(np.float32)
    target: Any = rng.integers(0, classes, ROWS)
    if found.framework == "torch":
        torch = importlib.import_module("torch")
        logits, target = torch.from_numpy(logits), torch.from_numpy(target)
    call = functools.partial(declared.function, logits, target, reduction="mean")
    # The mean loss of standard normal logits is log V + 1/2, with a deviation of 1/8 (64 labels of variance 1).
    value, expected = float(call()), math.log(classes) + 0.5
    if abs(value - expected) > 6 / math.sqrt(ROWS):
        raise RuntimeError(f"{name} gives a mean loss of {value:.4g} where about {expected:.4g} is right")
    return call


class Forward:
    """Seconds per call."""

    params = (("numpy_log1p", "torch_cross_entropy"), (1000, 32000))
    param_names = ("implementation", "classes")
    version = "1"
    timeout = 120.0

    def setup(self, name: str, classes: int) -> None:
        self.call = prepared(name, classes)

    def time_call(self, name: str, classes: int) -> None:
        self.call()
