"""Reading the files of a history: strict JSON of one kind and schema, or a refusal that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["NightFileError", "parsed", "read", "refuse_constant"]


class NightFileError(ValueError):
    """A file of the history that cannot be used; the message names it and the reason."""


def read(path: Path) -> bytes:
    """The content of a file of the history.

    Raises
    ------
    NightFileError
        For a file that is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise NightFileError(f"{path}: cannot be read: {error.strerror or error}") from error


def parsed(path: Path, content: bytes, kind: str, schema: int) -> dict[str, Any]:
    """The JSON object in a file of the history.

    Raises
    ------
    NightFileError
        For one that is damaged, of another kind, or of another schema.
    """
    try:
        data = json.loads(content, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise NightFileError(f"{path}: cannot be read: {error}") from error
    if not isinstance(data, dict) or data.get("kind") != kind:
        raise NightFileError(f'{path}: not a file of the history (its "kind" is not "{kind}")')
    if type(data.get("schema")) is not int or data["schema"] != schema:
        raise NightFileError(f"{path}: schema {data.get('schema')!r}, but this version reads schema {schema}")
    return data


def refuse_constant(name: str) -> float:
    """Refuse NaN and the infinities, which Python's parser takes and JSON does not have.

    Raises
    ------
    ValueError
        Always.
    """
    raise ValueError(f"{name} is not JSON")
