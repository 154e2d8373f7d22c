"""Made-up nights: accuracy that is what a test says, and times with a given noise, the same every time."""

from __future__ import annotations

import datetime
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import report_fixtures as made

from harness.history import Night
from harness.run import Result, Run, Timing

BASELINE = "torch_cross_entropy"
ENVIRONMENT = {
    "cpu": "Test CPU @ 3 GHz", "cores": 8, "platform": "Linux-6.1-x86_64-with-glibc2.36", "threads": 1, "seed": 0,
    "python": "3.12.1", "commit": "abc", "versions": {"numpy": "2.4.6", "torch": "2.13.0"},
}  # fmt: skip


def started(index: int) -> str:
    """Three in the morning of the night of that number."""
    return (datetime.datetime(2026, 1, 1, 3, tzinfo=datetime.UTC) + datetime.timedelta(days=index)).isoformat()


def timing(implementation: str, ratio: float | None, **changes: Any) -> Timing:
    """A timing of seven rounds, each with that ratio to a baseline of a millisecond."""
    base: dict[str, Any] = {
        "implementation": implementation, "framework": "torch", "loss": "cross_entropy", "dtype": "float32",
        "device": "cpu", "what": "forward", "shape": (1024, 1000), "baseline": BASELINE,
        "seconds": () if ratio is None else (1e-3 * ratio,) * 7, "ratio": ratio,
    }  # fmt: skip
    return Timing(**{**base, **changes})


def run(
    index: int = 0,
    results: Sequence[Result] = (),
    timings: Sequence[Timing] = (),
    complete: bool = True,
    **changes: Any,
) -> Run:
    """A run of the night of that number; `changes` go into its environment."""
    environment = ENVIRONMENT | {"started": started(index)} | changes
    return Run(environment, tuple(results), timings=tuple(timings), complete=complete)


def night(index: int = 0, *, label: str = "", machine: str = "", **keywords: Any) -> Night:
    """That night, with the name that its file has."""
    found = Night.of_run(run(index, **keywords), label=label, machine=machine)
    return replace(found, name=found.encoded()[0], rounds={})


def timed(index: int, ratios: Mapping[str, float | None], **keywords: Any) -> Night:
    """A night with these ratios, the baseline among them."""
    results = keywords.pop("results", (made.result(),))
    timings = [timing(BASELINE, 1.0), *(timing(name, ratio) for name, ratio in ratios.items())]
    return night(index, results=results, timings=timings, **keywords)


def noisy(
    seed: int,
    count: int,
    *,
    series: int = 40,
    noise: float = 0.1,
    slower: Mapping[str, tuple[int, float]] | None = None,
) -> list[Night]:
    """Nights whose ratios vary from night to night by `noise`; `slower` names what is slower, from when, how much."""
    rng = random.Random(seed)
    slower = slower or {}
    nights = []
    for index in range(count):
        ratios = {}
        for number in range(series):
            name = f"torch_{number}"
            begin, factor = slower.get(name, (count, 1.0))
            ratios[name] = math.exp(rng.gauss(0.0, noise)) * (1 + number / 10) * (factor if index >= begin else 1.0)
        nights.append(timed(index, ratios))
    return nights
