"""The timing core: implementations in turns on one batch, each result checked before it counts, and peak memory.

`plan` says what is timed beside what, `check` whether a result has a right to a speed, `rounds` takes the times in
turns, `memory` the peaks, and `measure` makes of it all the `Timing` entries of a run.
"""

from harness.timing.check import Checker, Verdict
from harness.timing.measure import Budget, Step, measure_speed
from harness.timing.memory import MemoryWorkers
from harness.timing.plan import BASELINE, Contender, Group, plan, speed_batch

__all__ = [
    "BASELINE",
    "Budget",
    "Checker",
    "Contender",
    "Group",
    "MemoryWorkers",
    "Step",
    "Verdict",
    "measure_speed",
    "plan",
    "speed_batch",
]
