"""Make the virtual environment that every `make` target runs in, or find that it is already as it should be.

An environment is *current* when its stamp says what `pyproject.toml`, `constraints.txt` and the Python version say. The
stamp is written last, and a marker stands in the folder while pip is at work: an environment whose making was cut short
is never taken for finished, and is made anew. A lock keeps two `make` at once apart; pip holds it too, so that a pip
whose `make` was killed ends before the next begins. Standard library only: it runs before anything is installed.

    python3 tools/make_environment.py .venv
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

OLDEST, NEWEST = (3, 11), (3, 13)
STAMP = ".xent-current"
MARKER = ".xent-unfinished"
ROOT = Path(__file__).resolve().parent.parent


def wanted(root: Path) -> str:
    """What the stamp of a current environment says: Python version, checkout and a digest of what pip is told."""
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text())
    told = [project["build-system"], project["project"], project.get("tool", {}).get("hatch")]
    digest = hashlib.sha256(repr(told).encode() + (root / "constraints.txt").read_bytes()).hexdigest()
    return f"python {sys.version_info[0]}.{sys.version_info[1]}\nroot {root}\ndigest {digest}\n"


def home_of(stamp: str) -> list[str]:
    """The lines of a stamp that pip cannot change: Python version and checkout."""
    return stamp.splitlines()[:2]


def make(folder: Path, root: Path, lock: int) -> None:
    """Make the environment, or bring an existing one up to date; `lock` is the descriptor that holds the lock.

    Raises
    ------
    subprocess.CalledProcessError
        Where venv or pip fails; the folder then keeps its marker.
    """
    stamp, marker = folder / STAMP, folder / MARKER
    found = stamp.read_text() if stamp.is_file() else ""
    want = wanted(root)
    if found == want and not marker.exists() and (folder / "bin" / "python").exists():
        return
    if marker.exists() or (found and home_of(found) != home_of(want)):
        print(f"{folder}: unfinished, or of another Python version or checkout: made anew", flush=True)
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    marker.touch()
    stamp.unlink(missing_ok=True)
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"{folder}: a new environment with Python {'.'.join(map(str, sys.version_info[:3]))}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, pass_fds=[lock])
    print(f"{folder}: pip install -c constraints.txt -e '.[all,dev]' (minutes, the first time)", flush=True)
    options = ["--quiet", "--disable-pip-version-check", "-c", "constraints.txt", "-e", ".[all,dev]"]
    subprocess.run([str(python), "-m", "pip", "install", *options], check=True, cwd=root, pass_fds=[lock])
    stamp.write_text(want)
    marker.unlink()


def main(arguments: list[str]) -> int:
    """Make the environment named by the one argument; the exit status."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        found = f"{sys.executable} is {sys.version_info[0]}.{sys.version_info[1]}"
        return fail(2, f"Python 3.11, 3.12 or 3.13 is needed, but {found}: make PYTHON=python3.12 …")
    if len(arguments) != 1:
        return fail(2, "usage: make_environment.py FOLDER")
    folder = Path(arguments[0]).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{folder}: another make is at work on it: waiting", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            make(folder, ROOT, lock.fileno())
        except subprocess.CalledProcessError as error:
            return fail(1, f"{folder}: not made: {' '.join(map(str, error.cmd))} ended with status {error.returncode}")
        except KeyboardInterrupt:
            return fail(130, f"{folder}: interrupted: the next make begins anew")
    return 0


def fail(status: int, message: str) -> int:
    """Say what went wrong on standard error; the exit status."""
    print(message, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
