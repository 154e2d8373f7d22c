"""The recorder: logits and labels of chosen training steps, written to a file that ``xent accuracy --logits`` reads.

It takes arrays of any framework by what they offer and imports none. The file is whole after every recorded step, so a
run that is killed loses nothing that was recorded. What the file cannot hold is refused when the recorder is made, or
at the first recorded step: not after an hour.
"""

from __future__ import annotations

import json
import operator
import reprlib
import tempfile
import threading
import warnings
from collections.abc import Collection
from importlib import metadata
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import safetensors.numpy

from harness.files import write_atomically
from harness.step_rows import Array, RecorderError, check_concrete, chosen_rows, step_number

__all__ = ["Recorder", "RecorderError"]


class Recorder:
    """Keeps the logits and labels of some steps of a training run.

    ``record = Recorder("run.safetensors", steps=range(0, 500, 50))`` before the loop, and ``record(step, logits,
    labels)`` in it. The file is written whole after each recorded step (an earlier one of that name is replaced at the
    first), with arrays ``logits`` [N, V], ``labels`` ([N] classes as int64, or [N, V] probabilities) and ``step``
    (int64 [N], the step of each row). As a context manager it is closed at the end of the block.

    Parameters
    ----------
    path : path
        A ``.safetensors`` file, in a folder that exists.
    steps : collection of int
        The steps to record, 0 or more each: a range, list or set. Calls for other steps return at once.
    rows : int
        Rows kept of a step, at most: drawn without replacement from those that count, by seed and step alone. Further
        calls for the same step (micro-batches) fill it up.
    seed : int
        0 or more.
    ignore_index : int
        The class label of rows that do not count; such rows are left out of the file.
    max_bytes : int
        Refuse, at the first recorded step, a recording whose arrays could grow beyond this many bytes. Memory is at
        most about three times that while the file is written.

    Raises
    ------
    RecorderError
        For a path that cannot be written or has another ending, and for steps, rows or a seed that mean nothing.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        steps: Collection[int],
        *,
        rows: int = 256,
        seed: int = 0,
        ignore_index: int = -100,
        max_bytes: int = 2**30,
    ) -> None:
        if rows < 1 or seed < 0:
            raise RecorderError(f"rows = {rows}, seed = {seed}: at least one row, and a seed that is not negative")
        # Absolute, since a training script may change its folder.
        self._path = Path(path).absolute()
        self._steps = _checked_steps(steps)
        self._rows, self._seed = rows, seed
        self._ignore_index, self._max_bytes = ignore_index, max_bytes
        _must_be_writable(self._path)
        self._arrays: dict[str, Array] = {}
        self._kept: dict[int, int] = {}
        self._closed = False
        # JAX runs callbacks in threads of its own.
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:
        """The file, as an absolute path."""
        return self._path

    @property
    def recorded(self) -> int:
        """Number of rows in the file so far."""
        return sum(self._kept.values())

    def wants(self, step: Any) -> bool:
        """Whether a call for this step would record something: ask where the logits would have to be made for it.

        Parameters
        ----------
        step : int
            Counted over the whole run, not from 0 again in each epoch; NumPy, torch and JAX scalars too.

        Raises
        ------
        RecorderError
            As for a call.
        """
        number = step_number(step)
        return number in self._steps and self._kept.get(number, 0) < self._rows

    def __call__(self, step: Any, logits: Any, labels: Any) -> None:
        """Record one step, if it is among those to record.

        Parameters
        ----------
        step : int
            As for `wants`.
        logits : array [..., V]
            float64, float32, float16 or bfloat16, kept as it is, NaN and infinities too: a torch tensor on any device
            (detached; only the chosen rows are copied from it), a JAX array, or what ``numpy.asarray`` takes.
        labels : array
            Classes, integers of the leading shape of the logits, or flat; or probabilities of the logits' shape.

        Raises
        ------
        RecorderError
            For arrays under a JAX transformation (jit, grad, vmap), which hold no numbers yet; for wrong shapes,
            dtypes and labels, or others than in the steps before; for more than `max_bytes`; after `close`; and where
            the file cannot be written.
        FormatUnavailable
            For bfloat16, where ``ml_dtypes`` is not installed.
        """
        for name, value in (("logits", logits), ("labels", labels)):
            check_concrete(name, value)
        if self._closed:
            raise RecorderError(f"{self._path.name}: the recorder is closed; record before close(), or inside its with")
        if not self.wants(step):
            return
        number = step_number(step)
        with self._lock:
            room = self._rows - self._kept.get(number, 0)
            try:
                # What the step has already is part of the seed, so that micro-batches do not all give the same rows.
                rng = np.random.default_rng([self._seed, number, self._rows - room])
                chosen = chosen_rows(rng, room, logits, labels, self._ignore_index)
                count = len(chosen["labels"])
                if count == 0:
                    return
                self._append(chosen | {"step": np.full(count, number, dtype=np.int64)})
            except RecorderError as error:
                raise RecorderError(f"step {number}: {error}") from error.__cause__
            self._kept[number] = self._kept.get(number, 0) + count
            self._write()

    def close(self) -> None:
        """Take no more steps; the file is complete already. Warns where nothing was recorded."""
        if not self._closed and not self._kept:
            told = (
                f"none of its {len(self._steps)} steps (the first is {_least(self._steps)}) came with a row that counts"
            )
            warnings.warn(f"{self._path.name}: nothing was recorded: {told}", stacklevel=2)
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        self._closed = True

    def _append(self, new: dict[str, Array]) -> None:
        """Put rows behind those kept before, which they must match."""
        if not self._arrays:
            self._must_fit(sum(array.nbytes for array in new.values()) // len(new["step"]))
            self._arrays = new
            return
        if _described(new) != _described(self._arrays):
            raise RecorderError(
                f"{_described(new)}, but {_described(self._arrays)} in the steps before; "
                "one file holds one kind: use a recorder for each"
            )
        self._arrays = {name: np.concatenate([self._arrays[name], new[name]]) for name in new}

    def _must_fit(self, row_bytes: int) -> None:
        most = row_bytes * self._rows * len(self._steps)
        if most > self._max_bytes:
            raise RecorderError(
                f"{len(self._steps)} steps of {self._rows} rows of {row_bytes:,} bytes could grow to {most:,} bytes, "
                f"over max_bytes = {self._max_bytes:,}; give fewer steps, fewer rows, or a larger max_bytes"
            )

    def _write(self) -> None:
        about = {
            "dtype": self._arrays["logits"].dtype.name,
            "classes": str(self._arrays["logits"].shape[1]),
            "rows": str(self._rows),
            "seed": str(self._seed),
            "version": _version(),
        }
        try:
            write_atomically(self._path, _encoded(self._arrays, about))
        except OSError as error:
            raise RecorderError(f"{self._path}: cannot be written: {error.strerror or error}") from error


def _checked_steps(steps: Collection[int]) -> Collection[int]:
    """The steps as something that is quickly asked."""
    if not isinstance(steps, Collection):
        raise RecorderError(f"steps is {reprlib.repr(steps)}; give the steps to record, such as range(0, 500, 50)")
    try:
        checked = steps if isinstance(steps, range) else frozenset(map(operator.index, steps))
    except TypeError as error:
        raise RecorderError(
            f"steps is {reprlib.repr(steps)}: {error}; give whole numbers, such as range(0, 500, 50)"
        ) from error
    if not checked:
        raise RecorderError(
            f"steps is {reprlib.repr(steps)}: nothing would be recorded; give some, such as range(0, 500, 50)"
        )
    if _least(checked) < 0:
        raise RecorderError(f"steps holds {_least(checked)}; steps are counted from 0")
    return checked


def _least(steps: Collection[int]) -> int:
    return min(steps[0], steps[-1]) if isinstance(steps, range) else min(steps)


def _must_be_writable(path: Path) -> None:
    """Find out now, by making a file beside it, what would otherwise fail at the first recorded step."""
    if path.suffix != ".safetensors":
        raise RecorderError(f"{path}: its ending is {path.suffix!r}; name it {path.stem}.safetensors")
    if path.is_dir() or not path.parent.is_dir():
        reason = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}; make it first"
        raise RecorderError(f"{path}: cannot be written: {reason}")
    try:
        tempfile.NamedTemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise RecorderError(f"{path}: cannot be written: {error.strerror or error}; choose another folder") from error


def _encoded(arrays: dict[str, Array], about: dict[str, str]) -> bytes:
    """A .safetensors file's content: the same for the same arrays, though the library orders metadata by chance."""
    content = safetensors.numpy.save(arrays, about)
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":"))
    return b"".join([content[:8], header.encode().ljust(end - 8), memoryview(content)[end:]])


def _described(arrays: dict[str, Array]) -> str:
    logits, labels = arrays["logits"], arrays["labels"]
    kind = "classes" if labels.ndim == 1 else f"{labels.dtype.name} probabilities"
    return f"logits are {logits.dtype.name} with {logits.shape[1]} classes and labels {kind}"


def _version() -> str:
    try:
        return metadata.version("cross-entropy-harness")
    except metadata.PackageNotFoundError:
        return "unknown"
