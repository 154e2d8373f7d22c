"""The candidates of tests/wrong and tests/right: what each file says of its own, and what vetting makes of it.

A file of candidates holds functions and one literal, ``EXPECT``, which maps a function's name to what is known of it:

check : of a wrong one, the check that is meant to catch it (with ``strict``, the deviation).
bug : of a wrong one, one sentence.
source : the upstream thread that it is modelled on, such as ``"linkedin/Liger-Kernel#1329"``, where there is one.
style : of a right one, how it is written.
deviation : of a right one, a deviation that has to be reported.
options : how to vet it, as the fields of `harness.vetting.settings.Options`; ``quick`` False where only a full one can
    tell.
"""

from __future__ import annotations

import ast
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.grades import Grade
from harness.vetting.context import Context
from harness.vetting.examiner import Examiner
from harness.vetting.settings import Options
from harness.vetting.source import read_source
from harness.vetting.vet import Listener, Vetting, vet

HERE = Path(__file__).resolve().parent
DEFAULT_DTYPE = "float32"
"""What a wrong candidate is vetted in where its file does not say: one dtype is enough to be wrong in."""


@dataclass(frozen=True)
class Candidate:
    """One function of a file, and what its file says of it."""

    path: Path
    name: str
    wrong: bool
    check: str = ""
    bug: str = ""
    source: str = ""
    style: str = ""
    deviation: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """``torch_forward.py:never_reads``."""
        return f"{self.path.name}:{self.name}"

    @property
    def framework(self) -> str:
        """By the file's name: ``torch_….py``, ``bce_jax_….py``."""
        return next(word for word in self.path.stem.split("_") if word in ("torch", "jax", "numpy"))

    def options_for(self, quick: bool, seed: int | None) -> Options:
        """How to vet it."""
        given = dict(self.options)
        given["quick"] = quick and given.get("quick", True)
        given["dtypes"] = tuple(given.get("dtypes", (DEFAULT_DTYPE,) if self.wrong else ()))
        if "grade" in given:
            given["grade"] = Grade(given["grade"])
        return Options(seed=seed, shrink=False, **given)


@dataclass(frozen=True)
class Vetted:
    """What vetting a candidate came to."""

    candidate: Candidate
    verdict: str
    caught_by: tuple[str, ...]
    grades: Mapping[str, str]
    deviations: tuple[str, ...]
    message: str
    seed: int
    seconds: float

    @property
    def as_expected(self) -> bool:
        """Whether a wrong one was rejected by the check meant for it, or a right one accepted."""
        if self.candidate.wrong:
            return self.verdict == "rejected" and self.candidate.check in self.caught_by
        return self.verdict == "accepted" and (
            not self.candidate.deviation or self.candidate.deviation in self.deviations
        )


def read_file(path: Path, wrong: bool) -> list[Candidate]:
    """The candidates of one file, which is read and not run."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [t.id for t in node.targets if isinstance(t, ast.Name)] == ["EXPECT"]:
            return [Candidate(path, name, wrong, **entry) for name, entry in ast.literal_eval(node.value).items()]
    raise ValueError(f"{path} has no EXPECT")


def read_all(wrong: bool) -> list[Candidate]:
    """The candidates of tests/wrong or tests/right, by file name."""
    folder = HERE / ("wrong" if wrong else "right")
    candidates = [candidate for path in sorted(folder.glob("*.py")) for candidate in read_file(path, wrong)]
    return [c for c in candidates if sys.platform == "linux" or "backend" not in c.options]  # Triton is for Linux


def vetted(candidate: Candidate, quick: bool, seed: int | None) -> Vetted:
    """Vet a candidate."""
    start = time.monotonic()
    options = candidate.options_for(quick, seed)
    verdict = vet(f"{candidate.path}:{candidate.name}", options)
    deviations = tuple(dict.fromkeys(d.check for d in verdict.deviations))
    failed = tuple(dict.fromkeys(check.name for check in verdict.failed))
    return Vetted(
        candidate,
        verdict.verdict,
        failed + (deviations if options.strict else ()),
        dict(verdict.grades),
        deviations,
        verdict.message,
        verdict.seed,
        time.monotonic() - start,
    )


@contextmanager
def numerics(candidate: Candidate, seed: int = 0) -> Iterator[tuple[Context, tuple[str, ...]]]:
    """A candidate in its process, to be called as the numerical checks call it, and the dtypes that it takes.

    The context's ``seed`` may be set anew for further draws from the same process.
    """
    options = candidate.options_for(quick=False, seed=seed)
    source = read_source(f"{candidate.path}:{candidate.name}", options.framework)
    vetting = Vetting(source, options, Listener())
    with vetting.spawned() as session:
        examiner = Examiner(session, session.open(), vetting._required(), vetting._differentiates())
        context = Context(examiner, options.loss, options.target, seed, interpreted=options.backend != "native")
        yield context, vetting._supported(context)
