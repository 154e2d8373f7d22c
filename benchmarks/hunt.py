"""How much the hunt finds that plain random search does not, in the same time.

    python -m benchmarks.hunt [--seconds 20] [--seeds 5] [--only torch_cross_entropy]
    python -m benchmarks.hunt --rate [--evaluations 100000] [--seeds 1] [--only numpy_log1p]

Three searches look at rows of the same implementation, by the same metric, for equally long, and each begins with
nothing: *normal* draws standard normal logits, as most tests do; *parts* draws rows from the hunt's own parts, at
random; *hunt* begins from standard normal rows and climbs. The worst value that each has found is compared, by the
median over seeds; "time to the failure" is when a search first sees the value that stands for the known failure.

``--rate`` says how many rows a hunt in float64 looks at in a second, beside the same hunt (the same seed, and so the
same rows) with mpmath alone for the truth: by the clock, and by the processor time of the hunting process, for a busy
machine. What is imported and compiled once is done before.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.declaration import Declaration
from harness.discovery import discover
from harness.evaluation import Evaluator
from harness.families.base import streams
from harness.formats import named
from harness.hunt import CLASSES, Hunt, HuntProgress, hunt
from harness.parts import PARTS, apply
from harness.rows import RandomDice, Row, random_row
from harness.scoring import Metric
from harness.worker import Worker, Workers

__all__ = ["CASES", "SEARCHES", "Case", "Found", "Rate", "main", "rate", "search"]

SEARCHES = ("normal", "parts", "hunt")


@dataclass(frozen=True)
class Case:
    """What is searched for: the implementation, and the value from which on the known failure has been found."""

    implementation: str
    dtype: str
    metric: Metric
    failure: float
    about: str


CASES = (
    # A float32 loss of 0 in place of a small one is 2^23 to 2^24 ulp off.
    Case("torch_cross_entropy", "float32", Metric.ULP, 2.0**23, "the loss is lost at high confidence"),
    # 0.01 nats of a loss of up to 1, or 1 % of a larger one: 5 orders of magnitude above what rounding explains.
    Case("numpy_lse_minus_target", "float32", Metric.MIXED, 0.01, "a common offset eats the loss"),
    Case("optax_integer_labels", "float32", Metric.MIXED, 0.01, "a common offset eats the loss"),
    # No known failure: how near to the proven bound the error can be brought.
    Case("numpy_log1p", "float64", Metric.BOUND_RATIO, float("inf"), "as near to its proven bound as can be"),
)


@dataclass(frozen=True)
class Found:
    """What one search has found: the worst value, the rows it took, and the seconds to the failure (None: never)."""

    best: float
    rows: int
    failed_after: float | None


@dataclass(frozen=True)
class Rate:
    """Rows looked at in a hunt, the worst value found, and the seconds that took by the clock and by the processor."""

    rows: int
    worst: float
    clock: float
    processor: float


def rate(
    declaration: Declaration, worker: Worker, *, fast: bool, evaluations: int, seed: int, dtype: str = "float64"
) -> Rate:
    """Hunt as `xent hunt` does, with the fast path to truth or without it."""
    earlier = os.environ.get("XENT_FAST")
    if not fast:
        os.environ["XENT_FAST"] = "off"
    try:
        clock, processor = time.monotonic(), time.process_time()
        request = Hunt(dtype, metric=Metric.BOUND_RATIO, seconds=float("inf"), evaluations=evaluations, seed=seed)
        found = hunt(request, declaration, worker)
        clock, processor = time.monotonic() - clock, time.process_time() - processor
    finally:
        if not fast:
            del os.environ["XENT_FAST"]
            if earlier is not None:
                os.environ["XENT_FAST"] = earlier
    return Rate(found.evaluations, -np.inf if found.worst is None else found.worst.value, clock, processor)


class _Watch:
    """Notes when the failure was first seen."""

    def __init__(self, failure: float) -> None:
        self.failure, self.start = failure, time.monotonic()
        self.best, self.rows, self.failed_after = -np.inf, 0, None

    def __call__(self, progress: HuntProgress) -> None:
        self.best, self.rows = max(self.best, progress.best), progress.evaluations
        if self.failed_after is None and self.best >= self.failure:
            self.failed_after = time.monotonic() - self.start

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.start


def search(
    how: str,
    case: Case,
    declaration: Declaration,
    worker: Worker,
    *,
    seconds: float,
    seed: int,
    evaluations: int | None = None,
) -> Found:
    """Run one of `SEARCHES` for a time, or until so many rows have been looked at."""
    watch = _Watch(case.failure)
    if how == "hunt":
        request = Hunt(case.dtype, "loss", case.metric, seconds, evaluations, seed, starts=("random",))
        hunt(request, declaration, worker, watch)
        return Found(watch.best, watch.rows, watch.failed_after)
    form = named(case.dtype)
    evaluator = Evaluator(declaration, worker, form, "loss", case.metric, seed)
    dice = RandomDice(streams(seed, "benchmark", how, count=1)[0])
    spent = dict.fromkeys(CLASSES, 0.0)
    while watch.elapsed < seconds and (evaluations is None or watch.rows < evaluations):
        classes = min(CLASSES, key=lambda v: spent[v])  # as the hunt shares its time among them
        count = max(4, min(48, 1024 // classes))
        spent[classes] += count * (12 + classes)
        rows = [_drawn(how, dice, declaration.loss, classes, case.dtype) for _ in range(count)]
        best = max(candidate.score for candidate in evaluator(rows))
        watch(HuntProgress(0.0, evaluator.evaluations, best))
    return Found(watch.best, watch.rows, watch.failed_after)


def _drawn(how: str, dice: RandomDice, loss: str, classes: int, dtype: str) -> Row:
    form = named(dtype)
    row = random_row(dice, loss, classes, form)
    if how == "parts":
        for _ in range(dice.integer(1, 4)):
            name = list(PARTS)[dice.integer(0, len(PARTS) - 1)]
            row = apply(PARTS[name], dice, row, form)
    return replace(row, upstream=1.0)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hunt", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="for each search and seed (20)")
    parser.add_argument("--seeds", type=int, default=5, help="how many (5)")
    parser.add_argument("--only", default="", help="an implementation's name")
    parser.add_argument("--rate", action="store_true", help="rows a second, with the fast truth and with mpmath alone")
    parser.add_argument("--evaluations", type=int, default=100_000, help="rows to look at for --rate (100000)")
    options = parser.parse_args(arguments)
    if options.rate:
        return _rates(options.only or "numpy_log1p", options.evaluations, options.seeds)
    earlier, os.environ["XENT_CACHE"] = os.environ.get("XENT_CACHE"), "off"
    try:
        cases = [case for case in CASES if options.only in ("", case.implementation)]
        for case in cases:
            _compare(case, options.seconds, options.seeds)
    finally:
        del os.environ["XENT_CACHE"]
        if earlier is not None:
            os.environ["XENT_CACHE"] = earlier
    return 0 if cases else 2


def _compare(case: Case, seconds: float, seeds: int) -> None:
    _say(f"{case.implementation} {case.dtype} loss, {case.metric}: {case.about}")
    with Workers(threads=1) as workers:
        (found,) = discover([case.implementation], workers=workers)
        if found.declaration is None:
            _say(f"  not here: {found.reason}")
            return
        worker = workers[found.framework]
        # What is compiled once per shape is compiled now, and counts for none of the three.
        search("normal", case, found.declaration, worker, seconds=60.0, seed=0, evaluations=300)
        for how in SEARCHES:
            results = [
                search(how, case, found.declaration, worker, seconds=seconds, seed=seed) for seed in range(seeds)
            ]
            best = statistics.median(r.best for r in results)
            rows = statistics.median(r.rows for r in results)
            times = sorted(r.failed_after for r in results if r.failed_after is not None)
            failed = f"failure in {len(times)} of {seeds}" + (
                f", after {statistics.median(times):.1f} s" if times else ""
            )
            told = failed if case.failure < float("inf") else ""
            _say(f"  {how:7} median worst {best:<11.4g} in {rows:.0f} rows  {told}".rstrip())


def _rates(name: str, evaluations: int, seeds: int) -> int:
    with Workers(threads=1) as workers:
        (found,) = discover([name], workers=workers)
        if found.declaration is None:
            _say(f"{name} is not here: {found.reason}")
            return 2
        given = found.declaration, workers[found.framework]
        if importlib.util.find_spec("numba"):  # left to itself, it is compiled once so much was solved that it pays
            os.environ.setdefault("XENT_FAST", "numba")
        rate(*given, fast=True, evaluations=min(evaluations, 5000), seed=seeds)
        for seed in range(seeds):
            quick, slow = (rate(*given, fast=fast, evaluations=evaluations, seed=seed) for fast in (True, False))
            if (quick.rows, quick.worst) != (slow.rows, slow.worst):
                _say(f"seed {seed}: the two hunts differ: {quick} and {slow}")
                return 1
            clocks, processors = slow.clock / quick.clock, slow.processor / quick.processor
            _say(
                f"{name}, float64, seed {seed}: {quick.rows} rows, {quick.rows / quick.clock:.0f} a second; with "
                f"mpmath alone {slow.rows / slow.clock:.0f}: {clocks:.1f} times, by processor time {processors:.1f}"
            )
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
