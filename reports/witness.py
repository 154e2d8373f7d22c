"""A witness made short: the few numbers of a row that matter, as text that fits a small table."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["short_hex", "shortened"]

SHOWN = 4
"""The largest entries of a long vector that are shown."""
WHOLE = 6
"""Vectors of up to this many entries are shown whole."""
_LONGEST_TEXT = 160
_PLAIN = ("row", "column", "got", "want", "upstream")
_ELSEWHERE = {*_PLAIN, "logits", "target", "classes", "family", "dtype", "seed"}
_NOTHING: tuple[Any, ...] = (None, "", {}, [], "0x0.0p+0")
_TRAILING_ZEROS = re.compile(r"(\.[0-9a-f]*?)0+p")


def short_hex(text: str) -> str:
    """A hexadecimal float without the trailing zeros of its significand: the same number, ``0x1.8p+1``."""
    return _TRAILING_ZEROS.sub(r"\1p", text).replace(".p", "p")


def shortened(witness: Mapping[str, Any]) -> dict[str, str]:
    """The witness as short strings.

    Vectors (``logits`` and, where it is one, ``target``: lists, or mappings from the index where only some entries are
    there) become ``"index:value index:value of N"``. Of a long one these are the largest entries and those at the
    target and the judged column, in the order of their index.
    """
    told = {name: _text(witness[name]) for name in _PLAIN if witness.get(name) is not None}
    upstream, column = _vector(witness.get("upstream")), witness.get("column")
    if column in upstream:  # one per element: only the judged one matters
        told["upstream"] = _text(upstream[column])
    logits, target = _vector(witness.get("logits")), _vector(witness.get("target"))
    keep = {i for i in (witness.get("target"), witness.get("column")) if isinstance(i, int)}
    chosen = _chosen(logits, keep)
    if logits:
        told["logits"] = _listed(logits, chosen, witness.get("classes"))
    elif witness.get("logits") not in _NOTHING:
        told["logits"] = _text(witness["logits"])
    if target:
        told["target"] = _listed(target, chosen if len(target) == len(logits) else _chosen(target, keep), None)
    elif witness.get("target") not in _NOTHING:
        told["target"] = _text(witness["target"])
    others = {key: value for key, value in witness.items() if key not in _ELSEWHERE and value not in _NOTHING}
    more = [f"{key} {_text(value)}" for key, value in others.items()]
    return {**told, "more": "\n".join(more)} if more else told


def _vector(value: Any) -> dict[int, Any]:
    """A list, or a mapping from the index, as a mapping; empty for anything else."""
    if isinstance(value, Mapping) and all(str(key).isdecimal() for key in value):
        return {int(key): entry for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return dict(enumerate(value))
    return {}


def _chosen(vector: Mapping[int, Any], keep: set[int]) -> list[int]:
    if len(vector) <= WHOLE:
        return sorted(vector)
    largest = sorted(vector, key=lambda i: (-_magnitude(vector[i]), i))
    return sorted({i for i in keep if i in vector} | set(largest[:SHOWN]))


def _magnitude(value: Any) -> float:
    """For choosing what to show: the value itself, NaN before all, and what is no number last."""
    try:
        number = float.fromhex(value) if isinstance(value, str) else float(value)
    except (TypeError, ValueError, OverflowError):
        return -math.inf
    return math.inf if math.isnan(number) else number


def _listed(vector: Mapping[int, Any], indices: Iterable[int], size: Any) -> str:
    entries = " ".join(f"{i}:{_text(vector[i]).replace(' ', '')}" for i in indices)
    return f"{entries} of {size if isinstance(size, int) else len(vector)}"


def _text(value: Any) -> str:
    if isinstance(value, float):
        text = short_hex(value.hex()) if math.isfinite(value) else str(value)
    elif isinstance(value, Mapping):
        text = ", ".join(f"{key} = {_text(entry)}" for key, entry in value.items())
    elif isinstance(value, list | tuple):
        head = ", ".join(_text(entry) for entry in value[:SHOWN])
        text = f"[{head}{f', … {len(value)} in all' if len(value) > SHOWN else ''}]"
    else:
        text = str(value)
        text = short_hex(text) if text.lstrip("-").startswith("0x") else text
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"
