"""How times went over the nights, as plain numbers for a picture."""

from __future__ import annotations

from collections.abc import Iterable

from harness.history.night import Night

__all__ = ["lines"]


def lines(nights: Iterable[Night]) -> dict[str, list[tuple[str, float]]]:
    """By the name of a series, its date and ratio to the baseline of each night that has one, in the nights' order."""
    found: dict[str, list[tuple[str, float]]] = {}
    for night in nights:
        for key, series in night.series.items():
            if series.ratio is not None:
                found.setdefault(f"{key.told}, × {key.baseline}", []).append((night.started[:10], series.ratio))
    return found
