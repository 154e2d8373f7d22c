"""The HTML report: a run or a verdict goes in, one self-contained offline page comes out.

Nothing here measures or judges; it only shows what a `harness.run.Run`, or a verdict's JSON data, says.
"""

from reports.page import render
from reports.verdict import render_verdict

__all__ = ["render", "render_verdict"]
