"""A *witness*: the row that shows an error, with every number in hexadecimal so that nothing is lost in print."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from harness.batch import Batch

__all__ = ["hexadecimal", "witness"]

Array = np.ndarray[Any, Any]

WHOLE_ROW = 32
"""Rows of up to this many classes are given whole; of longer ones the largest logits, the target and the column."""


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
    found: dict[str, Any] = {
        "family": batch.family,
        "seed": batch.seed,
        "row": row,
        "column": column,
        "dtype": batch.dtype,
        "classes": len(logits),
        "target": int(target) if batch.target.ndim == 1 else None,
        "upstream": _hex_of(batch.upstream[row]),
        "got": hexadecimal(got),
        "want": hexadecimal(hi),
        "want_low": hexadecimal(lo),
    }
    if len(logits) <= WHOLE_ROW:
        found["logits"] = [hexadecimal(z) for z in logits.tolist()]
        if batch.target.ndim == 2:
            found["target"] = [hexadecimal(t) for t in target.astype(np.float64).tolist()]
    else:
        keep = set(np.argsort(-logits, kind="stable")[:4].tolist())
        keep |= {c for c in (column, found["target"]) if isinstance(c, int) and 0 <= c < len(logits)}
        found["logits"] = {str(j): hexadecimal(float(logits[j])) for j in sorted(keep)}
        if batch.target.ndim == 2:
            found["target"] = {str(j): hexadecimal(float(target[j])) for j in sorted(keep)}
    found["options"] = {name: _hex_of(value) for name, value in batch.options.items()}
    return found


def _of_projected(batch: Batch, row: int, column: int | None, values: dict[str, float]) -> dict[str, Any]:
    """The witness behind a projection: the hidden states' row, or the projection's, whose gradient all rows make."""
    hidden = row < len(batch.logits)
    source = batch.logits if hidden or batch.projection is None else batch.projection
    own = row if hidden else row - len(batch.logits)
    vector = source[own].astype(np.float64)
    keep = (
        range(len(vector))
        if len(vector) <= WHOLE_ROW
        else sorted({*np.argsort(-abs(vector))[:4].tolist(), column or 0})
    )
    name = "hidden" if hidden else "projection"
    return {
        "family": batch.family,
        "seed": batch.seed,
        "row": own,
        "column": column,
        "dtype": batch.dtype,
        "classes": batch.classes,
        "of": name,
        "target": int(batch.target[own]) if hidden and batch.target.ndim == 1 else None,
        "upstream": _hex_of(batch.upstream[own]) if hidden else None,
        **{key: hexadecimal(value) for key, value in values.items()},
        name: {str(j): hexadecimal(float(vector[j])) for j in keep},
        "options": {key: _hex_of(value) for key, value in batch.options.items()},
    }


def _hex_of(value: Any) -> Any:
    array = np.asarray(value)
    if array.dtype.kind in "iub":
        return array.tolist()
    if array.ndim == 0:
        return hexadecimal(float(array))
    return [hexadecimal(v) for v in array.astype(np.float64).ravel().tolist()]
