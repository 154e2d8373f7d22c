"""Snippets: a row as the source of a family, to be pasted under ``harness/families/``; numbers in hexadecimal."""

from __future__ import annotations

import textwrap

from harness.families.base import BCE
from harness.rows import Row
from harness.witness import hexadecimal

__all__ = ["IMPORTS", "family_snippet"]

IMPORTS = """\
import numpy as np

from harness.families.base import BCE, Draw, family
from harness.formats import Format
"""
"""What a file that snippets are pasted into begins with."""

_LINE = 110


def family_snippet(row: Row, loss: str, dtype: str, *, name: str, breaks: str, source: str, about: str = "") -> str:
    """Python source that registers a family of one row, less its `IMPORTS`.

    Parameters
    ----------
    row : Row
        The row, exact in the dtype.
    loss, dtype : str
        Of the row.
    name : str
        Of the family; also, with what is no letter replaced, of its function.
    breaks, source : str
        See `harness.families.base.Family`.
    about : str
        One line for the function's docstring, such as what came out and what is true.
    """
    losses = ["    losses=(BCE,),"] if loss == BCE else []
    lines = [
        "@family(",
        f"    {_quoted(name)},",
        f"    breaks={_quoted(breaks)},",
        f"    source={_quoted(source)},",
        *losses,
        f"    dtypes=({_quoted(dtype)},),",
        ")",
        f"def {''.join(c if c.isalnum() else '_' for c in name)}(rng: np.random.Generator, form: Format) -> Draw:",
        f'    """{about or "One row."}"""',
        *_numbers("logits", row.logits.tolist()),
    ]
    if row.target is None:
        lines.append(f"    return Draw(logits, np.array([{row.label}]))")
    else:
        lines += [*_numbers("target", row.target.tolist()), "    return Draw(logits, np.array([0]), target)"]
    return "\n".join(lines) + "\n"


def _numbers(name: str, values: list[float]) -> list[str]:
    """A statement that makes a float64 array [1, V], on one line or, with the numbers wrapped, on several."""
    text = " ".join(map(hexadecimal, values))
    short = f"    {name} = np.array([[float.fromhex(x) for x in {_quoted(text)}.split()]])"
    if len(short) <= _LINE:
        return [short]
    wrapped = textwrap.wrap(text, _LINE - 8, break_long_words=False, break_on_hyphens=False)
    body = [f"        {line}" for line in wrapped]
    return [
        f'    {name}_hex = """',
        *body,
        '    """',
        f"    {name} = np.array([[float.fromhex(x) for x in {name}_hex.split()]])",
    ]


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
