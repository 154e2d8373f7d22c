"""The head of the page: the run in a few figures, its circumstances, and the commands that make it again."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.grades import Outcome
from harness.run import Run
from reports.marks import outcome_of
from reports.model import Subject, dtypes, families, unavailable
from reports.numbers import count

__all__ = ["Missing", "Summary", "commands", "facts", "missing", "summary"]

_NOT_RUN = (Outcome.SKIPPED, Outcome.UNAVAILABLE)


@dataclass(frozen=True)
class Missing:
    """Implementations that could not run for one reason; `command` mends it (``""`` where the reason says how)."""

    names: tuple[str, ...]
    reason: str
    command: str


@dataclass(frozen=True)
class Summary:
    """The run in figures; `scope` and `verdict` are sentences."""

    scope: str
    verdict: str
    results: int
    passed: int
    known: int
    failed: int
    unexpected: int
    not_judged: int
    not_run: int

    @property
    def clean(self) -> bool:
        """Whether nothing failed and no known failure passed."""
        return not self.failed and not self.unexpected


def summary(run: Run, rows: Sequence[Subject]) -> Summary:
    """The run in figures and two sentences."""
    outcomes = Counter(outcome_of(result) for result in run.results)
    not_run = sum(outcomes[o] for o in _NOT_RUN)
    unexpected = outcomes[Outcome.UNEXPECTED_PASS]
    failed = sum(n for outcome, n in outcomes.items() if outcome.is_failure) - unexpected
    made = Summary(
        scope=_scope(run, rows),
        verdict="",
        results=len(run.results) - not_run,
        passed=outcomes[Outcome.PASSED],
        known=outcomes[Outcome.KNOWN_FAILURE],
        failed=failed,
        unexpected=unexpected,
        not_judged=outcomes[Outcome.NOT_JUDGED],
        not_run=not_run,
    )
    return Summary(**{**vars(made), "verdict": _verdict(made)})


def _scope(run: Run, rows: Sequence[Subject]) -> str:
    ran = len({subject.name for subject in rows if subject.measured})
    if not ran and run.timings:
        timed = len({t.implementation for t in run.timings if t.seconds})
        return f"This run timed {count(timed, 'implementation')}; accuracy was judged only on what was timed."
    if not ran:
        return "Nothing was measured in this run."
    parts = [
        count(ran, "implementation"),
        count(len(families(run)), "family", "families") + " of logits",
        count(len(dtypes(run)), "dtype"),
    ]
    return f"This run judged {parts[0]} on {parts[1]} in {parts[2]}, loss and gradient apart, against certified truth."


def _verdict(made: Summary) -> str:
    if not made.results:
        return ""
    parts = [f"Of {count(made.results, 'result')}, {made.passed:,} {_are(made.passed)} as accurate as claimed"]
    if made.known:
        parts.append(f"{made.known:,} fail as their declarations say")
    if made.not_judged:
        parts.append(f"{made.not_judged:,} could not be judged because no bound means anything there")
    wrong = []
    if made.failed:
        wrong.append(f"{made.failed:,} {'fails its' if made.failed == 1 else 'fail their'} claim")
    if made.unexpected:
        wrong.append(f"{count(made.unexpected, 'known failure')} unexpectedly {_s('pass', made.unexpected)}")
    return f"{'; '.join(parts)}. {' and '.join(wrong).capitalize() if wrong else 'No claim fails'}."


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _s(verb: str, number: int) -> str:
    return f"{verb}es" if number == 1 else verb


def missing(run: Run) -> list[Missing]:
    """What could not run, grouped by reason, in the run's order."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for entry in unavailable(run):
        groups.setdefault(str(entry.get("reason") or "not available here"), []).append(entry)
    return [
        Missing(_names(entries), reason, "" if "pip install" in reason else _pip(entries))
        for reason, entries in groups.items()
    ]


def _names(entries: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(str(entry.get("name", "")) for entry in entries)


def _pip(entries: Sequence[Mapping[str, Any]]) -> str:
    wanted = dict.fromkeys(str(v) for entry in entries for v in dict(entry.get("requires") or {}).values())
    return f"pip install {shlex.join(wanted)}" if wanted else ""


def facts(run: Run) -> list[tuple[str, str]]:
    """The circumstances of the run, as pairs of a name and a text; only what the run says."""
    environment = run.environment
    pairs = [
        ("run", "complete" if run.complete else "interrupted"),
        ("started", _get(environment, "started")),
        ("commit", _get(environment, "commit")),
        ("seed", _get(environment, "seed")),
        ("CPU", _get(environment, "cpu")),
        ("cores", _get(environment, "cores")),
        ("threads", _get(environment, "threads")),
        ("load", _get(environment, "load")),
        ("Python", _get(environment, "python")),
        ("platform", _get(environment, "platform")),
    ]
    if isinstance(environment.get("versions"), Mapping):
        pairs.append(("versions", _versions(environment)))
    pairs += [(f"beside it: {other.get('name')}", _elsewhere(other)) for other in environment.get("beside") or ()]
    return [(name, text) for name, text in pairs if text]


def _versions(environment: Mapping[str, Any]) -> str:
    versions = environment.get("versions") or {}
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version)


def _elsewhere(environment: Mapping[str, Any]) -> str:
    """The circumstances of a run whose results were added, in a line."""
    workers = environment.get("workers") or {}
    gpus = dict.fromkeys(str(w["gpu"]) for w in workers.values() if isinstance(w, Mapping) and w.get("gpu"))
    parts = [*gpus, *(_get(environment, key) for key in ("cpu", "platform", "started")), _versions(environment)]
    return "; ".join(part for part in parts if part)


def _get(environment: Mapping[str, Any], key: str) -> str:
    value = environment.get(key)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {entry}" for name, entry in value.items())
    return "" if value is None else str(value)


def commands(run: Run) -> list[str]:
    """Shell commands that make this run and this page again.

    ``environment["request"]`` says what was asked for (``only``, ``families``, ``dtypes``, ``logits``, ``quick``);
    where a run does not have it, the dtypes of its results do.
    """
    request = run.environment.get("request")
    seed = run.environment.get("seed")
    if not isinstance(request, Mapping):
        request = {"dtypes": dtypes(run) if len(dtypes(run)) < _ALL_DTYPES else []}
    if request.get("command") == "speed":
        return [shlex.join(_speed_words(request, seed)), "xent report run.json -o report.html"]
    words = ["xent", "accuracy"]
    for key, option in _OPTIONS.items():
        words += [word for value in request.get(key) or () for word in (option, str(value))]
    words += ["--quick"] if request.get("quick") else []
    words += ["--speed"] if run.timings else []
    words += ["--seed", str(seed)] if seed is not None else []
    return [shlex.join([*words, "--json", "run.json"]), "xent report run.json -o report.html"]


def _speed_words(request: Mapping[str, Any], seed: Any) -> list[str]:
    """The words of a speed run: lists are repeated options, whose names are singular."""
    words = ["xent", "speed"]
    for key, value in request.items():
        if isinstance(value, list):
            option = "--" + {"only": "only"}.get(key, key.removesuffix("s"))
            words += [word for entry in value for word in (option, str(entry))]
        elif key in ("device", "threads", "budget", "baseline"):
            words += [f"--{key}", str(value)]
    words += [] if request.get("memory", True) else ["--no-memory"]
    return [*words, *(["--seed", str(seed)] if seed is not None else []), "--json", "run.json"]


_ALL_DTYPES = 4
_OPTIONS = {"only": "--only", "families": "--family", "dtypes": "--dtype", "logits": "--logits"}
