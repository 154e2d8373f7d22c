"""An *acceptance*: somebody looked at a night's alarms and took it as it is; a small file that is never changed.

It names the night, so that copying acceptances and nights from several places into one folder loses nothing.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.files import write_atomically
from harness.history.night import Alarm
from harness.history.strict_json import NightFileError, parsed, read

__all__ = ["ACCEPTANCE_SCHEMA", "Acceptance", "load_acceptances"]

ACCEPTANCE_SCHEMA = 1


@dataclass(frozen=True)
class Acceptance:
    """One decision of a person.

    Parameters
    ----------
    night : str
        Name of the newest night then.
    at : str
        When: UTC, ISO 8601.
    alarms : tuple of Alarm
        Those that stood then, and do not any more.
    note : str
        Why, in the person's words.
    """

    night: str
    at: str
    alarms: tuple[Alarm, ...]
    note: str = ""

    @classmethod
    def of(cls, night: str, alarms: tuple[Alarm, ...], note: str = "") -> Acceptance:
        """The acceptance of a night, now; each of its alarms says since when it stands."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return cls(night, now, alarms, note)

    def save(self, folder: Path) -> Path:
        """Write it into a folder; its name has its time and a digest.

        Raises
        ------
        OSError
            Where it cannot be written.
        """
        data: dict[str, Any] = {"schema": ACCEPTANCE_SCHEMA, "kind": "acceptance", **asdict(self)}
        content = (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()
        folder.mkdir(parents=True, exist_ok=True)
        stamp = self.at.replace("-", "").replace(":", "").removesuffix("+0000")
        path = folder / f"{stamp}Z-{hashlib.sha256(content).hexdigest()[:8]}.json"
        write_atomically(path, content)
        return path


def load_acceptances(folder: Path) -> tuple[Acceptance, ...]:
    """Those in a folder, oldest first; none where there is no such folder.

    Raises
    ------
    NightFileError
        For one that is damaged: leaving it out would raise an alarm again that was accepted.
    """
    found = []
    for path in sorted(folder.glob("[!.]*.json")) if folder.is_dir() else ():
        data = parsed(path, read(path), "acceptance", ACCEPTANCE_SCHEMA)
        try:
            alarms = tuple(Alarm(**entry) for entry in data["alarms"])
            found.append(Acceptance(str(data["night"]), str(data["at"]), alarms, str(data["note"])))
        except (KeyError, TypeError, AttributeError) as error:
            raise NightFileError(f"{path}: a damaged acceptance: {type(error).__name__}: {error}") from error
    return tuple(sorted(found, key=lambda entry: entry.at))
