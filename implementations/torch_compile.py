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
    result: Tensor = _compiled()(
        logits,
        target,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
    return result
