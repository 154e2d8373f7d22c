"""A first speed table: times of one loss on a few shapes, interleaved over rounds, as ratios to a baseline."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

import numpy as np

from harness.batch import Batch
from harness.declaration import Declaration
from harness.run import Timing
from harness.worker import WorkerError, Workers

__all__ = ["BASELINE", "measure_speed"]

BASELINE = "torch_cross_entropy"
"""What the others are compared with; where it is not available, the first implementation that is."""

ROUNDS = 7


def measure_speed(
    declarations: Sequence[Declaration],
    workers: Workers,
    shapes: Sequence[tuple[int, int]],
    seed: int,
    dtype: str = "float32",
    rounds: int = ROUNDS,
) -> Iterator[Timing]:
    """Time the cross-entropy implementations, forward and, where there is a gradient, forward + backward.

    In each round every implementation runs once, one after the other, so that a drift of the machine's speed meets all
    alike; each ratio is that of one round, and their median is what a table shows. One warm-up call comes first.

    Parameters
    ----------
    declarations : sequence of Declaration
        What to time, of those that take class indices in `dtype`.
    workers : Workers
        Processes that know them.
    shapes : sequence of (int, int)
        (N, V) of the logits, drawn as standard normal numbers from `seed`.

    Yields
    ------
    Timing
        In seconds, one figure per round.
    """
    chosen = [d for d in declarations if d.loss == "cross_entropy" and dtype in d.grades and "indices" in d.targets]
    if not chosen:
        return
    names = [d.name for d in chosen]
    baseline = next((d for d in chosen if d.name == BASELINE), chosen[0])
    for n, v in shapes:
        batch = _batch(n, v, seed, dtype)
        for what in ("forward", "forward+backward"):
            group = [d for d in chosen if what == "forward" or d.has_gradient]
            seconds, failed = _interleave(group, workers, batch, what, rounds)
            base = seconds.get(baseline.name, [])
            for d in sorted(group, key=lambda d: names.index(d.name)):
                own = seconds.get(d.name, [])
                ratio = statistics.median(a / b for a, b in zip(own, base, strict=True)) if own and base else None
                yield Timing(
                    implementation=d.name,
                    framework=d.framework,
                    loss=d.loss,
                    dtype=dtype,
                    device="cpu",
                    what=what,
                    shape=(n, v),
                    seconds=tuple(own),
                    baseline=baseline.name,
                    ratio=ratio,
                    detail=failed.get(d.name, ""),
                )


def _interleave(
    group: Sequence[Declaration], workers: Workers, batch: Batch, what: str, rounds: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    seconds: dict[str, list[float]] = {d.name: [] for d in group}
    failed: dict[str, str] = {}
    for turn in range(rounds + 1):
        for d in group:
            if d.name in failed:
                continue
            try:
                took = workers[d.framework].time(d.name, batch, what=what)
            except WorkerError as error:
                failed[d.name] = error.detail
                seconds[d.name] = []
                continue
            if turn:  # the first round warms up
                seconds[d.name] += took
    return seconds, failed


def _batch(n: int, v: int, seed: int, dtype: str) -> Batch:
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((n, v)).astype(dtype)
    upstream = rng.choice(np.array([-2.0, -0.5, 0.75, 1.5]), n).astype(dtype)
    return Batch("cross_entropy", logits, rng.integers(0, v, n), upstream, family="speed", seed=seed)
