"""A *night*: what one nightly run found on one machine, compact and self-contained, as one strict-JSON file.

It holds of each cell what a comparison looks at; witnesses and messages stay in the run file. The file's name has the
night, the machine and a digest of the content, so that files of many machines can lie in one folder and a damaged one
shows. Accuracy, nine tenths of it, stands last and on a line of its own: it is parsed only where it is looked at, which
makes a year of nights load ten times as fast.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.history.identity import Identity, machine_name, scope_of, slug
from harness.history.records import (
    ACCURACY_COLUMNS,
    SPEED_COLUMNS,
    Cell,
    CellKey,
    Series,
    SeriesKey,
    check_table,
    pack_accuracy,
    pack_speed,
    series_key,
    unpack_accuracy,
    unpack_speed,
)
from harness.history.strict_json import NightFileError, parsed, read, refuse_constant
from harness.run import Run, strict

__all__ = ["NIGHT_SCHEMA", "Alarm", "Night", "NightFileError"]

NIGHT_SCHEMA = 1


@dataclass(frozen=True)
class Alarm:
    """Something that got worse and that nobody has accepted yet.

    Parameters
    ----------
    kind : str
        ``"accuracy"`` or ``"speed"``.
    subject : str
        What it is about, the same every night: two alarms of one kind and subject are one.
    message : str
        One line, as of the night that saw it last.
    since : str
        Name of the night that raised it.
    seen : bool
        Whether the night that holds it still saw it; otherwise it is only latched.
    """

    kind: str
    subject: str
    message: str
    since: str = ""
    seen: bool = True

    @property
    def id(self) -> tuple[str, str]:
        """Kind and subject."""
        return self.kind, self.subject


@dataclass(frozen=True)
class Night:
    """What one nightly run found on one machine.

    Parameters
    ----------
    identity : Identity
        What another night must share to be compared with it.
    started : str
        When the run began: UTC, ISO 8601.
    environment : mapping
        As in the run.
    accuracy : mapping or bytes
        Columns and rows, or these as JSON, not yet parsed; `cells` has them as values.
    speed : mapping
        Columns and rows; `series` has them as values.
    alarms : tuple of Alarm
        Raised that night or latched since an earlier one.
    baseline : str
        Name of the night whose accuracy it was compared with; ``""`` for none.
    complete : bool
        False where the run was interrupted.
    name : str
        The file's name without its suffix, where it comes from a file.
    rounds : mapping of SeriesKey to tuple of float
        The seconds of each round, for two single runs; empty where it comes from a night's file.
    """

    identity: Identity
    started: str
    environment: Mapping[str, Any]
    accuracy: Mapping[str, Any] | bytes
    speed: Mapping[str, Any]
    alarms: tuple[Alarm, ...] = ()
    baseline: str = ""
    complete: bool = True
    name: str = field(default="", compare=False)
    rounds: Mapping[SeriesKey, tuple[float, ...]] = field(default_factory=dict, compare=False)

    @classmethod
    def of_run(cls, run: Run, *, machine: str = "", label: str = "", name: str = "") -> Night:
        """The night of a run; `machine` defaults to the name that its environment gives.

        Raises
        ------
        NightFileError
            For a run that does not say when it was made, or with a grade that is none of ours.
        """
        environment = run.environment
        started = str(environment.get("started", ""))
        try:
            identity = Identity(
                machine=slug(machine) if machine else machine_name(environment),
                label=slug(label) if label else "",
                seed=int(environment.get("seed", 0)),
                threads=int(environment.get("threads") or 0),
                scope=scope_of(environment.get("request") or {}),
            )
            accuracy, speed = pack_accuracy(run.results), pack_speed(run.timings)
            rounds = {series_key(timing): timing.seconds for timing in run.timings if timing.seconds}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise NightFileError(f"{name or 'this run'}: a damaged run: {type(error).__name__}: {error}") from error
        return cls(identity, started, environment, accuracy, speed, complete=run.complete, name=name, rounds=rounds)

    @cached_property
    def cells(self) -> Mapping[CellKey, Cell]:
        """The accuracy of each cell.

        Raises
        ------
        NightFileError
            Where what the file holds is damaged.
        """
        cells: Mapping[CellKey, Cell] = self._unpacked("accuracy", unpack_accuracy, self._accuracy)
        return cells

    @property
    def _accuracy(self) -> Any:
        if not isinstance(self.accuracy, bytes):
            return self.accuracy
        return self._unpacked("accuracy", _table, self.accuracy)

    @cached_property
    def series(self) -> Mapping[SeriesKey, Series]:
        """The times of each series."""
        series: Mapping[SeriesKey, Series] = self._unpacked("speed", unpack_speed, self.speed)
        return series

    def _unpacked(self, what: str, unpack: Any, data: Any) -> Any:
        try:
            return unpack(data)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise NightFileError(f"{self.name}: damaged {what}: {type(error).__name__}: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """The night as JSON-ready data, ``schema`` first."""
        data: dict[str, Any] = strict(
            {
                "schema": NIGHT_SCHEMA,
                "kind": "night",
                "identity": asdict(self.identity),
                "started": self.started,
                "complete": self.complete,
                "baseline": self.baseline,
                "alarms": [asdict(alarm) for alarm in self.alarms],
                "environment": self.environment,
                "speed": self.speed,
                "accuracy": self._accuracy,
            }
        )
        return data

    def encoded(self) -> tuple[str, bytes]:
        """The file's name without its suffix, and its content."""
        lines = (f"{json.dumps(key)}:{_compact(value)}" for key, value in self.to_json().items())
        content = ("{\n" + ",\n".join(lines) + "\n}\n").encode()
        stamp = re.sub(r"[-:]|\.\d+|\+00:00$", "", self.started) or "undated"
        label = f".{self.identity.label}" if self.identity.label else ""
        return f"{stamp}Z-{self.identity.machine}{label}-{_digest(content)}", content

    @classmethod
    def load(cls, path: Path) -> Night:
        """Read a night's file.

        Raises
        ------
        NightFileError
            For a file that is missing, damaged, or of another schema.
        """
        content = read(path)
        named = re.search(r"-([0-9a-f]{8})$", path.stem)
        if named and named[1] != _digest(content):
            raise NightFileError(f"{path}: damaged: its content is not what its name says; take another copy")
        head, apart, accuracy = content.partition(_ACCURACY)
        data = parsed(path, head + b"}" if apart else content, "night", NIGHT_SCHEMA)
        try:
            check_table(data["speed"], SPEED_COLUMNS)
            environment, started, complete = data["environment"], data["started"], data["complete"]
            if not isinstance(environment, dict) or not isinstance(started, str) or not isinstance(complete, bool):
                raise TypeError('"environment", "started" or "complete" is of the wrong type')
            return cls(
                identity=_identity(data["identity"]),
                started=started,
                environment=environment,
                accuracy=accuracy.rstrip().removesuffix(b"}") if apart else _checked(data["accuracy"]),
                speed=data["speed"],
                alarms=tuple(Alarm(**entry) for entry in data["alarms"]),
                baseline=str(data["baseline"]),
                complete=complete,
                name=path.stem,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise NightFileError(f"{path}: a damaged night: {type(error).__name__}: {error}") from error


_ACCURACY = b',\n"accuracy":'
"""How the last part of a file begins; inside of a JSON string no line ends, so that it is found nowhere else."""


def _compact(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def _table(accuracy: bytes) -> dict[str, Any]:
    return _checked(json.loads(accuracy, parse_constant=refuse_constant))


def _checked(table: dict[str, Any]) -> dict[str, Any]:
    check_table(table, ACCURACY_COLUMNS)
    return table


def _identity(entry: Mapping[str, Any]) -> Identity:
    identity = Identity(**entry)
    if not (type(identity.seed) is type(identity.threads) is int):
        raise TypeError('"seed" or "threads" is no whole number')
    if not all(isinstance(text, str) for text in (identity.machine, identity.label, identity.scope)):
        raise TypeError('"machine", "label" or "scope" is no text')
    return identity
