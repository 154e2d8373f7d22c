"""What nights must share to be compared: an *identity*, and the name of a machine, which is a part of it.

A machine is named by what its figures depend on (processor, cores, threads, system, GPU) and not by its host name: the
machines that a hosting service lends are called differently every night.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

__all__ = ["Identity", "machine_name", "slug"]

_ARCHITECTURE = re.compile(r"x86_64|amd64|aarch64|arm64|ppc64le|s390x|riscv64", re.IGNORECASE)
_LONGEST = 48


@dataclass(frozen=True)
class Identity:
    """What two nights must share; nights that differ in any of it are unlike and are never compared.

    Parameters
    ----------
    machine : str
        As `machine_name` says, or as the user names it.
    label : str
        Tells apart what one machine measures under different conditions, such as the newest releases; ``""`` for none.
    seed : int
        What the families draw from.
    threads : int
        Threads of each worker.
    scope : str
        Which implementations, families and dtypes were asked for; ``"all"`` where nothing was left out.
    """

    machine: str
    label: str
    seed: int
    threads: int
    scope: str

    def difference(self, other: Identity) -> str:
        """How another one differs from this one, for a reader; ``""`` where it does not."""
        parts = []
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if mine != theirs:
                parts.append(f"{field.name} {theirs if theirs != '' else 'none'}, not {mine if mine != '' else 'none'}")
        return "; ".join(parts)


def machine_name(environment: Mapping[str, Any]) -> str:
    """The name of the machine that a run's ``environment`` describes: letters, digits, dots and hyphens only."""
    platform = str(environment.get("platform", ""))
    architecture = _ARCHITECTURE.search(platform)
    parts = [
        str(environment.get("cpu") or "unknown processor"),
        f"{environment.get('cores')} cores",
        platform.partition("-")[0] or "unknown system",
        architecture.group().lower() if architecture else "",
        *_gpus(environment),
    ]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:6]
    return f"{slug(' '.join(filter(None, parts)), _LONGEST)}-{digest}"


def _gpus(environment: Mapping[str, Any]) -> list[str]:
    """Names of GPUs, wherever in the environment they stand."""
    places = [environment, *(w for w in dict(environment.get("workers") or {}).values() if isinstance(w, Mapping))]
    named = (str(place[key]) for place in places for key in ("gpu", "device_name") if place.get(key))
    return sorted(set(named))


def slug(text: str, longest: int = _LONGEST) -> str:
    """The text in lower-case letters, digits and hyphens, cut to a length: fit for a file name on every system."""
    words = re.sub(r"[^a-z0-9.]+", "-", re.sub(r"\((r|tm|c)\)|@|\bcpu\b", " ", text.lower())).strip("-.")
    return words[:longest].strip("-.") or "unnamed"


def scope_of(request: Mapping[str, Any]) -> str:
    """What a run was asked for, in one canonical line."""
    asked = {
        key: sorted(value) if isinstance(value, list) else value
        for key, value in request.items()
        if value
        and key not in ("budget", "memory")  # how long it took, and what is not compared
        and (key, value) != ("device", "cpu")  # as it was before one could choose
    }
    return json.dumps(asked, sort_keys=True) if asked else "all"
