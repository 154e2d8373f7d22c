"""Comparing what was measured before with what was measured now: accuracy exactly, speed by statistics."""

from harness.compare.accuracy import AccuracyChange, compare_accuracy
from harness.compare.comparison import Comparison, Trade, compare
from harness.compare.limits import Limits
from harness.compare.markdown import markdown
from harness.compare.ranks import mann_whitney
from harness.compare.speed import SpeedChange, Verdict, compare_speed

__all__ = [
    "AccuracyChange",
    "Comparison",
    "Limits",
    "SpeedChange",
    "Trade",
    "Verdict",
    "compare",
    "compare_accuracy",
    "compare_speed",
    "mann_whitney",
    "markdown",
]
