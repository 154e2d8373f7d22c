"""The process and its resources: state, memory, time, and the form of what comes back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from harness.formats import FORMATS
from harness.grades import Outcome
from harness.vetting.checks import Deviates, Failed, Finding, Skipped, inspection
from harness.vetting.context import Context
from harness.vetting.examination import Probe
from harness.vetting.plain import run_plainly

__all__: list[str] = []

_CALLS = 6
"""Enough in a row for what grows with each of them to be told from what a pool of threads needs once."""


@inspection(
    output_form="one loss per row, or a scalar mean, in the input's dtype (float32 for 16 bits is as good)",
    crash="no exception, and no end of the process, on valid input",
    time_limit="every call returns within the time limit",
)
def form(context: Context, dtype: str) -> Iterator[Finding]:
    """The first look at a dtype."""
    seen = context.examiner.examine(context.batch(dtype, "first call"))
    for problem in seen.problems:
        if problem.what == "call" or problem.kind == "form":
            yield context.found(problem, "output_form")
    for what in ("loss", "gradient"):
        array = getattr(seen, what)
        if array is None or array.dtype.name not in FORMATS:
            continue
        bits, needed = FORMATS[array.dtype.name].bits, FORMATS[dtype].bits
        if bits > max(needed, 32 if needed == 16 else needed):
            yield Deviates("wider_output", f"the {what} of {dtype} input is {array.dtype.name}")


@inspection(
    process_state="denormal mode, default dtype, random state, threads, grad mode and warnings stay as they were"
)
def state(context: Context, dtype: str) -> Iterator[Finding]:
    """Noted at every call, and at the import."""
    altered = context.examiner.claims.altered
    if altered:
        yield Failed("process_state", f"importing the file changes the {', '.join(altered)} of the process")
    batches = [context.batch(dtype, f"process state {turn}") for turn in range(_CALLS)]
    # With more threads than ever before, so that setting them to the usual number shows.
    replies = [context.survives(batch, threads=context.examiner.session.threads + 1).reply for batch in batches]
    for what in ("files", "threads"):
        held = [getattr(reply, what) for reply in replies if reply.outcome is Outcome.PASSED]
        if len(held) == _CALLS and min(np.diff(held)) > 0:
            yield Failed(
                "process_state", f"each call leaves {what} open: {held[-1] - held[0]} more in {_CALLS - 1} calls"
            )
    found = context.examiner.altered_state.get(dtype)
    if found is not None:
        yield Failed("process_state", context.said(found[1]), found[1])


@inspection(thread_count="right with two threads and with three, on numbers of rows that they do not divide (torch)")
def threads(context: Context, dtype: str) -> Iterator[Finding]:
    """Two threads and three; the number that everything else is asked with is one."""
    if context.examiner.session.source.framework != "torch":
        yield Skipped("thread_count", "only torch lets the number of threads be set from outside")
        return
    few = context.batch(dtype, "threads", 7, 11)
    for count, rows in ((2, 7), (3, 7), (2, 257), (3, 257)):
        batch, reference = context.over_and_over(replace(few, family=f"{count} threads"), rows)
        probe = Probe(reduction="mean" if context.examiner.mean_only else None, threads=count)
        for problem in context.examiner.examine(batch, probe, reference).problems:
            yield context.under("thread_count", problem)


_WINDOWS, _WINDOW = 6, 8
"""Windows of so many calls each, of which the first is for the allocator to settle in."""


@inspection(memory_growth="memory does not grow from call to call")
def memory(context: Context, dtype: str) -> Iterator[Finding]:
    """The low-water mark of resident memory over equal calls, window after window, once the allocator has settled.

    What leaks grows in every window. An allocator's heap grows too, by steps and long after it seemed to be done, so
    one window that does not grow acquits.
    """
    if not context.scale.memory:
        why = "memory in an interpreter is the interpreter's" if context.interpreted else "left out by --quick"
        yield Skipped("memory_growth", why)
        return
    if not context.examiner.session.isolated:
        yield Skipped("memory_growth", "the candidate has no process of its own whose memory could be watched")
        return
    batch = context.batch(dtype, "memory", 512, 2048 * 4 // (FORMATS[dtype].bits // 8), spread=1.0)
    each, low = batch.logits.nbytes, []
    for window in range(_WINDOWS):
        resident = []
        for _ in range(_WINDOW):
            seen = context.survives(batch)
            if seen.problems:
                yield context.found(seen.problems[0], "memory_growth")
                return
            resident.append(seen.reply.resident)
        low.append(min(resident))
        if window > 1 and low[-1] - low[-2] <= 0.5 * each * _WINDOW:
            return
    calls = (_WINDOWS - 2) * _WINDOW
    yield Failed(
        "memory_growth",
        f"{calls} calls on logits of {each / 2**20:.1f} MiB left {(low[-1] - low[1]) / 2**20:.1f} MiB behind",
    )


@inspection(outside_the_harness="the same results, or as good ones, in a process that has nothing of the harness in it")
def outside(context: Context, dtype: str) -> Iterator[Finding]:
    """The candidate in a plain script, as its users run it."""
    if not context.examiner.session.isolated:
        yield Skipped("outside_the_harness", "no other process could import the candidate")
        return
    claimed, mean_only = context.examiner.claims.reduction, context.examiner.mean_only
    shapes = [(8, 9), (16, 1000), (257, 10), *[(8, 9)] * 4]  # those of other checks, compiled for already
    batches = [context.batch(dtype, f"in a plain script, call {turn}", *shape) for turn, shape in enumerate(shapes)]
    probes = [Probe(reduction="mean") if mean_only else Probe() for _ in batches]
    if claimed:
        probes[-1], probes[-2] = Probe(reduction="sum"), Probe(reduction="mean")
    inside = [context.examiner.examine(batch, probe) for batch, probe in zip(batches, probes, strict=True)]
    if any(seen.problems for seen in inside):
        yield Skipped("outside_the_harness", "wrong inside the harness already")
        return
    gradient = context.examiner.differentiates and context.examiner.session.source.framework != "numpy"
    calls = [(b, (p.reduction or "none") if claimed else "") for b, p in zip(batches, probes, strict=True)]
    results, detail = run_plainly(context.examiner, calls, gradient)
    if detail:
        yield Failed("outside_the_harness", f"a plain script that calls it fails: {detail}")
        return
    bits: list[str] = []
    for turn, seen in enumerate(inside):
        for what, array in (("loss", seen.loss), ("gradient", seen.gradient)):
            got = results.get(f"{what}{turn}")
            if array is None or (got is None and not gradient):
                continue
            if got is not None and np.array_equal(got, array.astype(np.float64), equal_nan=True):
                continue
            where = f"{' × '.join(map(str, shapes[turn]))}, call {turn + 1}"
            # What is compiled for other shapes before, or for more threads, may well round otherwise.
            if got is None or not context.examiner.as_good(batches[turn], probes[turn], seen, what, got):
                detail = f"a plain script that calls it gets another {what} than the harness does ({where})"
                yield Failed("outside_the_harness", detail)
                return
            bits.append(f"the {what} differs in its last bits in a plain script, within the grade ({where})")
    if bits:
        yield Deviates("outside_the_harness", bits[0])
