"""The candidate in a plain script: a process that imports nothing of the harness and looks like anybody's."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.messages import one_line
from harness.process import THREAD_VARIABLES
from harness.vetting.examiner import Examiner

__all__ = ["run_plainly"]

TIMEOUT = 120.0

_SCRIPT = """
import importlib.util, sys
import numpy as np
folder, name, framework, reduction = {arguments!r}
data = np.load("inputs.npz")
spec = importlib.util.spec_from_file_location({stem!r}, {path!r})
module = importlib.util.module_from_spec(spec)
sys.path.insert(0, folder)
sys.modules[{stem!r}] = module
spec.loader.exec_module(module)
candidate = getattr(module, name)
options = {{"reduction": reduction}} if reduction else {{}}
logits, target, dtype = data["logits"], data["target"], str(data["dtype"])
if framework == "torch":
    import torch
    convert = lambda a: torch.from_numpy(a) if a.dtype == np.int64 else torch.from_numpy(a).to(getattr(torch, dtype))
elif framework == "jax":
    import jax
    jax.config.update("jax_enable_x64", True)
    convert = lambda a: jax.numpy.asarray(a) if a.dtype == np.int64 else jax.numpy.asarray(a, dtype=dtype)
else:
    convert = lambda a: a if a.dtype == np.int64 else a.astype(dtype)
if isinstance(candidate, type):
    loss = candidate(**options)(convert(logits), convert(target))
else:
    loss = candidate(convert(logits), convert(target), **options)
if framework == "torch":
    loss = loss.detach().to(torch.float64).numpy()
np.save("loss.npy", np.asarray(loss, dtype=np.float64))
"""


def run_plainly(examiner: Examiner, batch: Batch) -> tuple[np.ndarray[Any, Any] | None, str]:
    """The loss [N] (or a scalar) as float64, computed by a plain script; or None and one line on why not."""
    source = examiner.session.source
    reduction = "none" if examiner.claims.reduction else ""
    target = batch.target if batch.target.ndim == 1 else batch.target.astype(np.float64)
    script = _SCRIPT.format(
        arguments=(str(source.path.parent), source.name, source.framework, reduction),
        stem=source.path.stem,
        path=str(source.path),
    )
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "inputs.npz", logits=batch.logits.astype(np.float64), target=target, dtype=batch.dtype)
        (folder / "train.py").write_text(script)
        try:
            done = subprocess.run(
                [sys.executable, "train.py"],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            return None, f"it did not end within {TIMEOUT:g} s"
        try:
            loss: np.ndarray[Any, Any] = np.load(folder / "loss.npy", allow_pickle=False)
        except (OSError, ValueError):
            last = done.stderr.decode(errors="replace").strip().splitlines()
            return None, one_line(last[-1] if last else f"exit status {done.returncode}")
    return loss, ""
