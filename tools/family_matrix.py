"""Which families catch which wrong candidates, and which families catch nothing that another one does not.

    python tools/family_matrix.py [--only PATTERN] [--jobs N] [--seed S] [-o FILE]

Every numerically wrong candidate of tests/wrong is called on every family that it can take, in the dtypes that its
file names, and judged as vetting judges it. Behaviour and cheating are no business of a family, and left out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness.families import FAMILIES  # noqa: E402
from harness.files import write_atomically  # noqa: E402
from harness.vetting.batches import family_batches  # noqa: E402
from harness.vetting.examination import Probe  # noqa: E402
from harness.vetting.examiner import Gone  # noqa: E402
from tests.candidates import Candidate, numerics, read_all  # noqa: E402

NUMERICAL = {"accuracy", "gradient_accuracy", "nonfinite", "masked_classes", "sizes", "upstream_gradient"}
"""The checks that a candidate must be meant for; those of options come beside."""

Caught = Mapping[str, frozenset[str]]
"""Family → what it catches."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Call, print, write; the exit status."""
    asked = _parse(arguments)
    chosen = [c for c in read_all(wrong=True) if _numerical(c) and fnmatchcase(c.label, asked.only)]
    print(f"{len(chosen)} candidates, {len(FAMILIES)} families, seed {asked.seed}")
    caught: dict[str, set[str]] = {name: set() for name in FAMILIES}
    with ProcessPoolExecutor(asked.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(catches, c, asked.seed): c for c in chosen}
        for number, future in enumerate(as_completed(running), 1):
            found = future.result()
            print(f"{number:3d}/{len(chosen)}  {running[future].label}  {len(found)}", flush=True)
            for family, what in found:
                caught[family].add(f"{running[future].label} {what}")
    frozen = {name: frozenset(what) for name, what in caught.items()}
    print("\n".join(lines(frozen)))
    if asked.output:
        write_atomically(asked.output, json.dumps({name: sorted(what) for name, what in frozen.items()}).encode())
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="candidates such as 'torch_forward.py:*'")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="candidates at a time")
    parser.add_argument("--seed", type=int, default=0, help="what every batch is drawn from")
    parser.add_argument("-o", "--output", type=Path, help="where to write, as JSON, what each family catches")
    return parser.parse_args(arguments)


def _numerical(candidate: Candidate) -> bool:
    return candidate.check in NUMERICAL or candidate.check.startswith("option")


def catches(candidate: Candidate, seed: int) -> set[tuple[str, str]]:
    """The (family, ``"loss"`` or ``"gradient"`` or ``"call"``) that show a candidate to be wrong."""
    found: set[tuple[str, str]] = set()
    with numerics(candidate, seed) as (context, dtypes):
        for dtype in dtypes:
            for batch in family_batches(context, dtype):
                try:
                    problems = context.examiner.examine(batch, Probe(), context.reference(batch)).problems
                except Gone:
                    return found
                found |= {(batch.family, problem.what) for problem in problems}
    return found


def contained(caught: Caught, name: str) -> list[str]:
    """The families that catch all that this one does, and as much or more."""
    return [other for other in caught if other != name and caught[name] <= caught[other]]


def alone(caught: Caught, name: str) -> frozenset[str]:
    """What no other family catches."""
    return caught[name].difference(*(what for other, what in caught.items() if other != name))


def lines(caught: Caught) -> list[str]:
    """One for each family."""
    return [
        f"{name:28s} {len(what):3d}, alone {len(alone(caught, name)):2d}, in {_short(contained(caught, name))}"
        for name, what in caught.items()
    ]


def _short(names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return (", ".join(names[:4]) or "none") + more


if __name__ == "__main__":
    sys.exit(main())
