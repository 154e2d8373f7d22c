"""The folder of a history: its nights in order, and what was left out, with the reason.

Files are only ever added, under names that no other night or machine has: two histories are merged by copying one
folder over the other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from harness.files import write_atomically
from harness.history.identity import Identity
from harness.history.night import Night
from harness.history.strict_json import NightFileError

__all__ = ["NIGHTS", "History", "LeftOut"]

NIGHTS = "nights"
"""The folder of the nights in that of a nightly run."""


@dataclass(frozen=True)
class LeftOut:
    """A night that is not used, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class History:
    """Nights, oldest first, and the files that are none or that do not belong."""

    nights: tuple[Night, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    @classmethod
    def load(cls, folder: Path) -> History:
        """Read every night in a folder, or in its subfolder ``nights``; an unusable file is left out, by name.

        Raises
        ------
        NightFileError
            Where there is no such folder.
        """
        if not folder.is_dir():
            raise NightFileError(f"{folder}: there is no such folder")
        inner = folder / NIGHTS
        nights: list[Night] = []
        left_out: list[LeftOut] = []
        for path in sorted((inner if inner.is_dir() else folder).glob("[!.]*.json")):
            try:
                nights.append(Night.load(path))
            except NightFileError as error:
                left_out.append(LeftOut(path.name, str(error).removeprefix(f"{path}: ")))
        nights.sort(key=lambda night: (night.started, night.name))
        return cls(tuple(nights), tuple(left_out))._without_copies()

    def _without_copies(self) -> History:
        """A machine measures one thing at a time: the same night under another name is a copy."""
        first: dict[tuple[str, Identity], Night] = {}
        copies = []
        for night in self.nights:
            kept = first.setdefault((night.started, night.identity), night)
            if kept is not night:
                copies.append(LeftOut(f"{night.name}.json", f"a copy of {kept.name}.json"))
        return History(tuple(first.values()), (*self.left_out, *copies))

    def like(self, identity: Identity) -> History:
        """The complete nights of this identity; the others are left out, with how they differ."""
        kept, out = [], []
        for night in self.nights:
            reason = identity.difference(night.identity) or ("" if night.complete else "it was interrupted")
            if reason:
                out.append(LeftOut(f"{night.name}.json", reason))
            else:
                kept.append(night)
        return History(tuple(kept), (*self.left_out, *out))

    @staticmethod
    def save(night: Night, folder: Path) -> Night:
        """Write a night into the subfolder ``nights``, whole or not at all; the night with the name that it got.

        Raises
        ------
        OSError
            Where it cannot be written; every earlier night is then as it was.
        """
        name, content = night.encoded()
        inner = folder / NIGHTS
        inner.mkdir(parents=True, exist_ok=True)
        write_atomically(inner / f"{name}.json", content)
        return replace(night, name=name)
