"""A *witness*: the row that shows an error, with every number in hexadecimal so that nothing is lost in print."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from harness.batch import Batch

__all__ = ["hexadecimal", "witness"]

Array = np.ndarray[Any, Any]

WHOLE_ROW = 32
"""Rows of up to this many classes are given whole; of longer ones the largest logits, the target and the column.

So are options and upstream gradients: a weight per class is given for those classes alone.
"""


def hexadecimal(value: float) -> str:
    """A float as a C99 hexadecimal string, or ``"nan"``, ``"inf"``, ``"-inf"``."""
    return float(value).hex() if math.isfinite(value) else str(float(value))


def witness(batch: Batch, row: int, column: int | None, got: float, hi: float, lo: float) -> dict[str, Any]:
    """One value of one row, got and want, with the inputs that produce it (floats in hexadecimal).

    Parameters
    ----------
    batch : Batch
        The inputs.
    row, column : int
        Which row, and which class (None for a loss per row); of a gradient behind a projection, the hidden states'
        rows come first, and the column is a feature.
    got : float
        The computed value.
    hi, lo : float
        The truth, as a double-double.
    """
    if batch.projection is not None:
        return _of_projected(batch, row, column, {"got": got, "want": hi, "want_low": lo})
    logits = batch.logits[row].astype(np.float64)
    target = batch.target[row]
    label = int(target) if batch.target.ndim == 1 else None
    keep = set(np.argsort(-logits, kind="stable")[:4].tolist()) if len(logits) > WHOLE_ROW else set()
    keep |= {c for c in (column, label) if isinstance(c, int) and 0 <= c < len(logits)}
    found: dict[str, Any] = {
        "family": batch.family,
        "seed": batch.seed,
        "row": row,
        "column": column,
        "dtype": batch.dtype,
        "classes": len(logits),
        "target": label,
        "upstream": _hex_of(batch.upstream[row], keep),
        "got": hexadecimal(got),
        "want": hexadecimal(hi),
        "want_low": hexadecimal(lo),
    }
    found["logits"] = _hex_of(logits, keep)
    if batch.target.ndim == 2:
        found["target"] = _hex_of(target, keep)
    found["options"] = {name: _hex_of(value, keep) for name, value in batch.options.items()}
    return found


def _of_projected(batch: Batch, row: int, column: int | None, values: dict[str, float]) -> dict[str, Any]:
    """The witness behind a projection: the hidden states' row, or the projection's, whose gradient all rows make."""
    hidden = row < len(batch.logits)
    source = batch.logits if hidden or batch.projection is None else batch.projection
    own = row if hidden else row - len(batch.logits)
    vector = source[own].astype(np.float64)
    features = (
        range(len(vector))
        if len(vector) <= WHOLE_ROW
        else sorted({*np.argsort(-abs(vector))[:4].tolist(), column or 0})
    )
    label = int(batch.target[own]) if hidden and batch.target.ndim == 1 else None
    keep = () if label is None else (label,)
    name = "hidden" if hidden else "projection"
    return {
        "family": batch.family,
        "seed": batch.seed,
        "row": own,
        "column": column,
        "dtype": batch.dtype,
        "classes": batch.classes,
        "of": name,
        "target": label,
        "upstream": _hex_of(batch.upstream[own], keep) if hidden else None,
        **{key: hexadecimal(value) for key, value in values.items()},
        name: {str(j): hexadecimal(float(vector[j])) for j in features},
        "options": {key: _hex_of(value, keep) for key, value in batch.options.items()},
    }


def _hex_of(value: Any, keep: Iterable[int]) -> Any:
    """A number or an array of one axis; of a long one the entries of these classes only, by class."""
    array = np.asarray(value)
    if array.dtype.kind in "iub":
        return array.tolist()
    if array.ndim == 0:
        return hexadecimal(float(array))
    if array.size > WHOLE_ROW:
        return {str(j): hexadecimal(float(array[j])) for j in sorted(keep)}
    return [hexadecimal(v) for v in array.astype(np.float64).tolist()]
