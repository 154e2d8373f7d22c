"""How numbers and threads are written for a reader: a few digits, no false precision, infinities by their sign."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Piece", "count", "duration", "figure", "linked", "ratio", "spread"]


def figure(value: float | None, digits: int = 3) -> str:
    """A measured value: ``–`` for none, ``∞``, ``NaN``, ``12,345``, ``1.2e9``, ``0.00052``.

    Values in [1e-4, 1e6) are written out with thousands grouped, the others with an exponent and one digit fewer.
    """
    if value is None:
        return "–"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    sign = "−" if value < 0 else ""
    if size == 0:
        return "0"
    if not 1e-4 <= size < 999_500:
        mantissa, _, exponent = f"{size:.{digits - 2}e}".partition("e")
        return f"{sign}{mantissa.removesuffix('.0')}e{int(exponent)}"
    # The exponent after rounding, so that 9.996 becomes 10.0 and not 10.00.
    exponent10 = int(f"{size:.{digits - 1}e}".partition("e")[2])
    text = f"{size:,.{max(0, digits - 1 - exponent10)}f}"
    return sign + (text.rstrip("0").rstrip(".") if "." in text else text)


def count(number: int, noun: str, plural: str | None = None) -> str:
    """``1 family``, ``1,234 results``: a count with its noun."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def ratio(value: float | None) -> str:
    """``1.42×``; ``–`` for none."""
    return "–" if value is None else f"{_three(value)}×"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits their size: ``12.3 ms``."""
    return spread(seconds, seconds)


def spread(low: float, high: float) -> str:
    """Two durations in one unit, ``9.80–12.3 ms``; one where they are the same."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{figure(low)}–{figure(high)} s"
    unit, scale = next(((u, s) for u, s in _UNITS if high >= s), _UNITS[-1])
    ends = dict.fromkeys((_three(low / scale), _three(high / scale)))
    return f"{'–'.join(ends)} {unit}"


_UNITS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))


def _three(value: float) -> str:
    """Three digits, trailing zeros kept so that columns line up; beyond 0.01 to 999 as `figure` has it."""
    if not 0.00995 <= value < 999.5:
        return figure(value)
    return f"{value:.{max(0, 2 - int(f'{value:.2e}'.partition('e')[2]))}f}"


@dataclass(frozen=True)
class Piece:
    """A stretch of text, and where it leads (``""``: nowhere)."""

    text: str
    url: str = ""


_LINK = re.compile(r"(?P<url>https?://[^\s<>\"']+[^\s<>\"'.,;:)\]])|(?P<repo>\b[\w.-]+/[\w.-]+)#(?P<number>\d+)\b")


def linked(text: str) -> Sequence[Piece]:
    """Text cut into pieces, with web addresses and threads such as ``owner/name#12`` (GitHub) leading there."""
    pieces: list[Piece] = []
    end = 0
    for match in _LINK.finditer(text):
        if match.start() > end:
            pieces.append(Piece(text[end : match.start()]))
        url = match["url"] or f"https://github.com/{match['repo']}/issues/{match['number']}"
        pieces.append(Piece(match[0], url))
        end = match.end()
    if end < len(text):
        pieces.append(Piece(text[end:]))
    return pieces
