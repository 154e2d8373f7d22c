"""The environment of a run: versions, processor, threads, commit."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["describe_environment"]

_PACKAGES = (
    "cross-entropy-harness",
    "numpy",
    "mpmath",
    "gmpy2",
    "ml_dtypes",
    "scipy",
    "scikit-learn",
    "torch",
    "jax",
    "jaxlib",
    "optax",
    "triton",
    "tensorflow",
    "keras",
    "mlx",
)


def describe_environment(seed: int, threads: int, workers: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a run file says of where it was made.

    Parameters
    ----------
    seed : int
        The seed of the run.
    threads : int
        Threads that each worker process may use.
    workers : mapping, optional
        What the worker processes say of themselves, by framework.
    """
    return {
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "commit": commit(),
        "seed": seed,
        "started": _now().isoformat(timespec="seconds"),
        "workers": dict(workers or {}),
    }


def _now() -> datetime.datetime:
    """The time in UTC; ``SOURCE_DATE_EPOCH``, in seconds, pins it, so that two runs can be compared byte for byte."""
    pinned = os.environ.get("SOURCE_DATE_EPOCH", "")
    if pinned.isdecimal():
        return datetime.datetime.fromtimestamp(int(pinned), datetime.UTC)
    return datetime.datetime.now(datetime.UTC)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor's name, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit of the checkout that this code runs from, with ``+`` for uncommitted changes; None outside of one."""
    folder = Path(__file__).resolve().parent
    git = ["git", "-C", str(folder)]
    try:
        top = subprocess.run([*git, "rev-parse", "--show-toplevel"], capture_output=True, text=True, timeout=10)
        if top.returncode or Path(top.stdout.strip()).resolve() != folder.parent:
            return None
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+" if status.stdout.strip() else "") if head.returncode == 0 else None
