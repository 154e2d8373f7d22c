"""Memory layout: the same numbers, elsewhere in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from harness.bridges.triton_interpreter import refusal
from harness.formats import FORMATS
from harness.vetting.checks import Deviates, Finding, Skipped, inspection
from harness.vetting.context import Context
from harness.vetting.examination import Probe

__all__: list[str] = []

_LAYOUTS = {"numpy": ("transposed", "strided", "offset", "expanded", "read_only")}
_TORCH = ("transposed", "strided", "offset", "expanded")


@inspection(memory_layout="transposed, strided, offset, expanded and huge views are read where their elements are")
def layouts(context: Context, dtype: str) -> Iterator[Finding]:
    """The same batch in every layout."""
    framework = context.examiner.session.source.framework
    if framework == "jax":
        yield Skipped("memory_layout", "JAX arrays have no layout that a caller could choose")
        return
    far = ("far",) if _may_be_far(context, dtype) else ()
    for layout in (*_LAYOUTS.get(framework, _TORCH), *far):
        for n, v in ((5, 12), (3, 129))[: 1 if layout == "far" else 2]:
            batch = context.batch(dtype, f"{layout} view", n, v, spread=3.0)
            if layout == "expanded":
                shared = np.broadcast_to(batch.logits[:1], batch.logits.shape).copy()
                one = np.full_like(batch.upstream, -0.75)
                batch = replace(batch, logits=shared, upstream=one)
                if batch.target.ndim == 2:
                    batch = replace(batch, target=np.broadcast_to(batch.target[:1], batch.target.shape).copy())
            weights = [name for name in context.claims if name in ("weight", "pos_weight")]
            short = context.digits(dtype, np.linspace(1.0, 2.0, v))  # so that products of weights are exact
            options: dict[str, Any] = {name: batch.format.round(short) for name in weights}
            if n == 3 and "label_smoothing" in context.claims:
                options["label_smoothing"] = 0.125
            batch = replace(batch, options=options if not context.examiner.mean_only else {})
            seen = context.examiner.examine(
                batch, Probe(layout=layout, reduction="mean" if context.examiner.mean_only else None)
            )
            for problem in seen.problems:
                if problem.kind == "raised":
                    yield Deviates("layout_refused", f"raises for a {layout} view: {problem.detail}")
                else:
                    yield context.under("memory_layout", problem)


def _may_be_far(context: Context, dtype: str) -> bool:
    """Whether rows can be so far apart that offsets need more than 32 bits: on the CPU that takes address space alone.

    Triton's interpreter, unless it is mended, copies whole allocations, and would make all of that space real.
    """
    session = context.examiner.session
    copied = session.backend == "interpret" and bool(refusal("bfloat16"))
    return session.source.framework == "torch" and session.device == "cpu" and FORMATS[dtype].bits == 16 and not copied
