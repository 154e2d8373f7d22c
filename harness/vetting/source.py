"""The candidate as a file: where it is, and which framework it is for, without running any of it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FRAMEWORKS", "CannotJudge", "Source", "read_source"]

FRAMEWORKS = ("numpy", "torch", "jax")

_SIGNS = {
    "torch": {"torch", "triton", "torchvision", "transformers", "liger_kernel", "cut_cross_entropy"},
    "jax": {"jax", "optax", "flax", "haiku", "equinox"},
}


class CannotJudge(Exception):
    """The candidate cannot be judged (exit status 2): no such file or name, a syntax error, a framework missing."""


@dataclass(frozen=True)
class Source:
    """Where a candidate is.

    Parameters
    ----------
    path : Path
        The Python file.
    name : str
        The function or ``nn.Module`` class in it.
    framework : str
        ``"numpy"``, ``"torch"`` or ``"jax"``.
    """

    path: Path
    name: str
    framework: str

    @property
    def label(self) -> str:
        """As the user spelt it: ``my_kernel.py:my_loss``."""
        return f"{self.path.name}:{self.name}"


def read_source(spec: str, framework: str | None = None) -> Source:
    """Find a candidate given as ``PATH.py:NAME``; the framework is inferred from the file's imports if not given.

    Raises
    ------
    CannotJudge
        For a malformed spec, a missing file, a syntax error, an unknown framework, or imports of both torch and jax.
    """
    where, colon, name = spec.rpartition(":")
    if not colon or not where or not name.isidentifier():
        raise CannotJudge(f"{spec!r} is not PATH.py:NAME, such as my_kernel.py:my_loss")
    path = Path(where)
    try:
        text = path.read_bytes()
    except IsADirectoryError:
        raise CannotJudge(f"{path} is a folder: name the Python file in it") from None
    except OSError as error:
        raise CannotJudge(f"cannot read {path}: {error.strerror or error}") from None
    try:
        tree = ast.parse(text, filename=str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise CannotJudge(f"{path}{line}: not valid Python: {getattr(error, 'msg', error)}") from None
    if framework is not None and framework not in FRAMEWORKS:
        raise CannotJudge(f"unknown framework {framework!r}: choose from {', '.join(FRAMEWORKS)}")
    return Source(path.resolve(), name, framework or _infer(path, tree))


def _infer(path: Path, tree: ast.Module) -> str:
    imported = _imported(tree)
    found = [framework for framework, packages in _SIGNS.items() if imported & packages]
    if len(found) > 1:
        raise CannotJudge(f"{path} imports both torch and jax: say which with --framework")
    return found[0] if found else "numpy"


def _imported(tree: ast.Module) -> set[str]:
    """The top-level packages that a file imports, anywhere in it."""
    packages = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            packages |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            packages.add(node.module.partition(".")[0])
    return packages
