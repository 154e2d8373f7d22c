"""Progress on standard error: a bar with an ETA on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from harness.accuracy import Progress

__all__ = ["shown_progress"]

SECONDS_BETWEEN_LINES = 15.0


@contextmanager
def shown_progress(quiet: bool = False) -> Iterator[Callable[[Progress], None]]:
    """A function that shows a `Progress` each time it is called."""
    if quiet:
        yield lambda progress: None
    elif sys.stderr.isatty():
        with _bar() as show:
            yield show
    else:
        yield _Lines()


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda p: bar.update(task, completed=p.done, total=p.total, description=p.what[:44].ljust(44))


class _Lines:
    """A line every so often, with the share that is done and an estimate of what is left."""

    def __init__(self) -> None:
        self.start = self.last = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        finished = progress.done == progress.total
        if now - self.last < SECONDS_BETWEEN_LINES and not finished:
            return
        self.last = now
        elapsed = now - self.start
        left = elapsed / max(progress.done, 1) * (progress.total - progress.done)
        tail = f"{elapsed:.0f} s" if finished else f"{elapsed:.0f} s, about {left:.0f} s left: {progress.what}"
        print(f"xent: {progress.done}/{progress.total} cells, {tail}", file=sys.stderr, flush=True)
