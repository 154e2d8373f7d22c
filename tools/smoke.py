"""Try an installed `xent` with one framework, from an empty folder: what a stranger does first, with its exit status.

For a wheel whose sources are gone: nothing of a checkout is looked at, and one on the import path is a fault. Standard
library only, beside the package itself.

    python tools/smoke.py numpy|torch|jax
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

IMPLEMENTATION = {"numpy": "numpy_log1p", "torch": "torch_cross_entropy", "jax": "jax_log_softmax"}
GRADIENT = """
def gradient(logits, target, upstream):
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(target)), target] -= 1
    return p * upstream[:, None]
"""
CANDIDATE = {
    "numpy": "import numpy as np\n\n\ndef right(logits, target):\n"
    "    z = logits - logits.max(axis=1, keepdims=True)\n"
    "    return np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(target)), target]\n\n\n"
    "def wrong(logits, target):\n"
    "    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)\n"
    "    return -np.log(p[np.arange(len(target)), target])\n" + GRADIENT,
    "torch": "import torch\n\n\ndef right(logits, target, reduction='mean'):\n"
    "    return torch.nn.functional.cross_entropy(logits, target, reduction=reduction)\n\n\n"
    "def wrong(logits, target):\n"
    "    return -torch.log(torch.softmax(logits, 1)).gather(1, target[:, None])[:, 0]\n",
    "jax": "import jax\nimport jax.numpy as jnp\n\n\ndef right(logits, target):\n"
    "    return -jnp.take_along_axis(jax.nn.log_softmax(logits), target[:, None], axis=1)[:, 0]\n\n\n"
    "def wrong(logits, target):\n"
    "    return -jnp.log(jnp.take_along_axis(jax.nn.softmax(logits), target[:, None], axis=1))[:, 0]\n",
}


def steps(framework: str) -> list[tuple[list[str], int]]:
    """The commands and the exit status that each must have."""
    name = IMPLEMENTATION[framework]
    small = ["--only", name, "--dtype", "float32", "--family", "ties", "--family", "confident", "--jobs", "1"]
    vet = ["--dtype", "float32", "--quick", *(["--gradient", "gradient"] if framework == "numpy" else [])]
    return [
        (["--version"], 0),
        (["list", "--json", "list.json"], 0),
        (["accuracy", *small, "--json", "run.json"], 0),
        (["report", "run.json", "-o", "report.html"], 0),
        (["compare", "run.json", "run.json", "--json", "comparison.json"], 0),
        (["nightly", "history", *small, "--no-speed"], 0),
        (["nightly", "history", *small, "--no-speed"], 0),
        (["vet", "candidate.py:right", *vet], 0),
        (["vet", "candidate.py:wrong", *vet], 1),
        (["accuracy", "--only", "no_such_implementation"], 2),
        (["nightly", "history", *small[:2], "--family", "soft_target_rows_nowhere"], 2),
    ]


def faults(framework: str, folder: Path) -> list[str]:
    """What went wrong, a line each."""
    found = []
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    xent = str(Path(sysconfig.get_path("scripts")) / "xent")
    where = [sys.executable, "-P", "-c", "import harness; print(harness.__file__)"]
    place = subprocess.run(where, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout
    if not Path(place.strip()).is_relative_to(sysconfig.get_path("purelib")):
        found.append(f"harness is {place.strip()}, which is not an installed one")
    (folder / "candidate.py").write_text(CANDIDATE[framework])
    for arguments, expected in steps(framework):
        done = subprocess.run(
            [xent, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        told = f"xent {' '.join(arguments)}: exit status {done.returncode}"
        print(told, flush=True)
        if done.returncode != expected:
            found.append(f"{told}, not {expected}: {done.stderr.strip()[-2000:]}")
    return found + _listed(framework, folder / "list.json")


def _listed(framework: str, path: Path) -> list[str]:
    """Whether the framework's implementation is available, and what is not says how to get it."""
    if not path.is_file():
        return ["list.json was not written"]
    entries = {entry["name"]: entry for entry in json.loads(path.read_text())["implementations"]}
    found = []
    if not entries[IMPLEMENTATION[framework]]["available"]:
        found.append(f"{IMPLEMENTATION[framework]} is not available: {entries[IMPLEMENTATION[framework]]['reason']}")
    silent = [
        name for name, entry in entries.items() if not entry["available"] and "pip install" not in entry["reason"]
    ]
    return found + [f"{name} is not available, and does not say how to get it" for name in silent]


def main(arguments: list[str]) -> int:
    """Try everything; 0 where all is as it should be."""
    if len(arguments) != 1 or arguments[0] not in IMPLEMENTATION:
        print("usage: smoke.py numpy|torch|jax", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        found = faults(arguments[0], Path(folder))
    print("\n".join([*found, f"smoke: {arguments[0]}: {len(found)} faults"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
