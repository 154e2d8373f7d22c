"""A user's own logits: read from a file, checked, and made into a batch.

Nothing is repaired and nothing is dropped: a row of NaN stays (a diverged model is a fair input), a label of -100
becomes an ignored row, and what cannot be used is refused with its place and value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.array_files import ArrayFileError, read_npy, read_npz, read_safetensors
from harness.batch import Batch
from harness.families.base import draw_upstream, streams
from harness.formats import FORMATS, Format, named
from harness.losses import loss_named

__all__ = ["IGNORED", "LogitsFile", "LogitsFileError", "batch_from_file", "read_logits"]

Array = np.ndarray[Any, Any]

IGNORED = -100
"""The label of a row that does not count, as torch has it."""

_NAMES = ("logits", "labels")
_KINDS = ".npz, .npy, .safetensors, or a folder with logits.npy and labels.npy"


class LogitsFileError(ValueError):
    """A file of logits that cannot be used; the message names it, the value that is wrong, and what to do."""


@dataclass(frozen=True, eq=False)
class LogitsFile:
    """What a file of logits holds.

    Parameters
    ----------
    logits : array [N, V]
        In the dtype of the file: float64, float32, float16 or bfloat16. NaN and infinities as they are.
    labels : array
        int64 [N] classes (`IGNORED` where the row does not count), or float64 [N, V] probabilities.
    source_name : str
        The file's name without its ending; part of the batch's family name.
    path : Path
        Where it was read from; part of messages.
    """

    logits: Array
    labels: Array
    source_name: str
    path: Path

    @property
    def dtype(self) -> str:
        """Name of the logits' dtype."""
        return str(self.logits.dtype.name)

    @property
    def nan_rows(self) -> int:
        """Number of rows that hold a NaN."""
        return int(np.isnan(self.logits).any(axis=1).sum())

    @property
    def ignored_rows(self) -> int:
        """Number of rows whose label is `IGNORED`."""
        return int((self.labels == IGNORED).sum()) if self.labels.ndim == 1 else 0


def read_logits(path: Path | str) -> LogitsFile:
    """Read logits and labels.

    Parameters
    ----------
    path : path
        A ``.npz`` or ``.safetensors`` file with arrays ``logits`` and ``labels``; a ``x.npy`` file with its labels
        beside it in ``x.labels.npy`` or ``x_labels.npy``; or a folder with ``logits.npy`` and ``labels.npy``. Logits
        are [..., V], flattened to [N, V]; labels are integers of the leading shape, or probabilities of the logits'.

    Returns
    -------
    LogitsFile
        The checked content.

    Raises
    ------
    LogitsFileError
        For a file that is missing, of another kind, damaged, without one of the arrays, or with arrays of wrong dtypes,
        shapes or values.
    """
    path = Path(path)
    try:
        arrays = _read_arrays(path)
    except ArrayFileError as error:
        raise LogitsFileError(str(error)) from error
    logits, leading = _checked_logits(path, arrays["logits"])
    labels = _checked_labels(path, arrays["labels"], logits, leading)
    return LogitsFile(logits, labels, path.name if path.is_dir() else path.stem, path)


def _read_arrays(path: Path) -> Mapping[str, Array]:
    if path.is_dir():
        return {name: read_npy(path / f"{name}.npy") for name in _NAMES}
    suffix = path.suffix.lower()
    if suffix not in (".npz", ".npy", ".safetensors"):
        raise LogitsFileError(f"{path}: its ending {path.suffix!r} is none that is known; use {_KINDS}")
    if not path.exists():
        raise LogitsFileError(f"{path}: there is no such file; check the path")
    if suffix == ".npy":
        return {"logits": read_npy(path), "labels": read_npy(_labels_beside(path))}
    return read_npz(path, _NAMES) if suffix == ".npz" else read_safetensors(path, _NAMES)


def _labels_beside(path: Path) -> Path:
    names = [f"{path.stem}.labels.npy", f"{path.stem}_labels.npy"]
    if "logits" in path.stem:
        names.append(path.name.replace("logits", "labels"))
    found = [name for name in names if (path.parent / name).exists()]
    if not found:
        raise LogitsFileError(f"{path}: its labels are missing; save them beside it as {' or '.join(names)}")
    if len(found) > 1:
        raise LogitsFileError(f"{path}: its labels could be {' or '.join(found)}; keep one of them")
    return path.parent / found[0]


def _checked_logits(path: Path, logits: Array) -> tuple[Array, tuple[int, ...]]:
    """The logits [N, V], and the leading shape that they had."""
    if logits.dtype.name not in FORMATS:
        advice = f"save them as one of {', '.join(FORMATS)}"
        raise LogitsFileError(f"{path}: logits have dtype {logits.dtype.name}; {advice}")
    if logits.ndim < 2:
        advice = "reshape them to [rows, classes], one row as [1, V]"
        raise LogitsFileError(f"{path}: logits have shape {list(logits.shape)}, but need at least two axes; {advice}")
    if logits.size == 0:
        raise LogitsFileError(f"{path}: logits have shape {list(logits.shape)}: there is nothing to judge")
    return logits.reshape(-1, logits.shape[-1]), logits.shape[:-1]


def _checked_labels(path: Path, labels: Array, logits: Array, leading: tuple[int, ...]) -> Array:
    """Class labels, int64 [N], or probabilities, float64 [N, V]."""
    n, v = logits.shape
    if labels.shape == (*leading, v):
        return _checked_probabilities(path, labels.reshape(n, v))
    if labels.shape not in (leading, (n,)):
        raise LogitsFileError(
            f"{path}: labels have shape {list(labels.shape)}, but logits have {[*leading, v]}; "
            f"give one class for each row, {list(leading)}, or probabilities {[*leading, v]}"
        )
    if labels.dtype.kind not in "iu":
        advice = f"save classes as int64, or probabilities of shape {[*leading, v]}"
        raise LogitsFileError(f"{path}: labels have dtype {labels.dtype.name}; {advice}")
    flat = labels.reshape(n)
    # Compared as they are: unsigned ones beyond int64 would wrap around.
    bad = np.flatnonzero((flat >= v) | ((flat < 0) & (flat != IGNORED)))
    if bad.size:
        advice = f"correct it, or write {IGNORED} for a row that does not count"
        raise LogitsFileError(f"{path}: the label of row {bad[0]} is {flat[bad[0]]}, outside [0, {v}); {advice}")
    if (flat == IGNORED).all():
        raise LogitsFileError(f"{path}: every label is {IGNORED}: no row counts, so there is nothing to judge")
    return flat.astype(np.int64)


def _checked_probabilities(path: Path, labels: Array) -> Array:
    if labels.dtype.name not in FORMATS and labels.dtype.kind not in "iu":
        raise LogitsFileError(f"{path}: labels have dtype {labels.dtype.name}; save probabilities as floating point")
    probabilities = labels.astype(np.float64)
    bad = np.argwhere(~(np.isfinite(probabilities) & (probabilities >= 0)))
    if bad.size:
        row, column = bad[0]
        value = probabilities[row, column]
        raise LogitsFileError(
            f"{path}: the target of row {row}, class {column} is {value}; probabilities are finite and not negative"
        )
    return probabilities


def batch_from_file(file: LogitsFile, loss: str, dtype: str, seed: int) -> Batch:
    """The batch of a file's rows, rounded to a dtype, with an upstream gradient drawn from the seed.

    Parameters
    ----------
    file : LogitsFile
        What `read_logits` gave.
    loss, dtype : str
        Names. For an element-wise loss, class labels become one-hot targets.
    seed : int
        0 or more.

    Returns
    -------
    Batch
        Its family is ``file/<name>``; where a label is `IGNORED` the option ``ignore_index`` is set.

    Raises
    ------
    LogitsFileError
        Where a finite number is beyond the dtype's range, or the labels are none that the loss takes.
    ValueError
        For an unknown loss or dtype, or a negative seed.
    """
    form, function, family = named(dtype), loss_named(loss), f"file/{file.source_name}"
    logits = _rounded(file, form, "logit", file.logits)
    options: dict[str, Any] = {}
    if function.elementwise:
        target = form.round(_elementwise_target(file, loss))
    else:
        target = _rounded(file, form, "target", file.labels) if file.labels.ndim == 2 else file.labels
        if file.ignored_rows:
            options["ignore_index"] = IGNORED
    (rng,) = streams(seed, family, loss, dtype, count=1)
    upstream = form.round(draw_upstream(rng, function.output_shape(logits)))
    return Batch(loss, logits, target, upstream, options, family, seed)


def _rounded(file: LogitsFile, form: Format, what: str, values: Array) -> Array:
    """Values [N, V] in the format, none of them lost to infinity."""
    rounded = form.round(values)
    lost = np.argwhere(np.isinf(rounded) & np.isfinite(values))
    if lost.size:
        row, column = lost[0]
        found = f"the {what} of row {row}, class {column} is {float(values[row, column]):g}"
        beyond = f"beyond {form.name}'s largest number {form.largest:g}"
        raise LogitsFileError(f"{file.path}: {found}, {beyond}; choose another dtype, such as {file.dtype}")
    return rounded


def _elementwise_target(file: LogitsFile, loss: str) -> Array:
    """Targets [N, K] in [0, 1]: the file's probabilities, or its classes one-hot."""
    if file.labels.ndim == 1:
        if file.ignored_rows:
            row = int(np.flatnonzero(file.labels == IGNORED)[0])
            problem = f"the label of row {row} is {IGNORED}, but {loss} ignores none"
            raise LogitsFileError(f"{file.path}: {problem}; take out such rows")
        one_hot = np.zeros(file.logits.shape)
        one_hot[np.arange(len(one_hot)), file.labels] = 1.0
        return one_hot
    above = np.argwhere(file.labels > 1)
    if above.size:
        row, column = above[0]
        value = file.labels[row, column]
        raise LogitsFileError(
            f"{file.path}: the target of row {row}, class {column} is {value}; {loss} takes targets in [0, 1]"
        )
    return file.labels
