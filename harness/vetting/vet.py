"""Vetting a candidate: the whole of it, from its file to its verdict."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Future
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

from harness.batch import Batch
from harness.bridges import triton_interpreter
from harness.differential import truth_executor
from harness.environment import describe_environment
from harness.grades import Grade, Outcome
from harness.losses import loss_of_logits
from harness.reference import Reference, reference_of
from harness.vetting.batches import by_dtype
from harness.vetting.checks import INSPECTIONS, Failed, Inspection, Skipped
from harness.vetting.context import Context
from harness.vetting.examiner import Examiner, Gone
from harness.vetting.reproduce import witness_of
from harness.vetting.session import Claims, Rejected, Session
from harness.vetting.settings import DEFAULT_DTYPES, INTERPRETERS, Options
from harness.vetting.shrink import TRIES, shrink
from harness.vetting.source import CannotJudge, Source, read_source
from harness.vetting.verdict import CheckResult, Deviation, Verdict

__all__ = ["Listener", "Vetting", "vet"]

FEW_TRIES = 12
"""For shrinking a witness of a check that has one in another dtype already: enough for the row that shows it alone."""


@dataclass
class Listener:
    """Whoever wants to know how a vetting goes; this one does not."""

    def began(self, steps: int) -> None:
        """So many inspections will be made."""

    def step(self, what: str) -> None:
        """The next inspection begins."""

    def failed(self, dtype: str, failure: Failed) -> None:
        """A check has just failed."""


def vet(spec: str, options: Options = Options(), listener: Listener | None = None) -> Verdict:
    """Vet a candidate given as ``PATH.py:NAME``.

    Returns
    -------
    Verdict
        Accepted or rejected, with every check behind it.

    Raises
    ------
    CannotJudge
        Where it cannot be judged: no such file or name, a syntax error, a framework that is missing.
    ValueError
        For a loss that does not exist, or takes more than logits and target.
    """
    source = read_source(spec, options.framework)
    loss_of_logits(options.loss)
    return Vetting(source, options, listener or Listener()).run()


@dataclass
class Vetting:
    """One vetting under way: collects findings, and ends in a verdict."""

    source: Source
    options: Options
    listener: Listener
    session: Session | None = None
    results: list[CheckResult] = field(default_factory=list)
    deviations: list[Deviation] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.source = replace(self.source, gradient=self.options.gradient or "")
        self.seed = secrets.randbelow(2**32) if self.options.seed is None else self.options.seed
        self.named = self.options.dtypes
        self.dtypes = self.named or DEFAULT_DTYPES[self.source.framework]

    def run(self) -> Verdict:
        """Everything, in order; the verdict."""
        options = self.options
        with ExitStack() as stack:
            session = stack.enter_context(self.session or self.spawned())
            if not session.isolated:
                detail = "it is no module's own, so that it ran in the harness's process"
                self.deviations.append(Deviation("not_isolated", self.dtypes[0], detail))
            try:
                claims = session.open()
            except Rejected as rejection:
                self._must_not_need_a_gpu(str(rejection))
                return self._rejected_at_import(rejection)
            examiner = Examiner(session, claims, self._required(), self._differentiates())
            interpreted = options.backend != "native"
            context = Context(examiner, options.loss, options.target, self.seed, options.quick, interpreted=interpreted)
            dtypes = self._supported(context)
            executor = stack.enter_context(truth_executor(min(2, os.cpu_count() or 1))) if dtypes else None
            context.families, context.sizes = by_dtype(context, dtypes)
            if executor is not None:
                batches = [b for d in dtypes for b in (*context.sizes[d], *context.families[d])]
                context.solved = _solve(batches, executor.submit)
            self._inspect(context, dtypes)
        return self._verdict(context.grades, claims)

    def spawned(self) -> Session:
        """A session with the candidate in a process of its own, to be opened."""
        options = self.options
        return Session(
            self.source,
            gradient=options.gradient,
            timeout=options.timeout,
            device=options.device,
            backend=options.backend,
        )

    @property
    def backend(self) -> str:
        """What runs the candidate, as the verdict has it: ``"native"``, or an interpreter's name."""
        return "native" if self.options.backend == "native" else INTERPRETERS[self.source.framework]

    def _must_not_need_a_gpu(self, detail: str) -> None:
        """Refuse to judge a Triton kernel by what Triton says where it finds no GPU, or no GPU's memory."""
        reason = triton_interpreter.lacks_gpu(detail)
        if reason and self.backend == "native":
            raise CannotJudge(f"{self.source.label}: {reason}")

    def _distrusted(self, dtype: str) -> str:
        """Why the interpreter cannot be trusted with a dtype; ``""`` where it can."""
        return triton_interpreter.refusal(dtype) if self.backend == "triton-interpreter" else ""

    def _required(self) -> dict[str, Grade]:
        sixteen = {"bfloat16", "float16"}
        default = {d: Grade.STORAGE if d in sixteen else Grade.ABSOLUTE for d in ("float64", "float32", *sixteen)}
        asked = self.options.grade
        return {d: g if asked is None or g.meets(asked) else asked for d, g in default.items()}

    def _differentiates(self) -> bool:
        return self.source.framework != "numpy" or self.options.gradient is not None

    def _rejected_at_import(self, rejection: Rejected) -> Verdict:
        check = "time_limit" if rejection.outcome is Outcome.TIMED_OUT else "crash"
        failure = CheckResult(check, self.dtypes[0], "failed", str(rejection))
        self.results.append(failure)
        self.listener.failed(self.dtypes[0], Failed(check, str(rejection)))
        return self._verdict({}, None)

    def _supported(self, context: Context) -> tuple[str, ...]:
        """The dtypes to judge; notes the form of the output, and what was refused."""
        supported, refused = [], {}
        for dtype in self.dtypes:
            distrusted = self._distrusted(dtype)
            if distrusted and dtype in self.named:
                raise CannotJudge(f"--dtype {dtype}: {distrusted}")
            if distrusted:
                self.results.append(CheckResult("output_form", dtype, "skipped", distrusted))
                continue
            batch = context.batch(dtype, "first call")
            try:
                seen = context.examiner.look(batch)  # of whatever form
            except Gone:
                break
            call = seen.of("call")
            if call is not None and call.kind == "raised":
                self._must_not_need_a_gpu(call.detail)
            if call is not None and call.kind in ("crashed", "timed_out"):  # the form will say so, with a witness
                supported.append(dtype)
                break
            if call is not None and call.kind in ("raised", "form") and dtype not in self.named:
                refused[dtype] = (context, call)
                continue
            if seen.loss is not None and seen.loss.ndim == 0 and not context.examiner.claims.reduction:
                context.examiner.mean_only = True
            supported.append(dtype)
        if not supported:  # it raises whatever the dtype is: that is no matter of dtypes
            return self.dtypes[:1]
        for dtype, (_, call) in refused.items():
            self.deviations.append(Deviation("unsupported_dtype", dtype, call.detail))
            self.results.append(CheckResult("output_form", dtype, "skipped", f"{dtype} is refused: {call.detail}"))
        return tuple(supported)

    def _inspect(self, context: Context, dtypes: Sequence[str]) -> None:
        """Every inspection in every dtype: the form first, the others in an order that the seed decides."""
        wanted = [i for i in INSPECTIONS if not self.options.checks or set(i.checks) & set(self.options.checks)]
        rounds = [(dtype, inspection) for dtype in dtypes for inspection in wanted]
        context.rng("order").shuffle(rounds)
        # The form decides whether anything else can be asked; what calls do on the side is told once all are made.
        last = {"inputs_untouched", "process_state"}
        rounds.sort(key=lambda pair: ("output_form" not in pair[1].checks, not last.isdisjoint(pair[1].checks)))
        self.listener.began(len(rounds))
        for dtype, inspection in rounds:
            if "outside_the_harness" in inspection.checks and dtype != dtypes[0]:
                continue
            self.listener.step(f"{dtype}: {inspection.checks[0].replace('_', ' ')}")
            self._one(context, dtype, inspection)

    def _one(self, context: Context, dtype: str, inspection: Inspection) -> None:
        failures: dict[str, Failed] = {}
        skipped: dict[str, str] = {}
        try:
            for finding in inspection.inspect(context, dtype):
                if isinstance(finding, Failed):
                    if finding.check not in failures:
                        failures[finding.check] = finding
                        self.listener.failed(dtype, finding)
                elif isinstance(finding, Skipped):
                    skipped[finding.check] = finding.reason
                elif Deviation(finding.name, dtype, finding.detail) not in self.deviations:
                    self.deviations.append(Deviation(finding.name, dtype, finding.detail))
        except Gone as gone:
            skipped = dict.fromkeys(inspection.checks, "the candidate's process has died or hung too often")
            name = "time_limit" if gone.hung else "crash"
            failures.setdefault(name, Failed(name, str(gone)))
        for name in dict.fromkeys((*inspection.checks, *failures)):
            if name in failures:
                self.results.append(self._failed(context, dtype, failures[name]))
            elif name in skipped:
                self.results.append(CheckResult(name, dtype, "skipped", skipped[name]))
            elif failures.keys() & {"crash", "time_limit"}:
                self.results.append(CheckResult(name, dtype, "skipped", "not decided: a call came to nothing"))
            else:
                self.results.append(CheckResult(name, dtype, "passed"))

    def _failed(self, context: Context, dtype: str, failure: Failed) -> CheckResult:
        problem = failure.problem
        if problem is None:
            return CheckResult(failure.check, dtype, "failed", failure.detail)
        already = any(r.name == failure.check and r.witness for r in self.results)
        tries = 0 if not self.options.shrink else FEW_TRIES if already else TRIES
        smallest = shrink(context.examiner, problem, tries)
        given = context.examiner.claims.given  # what the candidate cannot be called without
        if given:
            batch = smallest.batch
            smallest = replace(smallest, batch=replace(batch, options={**given, **batch.options}))
        witness = witness_of(self.source, smallest, context.claims, context.examiner.session.variables)
        return CheckResult(failure.check, dtype, "failed", failure.detail, witness)

    def _verdict(self, grades: dict[str, Grade], claims: Claims | None) -> Verdict:
        for dtype, grade in grades.items():
            if grade is Grade.STORAGE:
                detail = "as accurate as storing every step in 16 bits allows; float32 arithmetic would do better"
                self.deviations.append(Deviation("storage_grade", dtype, detail))
        checks = _merged(self.results)
        failed = [result for result in self.results if result.outcome == "failed"]  # in the order in which they came
        passed = sum(check.outcome == "passed" for check in checks)
        nothing = not (passed or self.options.checks)
        rejected = bool(failed) or nothing or (self.options.strict and bool(self.deviations))
        if failed:
            message = f"{failed[0].name} in {failed[0].dtype}: {failed[0].detail}"
        elif nothing:
            message = "no check could be made"
        elif rejected:
            message = f"{self.deviations[0].check}: {self.deviations[0].detail} (--strict)"
        else:
            message = f"{passed} checks passed"
        environment = describe_environment(self.seed, 1) | {"claims": list(claims.options) if claims else []}
        return Verdict(
            candidate=self.source.label,
            framework=self.source.framework,
            loss=self.options.loss,
            target=self.options.target,
            seed=self.seed,
            verdict="rejected" if rejected else "accepted",
            grades={dtype: str(grade) for dtype, grade in grades.items()},
            deviations=tuple(self.deviations),
            checks=checks,
            message=message,
            backend=self.backend,
            environment=environment,
        )


def _merged(results: Sequence[CheckResult]) -> tuple[CheckResult, ...]:
    """One result per check and dtype: failed if any was, else passed if any was; sorted by dtype and name."""
    rank = {"failed": 0, "passed": 1, "skipped": 2}
    best: dict[tuple[str, str], CheckResult] = {}
    for result in results:
        key = (result.dtype, result.name)
        if key not in best or rank[result.outcome] < rank[best[key].outcome]:
            best[key] = result
    return tuple(best[key] for key in sorted(best))


def _solve(
    batches: Sequence[Batch], submit: Callable[[Callable[[Batch], Reference], Batch], Future[Reference]]
) -> dict[int, Callable[[], Reference]]:
    """The truth of each batch, under way in other processes; asked for by identity.

    Where those processes have been killed, which a candidate can do, it is solved here.
    """
    solved: dict[int, Callable[[], Reference]] = {}
    for batch in batches:
        try:
            solved[id(batch)] = partial(_awaited, submit(reference_of, batch), batch)
        except BrokenExecutor:
            break
    return solved


def _awaited(future: Future[Reference], batch: Batch) -> Reference:
    try:
        return future.result()
    except (BrokenExecutor, CancelledError):
        return reference_of(batch)
