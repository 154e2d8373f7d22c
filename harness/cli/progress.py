"""Progress on standard error: a bar with an ETA on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column

from harness.accuracy import Progress

__all__ = ["shown_progress"]

SECONDS_BETWEEN_LINES = 15.0


@contextmanager
def shown_progress(unit: str = "cells") -> Iterator[Callable[[Progress], None]]:
    """A function that shows a `Progress` each time it is called; `unit` is what it counts."""
    if sys.stderr.isatty():
        with _bar() as show:
            yield show
    else:
        yield _Lines(unit)


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    columns = (
        BarColumn(bar_width=12),
        TextColumn("{task.fields[cells]}"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
    )
    # What is printed meanwhile goes above the bar, but only if it goes to the same terminal.
    together = sys.stdout.isatty()
    with Bar(*columns, console=Console(stderr=True), transient=True, redirect_stdout=together) as bar:
        task = bar.add_task("starting", total=None, cells="")
        yield lambda p: bar.update(task, completed=p.share, total=1.0, cells=f"{p.done}/{p.total}", description=p.what)


class _Lines:
    """A line every so often, with the share that is done and an estimate of what is left."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.start = self.last = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        finished = progress.done == progress.total
        if now - self.last < SECONDS_BETWEEN_LINES and not finished:
            return
        self.last = now
        elapsed = now - self.start
        told = f", about {elapsed / progress.share * (1 - progress.share):.0f} s left" if progress.share else ""
        tail = f"{elapsed:.0f} s" if finished else f"{elapsed:.0f} s{told}: {progress.what}"
        print(f"xent: {progress.done}/{progress.total} {self.unit}, {tail}", file=sys.stderr, flush=True)
