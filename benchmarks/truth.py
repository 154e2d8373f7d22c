"""Time of the truth of one batch, [8, 32000], beside SciPy, plain mpmath and Arb on the same numbers.

``python -m benchmarks.truth`` prints the ratios: medians and means of rounds in which all take turns, in one process,
in processor time (all use one thread), so that it does not matter who else uses the machine. mpmath and Arb take
seconds for a row: they get the first few thousand classes of one row, and their time is scaled by the number of
logits, in which both are linear. ``XENT_FAST=numpy`` or ``numba`` chooses the path.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from harness.fast.audit import Referee
from harness.fast.settle import settle
from harness.formats import FORMATS
from harness.losses import loss_named

SHAPE = (8, 32_000)
SLOW_CLASSES = 2_000


def logits(dtype: str) -> Any:
    """[8, 32000], of a format."""
    return FORMATS[dtype].round(np.random.default_rng(0).standard_normal(SHAPE) * 3)


def fast_truth(dtype: str) -> Callable[[], Any]:
    """What `harness.truth` does but for its disk cache: the batch stated, settled, and a sample looked at."""
    z, y = logits(dtype), np.arange(SHAPE[0])
    judge = Referee()

    def call() -> Any:
        problem = loss_named("cross_entropy").problem(z, y, None, {})
        return settle("cross_entropy", problem, problem.upstream, judge)

    return call


def scipy_float64(dtype: str) -> Callable[[], Any]:
    """SciPy's log_softmax and its exponential, in float64."""
    from scipy.special import log_softmax

    z = logits(dtype).astype(np.float64)
    return lambda: np.exp(log_softmax(z, axis=-1))


def plain_mpmath(dtype: str) -> Callable[[], Any]:
    """One row's first classes, without the fast path."""
    problem = loss_named("cross_entropy").problem(logits(dtype)[:1, :SLOW_CLASSES], np.zeros(1, np.int64), None, {})
    return lambda: problem.solve(0, problem.upstream[0])


def arb(dtype: str) -> Callable[[], Any]:
    """The same through Arb's ball arithmetic at 170 bits."""
    from flint import arb as ball
    from flint import ctx

    z = logits(dtype)[0, :SLOW_CLASSES].astype(np.float64).tolist()

    def call() -> Any:
        before, ctx.prec = ctx.prec, 170
        try:
            top = ball(max(z))
            e = [(ball(x) - top).exp() for x in z]
            total = sum(e, ball(0))
            return total.log() + top - ball(z[0]), [x / total for x in e]
        finally:
            ctx.prec = before

    return call


class Truth:
    """Seconds per call."""

    params = (("float64", "bfloat16"),)
    param_names = ("dtype",)
    version = "1"
    timeout = 300.0
    _calls: dict[str, Callable[[], Any]] = {}  # noqa: RUF012 - asv makes one instance per benchmark

    def setup(self, dtype: str) -> None:
        if dtype not in self._calls:
            call = fast_truth(dtype)
            if not call().settled.all() or not np.isfinite(call().grad_hi).all():
                raise RuntimeError("the fast path does not settle an ordinary batch")
            self._calls[dtype] = call
        self.call = self._calls[dtype]

    def time_truth(self, dtype: str) -> None:
        self.call()


def ratios(dtype: str, rounds: int) -> dict[str, float]:
    """Median seconds of processor time for [8, 32000] of each way, and the mean of the fast one, samples included."""
    logit_count = SHAPE[0] * SHAPE[1]
    ways = {
        "fast": (fast_truth(dtype), 1.0),
        "scipy": (scipy_float64(dtype), 1.0),
        "mpmath": (plain_mpmath(dtype), logit_count / SLOW_CLASSES),
        "arb": (arb(dtype), logit_count / SLOW_CLASSES),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, (call, scale) in ways.items():
            gc.collect()
            start = time.thread_time()
            call()
            if number:  # the first warms up
                times[name].append((time.thread_time() - start) * scale)
    return {name: statistics.median(values) for name, values in times.items()} | {
        "mean": statistics.mean(times["fast"])
    }


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description="Time of the fast truth beside SciPy, mpmath and Arb.")
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    for dtype, call in ((d, fast_truth(d)) for d in ("float64", "bfloat16")):
        if not call().settled.all():
            raise SystemExit(f"{dtype}: the batch is not settled")
        gc.disable()  # as timeit does: what Numba loads makes a collection slow, in whoever's turn it falls
        seconds = ratios(dtype, rounds)
        gc.enable()
        quick = seconds["fast"]
        lines = [
            f"{dtype} {list(SHAPE)}, loss and gradient, medians of {rounds} interleaved rounds:",
            f"  fast truth  {quick * 1e3:8.2f} ms  ({quick / SHAPE[0] / SHAPE[1] * 1e9:.1f} ns a logit; "
            f"mean, with the rounds that mpmath samples, {seconds['mean'] * 1e3:.2f} ms)",
            f"  SciPy       {seconds['scipy'] * 1e3:8.2f} ms  fast / SciPy  = {quick / seconds['scipy']:.2f}",
            f"  mpmath      {seconds['mpmath'] * 1e3:8.0f} ms  mpmath / fast = {seconds['mpmath'] / quick:.0f}",
            f"  Arb         {seconds['arb'] * 1e3:8.0f} ms  Arb / fast    = {seconds['arb'] / quick:.0f}",
        ]
        sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
