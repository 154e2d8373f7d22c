"""The asv suite: what it times is what it says, and asv finds it."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import losses

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("classes", losses.Forward.params[1])
@pytest.mark.parametrize("name", losses.Forward.params[0])
def test_what_is_timed_is_a_cross_entropy(name: str, classes: int) -> None:
    call = losses.prepared(name, classes)
    assert float(call()) == pytest.approx(math.log(classes) + 0.5, abs=0.75)
    assert losses.prepared(name, classes) is call


def test_what_is_missing_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        available, reason = False, "torch is not installed: pip install torch"

    monkeypatch.setattr(losses, "discover", lambda names: [Missing])
    with pytest.raises(NotImplementedError, match="pip install torch"):
        losses.prepared("torch_something_else", 1000)


def test_asv_accepts_the_suite(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "PATH": str(Path(sys.executable).parent) + ":/usr/bin:/bin"}
    command = [sys.executable, "-m", "asv", "check", f"--environment=existing:{sys.executable}"]
    done = subprocess.run(command, cwd=ROOT, env=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No problems found" in done.stdout
