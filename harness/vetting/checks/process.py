"""The process and its resources: state, memory, time, and the form of what comes back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from harness.formats import FORMATS
from harness.vetting.checks import Deviates, Failed, Finding, Skipped, inspection
from harness.vetting.context import Context
from harness.vetting.examiner import Probe
from harness.vetting.plain import run_plainly

__all__: list[str] = []


@inspection(
    output_form="one loss per row, or a scalar mean, in the input's dtype (float32 for 16 bits is as good)",
    crash="no exception, and no end of the process, on valid input",
    time_limit="every call returns within the time limit",
)
def form(context: Context, dtype: str) -> Iterator[Finding]:
    """The first look at a dtype."""
    seen = context.examiner.examine(context.batch(dtype, "first call", 6, 11))
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
    for turn in range(4):
        context.survives(context.batch(dtype, f"process state {turn}", 3, 6))
    found = context.examiner.altered_state.get(dtype)
    if found is not None:
        yield Failed("process_state", context.said(found[1]), found[1])


@inspection(memory_growth="memory does not grow from call to call")
def memory(context: Context, dtype: str) -> Iterator[Finding]:
    """Resident memory over equal calls, after the allocator has settled."""
    if not context.scale.memory:
        why = "memory in an interpreter is the interpreter's" if context.interpreted else "left out by --quick"
        yield Skipped("memory_growth", why)
        return
    if not context.examiner.session.isolated:
        yield Skipped("memory_growth", "the candidate has no process of its own whose memory could be watched")
        return
    batch = context.batch(dtype, "memory", 512, 2048 * 4 // (FORMATS[dtype].bits // 8), spread=1.0)
    calls, settled = 24, 8
    resident = []
    for _ in range(calls):
        seen = context.survives(batch)
        if seen.problems:
            yield context.found(seen.problems[0], "memory_growth")
            return
        resident.append(seen.reply.resident)
    grown, each = resident[-1] - resident[settled - 1], batch.logits.nbytes
    if grown > 0.5 * each * (calls - settled):
        yield Failed(
            "memory_growth",
            f"{calls - settled} calls on logits of {each / 2**20:.1f} MiB left {grown / 2**20:.1f} MiB behind",
        )


@inspection(outside_the_harness="the same results in a process that has nothing of the harness in it")
def outside(context: Context, dtype: str) -> Iterator[Finding]:
    """The candidate in a plain script, as its users run it."""
    if not context.examiner.session.isolated:
        yield Skipped("outside_the_harness", "no other process could import the candidate")
        return
    batch = context.batch(dtype, "in a plain script", 6, 11)
    probe = Probe(reduction="mean") if context.examiner.mean_only else Probe()
    inside = context.examiner.examine(batch, probe)
    if inside.problems:
        yield Skipped("outside_the_harness", "wrong inside the harness already")
        return
    loss, detail = run_plainly(context.examiner, batch)
    if loss is None:
        yield Failed("outside_the_harness", f"a plain script that calls it fails: {detail}")
    elif inside.loss is not None and not np.array_equal(loss, inside.loss.astype(np.float64), equal_nan=True):
        yield Failed("outside_the_harness", "a plain script that calls it gets other values than the harness does")
