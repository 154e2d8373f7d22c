"""The candidate in a plain script: a process that imports nothing of the harness and looks like anybody's."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.bridges import triton_interpreter
from harness.process import THREAD_VARIABLES
from harness.vetting.examiner import Examiner
from harness.vetting.replies import inert
from harness.vetting.watch import Watch, new_mark

__all__ = ["run_plainly"]

TIMEOUT = 60.0
"""Seconds for a framework to be imported, on top of those for a call."""
_TAIL = 4096
_LARGEST = 1 << 20

_LOAD_FILE = """
spec = importlib.util.spec_from_file_location({stem!r}, {path!r})
module = importlib.util.module_from_spec(spec)
sys.modules[{stem!r}] = module
spec.loader.exec_module(module)
"""
_LOAD_MODULE = """
module = importlib.import_module({module!r})
"""
_SCRIPT = """
import importlib, importlib.util, sys
import numpy as np
folder, name, framework, reduction = {arguments!r}
data = np.load("inputs.npz")
sys.path.insert(0, folder)
{load}
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
    load = _LOAD_MODULE if source.module else _LOAD_FILE
    script = _SCRIPT.format(
        arguments=(str(source.import_folder), source.name, source.framework, reduction),
        load=load.format(stem=source.path.stem, path=str(source.path), module=source.module),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "inputs.npz", logits=batch.logits.astype(np.float64), target=target, dtype=batch.dtype)
        variables = examiner.session.variables
        if variables:  # the interpreter as it is mended in there, too: a file that needs nothing else of the harness
            (folder / "prepare.py").write_bytes(Path(triton_interpreter.__file__).read_bytes())
            script = "import prepare; prepare.mend()\n" + script
        (folder / "train.py").write_text(script)
        detail = _run(folder, examiner.session.timeout + TIMEOUT, variables)
        if detail:
            return None, detail
        loss = _read(folder / "loss.npy")
    return (None, "it ends without a loss") if loss is None else (loss, "")


def _read(path: Path) -> np.ndarray[Any, Any] | None:
    """An array from a file that need not be what it should be; None where it is not."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:  # reading a pipe would not end
            return None
        loss = np.load(path, allow_pickle=False)
    except Exception:  # whatever NumPy makes of a header that lies
        return None
    return loss if isinstance(loss, np.ndarray) else None


def _run(folder: Path, timeout: float, variables: Mapping[str, str]) -> str:
    """Run the script in its folder, watched; one line on what went wrong, or ``""``."""
    mark = new_mark()
    with (folder / "errors.txt").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "train.py"],
            cwd=folder,
            env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1"), **variables, **mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    watch = Watch(process.pid, mark)
    try:
        status = process.wait(timeout)
    except subprocess.TimeoutExpired:
        return f"it did not end within {timeout:g} s"
    finally:
        watch.end(process.kill)
        process.wait()
    if watch.verdict or status == 0:
        return watch.verdict
    with (folder / "errors.txt").open("rb") as errors:  # as long as it pleased the candidate to make it
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - _TAIL))
        last = errors.read().decode(errors="replace").strip().splitlines()
    return inert(last[-1] if last else f"exit status {status}")
