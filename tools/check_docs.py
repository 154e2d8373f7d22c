"""Check what is written: docstrings of the public names, and links between the documents.

A *public name* is one in a module's ``__all__`` (without one, a name that the module defines and that has no leading
underscore), in a module whose own name has no leading underscore, and each public method of a public class. Every one
has a docstring, which is well-formed and true of the signature by the checks of numpydoc below; a summary alone is
enough. A link in a Markdown file leads to a file of the repository and, where it names one, to a heading in it.

    python tools/check_docs.py
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

from numpydoc.validate import validate

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("harness", "reports")
CHECKS = {
    "GL03",  # no double blank lines
    "GL06",  # known sections
    "GL07",  # in the usual order
    "GL08",  # there is a docstring
    "PR02",  # no unknown parameter
    "PR03",  # parameters in the signature's order
    "PR07",  # parameters have descriptions
    "PR10",  # "name : type"
    "RT03",  # the return value has a description
    "SS01",  # there is a summary
}
# [text](target), ![alt](target) and [label]: target; code spans and fenced blocks are taken out before.
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)|^\s*\[[^\]]+\]:\s+<?(\S+?)>?\s*$", re.MULTILINE)
CODE = re.compile(r"^(`{3,}|~{3,}).*?^\1|(`+).+?\2", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)


def modules(package: str) -> Iterator[ModuleType]:
    """The package and its public modules."""
    top = importlib.import_module(package)
    yield top
    for found in pkgutil.walk_packages(top.__path__, f"{package}."):
        if not any(part.startswith("_") for part in found.name.split(".")):
            yield importlib.import_module(found.name)


def public_names(module: ModuleType) -> Iterator[str]:
    """Dotted names of the module's public classes, functions and methods, those it defines itself."""
    names = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
    for name in names:
        found = getattr(module, name)
        is_class = inspect.isclass(found)
        if not (is_class or inspect.isfunction(found)) or found.__module__ != module.__name__:
            continue
        yield f"{module.__name__}.{name}"
        if is_class:
            for member, value in vars(found).items():
                if not member.startswith("_") and isinstance(value, _MEMBERS):
                    yield f"{module.__name__}.{name}.{member}"


_MEMBERS = (type(public_names), property, classmethod, staticmethod)


def docstring_faults(name: str) -> list[str]:
    """What is wrong with one docstring, a line for each fault, with its file and line."""
    with warnings.catch_warnings(action="ignore"):  # what numpydoc warns of (unknown sections) is among its errors too
        try:
            found = validate(name)
        except OSError:  # made by a decorator (a Hypothesis composite, say) that leaves no source to validate
            return []
    where = f"{Path(found['file'] or '').name}:{found['file_line']}"
    faults = [f"{where}: {name}: {code} {text}" for code, text in found["errors"] if code in CHECKS]
    return sorted(faults)


def documents(root: Path) -> list[Path]:
    """The repository's Markdown files, those not yet committed too."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()
    return [root / name for name in sorted(set(listed)) if (root / name).is_file()]


def anchors(text: str) -> set[str]:
    """The anchors of a Markdown text's headings, as code hosts make them: lower case, hyphens, no punctuation."""
    made: set[str] = set()
    for heading in HEADING.findall(re.sub(r"^(`{3,}).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        made.add(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    return made


def link_faults(document: Path, root: Path) -> list[str]:
    """The links of one document that lead nowhere; links out of the repository are not followed."""
    faults = []
    text = CODE.sub("", document.read_text())
    for groups in LINK.findall(text):
        target = next(filter(None, groups))
        if re.match(r"[a-z][a-z+.-]*:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        found = (document.parent / path).resolve() if path else document
        if not found.is_relative_to(root.resolve()) or not found.exists():
            faults.append(f"{document.relative_to(root)}: {target}: no such file in the repository")
        elif anchor and found.suffix == ".md" and anchor not in anchors(found.read_text()):
            faults.append(f"{document.relative_to(root)}: {target}: no such heading")
    return faults


def main() -> int:
    """Print every fault; 1 where there is one."""
    sys.path.insert(0, str(ROOT))
    names = sorted({name for package in PACKAGES for module in modules(package) for name in public_names(module)})
    texts = documents(ROOT)
    faults = [fault for name in names for fault in docstring_faults(name)]
    faults += [fault for text in texts for fault in link_faults(text, ROOT)]
    print("\n".join([*faults, f"docs: {len(names)} public names and {len(texts)} documents, {len(faults)} faults"]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
