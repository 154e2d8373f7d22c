"""Rows of one training step, out of arrays of any framework: chosen, checked, and brought into NumPy's memory.

No framework is imported: torch tensors and JAX tracers are known by the names of their classes.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from harness.formats import FORMATS, named

__all__ = ["RecorderError", "check_concrete", "chosen_rows", "step_number"]

Array = np.ndarray[Any, Any]


class RecorderError(ValueError):
    """Something that cannot be recorded; the message says what, with which value, and what to do."""


def chosen_rows(rng: np.random.Generator, most: int, logits: Any, labels: Any, ignored: int) -> dict[str, Array]:
    """Draw rows among those that count.

    Parameters
    ----------
    rng : Generator
        What the draw depends on, beside the labels.
    most : int
        Rows to take, at most; without replacement, in their order.
    logits : array [..., V]
        Of any framework and one of the four formats.
    labels : array
        Classes, integers of the leading shape or flat, or probabilities of the logits' shape.
    ignored : int
        The class label of rows that do not count.

    Returns
    -------
    dict
        ``logits`` [n, V] in their own dtype, and ``labels``: int64 [n], or [n, V].

    Raises
    ------
    RecorderError
        For shapes, dtypes or labels that do not fit, and arrays that cannot be read.
    FormatUnavailable
        For bfloat16, where ``ml_dtypes`` is not installed.
    """
    logits, labels = _array("logits", logits), _array("labels", labels)
    soft = _checked_shapes(tuple(logits.shape), tuple(labels.shape))
    *leading, classes = logits.shape
    if soft:
        flat, candidates = None, np.arange(math.prod(leading))
    else:
        flat = _checked_classes(_host("labels", labels, ...).reshape(-1), classes, ignored)
        candidates = np.flatnonzero(flat != ignored)
    rows = np.sort(rng.choice(candidates, min(most, len(candidates)), replace=False))
    index = np.unravel_index(rows, tuple(leading)) if leading else ...
    kept = _host("logits", logits, index).reshape(-1, classes)
    if kept.dtype.name not in FORMATS:
        raise RecorderError(f"logits have dtype {kept.dtype.name}; record them as one of {', '.join(FORMATS)}")
    if flat is not None:
        return {"logits": kept, "labels": flat[rows]}
    return {"logits": kept, "labels": _checked_probabilities(_host("labels", labels, index).reshape(-1, classes))}


def step_number(step: Any) -> int:
    """The number of a step, which may be a scalar of a framework; `RecorderError` for one that is none."""
    check_concrete("step", step)
    try:
        return operator.index(step)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RecorderError(f"step is {step!r}; count the steps in whole numbers") from error


def check_concrete(name: str, value: Any) -> None:
    """Refuse what JAX is tracing, with a `RecorderError`."""
    if _is_a(value, "jax", "Tracer"):
        raise RecorderError(
            f"{name} is traced by JAX (jit, grad or vmap) and holds no numbers yet; return the logits from the "
            "function and record them outside of it, or use jax.debug.callback(record, step, logits, labels) inside"
        )


def _is_a(value: Any, package: str, name: str) -> bool:
    """Whether a value's class, or one that it inherits from, has that name in that package, which is not imported."""
    return any(c.__name__ == name and c.__module__.partition(".")[0] == package for c in type(value).__mro__)


def _array(name: str, value: Any) -> Any:
    """The value itself where it is an array of some framework, and what NumPy makes of it otherwise."""
    return value if hasattr(value, "shape") else _readable(name, value, np.asarray)


def _host(name: str, value: Any, index: Any) -> Array:
    """Part of an array, copied to NumPy's memory.

    torch tensors are indexed where they are, so that one huge tensor on a GPU is not copied for a few rows. JAX arrays
    are not: computing in a callback of JAX's own may lock up, and on the CPU NumPy sees them without a copy.
    """
    if _is_a(value, "torch", "Tensor"):
        return _readable(name, value, lambda tensor: _from_torch(tensor.detach()[index].cpu()))
    return _readable(name, value, lambda array: np.array(np.asarray(array)[index]))


def _from_torch(tensor: Any) -> Array:
    if str(tensor.dtype) == "torch.bfloat16":  # which NumPy lacks: through float32, where every bfloat16 is exact
        return np.asarray(tensor.float().numpy()).astype(named("bfloat16").dtype)
    return np.array(tensor.numpy())


def _readable(name: str, value: Any, read: Callable[[Any], Array]) -> Array:
    """What `read` makes of a value; a `RecorderError` where a framework or NumPy refuses."""
    try:
        return read(value)
    except (TypeError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RecorderError(
            f"{name} of type {type(value).__name__} cannot be read ({type(error).__name__}: {reason}); record numbers, "
            "outside of functions that a framework transforms or compiles"
        ) from error


def _checked_shapes(logits: tuple[int, ...], labels: tuple[int, ...]) -> bool:
    """Whether the labels are probabilities; refuse those that fit the logits in no way."""
    if not logits or logits[-1] == 0:
        raise RecorderError(f"logits have shape {list(logits)}; give [..., V], the classes last")
    leading = logits[:-1]
    if labels == logits:
        return True
    if labels in (leading, (math.prod(leading),)):
        return False
    advice = f"give one class for each row, {list(leading)}, or probabilities {list(logits)}"
    if len(logits) > 2 and labels == (logits[0], *logits[2:]):
        advice = "move the classes from axis 1 to the last: logits.movedim(1, -1), in NumPy and JAX jnp.moveaxis"
    raise RecorderError(f"labels have shape {list(labels)}, but logits have {list(logits)}; {advice}")


def _checked_classes(labels: Array, classes: int, ignored: int) -> Array:
    """Class labels, int64 [N]."""
    if labels.dtype.kind not in "iu":
        raise RecorderError(
            f"labels have dtype {labels.dtype.name}; give classes as integers, or probabilities of the logits' shape"
        )
    # Compared as they are: unsigned ones beyond int64 would wrap around.
    bad = np.flatnonzero(((labels < 0) | (labels >= classes)) & (labels != ignored))
    if bad.size:
        advice = "name the label of rows that do not count with ignore_index"
        raise RecorderError(f"the label of row {bad[0]} is {labels[bad[0]]}, outside [0, {classes}); {advice}")
    return labels.astype(np.int64)


def _checked_probabilities(labels: Array) -> Array:
    """Probabilities [n, V] in their own dtype; whole numbers (one-hot) as float32."""
    if labels.dtype.kind in "iu":
        labels = labels.astype(np.float32)
    if labels.dtype.name not in FORMATS:
        raise RecorderError(f"labels have dtype {labels.dtype.name}; give probabilities as floating point")
    wide = labels.astype(np.float64)
    bad = ~(np.isfinite(wide) & (wide >= 0))
    if bad.any():
        raise RecorderError(f"labels hold {wide[bad][0]}; probabilities are finite and not negative")
    return labels
