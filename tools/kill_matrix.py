"""Vet every candidate of tests/wrong and tests/right, and say which check catches which wrong one.

    python tools/kill_matrix.py [--quick] [--only PATTERN] [--jobs N] [--seed S] [-o docs/kill_matrix.md]

Beside each wrong candidate stands what two ordinary gates (tests/gate.py) make of it. Exit status 1 where a wrong one
is accepted or escapes the check meant for it, or a right one is rejected. With ``--only``, a part of the matrix is
written where ``-o`` says, and nothing without it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness.bridges import triton_interpreter  # noqa: E402
from harness.environment import describe_environment  # noqa: E402
from harness.files import write_atomically  # noqa: E402
from harness.vetting.checks import ASKS  # noqa: E402
from tests.candidates import Candidate, Vetted, read_all, vetted  # noqa: E402

DOCUMENT = ROOT / "docs" / "kill_matrix.md"
GATES = ("forward", "suite")

Gates = Mapping[str, Mapping[str, str | None]]
"""Candidate's label → gate → why it rejects, or None."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Vet, print, write; the exit status."""
    asked = _parse(arguments)
    seed = secrets.randbelow(2**32) if asked.seed is None else asked.seed
    chosen = [c for wrong in (True, False) for c in read_all(wrong) if fnmatchcase(c.label, asked.only)]
    print(f"{len(chosen)} candidates, seed {seed}, {asked.jobs} at a time")
    found = _vet_all(chosen, asked.quick, seed, asked.jobs)
    gates = ordinary_gates([c for c in chosen if c.wrong])
    print("\n".join(summary(found, gates)))
    output = asked.output or (DOCUMENT if asked.only == "*" else None)
    if output:
        write_atomically(output, document(found, gates, seed, asked.quick).encode())
        print(f"matrix: {output}")
    return 0 if all(v.as_expected for v in found) else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="vet quickly those that can be told quickly")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="candidates such as 'torch_forward.py:*'")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="vettings at a time")
    parser.add_argument("--seed", type=int, help="what every input is drawn from; fresh by default")
    parser.add_argument("-o", "--output", type=Path, help=f"where the matrix goes; {DOCUMENT.name} if all is vetted")
    return parser.parse_args(arguments)


def _vet_all(candidates: Sequence[Candidate], quick: bool, seed: int, jobs: int) -> list[Vetted]:
    """Every candidate, in the order given; truth is shared by its cache, since the seed is."""
    found: dict[str, Vetted] = {}
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(vetted, c, quick, seed): c for c in candidates}
        try:
            for number, future in enumerate(as_completed(running), 1):
                result = future.result()
                found[_key(result.candidate)] = result
                print(f"{number:3d}/{len(candidates)}  {line(result)}", flush=True)
        finally:  # a fault shows at once, and not after all others
            pool.shutdown(cancel_futures=True)
    return [found[_key(c)] for c in candidates]


def _key(candidate: Candidate) -> str:
    return f"{'wrong' if candidate.wrong else 'right'}/{candidate.label}"


def line(result: Vetted) -> str:
    """One result, as it comes in."""
    candidate = result.candidate
    by = ", ".join(result.caught_by) or "nothing"
    if result.as_expected:
        what = f"rejected: {by}" if candidate.wrong else f"accepted: {_grades(result)}"
    elif candidate.wrong:
        what = f"MEANT FOR {candidate.check}, {result.verdict}: {by}"
    else:
        what = f"{result.verdict.upper()} THOUGH RIGHT: {result.message}"
    return f"{_key(candidate)}  {what}  ({result.seconds:.0f} s)"


def _grades(result: Vetted) -> str:
    return ", ".join(f"{dtype} {grade}" for dtype, grade in result.grades.items())


def ordinary_gates(wrong: Sequence[Candidate]) -> Gates:
    """What the ordinary gates say: one process for each file and way of calling."""
    found: dict[str, Mapping[str, str | None]] = {}
    keys = [(c.path, c.options.get("loss", "cross_entropy"), c.options.get("target", "indices")) for c in wrong]
    for key in dict.fromkeys(keys):
        group = [c for c, k in zip(wrong, keys, strict=True) if k == key]
        found |= {c.label: said for c, said in zip(group, _gated(key, group), strict=True)}
    return found


def _gated(key: tuple[Path, str, str], group: Sequence[Candidate]) -> Iterator[Mapping[str, str | None]]:
    path, loss, target = key
    command = [sys.executable, str(ROOT / "tests" / "gate.py"), str(path), loss, target, *(c.name for c in group)]
    interpreted = any(c.options.get("backend") == "interpret" for c in group)
    variables = {triton_interpreter.VARIABLE: "1"} if interpreted else {}
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env={**os.environ, **variables})
    said = json.loads(done.stdout.splitlines()[-1])
    return (said[c.name] for c in group)


def counts(found: Sequence[Vetted]) -> dict[str, tuple[int, int]]:
    """Check → how many wrong candidates it catches, and how many that no other check catches."""
    caught = [set(v.caught_by) for v in found if v.candidate.wrong]
    names = [*ASKS, *sorted({name for names in caught for name in names} - set(ASKS))]
    return {name: (sum(name in c for c in caught), sum(c == {name} for c in caught)) for name in names}


def summary(found: Sequence[Vetted], gates: Gates) -> list[str]:
    """What it came to, in a few lines."""
    wrong, right = [v for v in found if v.candidate.wrong], [v for v in found if not v.candidate.wrong]
    lines = [
        f"wrong: {sum(v.as_expected for v in wrong)} of {len(wrong)} rejected by the check meant for them",
        f"right: {sum(v.as_expected for v in right)} of {len(right)} accepted",
    ]
    for gate in GATES:
        lines.append(f"{gate}: rejects {sum(1 for said in gates.values() if said[gate] is not None)} of {len(gates)}")
    silent = [name for name, (number, _) in counts(found).items() if not number]
    if silent:
        lines.append(f"caught nothing: {', '.join(silent)}")
    return lines


def document(found: Sequence[Vetted], gates: Gates, seed: int, quick: bool) -> str:
    """The matrix as Markdown."""
    wrong, right = [v for v in found if v.candidate.wrong], [v for v in found if not v.candidate.wrong]
    numbers = {name: i for i, name in enumerate(counts(found), 1)}
    versions = describe_environment(seed, 1).get("versions", {})
    named = ", ".join(f"{k} {v}" for k, v in sorted(versions.items()) if k in ("torch", "jax", "numpy"))
    parts = [
        _INTRODUCTION.format(
            wrong=len(wrong),
            right=len(right),
            met=sum(v.as_expected for v in wrong),
            accepted=sum(v.as_expected for v in right),
            forward=sum(1 for said in gates.values() if said["forward"] is not None),
            suite=sum(1 for said in gates.values() if said["suite"] is not None),
            seed=seed,
            how="quick vettings" if quick else "full vettings",
            versions=f" with {named}" if named else "",
        ),
        _checks_table(found, numbers),
        _wrong_tables(wrong, gates, numbers),
        _right_table(right),
    ]
    return "\n".join(parts)


_INTRODUCTION = """\
# The kill matrix

Generated by `make kill-matrix`: do not edit. From {how}, seed {seed}{versions}.

The power of vetting, measured: {wrong} wrong implementations, one bug each and many of them real ones, and {right}
right ones in many styles. {met} of the {wrong} wrong ones fall to the check meant for them; {accepted} of the {right}
right ones are accepted. On the same wrong ones two ordinary gates do this:

| gate | rejects |
|---|---|
| `allclose` at 1e-2 on normal logits, forward only | {forward} of {wrong} |
| a usual suite: forward and backward, float32 and bfloat16, every option once, upstream of ones | {suite} of {wrong} |
| `xent vet` | {met} of {wrong} |

A candidate counts as caught by a gate that it makes raise. Both gates are in `tests/gate.py`.
"""


def _checks_table(found: Sequence[Vetted], numbers: Mapping[str, int]) -> str:
    rows = [
        "## Checks\n",
        "*Alone*: wrong candidates that no other check catches; without the check they would be accepted. A check that "
        "catches nothing is a hint to look at, not a proof that it is useless: some need a machine or a framework that "
        "the set has no candidate for.\n",
        "| | check | asks | catches | alone |",
        "|---|---|---|---|---|",
    ]
    for name, (number, alone) in counts(found).items():
        said = ASKS.get(name, "a deviation, rejected under `--strict`").replace("|", "\\|")
        rows.append(f"| {numbers[name]} | `{name}` | {said} | {number or '**nothing**'} | {alone or '–'} |")
    return "\n".join(rows) + "\n"


def _wrong_tables(wrong: Sequence[Vetted], gates: Gates, numbers: Mapping[str, int]) -> str:
    """One table for each file, with the checks that catch something there."""
    rows = [
        "## Wrong implementations\n",
        "✗: caught by the check of that number; **✗**: by the one meant for it. "
        "*fwd*, *suite*: caught by the ordinary gates.\n",
    ]
    for path, group in itertools.groupby(wrong, key=lambda v: v.candidate.path):
        members = list(group)
        used = sorted({numbers[name] for v in members for name in (*v.caught_by, v.candidate.check)})
        rows.append(f"### {path.name}\n")
        rows.append("| candidate | what is wrong | " + " | ".join(map(str, used)) + " | fwd | suite |")
        rows.append("|---" * (len(used) + 4) + "|")
        rows += [_wrong_row(v, gates[v.candidate.label], used, numbers) for v in members]
        rows.append("")
    return "\n".join(rows)


def _wrong_row(result: Vetted, said: Mapping[str, str | None], used: Sequence[int], numbers: Mapping[str, int]) -> str:
    candidate = result.candidate
    by, meant = {numbers[name] for name in result.caught_by}, numbers[candidate.check]
    marks = ["" if i not in by else "**✗**" if i == meant else "✗" for i in used]
    if meant not in by:
        marks[used.index(meant)] = "**missed**"
    what = candidate.bug.replace("|", "\\|")
    if candidate.source:
        repository, _, number = candidate.source.partition("#")
        what += f" ([{candidate.source}](https://github.com/{repository}/issues/{number}))"
    caught = ["✗" if said[gate] is not None else "" for gate in GATES]
    return f"| `{candidate.name}` | {what} | " + " | ".join((*marks, *caught)) + " |"


def _right_table(right: Sequence[Vetted]) -> str:
    rows = [
        "## Right implementations\n",
        "Each at the worst grade over loss and gradient.\n",
        "| candidate | style | verdict | grades | deviations |",
        "|---|---|---|---|---|",
    ]
    for result in right:
        candidate = result.candidate
        label, deviations = f"{candidate.path.stem}: {candidate.name}", ", ".join(result.deviations)
        style = candidate.style.replace("|", "\\|")
        rows.append(f"| `{label}` | {style} | {result.verdict} | {_grades(result)} | {deviations} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.exit(main())
