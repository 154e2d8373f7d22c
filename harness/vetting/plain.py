"""The candidate in a plain script: a process that imports nothing of the harness and looks like anybody's."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.bridges import triton_interpreter
from harness.process import THREAD_VARIABLES
from harness.vetting.drivers import JaxDriver
from harness.vetting.examiner import Examiner
from harness.vetting.replies import inert
from harness.vetting.watch import Watch, new_mark

__all__ = ["run_plainly"]

TIMEOUT = 60.0
"""Seconds for a framework to be imported, on top of those for a call."""
_THREADS = {**dict.fromkeys(THREAD_VARIABLES, "1"), "PJRT_NPROC": str(JaxDriver.fewest_threads)}
_TAIL = 4096
_LARGEST = 1 << 22

Array = np.ndarray[Any, Any]

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
folder, name, framework, gradient, count, given = {arguments!r}
data = np.load("inputs.npz")
sys.path.insert(0, folder)
{load}
candidate = getattr(module, name)
dtype = str(data["dtype"])
if framework == "torch":
    import torch
    convert = lambda a: torch.from_numpy(a) if a.dtype == np.int64 else torch.from_numpy(a).to(getattr(torch, dtype))
elif framework == "jax":
    import jax
    jax.config.update("jax_enable_x64", True)
    convert = lambda a: jax.numpy.asarray(a) if a.dtype == np.int64 else jax.numpy.asarray(a, dtype=dtype)
else:
    convert = lambda a: a if a.dtype == np.int64 else a.astype(dtype)
def call(logits, target, **options):
    if isinstance(candidate, type):
        return candidate(**options)(logits, target)
    return candidate(logits, target, **options)
results = {{}}
for turn in range(count):
    logits, target = convert(data[f"logits{{turn}}"]), convert(data[f"target{{turn}}"])
    upstream, reduction = convert(data[f"upstream{{turn}}"]), str(data[f"reduction{{turn}}"])
    options = {{**given, "reduction": reduction}} if reduction else given
    grad = None
    if framework == "torch" and gradient:
        logits.requires_grad_()
        loss = call(logits, target, **options)
        grad, = torch.autograd.grad(loss, logits, (upstream if loss.ndim else upstream.reshape(-1)[0]).to(loss.dtype))
    elif framework == "jax" and gradient:
        loss, pull = jax.vjp(lambda z: call(z, target, **options), logits)
        grad, = pull((upstream if loss.ndim else upstream.reshape(-1)[0]).astype(loss.dtype))
    else:
        loss = call(logits, target, **options)
    for what, array in (("loss", loss), ("gradient", grad)):
        if array is not None:
            array = array.detach().to(torch.float64).numpy() if framework == "torch" else array
            results[f"{{what}}{{turn}}"] = np.asarray(array, dtype=np.float64)
np.savez("results.npz", **results)
"""
_OURS = ("XENT_", "PYTEST_", "COV_")
"""Environment variables that begin so belong to the harness, or to what tests it."""


def run_plainly(
    examiner: Examiner, calls: Sequence[tuple[Batch, str]], gradient: bool
) -> tuple[Mapping[str, Array], str]:
    """What a plain script gets that calls the candidate on batches, one after the other.

    Parameters
    ----------
    examiner : Examiner
        Whose candidate it is.
    calls : sequence of (Batch, str)
        The batches, each with the ``reduction`` to ask for; ``""`` for a candidate that takes none.
    gradient : bool
        Whether to differentiate; a NumPy candidate is never asked for more than the loss.

    Returns
    -------
    mapping of str to array
        ``loss0``, ``gradient0``, ``loss1``, … as float64; empty where the script failed.
    str
        One line on why it failed; ``""`` where it did not.
    """
    source = examiner.session.source
    load = _LOAD_MODULE if source.module else _LOAD_FILE
    script = _SCRIPT.format(
        arguments=(
            str(source.import_folder),
            source.name,
            source.framework,
            gradient,
            len(calls),
            examiner.claims.given,
        ),
        load=load.format(stem=source.path.stem, path=str(source.path), module=source.module),
    )
    inputs: dict[str, Any] = {"dtype": calls[0][0].dtype}
    for turn, (batch, reduction) in enumerate(calls):
        target = batch.target if batch.target.ndim == 1 else batch.target.astype(np.float64)
        inputs |= {f"logits{turn}": batch.logits.astype(np.float64), f"target{turn}": target}
        inputs |= {f"upstream{turn}": batch.upstream.astype(np.float64), f"reduction{turn}": reduction}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "inputs.npz", **inputs)
        variables = examiner.session.variables
        if variables:  # the interpreter as it is mended in there, too: a file that needs nothing else of the harness
            (folder / "prepare.py").write_bytes(Path(triton_interpreter.__file__).read_bytes())
            script = "import prepare; prepare.mend()\n" + script
        (folder / "train.py").write_text(script)
        detail = _run(folder, examiner.session.timeout + TIMEOUT, variables)
        if detail:
            return {}, detail
        results = _read(folder / "results.npz")
    return results, "" if f"loss{len(calls) - 1}" in results else "it ends without a loss"


def _read(path: Path) -> Mapping[str, Array]:
    """The arrays of a file that need not be what it should be; none where it is not."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:  # reading a pipe would not end
            return {}
        with zipfile.ZipFile(path) as archive:  # a small file can unpack to more than there is memory
            if sum(entry.file_size for entry in archive.infolist()) > _LARGEST:
                return {}
        with np.load(path, allow_pickle=False) as results:
            return {name: array for name, array in results.items() if isinstance(array, np.ndarray)}
    except Exception:  # whatever NumPy makes of a header that lies
        return {}


def _plain_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}


def _run(folder: Path, timeout: float, variables: Mapping[str, str]) -> str:
    """Run the script in its folder, watched; one line on what went wrong, or ``""``."""
    mark = new_mark()
    with (folder / "errors.txt").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "train.py"],
            cwd=folder,
            env={**_plain_environment(), **_THREADS, **variables, **mark},
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
