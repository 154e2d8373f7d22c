"""Time of the truth of one batch, [8, 32000], beside SciPy, plain mpmath and Arb on the same numbers.

``python -m benchmarks.truth`` prints the ratios: medians of rounds in which all take turns, in one process, in
processor time (all use one thread), so that it matters less who else uses the machine. mpmath and Arb take seconds for
the whole shape, and get it in the first rounds; where that took longer than ``--patience``, they are not asked again.
What is not measured in full is not printed. ``XENT_FAST=numpy`` or ``numba`` chooses the path. SciPy's time depends on
whether its results land in memory that the process has already: the variables of the Makefile's ``STEADY`` see to that.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import importlib.util
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness import fast
from harness.fast.audit import Referee
from harness.fast.settle import settle
from harness.formats import DTYPES, FORMATS
from harness.losses import loss_named

SHAPE = (8, 32_000)
CE, BCE = "cross_entropy", "binary_cross_entropy_with_logits"
TARGETS = ("indices", "smoothing", "soft", "binary")
PRECISION = 170
"""Bits for Arb: what certifies a relative error of 2^-90 or so on an ordinary batch."""


def logits(dtype: str) -> Any:
    """[8, 32000], of a format."""
    return FORMATS[dtype].round(np.random.default_rng(0).standard_normal(SHAPE) * 3)


def target_of(kind: str, dtype: str) -> tuple[str, Any, dict[str, Any]]:
    """The loss, its target and its options."""
    rng = np.random.default_rng(1)
    if kind == "binary":
        return BCE, FORMATS[dtype].round(rng.uniform(0, 1, SHAPE)), {}
    if kind == "soft":
        return CE, FORMATS[dtype].round(rng.dirichlet(np.ones(SHAPE[1]), SHAPE[0])), {}
    return CE, np.arange(SHAPE[0]), {"label_smoothing": 0.1} if kind == "smoothing" else {}


def fast_truth(dtype: str, kind: str = "indices") -> Callable[[], Any]:
    """What `harness.truth` does but for its disk cache: the batch stated, settled, and a sample looked at."""
    z = logits(dtype)
    loss, target, options = target_of(kind, dtype)
    judge = Referee()

    def call() -> Any:
        problem = loss_named(loss).problem(z, target, None, options)
        return settle(loss, problem, problem.upstream, judge)

    return call


def share_without_mpmath(dtype: str, kind: str) -> float:
    """Of the rows (elements, for the binary loss), how many the fast path settles alone."""
    loss, target, options = target_of(kind, dtype)
    problem = loss_named(loss).problem(logits(dtype), target, None, options)
    solved = fast.solve(loss, problem, np.array(problem.upstream), np.zeros(problem.upstream.shape))
    return float(solved.settled.mean()) if solved else 0.0


def scipy_float64(dtype: str, kind: str = "indices") -> Callable[[], Any]:
    """SciPy's log_softmax and its exponential in float64; its log_expit and expit for the binary loss."""
    from scipy.special import expit, log_expit, log_softmax

    z = logits(dtype).astype(np.float64)
    if kind == "binary":
        return lambda: (log_expit(z), expit(z))
    return lambda: np.exp(log_softmax(z, axis=-1))


def plain_mpmath(dtype: str, kind: str = "indices") -> Callable[[], Any]:
    """The whole shape without the fast path."""
    loss, target, options = target_of(kind, dtype)
    problem = loss_named(loss).problem(logits(dtype), target, None, options)
    return lambda: [problem.solve(row, problem.upstream[row]) for row in range(SHAPE[0])]


def arb(dtype: str, kind: str = "indices") -> Callable[[], Any]:
    """The whole shape through Arb's ball arithmetic."""
    from flint import arb as ball
    from flint import ctx

    z = logits(dtype).astype(np.float64).tolist()
    _, target, options = target_of(kind, dtype)
    epsilon = options.get("label_smoothing", 0.0)
    masses = target.astype(np.float64).tolist() if target.ndim == 2 else None

    def row(x: list[float], y: int, t: list[float] | None) -> Any:
        balls = [ball(value) for value in x]
        top = ball(max(x))
        e = [(value - top).exp() for value in balls]
        total = sum(e, ball(0))
        normaliser = total.log() + top
        if t is None and not epsilon:
            p = [value / total for value in e]
            p[y] -= 1
            return normaliser - balls[y], p
        spread = ball(epsilon) / len(x)
        mass = [ball(v) for v in t] if t is not None else [spread] * len(x)
        if t is None:
            mass[y] = spread + 1 - ball(epsilon)
        whole = sum(mass, ball(0))
        loss = whole * normaliser - sum((a * b for a, b in zip(mass, balls, strict=True)), ball(0))
        return loss, [whole * value / total - m for value, m in zip(e, mass, strict=True)]

    def element(x: float, t: float) -> Any:
        e = (-ball(abs(x))).exp()
        sigma = 1 / (1 + e) if x >= 0 else e / (1 + e)
        return e.log1p() + (ball(max(x, 0.0)) - ball(t) * ball(x)), sigma - t

    def call() -> Any:
        before, ctx.prec = ctx.prec, PRECISION
        try:
            if kind == "binary":
                assert masses is not None
                return [element(a, b) for x, t in zip(z, masses, strict=True) for a, b in zip(x, t, strict=True)]
            return [row(x, i, masses[i] if masses else None) for i, x in enumerate(z)]
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


@dataclass(frozen=True)
class Timed:
    """Median seconds of processor time for [8, 32000], and how many times each way took its turn."""

    seconds: dict[str, float]
    rounds: dict[str, int]

    def line(self, dtype: str, kind: str, share: float) -> str:
        """One row of the table: the ratios of ways that were measured."""
        quick = self.seconds["fast"]
        beside = self.seconds["scipy"]
        cells = [f"{dtype:9} {kind:10} {quick * 1e3:8.2f} ms {beside * 1e3:6.2f} ms {quick / beside:6.2f}"]
        for name in ("mpmath", "arb"):
            text = f"{self.seconds[name] / quick:.0f} ({self.rounds[name]})" if name in self.seconds else "-"
            cells.append(f"{text:>12}")
        return " ".join((*cells, f"{share:15.2%}"))


def measured(dtype: str, kind: str, rounds: int, slow_rounds: int, patience: float) -> Timed:
    """Every way in turn: the slow ones in the first rounds only, and again only where they did not try our patience."""
    ways = {"fast": fast_truth(dtype, kind), "scipy": scipy_float64(dtype, kind)}
    slow = {"mpmath": plain_mpmath(dtype, kind), "arb": arb(dtype, kind)} if slow_rounds else {}
    if importlib.util.find_spec("flint") is None:
        slow.pop("arb", None)
    for call in ways.values():
        call()  # warms up
    times: dict[str, list[float]] = {name: [] for name in (*ways, *slow)}
    for number in range(rounds):
        for name, call in (*ways.items(), *slow.items()):
            past = times[name]
            if name in slow and (number >= slow_rounds or (past and past[0] > patience)):
                continue
            gc.collect()
            start = time.thread_time()
            call()
            past.append(time.thread_time() - start)
    return Timed(
        {name: statistics.median(values) for name, values in times.items()},
        {name: len(values) for name, values in times.items()},
    )


def machine() -> str:
    """The processor, its cores, and the versions that count."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        model = next(line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    versions = []
    for package in ("numpy", "scipy", "numba", "mpmath", "gmpy2", "python-flint"):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {package}")
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{model}, {os.cpu_count()} cores, {load}; Python {platform.python_version()}, {', '.join(versions)}"


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description="Time of the fast truth beside SciPy, mpmath and Arb.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--slow-rounds", type=int, default=3, help="rounds in which mpmath and Arb take part")
    parser.add_argument("--patience", type=float, default=20.0, help="seconds after which they are not asked again")
    parser.add_argument("--dtype", choices=DTYPES, action="append")
    parser.add_argument("--target", choices=TARGETS, action="append")
    given = parser.parse_args()
    if importlib.util.find_spec("numba"):  # left to itself, it takes NumPy until enough was solved for compiling to pay
        os.environ.setdefault("XENT_FAST", "numba")
    path = os.environ.get("XENT_FAST", "auto")
    sys.stdout.write(
        f"{machine()}\n{list(SHAPE)}, loss and gradient, path {path}: medians of {given.rounds} interleaved rounds of "
        "processor time; mpmath and Arb on the whole shape (in how many rounds)\n"
        f"{'dtype':9} {'target':10} {'fast truth':>11} {'SciPy':>9} {'ratio':>6} {'mpmath /':>12} {'Arb /':>12} "
        f"{'without mpmath':>15}\n"
    )
    for kind in given.target or TARGETS:
        for dtype in given.dtype or DTYPES:
            if not fast_truth(dtype, kind)().settled.all():
                raise SystemExit(f"{dtype}, {kind}: the batch is not settled")
            share = share_without_mpmath(dtype, kind)
            gc.disable()  # as timeit does: what Numba loads makes a collection slow, in whoever's turn it falls
            try:
                timed = measured(dtype, kind, given.rounds, given.slow_rounds, given.patience)
            finally:
                gc.enable()
            sys.stdout.write(timed.line(dtype, kind, share) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
