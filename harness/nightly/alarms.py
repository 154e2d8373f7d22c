"""Alarms: raised by what got worse, latched until somebody accepts it.

A slow-down moves into its own past after some nights and would then pass for normal; a flaw that shows every other
night would come and go. So an alarm stands, seen or not, from the night that raised it until a person accepts it. Which
ones stand follows from the files of the nights and of the acceptances alone, in whatever order they were merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.compare import Comparison, Limits, SpeedChange, Verdict, compare, compare_accuracy
from harness.compare.accuracy import grouped
from harness.compare.words import percent
from harness.history import Acceptance, Alarm, Night, SeriesKey

__all__ = ["accept", "begins", "conclude", "last_accepted", "standing"]


def conclude(
    earlier: Sequence[Night], tonight: Night, accepted: Sequence[Acceptance], limits: Limits | None = None
) -> tuple[Night, Comparison]:
    """Tonight with its alarms and its baseline, and the comparison that they come from.

    Accuracy is compared with the last accepted night; where none is, with the first; the first night with its claims.

    Parameters
    ----------
    earlier : sequence of Night
        The nights before, oldest first, like tonight's.
    tonight : Night
        As measured.
    accepted : sequence of Acceptance
        Those of other machines do no harm.
    limits : Limits, optional
        From when on a difference counts.
    """
    limits = limits or Limits()
    baseline = last_accepted(earlier, accepted) or (earlier[0] if earlier else None)
    found = compare(earlier, [tonight], limits, baseline=baseline, begins=begins(earlier, accepted, limits))
    if baseline is None:
        found = replace(found, accuracy=tuple(compare_accuracy({}, tonight.cells, limits.ulp_factor)))
    alarms = {alarm.id: replace(alarm, seen=False) for alarm in standing(earlier, accepted)}
    for alarm in _raised(found):
        alarms[alarm.id] = replace(alarm, since=alarms[alarm.id].since if alarm.id in alarms else "")
    name = baseline.name if baseline else ""
    return replace(tonight, alarms=tuple(alarms[key] for key in sorted(alarms)), baseline=name), found


def standing(nights: Sequence[Night], accepted: Sequence[Acceptance]) -> tuple[Alarm, ...]:
    """The alarms that some night raised and nobody has accepted, each as of the last night that tells of it."""
    settled = _settled(accepted)
    found: dict[tuple[str, str], Alarm] = {}
    for night in nights:
        for alarm in _named(night):
            if (*alarm.id, alarm.since) in settled:
                continue
            since = found[alarm.id].since if alarm.id in found else alarm.since
            found[alarm.id] = replace(alarm, since=since)
    return tuple(found[key] for key in sorted(found))


def last_accepted(nights: Sequence[Night], accepted: Sequence[Acceptance]) -> Night | None:
    """The newest night that was accepted: by a person, or by having no alarm."""
    settled = _settled(accepted)
    quiet = (n for n in reversed(nights) if all((*alarm.id, alarm.since) in settled for alarm in _named(n)))
    return next(quiet, None)


def accept(nights: Sequence[Night], accepted: Sequence[Acceptance], note: str = "") -> Acceptance | None:
    """The acceptance of the newest of some nights with every alarm that stands; None where none does."""
    alarms = standing(nights, accepted)
    return Acceptance.of(nights[-1].name, alarms, note) if alarms else None


def begins(nights: Sequence[Night], accepted: Sequence[Acceptance], limits: Limits) -> dict[SeriesKey, str]:
    """For each series whose change was accepted, when the first night at its new speed started.

    An alarm comes when the last few nights are slower: the new speed began with the first of these. A series that is
    gone begins with the night that missed it.
    """
    nights = nights[-(limits.before + limits.settling + limits.recent) :]  # no older one is compared
    place = {night.name: i for i, night in enumerate(nights)}
    alarms = [
        alarm for entry in accepted for alarm in entry.alarms if alarm.kind != "accuracy" and alarm.since in place
    ]
    if not alarms:
        return {}
    keys = {subject(key): key for night in nights for key in night.series}
    found: dict[SeriesKey, str] = {}
    for alarm in alarms:
        first = place[alarm.since] - (0 if alarm.kind == "lost" else limits.recent - 1)
        if alarm.subject in keys:
            key = keys[alarm.subject]
            found[key] = max(found.get(key, ""), nights[max(first, 0)].started)
    return found


def subject(key: SeriesKey) -> str:
    """What an alarm about a series is about: the same every night, and another one for every series."""
    return f"{key.told} against {key.baseline}" + ("" if key.loss == "cross_entropy" else f", {key.loss}")


def _named(night: Night) -> list[Alarm]:
    """The alarms of a night, each with the name of the night that raised it: a night cannot hold its own name."""
    return [replace(alarm, since=alarm.since or night.name) for alarm in night.alarms]


def _settled(accepted: Sequence[Acceptance]) -> set[tuple[str, str, str]]:
    return {(*alarm.id, alarm.since) for entry in accepted for alarm in entry.alarms}


def _raised(found: Comparison) -> list[Alarm]:
    messages: dict[str, list[str]] = {}
    for group in grouped(found.accuracy, worse=True):  # the gravest kind first
        messages.setdefault(group.subject, []).append(group.told)
    accuracy = [Alarm("accuracy", name, "; ".join(told)) for name, told in messages.items()]
    slower = [Alarm("speed", subject(c.key), _slower(c)) for c in found.of(Verdict.SLOWER)]
    lost = [Alarm("lost", subject(c.key), "was timed before, and is not any more") for c in found.of(Verdict.LOST)]
    return [*accuracy, *slower, *lost]


def _slower(change: SpeedChange) -> str:
    return (
        f"{percent(change.change)} slower than in the {change.before} nights before "
        f"(p = {change.p:.2g}, noise {percent(change.noise, 1)})"
    )
