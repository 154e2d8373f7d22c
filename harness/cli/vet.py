"""``xent vet``: a stranger's file goes in, a verdict comes out."""

from __future__ import annotations

import json
import math
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from harness.accuracy import Progress
from harness.bridges.jax_bridge import kept_programs
from harness.cli.exits import NOT_AS_CLAIMED, Refused, command
from harness.cli.progress import shown_progress
from harness.cli.targets import must_be_writable, write
from harness.cli.verdicts import print_verdict
from harness.formats import DTYPES, FormatUnavailable, named
from harness.grades import Grade
from harness.losses import LOSSES_OF_LOGITS, loss_of_logits
from harness.vetting.findings import Failed
from harness.vetting.junit import junit_xml
from harness.vetting.replies import inert
from harness.vetting.settings import Options
from harness.vetting.source import CannotJudge, Source, read_source
from harness.vetting.verdict import Verdict
from harness.vetting.vet import Listener, Vetting

__all__ = ["register"]

EPILOG = """\b
Examples:
  xent vet my_kernel.py:my_loss
  xent vet my_kernel.py:my_loss --quick --dtype float32
  xent vet my_numpy.py:loss --gradient loss_gradient
  xent vet my_kernel.py:my_loss --grade absolute --strict --json verdict.json
  xent vet my_triton.py:fused_loss --backend interpret
  xent vet my_bce.py:MyLoss --loss binary_cross_entropy_with_logits

\b
Exit status: 0 accepted; 1 rejected; 2 it could not be judged (no such file or
name, a syntax error, a framework missing, bad usage); 3 a fault of ours; 130
interrupted.
"""

GRADES = tuple(str(grade) for grade in Grade if grade is not Grade.INACCURATE)
TIMEOUTS = {"native": "20", "interpret": "120"}
LONGEST_CALL = 86_400.0
LARGEST_SEED = 2**63


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("vet", epilog=EPILOG, short_help="Vet a candidate: a file goes in, a verdict comes out.")(
        command("vet", vet_command)
    )


def vet_command(
    candidate: Annotated[str, typer.Argument(metavar="PATH.py:NAME", help="A function or nn.Module class in a file.")],
    framework: Annotated[
        str | None, typer.Option(metavar="FRAMEWORK", help="numpy, torch or jax; inferred from the file's imports.")
    ] = None,
    loss: Annotated[str, typer.Option(metavar="LOSS", help=f"{' or '.join(LOSSES_OF_LOGITS)}.")] = "cross_entropy",
    target: Annotated[
        str | None, typer.Option(metavar="TARGET", help="indices (if left out) or probabilities.")
    ] = None,
    gradient: Annotated[
        str | None, typer.Option(metavar="NAME", help="A NumPy candidate's gradient function, in the same file.")
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(metavar="D", help="A dtype that must be supported; repeatable. All that it takes if left out."),
    ] = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="cpu or cuda.")] = "cpu",
    backend: Annotated[
        str, typer.Option(metavar="BACKEND", help="native, or interpret: Triton and Pallas kernels without a GPU.")
    ] = "native",
    grade: Annotated[
        str | None, typer.Option(metavar="GRADE", help=f"What must be reached: {', '.join(GRADES)}.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="A deviation is a failure.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what takes long.")] = False,
    seed: Annotated[
        str | None, typer.Option(metavar="S", help="What the inputs are drawn from; a fresh one if left out.")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(metavar="SECONDS", help="What one call may take: 20 if left out, interpreted 120.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the verdict as JSON.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it as a self-contained page.")] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it as JUnit XML.")] = None,
) -> int:
    """Vet a candidate against certified truth, in a process of its own, and reach a verdict."""
    files = Files(json_file, html, junit)
    files.must_be_writable()
    options = Options(framework=framework, loss=loss, gradient=gradient, strict=strict, quick=quick)
    try:
        given = _Given(target, tuple(dtype or ()), device, backend, grade, seed, timeout)
        options = _checked(options, given)
        source = _source(candidate, options)
        verdict = _vet(source, options)
    except (Refused, CannotJudge, FormatUnavailable) as error:
        files.write(_error(candidate, options, str(error)))
        raise Refused(error) from error
    files.write(verdict)
    with suppress(BrokenPipeError):
        print_verdict(verdict)
    if verdict.verdict == "accepted":
        return 0
    print(f"xent vet: rejected: {verdict.message}", file=sys.stderr)
    return NOT_AS_CLAIMED


@dataclass(frozen=True)
class Files:
    """The files that a verdict is to be written to."""

    json: Path | None = None
    html: Path | None = None
    junit: Path | None = None

    def must_be_writable(self) -> None:
        """Refuse now what would fail after the work."""
        named = [path for path in (self.json, self.html, self.junit) if path is not None]
        for path in named:
            must_be_writable(path)
        if len({path.resolve() for path in named}) < len(named):
            raise Refused("--json, --html and --junit need a file each: two of them name the same one")

    def write(self, verdict: Verdict) -> None:
        """Write each of them whole."""
        data = verdict.to_json()
        if self.json is not None:
            write(self.json, (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())
        if self.html is not None:
            import reports

            write(self.html, reports.render_verdict(data).encode())
        if self.junit is not None:
            write(self.junit, junit_xml(data))


@dataclass(frozen=True)
class _Given:
    """Options as text, to be checked; here and not by the parser, so that a refusal can be written to a file too."""

    target: str | None
    dtypes: tuple[str, ...]
    device: str
    backend: str
    grade: str | None
    seed: str | None
    timeout: str | None


def _checked(options: Options, given: _Given) -> Options:
    """The options, each of which makes sense."""
    try:
        elementwise = loss_of_logits(options.loss).elementwise
    except ValueError as error:
        raise Refused(error) from error
    _one_of("--target", given.target or "indices", ("indices", "probabilities"))
    if elementwise and given.target is not None:
        raise Refused(f"--target is for cross_entropy: the target of {options.loss} is a probability per element")
    for name in given.dtypes:
        _one_of("--dtype", name, DTYPES)
        named(name).dtype  # noqa: B018 (says so where it is not installed)
    _one_of("--device", given.device, ("cpu", "cuda"))
    _one_of("--backend", given.backend, ("native", "interpret"))
    if given.backend == "interpret" and given.device != "cpu":
        raise Refused(f"--backend interpret runs kernels on the CPU: leave --device {given.device} out, or --backend")
    if given.grade is not None:
        _one_of("--grade", given.grade, GRADES)
    if options.gradient is not None and not options.gradient.isidentifier():
        raise Refused(f"--gradient: {options.gradient!r} is not the name of a function")
    return Options(
        **{
            **vars(options),
            "target": given.target or "indices",
            "dtypes": tuple(dict.fromkeys(given.dtypes)),
            "device": given.device,
            "backend": given.backend,
            "grade": None if given.grade is None else Grade(given.grade),
            "seed": secrets.randbelow(2**32) if given.seed is None else _seed(given.seed),
            "timeout": _seconds(given.timeout or TIMEOUTS[given.backend]),
        }
    )


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise Refused(f"{option}: {value!r} is none of {', '.join(allowed)}")


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) < LARGEST_SEED):
        raise Refused(f"--seed: {text!r} is not a whole number from 0 to 2^63 - 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.1 <= value <= LONGEST_CALL:
        raise Refused(f"--timeout: {text!r} is not a number of seconds from 0.1 to {LONGEST_CALL:g}")
    return value


def _source(spec: str, options: Options) -> Source:
    source = read_source(spec, options.framework)
    if options.gradient is not None and source.framework != "numpy":
        raise Refused(f"--gradient is for NumPy: {source.framework} differentiates {source.label} by itself")
    if options.backend == "interpret" and source.framework == "numpy":
        raise Refused(f"--backend interpret is for Triton and Pallas kernels: {source.label} is NumPy, leave it out")
    return source


def _vet(source: Source, options: Options) -> Verdict:
    _say(f"{_circumstances(source, options)}, seed {options.seed}")
    with shown_progress("inspections") as show, _own_truth():
        try:
            return Vetting(source, options, _Teller(show)).run()
        except BrokenPipeError as error:  # whatever it was, it is not a reader of ours that has gone
            raise RuntimeError(f"a pipe broke: {error}") from error


def _circumstances(source: Source, options: Options) -> str:
    target = f" of {options.target}" if options.loss == "cross_entropy" else ""
    how = ", interpreted" if options.backend == "interpret" else ""
    return f"vetting {inert(source.label)} as {source.framework} {options.loss}{target}{how}"


@contextmanager
def _own_truth() -> Iterator[None]:
    """Solve every truth afresh: the cache on disk is a folder that the candidate can write to as well as we can.

    What XLA compiles for candidates is kept, apart from what it compiles for us: it takes most of a JAX one's time.
    """
    settings = {"XENT_CACHE": "off"} | {k.upper(): str(v) for k, v in kept_programs("xla-of-candidates").items()}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


class _Teller(Listener):
    """Shows how a vetting goes: progress, and each check's first failure as it happens."""

    def __init__(self, show: Callable[[Progress], None]) -> None:
        self._show = show
        self._progress = Progress()
        self._begun = -1
        self._told: set[str] = set()

    def began(self, steps: int) -> None:
        """So many inspections will be made."""
        self._progress.total = steps

    def step(self, what: str) -> None:
        """The next inspection begins."""
        self._begun += 1
        self._progress.done, self._progress.what = self._begun, what
        self._progress.share = self._begun / max(self._progress.total, 1)
        self._show(self._progress)

    def failed(self, dtype: str, failure: Failed) -> None:
        """A check has just failed."""
        if failure.check not in self._told:
            self._told.add(failure.check)
            _say(f"failed: {failure.check} in {dtype}: {failure.detail}")


def _say(line: str) -> None:
    """A line on standard output, now; a reader who has gone changes no verdict."""
    try:
        print(line, flush=True)
    except BrokenPipeError:  # what stays in the buffer would break the next flush, which may be that of a new process
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _error(spec: str, options: Options, message: str) -> Verdict:
    """The verdict on what could not be judged."""
    where, _, name = spec.rpartition(":")
    return Verdict(
        candidate=f"{Path(where).name}:{name}" if where else spec,
        framework=options.framework or "",
        loss=options.loss,
        target=options.target,
        seed=options.seed or 0,
        verdict="error",
        message=inert(message),
    )
