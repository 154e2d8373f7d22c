"""Figures as words, the same wherever a comparison is told."""

from __future__ import annotations

__all__ = ["count", "percent"]


def count(number: int, one: str, many: str = "") -> str:
    """``1 night``, ``2 nights``; `many` is the plural where it is not formed by an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def percent(share: float | None, digits: int = 0, *, sign: bool = False) -> str:
    """``5 %`` for 0.05; nothing for None."""
    if share is None:
        return ""
    return f"{100 * share:{'+' if sign else ''}.{digits}f} %"
