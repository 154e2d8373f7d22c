"""Accuracy beside speed: the largest error in ulp and the number of non-finite results, over the families.

All is measured once, in ``setup_cache``; each benchmark reads its cell. It is deterministic for the seed: any change is
one of the code. Only finite numbers are tracked: infinity would make ``asv publish`` take all memory, and NaN counts as
skipped, so results that are not finite are counted by themselves.
"""

from __future__ import annotations

import math

from benchmarks.calls import IMPLEMENTATIONS
from harness.accuracy import Request, run_accuracy

DTYPES = ("float64", "float32", "bfloat16", "float16")
FAMILIES = ("moderate", "moderate_1000", "wide", "uniform_1000", "ties", "confident*", "common_offset", "masked*")
LARGEST = 1e18
"""What stands for an error in ulp that is not finite, or larger: float64 has not as many steps between its numbers."""
FAILED = 1_000_000
"""What stands for the non-finite results of an implementation that gave no result at all."""


class Accuracy:
    """Over families, loss and gradient; smaller is better."""

    params = (IMPLEMENTATIONS, DTYPES)
    param_names = ("implementation", "dtype")
    version = "1"
    timeout = 900.0

    def setup_cache(self) -> dict[str, tuple[float, int]]:
        return measured()

    def setup(self, cells: dict[str, tuple[float, int]], name: str, dtype: str) -> None:
        if f"{name} {dtype}" not in cells:
            raise NotImplementedError(f"{name} does not run here, or claims nothing, in {dtype}")

    def track_largest_error(self, cells: dict[str, tuple[float, int]], name: str, dtype: str) -> float:
        return cells[f"{name} {dtype}"][0]

    def track_nonfinite(self, cells: dict[str, tuple[float, int]], name: str, dtype: str) -> int:
        return cells[f"{name} {dtype}"][1]

    track_largest_error.unit = "ulp"  # type: ignore[attr-defined]
    track_nonfinite.unit = "results"  # type: ignore[attr-defined]


def measured() -> dict[str, tuple[float, int]]:
    """For each implementation and dtype that ran: the largest finite error in ulp, and the non-finite results."""
    cells: dict[str, tuple[float, int]] = {}
    for name in IMPLEMENTATIONS:
        try:
            run = run_accuracy(Request(only=(name,), families=FAMILIES, dtypes=DTYPES, jobs=1, quick=True))
        except ValueError:  # none of it runs here, or a commit that does not have it yet
            continue
        for result in run.results:
            if result.grade is None:
                continue
            ulp, nonfinite = cells.get(f"{name} {result.dtype}", (0.0, 0))
            own = 0.0 if result.max_ulp is None else result.max_ulp
            lost = FAILED if result.max_ulp is None and result.judged == 0 else result.nonfinite
            largest = max(ulp, min(own, LARGEST) if math.isfinite(own) else LARGEST)
            cells[f"{name} {result.dtype}"] = largest, nonfinite + lost
    return cells
