"""A *worst case*: the worst known input of an implementation, by one metric, with what it gave and what is true.

Those that are worth keeping are records in files of the package, one file per implementation under ``worst_cases/``:
numbers in hexadecimal, so that nothing is lost. The family ``worst_cases_V`` draws their rows in every run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from harness.files import write_atomically
from harness.formats import FORMATS, Format

__all__ = ["ELEMENTS", "FOLDER", "KEPT_CLASSES", "WorstCase", "WorstCaseError", "holds", "keep", "load", "load_all"]

FOLDER = Path(__file__).resolve().parent / "worst_cases"
KEPT_CLASSES = (2, 8, 10)
"""Records have so many classes, so that the rows of all of them stack into a few batches."""

ELEMENTS = 8
"""Of an element-wise loss, whose elements are independent: any number would do."""

SCHEMA = 1
_MEASURES = ("value", "ulp", "bound_ratio")
_TEXTS = ("implementation", "framework", "loss", "dtype", "output_dtype", "what", "metric", "bound")


class WorstCaseError(ValueError):
    """A file of records that cannot be used; the message names the file, the record and the reason."""


@dataclass(frozen=True)
class WorstCase:
    """The worst known input of one implementation in one dtype, by one metric.

    Parameters
    ----------
    implementation, framework, loss, dtype : str
        Of what.
    output_dtype : str
        The dtype that came back, in whose ulp the error is: float32 or wider, where a loss of 16-bit logits is.
    what, metric : str
        ``"loss"`` or ``"gradient"``, and what was to be as large as possible.
    value : float
        The metric's value there; infinite where the result is not finite and the truth is.
    logits : tuple of str
        One row [V], in hexadecimal; ``"-inf"`` for a masked class.
    target : int or tuple of str
        The label, or for an element-wise loss the targets.
    upstream : str
        Upstream gradient.
    column : int or None
        Which value of the row it is; None for a loss per row.
    got, want, want_low : str
        What came out; the truth, as an unevaluated sum of two.
    ulp : float
        Its error in units in the last place.
    bound_ratio : float or None
        Its error over the bound of the grade `bound`; None where that is vacuous.
    bound : str
        The grade whose bound that is: the claimed one.
    versions : mapping of str to str
        With which versions it was seen.
    found : mapping of str to int
        The seed of the search, and how many rows it had looked at.
    """

    implementation: str
    framework: str
    loss: str
    dtype: str
    output_dtype: str
    what: str
    metric: str
    value: float
    logits: tuple[str, ...]
    target: int | tuple[str, ...]
    upstream: str
    column: int | None
    got: str
    want: str
    want_low: str
    ulp: float
    bound_ratio: float | None
    bound: str
    options: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    found: Mapping[str, int] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Which record it is: there is one for each implementation, dtype, what and metric."""
        return self.implementation, self.dtype, self.what, self.metric

    @property
    def reals(self) -> np.ndarray[Any, Any]:
        """The logits as float64 [V]."""
        return np.array([float.fromhex(z) for z in self.logits])

    @property
    def targets(self) -> np.ndarray[Any, Any] | None:
        """The targets of an element-wise loss as float64 [V]; None for a label."""
        return None if isinstance(self.target, int) else np.array([float.fromhex(t) for t in self.target])

    def to_json(self) -> dict[str, Any]:
        """The record as strict JSON-ready data: numbers in hexadecimal, or in decimal where they only measure."""
        data = asdict(self)
        for name in _MEASURES:
            if data[name] == math.inf:
                data[name] = "inf"
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> WorstCase:
        """The inverse of `to_json`.

        Raises
        ------
        ValueError
            For a record that lacks something, or whose numbers are none, or none of its dtype.
        """
        missing = [f.name for f in fields(cls) if f.name not in data]
        if missing:
            raise ValueError(f'it has no "{missing[0]}"')
        try:
            values = {f.name: _tuple(data[f.name]) for f in fields(cls)}
            case = cls(**values | {name: float(data[name]) for name in _MEASURES if data[name] is not None})
            case._check()
        except (TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"a number or text is of another kind: {error}") from error
        return case

    def _check(self) -> None:
        for name in _TEXTS:
            if not isinstance(getattr(self, name), str):
                raise ValueError(f'"{name}" is {getattr(self, name)!r}, which is no text')
        if self.what not in ("loss", "gradient"):
            raise ValueError(f'"what" is {self.what!r}, neither "loss" nor "gradient"')
        for name in ("dtype", "output_dtype"):
            if getattr(self, name) not in FORMATS:
                raise ValueError(f'"{name}" is {getattr(self, name)!r}, which is none of {", ".join(FORMATS)}')
        numbers = [self.reals, np.array([float.fromhex(self.upstream)])]
        if self.targets is not None:
            numbers.append(self.targets)
        for array in numbers:
            if not holds(FORMATS[self.dtype], array):
                raise ValueError(f"{array.tolist()} are not numbers of {self.dtype}")
        for name in ("got", "want", "want_low"):
            float.fromhex(getattr(self, name))
        size = len(self.logits) if self.targets is None else len(self.targets)
        label = self.target if isinstance(self.target, int) else 0
        if size != len(self.logits) or not 0 <= label < size:
            raise ValueError(f'"target" {self.target} does not fit {len(self.logits)} logits')


def holds(form: Format, reals: np.ndarray[Any, Any]) -> bool:
    """Whether every number is one of the format, or ``-inf``; needs no array type, which bfloat16 may lack here."""
    finite = reals[np.isfinite(reals)]
    _, exponent = np.frexp(finite)
    spacing = np.ldexp(1.0, np.maximum(exponent - 1, form.emin) - form.precision + 1)
    whole = finite / spacing
    exact = (np.abs(finite) <= form.largest) & (np.rint(whole) == whole)
    return bool(exact.all() and (np.isfinite(reals) | np.isneginf(reals)).all())


def load(path: Path) -> list[WorstCase]:
    """The records of one file.

    Raises
    ------
    WorstCaseError
        For a file that is missing or damaged, or of another schema, or that holds a damaged record.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WorstCaseError(f"{path}: cannot be read as worst cases: {error}") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or not isinstance(data.get("cases"), list):
        raise WorstCaseError(f"{path}: not a file of worst cases of schema {SCHEMA}: restore it, or hunt with --keep")
    cases: list[WorstCase] = []
    for number, entry in enumerate(data["cases"]):
        try:
            if not isinstance(entry, dict):
                raise ValueError("it is no object")
            case = WorstCase.from_json(entry)
            if case.implementation != path.stem or case.key in {other.key for other in cases}:
                raise ValueError(f"it is another one's, or there twice: {', '.join(case.key)}")
        except ValueError as error:
            raise WorstCaseError(f"{path}: record {number} is damaged: {error}") from error
        cases.append(case)
    return cases


def load_all(folder: Path | None = None) -> list[WorstCase]:
    """The records of every file of a folder (by default the package's), sorted.

    Raises
    ------
    WorstCaseError
        As `load`.
    """
    return [case for path in sorted((folder or FOLDER).glob("*.json")) for case in load(path)]


def keep(cases: Iterable[WorstCase], folder: Path | None = None) -> list[WorstCase]:
    """Keep those that are worse than the records there are; returns those that are kept now and were not before.

    Raises
    ------
    WorstCaseError
        For a damaged file among those to be changed.
    OSError
        Where a file cannot be written.
    """
    kept = []
    for name, new in _by_implementation(cases).items():
        path = (folder or FOLDER) / f"{name}.json"
        records = {case.key: case for case in (load(path) if path.exists() else [])}
        for case in new:
            if len(case.logits) not in KEPT_CLASSES:
                raise WorstCaseError(f"{name}: records have {KEPT_CLASSES} classes, this one has {len(case.logits)}")
            if case.key not in records or case.value > records[case.key].value:
                records[case.key] = case
                kept.append(case)
        content = {"schema": SCHEMA, "cases": [records[key].to_json() for key in sorted(records)]}
        write_atomically(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    return kept


def _by_implementation(cases: Iterable[WorstCase]) -> dict[str, list[WorstCase]]:
    groups: dict[str, list[WorstCase]] = {}
    for case in cases:
        groups.setdefault(case.implementation, []).append(case)
    return groups


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
