"""How well `xent accuracy` spreads over processes: wall-clock seconds with one job and with several, in turns.

    python -m benchmarks.jobs [--jobs 2] [--rounds 3] [-- --quick --seed 1 …]

What follows ``--`` goes to ``xent accuracy`` (``--quick`` if nothing does). Every run begins with an empty cache, and
all write the same run file, to the byte: their digests are compared. The efficiency is t₁ / (jobs · t_jobs), of
medians; it says something on a machine that nobody else uses, and the load before the first run is printed for that.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["efficiency", "main", "timed"]

_XENT = "import sys; from harness.cli import main; sys.exit(main())"


def timed(jobs: int, given: Sequence[str]) -> tuple[float, str]:
    """Seconds for a run of ``xent accuracy`` with so many jobs, and the digest of its run file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.json"
        command = [sys.executable, "-c", _XENT, "accuracy", *given, "--jobs", str(jobs), "--json", str(file)]
        environment = {**os.environ, "XENT_CACHE": str(Path(folder) / "cache"), "SOURCE_DATE_EPOCH": "0"}
        start = time.monotonic()
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        seconds = time.monotonic() - start
        if not file.exists():
            raise SystemExit(f"xent accuracy exits with {done.returncode} and writes no run: {done.stderr.strip()}")
        return seconds, hashlib.sha256(file.read_bytes()).hexdigest()


def efficiency(alone: Sequence[float], together: Sequence[float], jobs: int) -> float:
    """The share of the processes' time that was of use: 1 where so many jobs take so many times less."""
    return statistics.median(alone) / (jobs * statistics.median(together))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print each run's seconds, the efficiency, and whether all runs are the same."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jobs", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="of one job and of several in turn (3)")
    parser.add_argument("given", nargs="*", help="for xent accuracy, after --")
    options = parser.parse_args(arguments)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    _say(f"{os.cpu_count()} cores{load}; xent accuracy {' '.join(options.given or ['--quick'])}")
    times: dict[int, list[float]] = {1: [], options.jobs: []}
    digests = set()
    for _ in range(options.rounds):
        for jobs, past in times.items():
            seconds, digest = timed(jobs, options.given or ["--quick"])
            past.append(seconds)
            digests.add(digest)
            _say(f"  {jobs} {'job' if jobs == 1 else 'jobs'}: {seconds:6.1f} s, run {digest[:16]}")
    _say(f"efficiency {efficiency(times[1], times[options.jobs], options.jobs):.2f} of {options.jobs} jobs")
    if len(digests) > 1:
        _say("the runs differ")
        return 1
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
