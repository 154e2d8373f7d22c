"""Bytes at the height of one call, forward + backward, on the CPU: above a process that does all but the call.

asv's own ``peakmem_`` counts imports and inputs in. So each figure is the difference of two fresh processes, one of
which calls the implementation on the whole batch; both call it on two rows first, so that what a first call loads is
in both.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from benchmarks.calls import IMPLEMENTATIONS, prepared

SHAPE, FEW = "64x131072", "2x131072"


class Memory:
    """Bytes; the logits are 33,554,432."""

    params = IMPLEMENTATIONS
    param_names = ("implementation",)
    version = "1"
    timeout = 300.0
    unit = "bytes"

    def setup(self, name: str) -> None:
        prepared(name, FEW, "forward+backward")

    def track_peak(self, name: str) -> int:
        return max(0, highest(name, SHAPE) - highest(name, FEW))

    def peakmem_forward_backward(self, name: str) -> None:
        prepared(name, SHAPE, "forward+backward")()


def highest(name: str, shape: str) -> int:
    """The high-water mark, in bytes, of a fresh process that makes the large batch and calls on one of a shape.

    Raises
    ------
    RuntimeError
        Where that process fails.
    """
    command = [sys.executable, "-m", "benchmarks.memory", name, shape]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} on {shape}: {done.stderr.strip()[-400:]}")
    return int(done.stdout)


def main(name: str, shape: str) -> None:
    """Print the high-water mark after one call."""
    prepared(name, FEW, "forward+backward")()
    if shape != FEW:
        prepared(name, shape, "forward+backward")
    sys.stdout.write(f"{high_water()}\n")


def high_water() -> int:
    """The most bytes that this process has had in memory; ``ru_maxrss`` has the parent's in it, on Linux."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if "VmHWM" in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main(*sys.argv[1:])
