"""torch.compile of torch.nn.functional.cross_entropy: the same formula through Inductor.

Good: fewer passes over memory, and in 16 bits the intermediates stay in float32. Bad: the first call takes seconds and
a C++ compiler; a rewritten sum is another rounding, so the results are not those of eager code.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from harness.declaration import implementation

if TYPE_CHECKING:
    from torch import Tensor


@functools.cache
def _compiled() -> Callable[..., Any]:
    """The compiled function, made once: with dynamic shapes, so that one compilation serves all N and V above 1."""
    import torch

    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler.split()[0]) is None:
        raise RuntimeError(
            f"torch.compile needs a C++ compiler and {compiler!r} was not found: install one (Debian: apt install g++) "
            "or name yours in the environment variable CXX"
        )
    # Dtypes, options and N = 1 each have a compilation of their own. Past the limit torch would run the eager function
    # without a word, and the result would stand under the wrong name; with fullgraph it raises instead.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 128)
    return torch.compile(torch.nn.functional.cross_entropy, dynamic=True, fullgraph=True)


_SHAPE = 32, 128
"""What is compiled for: two sizes that differ, so that nothing is concluded from their being equal."""


@functools.cache
def _prepare(dtype: Any, kind: Any, weighted: bool, differentiated: bool, options: tuple[tuple[str, Any], ...]) -> None:
    """Have the function compiled, forward and backward, on the same numbers in every process.

    Dynamic shapes serve every size, but which intermediates are kept for the backward, and so rounded to 16 bits, torch
    decides by the first size that it meets: without this, results would depend on what was called before. For the same
    reason nothing of that decision is read from the disk, where another process may have left its own.
    """
    import torch
    from torch._functorch import config

    rows, classes = _SHAPE
    logits = torch.zeros(_SHAPE, dtype=dtype, requires_grad=differentiated)
    target = torch.zeros(rows, dtype=kind) if kind == torch.int64 else torch.full(_SHAPE, 1 / classes, dtype=kind)
    weight = torch.ones(classes, dtype=dtype) if weighted else None
    with config.patch(enable_autograd_cache=False):
        loss = _compiled()(logits, target, weight=weight, **dict(options))
        if differentiated:
            torch.autograd.grad(loss, logits, torch.ones_like(loss))


@implementation(
    framework="torch",
    loss="cross_entropy",
    grade={"float64": "absolute", "float32": "absolute", "bfloat16": "storage", "float16": "storage"},
    targets=("indices", "probabilities"),
    slow=True,
)
def torch_compiled_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """torch.compile of torch.nn.functional.cross_entropy."""
    options = {"ignore_index": ignore_index, "label_smoothing": label_smoothing, "reduction": reduction}
    _prepare(logits.dtype, target.dtype, weight is not None, logits.requires_grad, tuple(options.items()))
    result: Tensor = _compiled()(logits, target, weight=weight, **options)
    return result
