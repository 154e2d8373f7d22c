"""A *run*: the immutable record of one execution, and its strict-JSON file.

The file is data for others (reports, comparisons, scripts): its keys are part of the public interface, and `SCHEMA`
counts up whenever one changes its meaning. Floats that JSON cannot hold are written as the strings ``"nan"``, ``"inf"``
and ``"-inf"``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from harness.files import write_atomically

__all__ = ["SCHEMA", "Result", "Run", "RunFileError", "Timing", "strict"]

SCHEMA = 1

Part = TypeVar("Part")


class RunFileError(ValueError):
    """A run file that cannot be used; the message names the file and the reason."""


@dataclass(frozen=True)
class Result:
    """The judgement of one implementation × dtype × family × what.

    Parameters
    ----------
    implementation, framework, loss, dtype, device, backend, family : str
        What was judged; `backend` is ``"native"`` for code that ran as it would in use.
    what : str
        ``"loss"`` or ``"gradient"``.
    rows, judged : int
        Rows in the batch, and those whose bound means something (not vacuous) at the gate's grade.
    claimed, grade : str or None
        The declared grade, and the one that was reached (None where nothing was measured).
    outcome : str
        An `Outcome`.
    max_ulp, max_abs, max_rel, max_bound_ratio : float or None
        Largest error: in ulp of the output's format, absolute (nats), relative, and over the absolute bound (judged
        rows only).
    bound_ratios : dict of str to float or None
        Largest error over the bound of each grade, judged rows only.
    nonfinite, negative : int
        Results that are NaN or infinite where the truth is not; losses below zero.
    witness : dict or None
        The row with the largest bound ratio: ``row``, ``column`` (gradient), ``logits``, ``target``, ``got``, ``want``,
        … (floats in hexadecimal).
    output_dtype : str or None
        The dtype that came back.
    detail : str
        One line: the reason of a failure, skip or known failure.
    thread : str
        The upstream thread of a known failure.
    """

    implementation: str
    framework: str
    loss: str
    dtype: str
    device: str
    backend: str
    family: str
    what: str
    rows: int
    judged: int
    claimed: str | None
    grade: str | None
    outcome: str
    max_ulp: float | None = None
    max_abs: float | None = None
    max_rel: float | None = None
    max_bound_ratio: float | None = None
    bound_ratios: Mapping[str, float | None] = field(default_factory=dict)
    nonfinite: int = 0
    negative: int = 0
    witness: Mapping[str, Any] | None = None
    output_dtype: str | None = None
    detail: str = ""
    thread: str = ""


@dataclass(frozen=True)
class Timing:
    """Time of one implementation on one shape, beside the baseline measured in the same rounds.

    Parameters
    ----------
    implementation, framework, loss, dtype, device : str
        What was timed.
    what : str
        ``"forward"``, ``"backward"`` or ``"forward+backward"``.
    shape : tuple of int
        (N, V) of the logits.
    seconds : tuple of float
        One figure per round, the median of the round's calls; empty where there is no speed, and `detail` says why.
    baseline : str
        The implementation (eager) that `ratio` is to.
    ratio : float or None
        Median over the rounds of this one's time over the baseline's in the same round.
    detail : str
        One line: why there is no speed.
    mode : str
        ``"eager"`` or ``"compiled"``.
    outcome : str
        An `Outcome`: `PASSED` where every result was right, `FAILED`, `NONFINITE`, … for a wrong one, which has no
        speed.
    grade : str or None
        The grade of the timed calls' results, worst of loss and gradient, on the rows that were judged.
    max_ulp : float or None
        Their largest error in ulp.
    copy_seconds : tuple of float
        Per round, what a copy of the logits took: it reads and writes each byte once.
    bandwidth : float or None
        Bytes that have to be moved (the logits read and, with a backward, the gradient written) per second, over those
        that a copy moves per second; median over the rounds.
    peak_bytes : int or None
        Memory at the height of one call, results included, above what was there before it.
    memory : float or None
        The same in multiples of the logits' bytes.
    """

    implementation: str
    framework: str
    loss: str
    dtype: str
    device: str
    what: str
    shape: tuple[int, int]
    seconds: tuple[float, ...]
    baseline: str
    ratio: float | None
    detail: str = ""
    mode: str = "eager"
    outcome: str = "passed"
    grade: str | None = None
    max_ulp: float | None = None
    copy_seconds: tuple[float, ...] = ()
    bandwidth: float | None = None
    peak_bytes: int | None = None
    memory: float | None = None


@dataclass(frozen=True)
class Run:
    """The record of one execution.

    Parameters
    ----------
    environment : mapping
        ``versions``, ``python``, ``platform``, ``cpu``, ``cores``, ``threads``, ``commit``, ``seed``, ``started`` (UTC,
        ISO 8601).
    results : tuple of Result
        In the order of the plan: by implementation, dtype, family, what.
    families : mapping of str to mapping
        For each family of the run: ``breaks`` (one sentence), ``source``, ``losses``.
    implementations : tuple of mapping
        The declarations, with ``available`` and ``reason``.
    timings : tuple of Timing
        Empty unless speed was measured.
    complete : bool
        False where the run was interrupted.
    """

    environment: Mapping[str, Any]
    results: tuple[Result, ...]
    families: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    implementations: tuple[Mapping[str, Any], ...] = ()
    timings: tuple[Timing, ...] = ()
    complete: bool = True

    def to_json(self) -> dict[str, Any]:
        """The run as JSON-ready data, ``schema`` first."""
        data: dict[str, Any] = strict({"schema": SCHEMA, **asdict(self)})
        return data

    def save(self, path: Path) -> None:
        """Write the run to a file, whole or not at all.

        Raises
        ------
        OSError
            Where it cannot be written; an earlier file of that name is then still there.
        """
        text = json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"
        write_atomically(path, text.encode())

    @classmethod
    def load(cls, path: Path) -> Run:
        """Read a run file.

        Raises
        ------
        RunFileError
            For a file that is missing, damaged, or of another schema.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        except (OSError, ValueError, RecursionError) as error:
            raise RunFileError(f"{path}: cannot be read as a run file: {error}") from error
        if not isinstance(data, dict) or "schema" not in data:
            raise RunFileError(f'{path}: not a run file (it has no "schema")')
        if type(data["schema"]) is not int or data["schema"] != SCHEMA:
            raise RunFileError(f"{path}: schema {data['schema']!r}, but this version reads schema {SCHEMA}")
        try:
            return cls(
                environment=_of_type(dict, "environment", data["environment"]),
                results=tuple(_load(Result, entry) for entry in _of_type(list, "results", data["results"])),
                families=_of_type(dict, "families", data["families"]),
                implementations=tuple(_of_type(list, "implementations", data["implementations"])),
                timings=tuple(_load(Timing, entry) for entry in _of_type(list, "timings", data["timings"])),
                complete=_of_type(bool, "complete", data["complete"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise RunFileError(f"{path}: a damaged run file: {type(error).__name__}: {error}") from error


def strict(value: Any) -> Any:
    """The value with every float that JSON cannot hold replaced by its name (``"nan"``, ``"inf"``, ``"-inf"``)."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, Mapping):
        return {key: strict(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [strict(entry) for entry in value]
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _of_type(kind: type[Part], name: str, value: Any) -> Part:
    if not isinstance(value, kind):
        raise TypeError(f'"{name}" is {value!r:.40}, which is no {kind.__name__}')
    return value


Entry = TypeVar("Entry", Result, Timing)


def _load(kind: type[Entry], entry: Mapping[str, Any]) -> Entry:
    """A `Result` or `Timing` from its JSON object, the inverse of `asdict` and `strict`."""
    known = {f.name for f in fields(kind)}
    return kind(**{key: _thaw(key, value) for key, value in entry.items() if key in known})


def _thaw(key: str, value: Any) -> Any:
    if key == "witness" or (isinstance(value, str) and key not in _NUMBERS):
        return value
    if value in ("nan", "inf", "-inf"):
        return float(value)
    if isinstance(value, list):
        return tuple(_thaw(key, v) for v in value)
    if isinstance(value, Mapping):
        return {k: _thaw(key, v) for k, v in value.items()}
    return value


_NUMBERS = {
    *("max_ulp", "max_abs", "max_rel", "max_bound_ratio", "bound_ratios"),
    *("ratio", "seconds", "copy_seconds", "bandwidth", "memory"),
}
