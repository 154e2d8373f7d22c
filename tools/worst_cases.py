"""Write docs/worst_cases.md from the records of the package, or say whether it is current.

python tools/worst_cases.py            # write it
python tools/worst_cases.py --check    # exit status 1 where it is not what the records say
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from harness.formats import DTYPES
from harness.worst_case import WorstCase, load_all

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "worst_cases.md"

HEAD = """\
# Largest known errors

The worst inputs that the [hunt](hunting.md) has found, one row for each implementation, dtype and result: in the manner
of the tables that are published for the elementary functions. Each is a fact, not an estimate: the row is kept in
hexadecimal under [harness/worst_cases](../harness/worst_cases), its truth is certified, and every `xent accuracy` looks
at it again in the families `worst_cases_*`. That nothing worse is known does not mean that there is nothing worse.

*ulp* is the error in units in the last place of the truth in the output's format; *error / bound* that over the bound
of the claimed grade (empty where that says nothing there). A loss that comes out as 0 is up to 2^p ulp off, p being the
precision: 16,777,216 in float32.

This page is written by `python tools/worst_cases.py` from the records.
"""


def table(cases: Sequence[WorstCase]) -> str:
    """The whole document for some records."""
    parts = [HEAD]
    for loss in sorted({case.loss for case in cases}, reverse=True):
        for metric, title in (("ulp", "Largest error in ulp"), ("bound_ratio", "Nearest to the bound")):
            chosen = [case for case in cases if (case.loss, case.metric) == (loss, metric)]
            if chosen:
                parts.append(f"\n## {title}: {loss}\n\n" + "\n".join(_lines(chosen)) + "\n")
    parts.append("\n## Seen with\n\n" + "\n".join(_versions(cases)) + "\n")
    return "".join(parts)


def _lines(cases: Sequence[WorstCase]) -> list[str]:
    head = "| implementation | dtype | result | ulp | error / bound | got | want | row |"
    lines = [head, "|---|---|---|--:|--:|---|---|---|"]
    order = sorted(cases, key=lambda c: (c.implementation, DTYPES.index(c.dtype), c.what == "gradient"))
    for case in order:
        ratio = "" if case.bound_ratio is None else f"{case.bound_ratio:.2g} of {case.bound}"
        cells = (
            f"`{case.implementation}`",
            case.dtype,
            case.what,
            _short(case.ulp),
            ratio,
            _decimal(case.got),
            _decimal(case.want),
            _row(case),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _row(case: WorstCase) -> str:
    """The row in short: its first logits, and the label."""
    logits = [_decimal(z) for z in case.logits[:2]]
    more = f", … {len(case.logits)} in all" if len(case.logits) > 2 else ""
    target = f"; label {case.target}" if isinstance(case.target, int) else ""
    return f"[{', '.join(logits)}{more}]{target}" + ("" if case.column is None else f"; class {case.column}")


def _versions(cases: Sequence[WorstCase]) -> list[str]:
    seen = sorted({(name, version) for case in cases for name, version in case.versions.items()})
    return ["| package | version |", "|---|---|", *(f"| {name} | {version} |" for name, version in seen)]


def _short(value: float) -> str:
    return f"{value:,.0f}" if 1e3 <= value < 1e9 else f"{value:.3g}"


def _decimal(text: str) -> str:
    return f"{float.fromhex(text):.6g}"


def main(arguments: Sequence[str]) -> int:
    """Write the document, or with ``--check`` compare it."""
    text = table(load_all())
    if "--check" not in arguments:
        DOCUMENT.write_text(text, encoding="utf-8")
        print(f"{DOCUMENT.name}: written")
        return 0
    if DOCUMENT.exists() and DOCUMENT.read_text(encoding="utf-8") == text:
        return 0
    print(f"{DOCUMENT.name} is not what the records say: run python tools/worst_cases.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
