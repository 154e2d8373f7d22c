"""Run the asv benchmarks on several commits in this environment: no environment is built, so it takes minutes.

    python tools/bench_commits.py HEAD~2..HEAD [-- further arguments of `asv run`]

``asv run`` by itself builds an environment for a range of commits and refuses ``existing`` there, since it could not
know which code it runs. Here each commit is checked out beside, with today's benchmarks in it, and is told to asv by
its hash: a commit's code with today's dependencies. Results are where ``asv publish`` looks for them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# glibc gives freed memory back, or keeps it, by thresholds that it moves as it goes: fixed, as in `make bench`.
STEADY = {
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TOP_PAD_": "67108864",
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "PJRT_NPROC"), "1"),
}


def commits(range_: str) -> list[str]:
    """Hashes of a range, oldest first; of a single commit, that one."""
    command = ["git", "rev-list", "--reverse", *([] if ".." in range_ else ["-1"]), range_]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{range_!r} is no range of commits here: {done.stderr.strip()}")
    return done.stdout.split()


def configuration(folder: Path) -> dict[str, object]:
    """What asv is told for one checkout: this repository's history and results, that folder's code."""
    return {
        "version": 1,
        "project": "cross-entropy-harness",
        "repo": str(ROOT),
        "branches": ["main"],
        "environment_type": "existing",
        "benchmark_dir": str(folder / "benchmarks"),
        **{name: str(ROOT / ".asv" / name.removesuffix("_dir")) for name in ("env_dir", "results_dir", "html_dir")},
    }


def run(commit: str, arguments: Sequence[str]) -> int:
    """Benchmark one commit; the exit status of asv."""
    with tempfile.TemporaryDirectory(prefix="xent-bench-") as temporary:
        folder = Path(temporary) / "code"
        git = ["git", "-C", str(ROOT)]
        subprocess.run([*git, "worktree", "add", "--detach", "--quiet", str(folder), commit], check=True)
        try:
            shutil.rmtree(folder / "benchmarks", ignore_errors=True)
            shutil.copytree(ROOT / "benchmarks", folder / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
            config = Path(temporary) / "asv.conf.json"
            config.write_text(json.dumps(configuration(folder)))
            asv = [sys.executable, "-m", "asv", "--config", str(config), "run", "--show-stderr"]
            where = ["--environment", f"existing:{sys.executable}", "--set-commit-hash", commit]
            return subprocess.run([*asv, *where, *arguments], cwd=folder, env={**os.environ, **STEADY}).returncode
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", str(folder)], check=False)


def main() -> int:
    """Benchmark a range; 0, or the worst exit status of asv: 2 where a benchmark failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("range", help="commits, such as HEAD~2..HEAD")
    parser.add_argument("arguments", nargs="*", help="further arguments of `asv run`, after --")
    options = parser.parse_args()
    return max((run(commit, options.arguments) for commit in commits(options.range)), default=2)


if __name__ == "__main__":
    sys.exit(main())
