"""The HTML report: a run goes in, one self-contained offline page comes out.

Nothing here measures or judges; it only shows what a `harness.run.Run` says.
"""

from reports.page import render

__all__ = ["render"]
