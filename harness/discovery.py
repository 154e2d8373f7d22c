"""Discovery: which implementations there are, and which of them can run here.

Built-in ones are the modules of the package ``implementations``; others come from installed packages through the
entry-point group ``cross_entropy_harness.implementations``, each entry naming a module. Their source is read without
being run, so that an implementation whose framework is missing is still listed, with the reason and the command that
installs it. Only workers import them; one broken module hides nothing but itself.
"""

from __future__ import annotations

import difflib
import importlib.metadata
from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from harness.bridges import installed, unavailable
from harness.declaration import Declaration
from harness.messages import describe_exception
from harness.scan import Declared, installing, locate, scan
from harness.worker import Workers

__all__ = ["ENTRY_POINTS", "PACKAGE", "DiscoveryError", "Found", "discover"]

PACKAGE = "implementations"
ENTRY_POINTS = "cross_entropy_harness.implementations"


class DiscoveryError(ValueError):
    """A set of implementations that cannot be used: a name taken twice, or one that does not exist."""


@dataclass(frozen=True)
class Found:
    """An implementation that exists, whether or not it can run here.

    Parameters
    ----------
    name : str
        Its name; for a module that cannot be read at all, the module's.
    framework, loss : str
        As declared; ``""`` where the source does not tell.
    module : str
        The module that declares it.
    declaration : Declaration or None
        The full declaration, where the module could be imported.
    reason : str
        Why it cannot run, with the command that mends it; ``""`` exactly where it can.
    """

    name: str
    framework: str
    loss: str
    module: str
    declaration: Declaration | None = None
    reason: str = ""

    @property
    def available(self) -> bool:
        """Whether it can run here."""
        return not self.reason


def discover(
    names: Sequence[str] | None = None,
    *,
    workers: Workers | None = None,
    package: str = PACKAGE,
    frameworks: Container[str] | None = None,
) -> list[Found]:
    """Find the implementations, sorted by name, with their declarations.

    Parameters
    ----------
    names : sequence of str, optional
        Only these: names or ``fnmatch`` patterns (``"torch_*"``). A framework that none of them needs is not started.
    workers : Workers, optional
        Where to import them, and where they can be called from then on; by default, workers that end with the search.
    package : str
        The package that holds the built-in ones.
    frameworks : container of str, optional
        Only those of these frameworks; the others are not started.

    Raises
    ------
    DiscoveryError
        For a name that two implementations share, or one in `names` that matches none.
    """
    known = _scanned(package)
    _refuse_duplicates(known)
    if names is not None:
        known = _chosen(known, names)
    if frameworks is not None:
        known = [found for found in known if found.framework in frameworks]
    with ExitStack() as stack:
        pool = workers or stack.enter_context(Workers())
        for framework in sorted({found.framework for found in known if found.available}):
            known = _described(known, framework, pool)
    _refuse_duplicates(known)
    return sorted(known, key=lambda found: found.name)


def _scanned(package: str) -> list[Found]:
    """What the sources declare, with what can be known of its availability without running anything."""
    known = []
    for module in dict.fromkeys([*_builtin(package), *_plugins()]):
        try:
            spec = locate(module)
            if spec is None or not spec.origin:
                raise ModuleNotFoundError(f"No module named {module!r}")
            declared = scan(Path(spec.origin))
        except (OSError, SyntaxError, ValueError, ImportError) as error:
            known.append(Found(module, "", "", module, reason=describe_exception(error)))
            continue
        known += [Found(d.name, d.framework, d.loss, module, reason=_obstacle(d)) for d in declared]
    return known


def _builtin(package: str) -> list[str]:
    """The modules of a package, sorted, less those whose name begins with an underscore."""
    spec = locate(package)
    folders = spec.submodule_search_locations or [] if spec else []
    files = [file for folder in folders for file in Path(folder).glob("*.py")]
    return sorted(f"{package}.{file.stem}" for file in files if not file.name.startswith("_"))


def _plugins() -> Iterator[str]:
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        yield entry.module


def _obstacle(declared: Declared) -> str:
    """Why an implementation cannot run, as far as that can be said without importing it; ``""`` if nothing is seen."""
    if not declared.framework:
        return "its framework cannot be read from the source: write framework= as a literal"
    reason = unavailable(declared.framework)
    if reason:
        return reason
    for module, requirement in declared.requires.items():
        if not installed(module):
            return f"{module} is not installed: {installing(requirement)}"
    return ""


def _described(known: list[Found], framework: str, workers: Workers) -> list[Found]:
    """The same, with the declarations of one framework's available implementations filled in by its worker."""
    wanted = [found for found in known if found.framework == framework and found.available]
    result = [found for found in known if found not in wanted]
    worker = workers[framework]
    for module in dict.fromkeys(found.module for found in wanted):
        declarations, reasons = worker.describe([module])
        declared = {declaration.name: declaration for declaration in declarations}
        for found in wanted:
            if found.module == module:
                declaration = declared.get(found.name)
                reason = "" if declaration else reasons.get(module, "its source declares it, but importing it does not")
                loss = declaration.loss if declaration else found.loss
                result.append(replace(found, declaration=declaration, loss=loss, reason=reason))
    return result


def _refuse_duplicates(known: list[Found]) -> None:
    seen: dict[str, Found] = {}
    for found in known:
        other = seen.setdefault(found.name, found)
        if other is not found:
            where = (
                f"both in {found.module}" if other.module == found.module else f"in {other.module} and {found.module}"
            )
            raise DiscoveryError(f"two implementations are called {found.name!r}, {where}: rename one")


def _chosen(known: list[Found], names: Sequence[str]) -> list[Found]:
    for pattern in names:
        if not any(fnmatchcase(found.name, pattern) for found in known):
            raise DiscoveryError(_unknown(pattern, known))
    return [found for found in known if any(fnmatchcase(found.name, pattern) for pattern in names)]


def _unknown(name: str, known: list[Found]) -> str:
    close = difflib.get_close_matches(name, [found.name for found in known])
    broken = [f"{found.module} ({found.reason})" for found in known if found.name == found.module]
    text = f"no implementation is called {name!r}"
    text += f": did you mean {' or '.join(close)}?" if close else ": `xent list` shows those there are"
    return text + (f"; not readable: {', '.join(broken)}" if broken else "")
