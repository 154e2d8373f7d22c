"""How much memory a call takes at its height, as the system counts the pages of this process.

On Linux the high-water mark can be set back, so that later calls are measured, and what the first one loads or compiles
is not counted. Elsewhere the mark only rises: the first call is measured there, above a no-op.
"""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["peak_above"]

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc_pid_clear_refs(5)
_MEASURED = 2
"""Calls that are measured, after one that loads and compiles."""


def peak_above(prepare: Callable[[], Callable[[], Any]]) -> int:
    """Bytes that a call needs at its height, its result included, above the same with a no-op in its place.

    Parameters
    ----------
    prepare : callable
        Makes the call, on inputs of its own: what it takes itself is not counted.
    """
    if not _can_reset():
        call = prepare()
        noop = _highest(lambda: None)
        return max(0, _highest(call) - noop)
    noop = _above(lambda: None)
    prepare()()
    # What a framework frees in a thread of its own may still be there when the next call begins: the largest is right.
    return max(0, *(_above(prepare()) - noop for _ in range(_MEASURED)))


def _above(call: Callable[[], Any]) -> int:
    """Bytes by which the process grows in a call, at the most."""
    _settle()
    _CLEAR.write_text(_RESET_PEAK)
    before = _status("VmRSS")
    result = call()
    peak = _status("VmHWM")
    del result
    return peak - before


def _settle() -> None:
    """Wait until nothing has been freed for a tenth of a second, for a second at the most."""
    gc.collect()
    lowest, quiet = _status("VmRSS"), 0
    for _ in range(50):
        time.sleep(0.02)
        now = _status("VmRSS")
        quiet = 0 if now < lowest else quiet + 1
        lowest = min(lowest, now)
        if quiet == 5:
            return


def _highest(call: Callable[[], Any]) -> int:
    """The process's high-water mark after a call."""
    result = call()
    if _STATUS.exists():
        peak = _status("VmHWM")
    else:  # in bytes, on macOS
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    del result
    return peak


def _can_reset() -> bool:
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def _status(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {name}")
