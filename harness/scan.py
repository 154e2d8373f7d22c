"""Declarations read out of source, without running it: what a module would declare if its framework were there."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

__all__ = ["Declared", "installing", "locate", "requirements", "scan"]

_DECORATOR = "implementation"


@dataclass(frozen=True)
class Declared:
    """A function that is declared as an implementation, as far as its source tells.

    `framework` and `loss` are ``""`` where they are not literals (or names of constants of the module).
    """

    name: str
    framework: str
    loss: str
    requires: Mapping[str, str] = field(default_factory=dict)


def scan(path: Path) -> list[Declared]:
    """The implementations that a file declares, in the order of its source.

    Raises
    ------
    OSError, SyntaxError, ValueError
        For a file that cannot be read, or is not Python.
    """
    tree = ast.parse(path.read_bytes(), filename=str(path))
    constants = dict(_constants(tree))
    names = set(_decorator_names(tree))
    found = []
    for function in _functions(tree.body):
        for decorator in function.decorator_list:
            if isinstance(decorator, ast.Call) and _is_named(decorator.func, names):
                found.append(_declared(function.name, decorator, constants))
    return found


def locate(module: str) -> ModuleSpec | None:
    """Where a module is, or None where there is none; unlike ``importlib.util.find_spec``, this imports no parent.

    Only the locations in the spec are of use: its name may lack the parents.
    """
    root, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(root)
    except ValueError:  # an entry of sys.modules without a spec
        return None
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        # By its last part alone: for the full name of a folder without __init__.py, the parent would have to be there.
        spec = PathFinder.find_spec(part, list(spec.submodule_search_locations))
    return spec


def requirements(source: str) -> dict[str, str]:
    """Top-level module → pip requirement, from every declaration in a source (``module:NAME`` or ``file:PATH``)."""
    kind, _, where = source.partition(":")
    spec = locate(where) if kind == "module" else None
    path = where if kind == "file" else spec.origin if spec else None
    if not path:
        return {}
    try:
        declared = scan(Path(path))
    except (OSError, SyntaxError, ValueError):
        return {}
    return {module.partition(".")[0]: pip for entry in declared for module, pip in entry.requires.items()}


def installing(requirement: str) -> str:
    """The command that installs a requirement of a declaration, which may be one already: not all are plain."""
    return requirement if "pip install " in requirement else f"pip install '{requirement}'"


def _declared(name: str, decorator: ast.Call, constants: Mapping[str, Any]) -> Declared:
    values = {keyword.arg: _value(keyword.value, constants) for keyword in decorator.keywords}
    framework, loss, requires = (values.get(key) for key in ("framework", "loss", "requires"))
    return Declared(
        name,
        framework if isinstance(framework, str) else "",
        loss if isinstance(loss, str) else "",
        {str(k): str(v) for k, v in requires.items()} if isinstance(requires, dict) else {},
    )


def _value(node: ast.expr, constants: Mapping[str, Any]) -> Any:
    """The value of a literal, or of the name of a constant; None for anything else."""
    if isinstance(node, ast.Name):
        return constants.get(node.id)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _constants(tree: ast.Module) -> Iterator[tuple[str, Any]]:
    """Names that the module assigns a literal to."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            value = _value(node.value, {})
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    yield target.id, value


def _decorator_names(tree: ast.Module) -> Iterator[str]:
    """What the decorator is called in this module: its own name, or the one it is imported as."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "harness":
            yield from (alias.asname or alias.name for alias in node.names if alias.name == _DECORATOR)


def _is_named(node: ast.expr, names: set[str]) -> bool:
    if isinstance(node, ast.Attribute):  # harness.declaration.implementation(…)
        return node.attr == _DECORATOR
    return isinstance(node, ast.Name) and node.id in names


def _functions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef]:
    """The functions that a module defines at its top level, those under ``if``, ``try`` and ``with`` included."""
    for node in body:
        if isinstance(node, ast.FunctionDef):
            yield node
        elif not isinstance(node, ast.ClassDef | ast.AsyncFunctionDef):
            for block in ("body", "orelse", "finalbody"):
                yield from _functions(getattr(node, block, []))
            for handler in getattr(node, "handlers", []):
                yield from _functions(handler.body)
