"""Compiled code on disk: found again by what it was compiled from and for, and only if it is whole.

One folder per version and entry point, written under a temporary name and renamed, with a list of digests in it. A
folder that does not match its list is not loaded: damaged machine code could do anything. One that cannot be written
costs the compilation in each process, and nothing else.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import platformdirs

__all__ = ["folder", "is_warm", "kept"]

_LIST = "digests.json"

Compiled = TypeVar("Compiled")


def folder() -> Path | None:
    """Where compiled code of this version lives, beside the truth cache; None where ``XENT_CACHE=off``."""
    setting = os.environ.get("XENT_CACHE")
    if setting == "off":
        return None
    root = Path(setting) if setting else platformdirs.user_cache_path("cross-entropy-harness")
    return root / "compiled" / _version()


@functools.cache
def _version() -> str:
    """What compiled code depends on: our sources, Numba, Python, the machine (Numba itself checks the processor)."""
    digest = hashlib.sha256(f"{sys.version} {platform.machine()} {platform.node()}".encode())
    for package in ("numba", "llvmlite"):
        digest.update(importlib.metadata.version(package).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
        if source.name.endswith("loops.py"):  # Numba compares their dates
            digest.update(str(source.stat().st_mtime_ns).encode())
    return digest.hexdigest()[:24]


def is_warm(name: str) -> bool:
    """Whether compiled code of an entry is there."""
    try:
        place = folder()
        return place is not None and (place / name).is_dir()
    except OSError:
        return False


def kept(place: Path | None, name: str, compile_in: Callable[[Path | None], Compiled]) -> Compiled:
    """What `compile_in` gives, called with the folder of a sound entry, or with an empty one that becomes the entry.

    Parameters
    ----------
    place : Path or None
        The version's folder; None to keep nothing.
    name : str
        Name of the entry.
    compile_in : callable
        Reads compiled code from a folder, or writes it there; with None does neither.
    """
    if place is None:
        return compile_in(None)
    entry = place / name
    if _is_sound(entry):
        with suppress(Exception):  # what was written by another build of the same version, say
            return compile_in(entry)
    shutil.rmtree(entry, ignore_errors=True)
    try:
        place.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=place))
    except OSError:
        return compile_in(None)
    try:
        result = compile_in(draft)
        with suppress(OSError):
            (draft / _LIST).write_text(json.dumps(_digests(draft)))
            draft.rename(entry)
        return result
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _digests(entry: Path) -> dict[str, str]:
    files = sorted(path for path in entry.rglob("*") if path.is_file() and path.name != _LIST)
    return {path.relative_to(entry).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _is_sound(entry: Path) -> bool:
    try:
        expected = json.loads((entry / _LIST).read_text())
        return bool(expected) and _digests(entry) == expected
    except (OSError, ValueError):
        return False
