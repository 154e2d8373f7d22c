"""Calls of implementations, in the benchmark's own process.

asv runs today's benchmarks on yesterday's commits, so this leans on little of the harness: the scan of sources, the
declaration that hangs on a function, and the judge, all of which have long been there. Implementations are reached by
what their source declares, never imported by name.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.bridges import installed, unavailable
from harness.declaration import Implementation
from harness.discovery import PACKAGE
from harness.grades import Grade
from harness.judge import judge
from harness.output import Output
from harness.reference import reference_of
from harness.scan import Declared, scan

__all__ = ["IMPLEMENTATIONS", "SHAPES", "declared", "inputs", "prepared"]

IMPLEMENTATIONS = (
    "numpy_shifted",
    "numpy_log1p",
    "torch_cross_entropy",
    "torch_logsumexp_gather",
    "optax_integer_labels",
)
"""One of each kind; `xent speed` times all there are."""

SHAPES = ("4096x10", "1024x1000", "64x32000", "64x131072")
"""Rows × classes, as asv shows them; the last is 34 MB in float32."""

_JUDGED_ROWS = 2

os.environ.setdefault("XENT_CACHE", "off")  # asv's environments must not feed each other
os.environ.setdefault("JAX_PLATFORMS", "cpu")


def declared(name: str) -> Implementation:
    """An implementation, imported.

    Raises
    ------
    NotImplementedError
        Where it cannot run here, with the reason; in a ``setup``, asv then skips the benchmark.
    """
    module, found = _located(name)
    missing = [f"{need}: pip install '{pip}'" for need, pip in found.requires.items() if not installed(need)]
    reason = unavailable(found.framework) or "; ".join(missing)
    if reason:
        raise NotImplementedError(f"{name} cannot run here: {reason}")
    made: Implementation = getattr(importlib.import_module(module), name).__xent_implementation__
    return made


def _located(name: str) -> tuple[str, Declared]:
    """The module that declares an implementation, by its source alone: `discover` would start a process to be sure."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(folder).glob("[!_]*.py")):
            for entry in scan(file):
                if entry.name == name:
                    return f"{PACKAGE}.{file.stem}", entry
    raise NotImplementedError(f"this commit has no implementation {name!r}")


def inputs(shape: str, dtype: str = "float32") -> Batch:
    """Standard normal logits [N, V] with random labels and an upstream gradient of mixed signs."""
    rows, classes = map(int, shape.split("x"))
    rng = np.random.default_rng(classes)
    logits = rng.standard_normal((rows, classes), dtype=np.float32).astype(dtype)
    upstream = rng.choice(np.array([-2.0, -0.5, 0.75, 1.5]), rows).astype(dtype)
    return Batch("cross_entropy", logits, rng.integers(0, classes, rows), upstream)


@functools.cache
def prepared(name: str, shape: str, what: str, device: str = "cpu") -> Callable[[], Any]:
    """A call of an implementation, made once and looked at: a wrong answer has no speed.

    asv_runner runs ``setup`` before every timed call, and times one call by itself then: what is made here is kept.

    Parameters
    ----------
    name : str
        The implementation's.
    shape : str
        One of `SHAPES`, or its like.
    what : str
        ``"forward"`` or ``"forward+backward"``.
    device : str
        ``"cpu"``, or ``"cuda"`` for torch.

    Raises
    ------
    NotImplementedError
        Where it cannot run here.
    RuntimeError
        Where the result is not a cross-entropy.
    """
    found, batch = declared(name), inputs(shape)
    call, numpy = _FRAMEWORKS[found.declaration.framework](found, batch, what, device)
    loss, gradient = (None if value is None else numpy(value) for value in call())
    rows = batch.rows(slice(0, _JUDGED_ROWS))
    output = Output(loss[:_JUDGED_ROWS], None if gradient is None else gradient[:_JUDGED_ROWS])
    for part in judge(rows, reference_of(rows), output).values():
        if part.grade is None or not part.grade.meets(Grade.ABSOLUTE):
            raise RuntimeError(f"{name}: the {part.what} is {part.grade or part.outcome}: {part.witness}")
    return call


Made = tuple[Callable[[], tuple[Any, Any]], Callable[[Any], Any]]


def _options(found: Implementation) -> dict[str, Any]:
    return {"reduction": "none"} if "reduction" in found.declaration.options else {}


def _numpy(found: Implementation, batch: Batch, what: str, device: str) -> Made:
    options, gradient = _options(found), found.gradient

    def call() -> tuple[Any, Any]:
        loss = found.function(batch.logits, batch.target, **options)
        if what == "forward" or gradient is None:
            return loss, None
        return loss, gradient(batch.logits, batch.target, batch.upstream, **options)

    return call, np.asarray


def _torch(found: Implementation, batch: Batch, what: str, device: str) -> Made:
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(1)
    if device == "cuda" and not torch.cuda.is_available():
        raise NotImplementedError("torch sees no CUDA device here")
    logits, target, upstream = (torch.from_numpy(a).to(device) for a in (batch.logits, batch.target, batch.upstream))
    options = _options(found)

    def call() -> tuple[Any, Any]:
        if what == "forward":
            return found.function(logits, target, **options), None
        leaf = logits.detach().requires_grad_()
        loss = found.function(leaf, target, **options)
        return loss.detach(), torch.autograd.grad(loss, leaf, upstream)[0]

    return call, lambda tensor: tensor.cpu().numpy()


def _jax(found: Implementation, batch: Batch, what: str, device: str) -> Made:
    jax: Any = importlib.import_module("jax")
    options = _options(found)
    logits, target, upstream = map(jax.numpy.asarray, (batch.logits, batch.target.astype(np.int32), batch.upstream))

    @jax.jit
    def program(logits: Any, target: Any, upstream: Any) -> tuple[Any, Any]:
        if what == "forward":
            return found.function(logits, target, **options), None
        loss, pull = jax.vjp(lambda z: found.function(z, target, **options), logits)
        return loss, pull(upstream)[0]

    return lambda: jax.block_until_ready(program(logits, target, upstream)), np.asarray


_FRAMEWORKS: dict[str, Callable[[Implementation, Batch, str, str], Made]] = {
    "numpy": _numpy,
    "torch": _torch,
    "jax": _jax,
}
