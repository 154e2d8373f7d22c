"""The candidate as a file: where it is, and which framework it is for, without running any of it."""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FRAMEWORKS", "CannotJudge", "Source", "read_source"]

FRAMEWORKS = ("numpy", "torch", "jax")

_SIGNS = {
    "torch": {
        "torch",
        "triton",
        "torchvision",
        "transformers",
        "liger_kernel",
        "cut_cross_entropy",
        "flash_attn",
        "fla",
        "quack",
        "megatron",
        "unsloth",
    },
    "jax": {"jax", "jaxlib", "optax", "flax", "haiku", "equinox", "tokamax"},
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
    module : str
        The dotted name to import it by, for a file that belongs to a package and imports its neighbours relatively;
        ``""`` for a file that stands for itself.
    folder : Path or None
        What must be on the import path for that; the file's own folder where None.
    gradient : str
        Name of a NumPy candidate's gradient function; ``""`` where there is none.
    importable : bool
        Whether another process can import it: a closure it cannot.
    """

    path: Path
    name: str
    framework: str
    module: str = ""
    folder: Path | None = None
    gradient: str = ""
    importable: bool = True

    @property
    def label(self) -> str:
        """As the user spelt it: ``my_kernel.py:my_loss``."""
        return f"{self.path.name}:{self.name}"

    @property
    def import_folder(self) -> Path:
        """What goes on the import path before the file is imported."""
        return self.folder or self.path.parent


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
    if framework is not None and framework not in FRAMEWORKS:
        raise CannotJudge(f"unknown framework {framework!r}: choose from {', '.join(FRAMEWORKS)}")
    tree = _parse(path)
    inferred = framework or _infer(path, tree)
    module, folder = _package(path.resolve()) if _is_relative(tree) else ("", None)
    return Source(path.resolve(), name, inferred, module, folder)


def _parse(path: Path) -> ast.Module:
    try:
        if path.is_dir():
            raise CannotJudge(f"{path} is a folder: name the Python file in it")
        if path.exists() and not path.is_file():  # a pipe or a device: reading it may never end
            raise CannotJudge(f"{path} is not a regular file: name a Python file")
        text = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise CannotJudge(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the compiler thinks of the file's escapes is no matter of ours
            return ast.parse(text, filename=str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise CannotJudge(f"{path}{line}: not valid Python: {getattr(error, 'msg', error)}") from None


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


def _is_relative(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))


def _package(path: Path) -> tuple[str, Path | None]:
    """The dotted name of a file in a package, and the folder that the package is in; ``""`` and None outside of one."""
    parts, folder = [path.stem], path.parent
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        parts.insert(0, folder.name)
        folder = folder.parent
    return (".".join(parts), folder) if len(parts) > 1 else ("", None)
