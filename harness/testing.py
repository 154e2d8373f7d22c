"""Vetting inside a project's own test suite: one decorator, one pytest test per check and dtype.

pytest is imported when the decorator is used, and not before.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.formats import DTYPES
from harness.grades import Grade
from harness.losses import loss_of_logits
from harness.vetting.checks import ASKS
from harness.vetting.local import LocalSession
from harness.vetting.settings import DEFAULT_DTYPES, Options
from harness.vetting.source import FRAMEWORKS, CannotJudge, Source, read_source
from harness.vetting.verdict import CheckResult, Verdict
from harness.vetting.vet import Listener, Vetting

__all__ = ["Check", "parametrize_with_checks"]

_TIMEOUTS = {"native": 20.0, "interpret": 120.0}
"""Backend → seconds that one call may take where nobody says."""


def parametrize_with_checks(
    candidate: Callable[..., Any],
    *,
    framework: str | None = None,
    loss: str = "cross_entropy",
    target: str = "indices",
    gradient: Callable[..., Any] | str | None = None,
    dtypes: Sequence[str] = (),
    grade: Grade | str | None = None,
    strict: bool = False,
    seed: int | None = None,
    quick: bool = False,
    timeout: float | None = None,
    backend: str = "native",
) -> Any:
    """Make a test that takes a ``check`` into one pytest test per check and dtype.

    What a module holds by a name is imported and called in a process of its own; a closure, or a function made inside
    another one, is called in this one, with deviation ``not_isolated``. The candidate is vetted once, when the first of
    its checks runs, and all of them share the outcome.

    Parameters
    ----------
    candidate : callable
        A function ``(logits, target, **claimed options)``, or an ``nn.Module`` class.
    framework : str, optional
        ``"numpy"``, ``"torch"`` or ``"jax"``; inferred from the imports of the candidate's file.
    loss : str
        ``"cross_entropy"`` or ``"binary_cross_entropy_with_logits"``.
    target : str
        ``"indices"`` or ``"probabilities"``.
    gradient : callable or str, optional
        A NumPy candidate's gradient function ``(logits, target, upstream, **claimed options)``, in the same module.
    dtypes : sequence of str
        Those that must be supported; by default all that the candidate takes.
    grade : Grade or str, optional
        What must be reached.
    strict : bool
        Whether a deviation is a failure: there is one more test, ``deviations``.
    seed : int, optional
        What the inputs are drawn from; a fresh one for each test run by default.
    quick : bool
        Leave out what takes long.
    timeout : float, optional
        Seconds that one call may take: 20 by default, and 120 interpreted.
    backend : str
        ``"native"``, or ``"interpret"`` for Triton kernels in Triton's interpreter; only for a candidate that can be
        imported, since the interpreter is chosen when a process begins.

    Returns
    -------
    pytest.MarkDecorator
        For a test function with a parameter ``check``, which it must call. A failed check raises `AssertionError` with
        the reason and the code that reproduces it; one that does not apply skips the test.

    Raises
    ------
    ValueError
        For an option that makes no sense, or a framework that the file's imports do not tell.

    Examples
    --------
    >>> @parametrize_with_checks(my_loss, framework="torch")  # doctest: +SKIP
    ... def test_my_loss(check):
    ...     check()
    """
    import pytest

    loss_of_logits(loss)
    _one_of("target", target, ("indices", "probabilities"))
    for dtype in dtypes:
        _one_of("dtypes", dtype, DTYPES)
    _one_of("backend", backend, ("native", "interpret"))
    source = _source(candidate, framework)
    if backend != "native" and source.framework == "numpy":
        raise ValueError("backend='interpret' is for Triton and Pallas kernels: the candidate is NumPy, leave it out")
    if backend != "native" and not source.importable:
        raise ValueError("backend='interpret' takes a process of its own: give the candidate a name in a module")
    options = Options(
        framework=source.framework,
        loss=loss,
        target=target,
        gradient=_gradient_name(gradient, source, _module_of(candidate)),
        dtypes=tuple(dtypes),
        grade=None if grade is None else Grade(grade),
        strict=strict,
        quick=quick,
        seed=_fresh_seed() if seed is None else seed,
        timeout=timeout or _TIMEOUTS[backend],
        backend=backend,
    )
    shared = _Shared(source, options, candidate, gradient)
    judged = options.dtypes or DEFAULT_DTYPES[source.framework]
    checks = [Check(name, dtype, shared) for dtype in judged for name in ASKS]
    checks += [Check("deviations", "", shared)] if strict else []
    return pytest.mark.parametrize("check", [pytest.param(check, id=str(check)) for check in checks])


@dataclass(frozen=True, eq=False, repr=False)
class Check:
    """One check of one candidate in one dtype; call it to have it made.

    Parameters
    ----------
    name, dtype : str
        Which check, and in which dtype.
    """

    name: str
    dtype: str
    _shared: _Shared

    def __str__(self) -> str:
        return f"{self.name}-{self.dtype}" if self.dtype else self.name

    __repr__ = __str__

    def __call__(self) -> None:
        """Let a failed check fail the test that calls this, and one that does not apply skip it.

        Raises
        ------
        AssertionError
            Where the check failed, with the reason and the code that reproduces it.
        CannotJudge
            Where the candidate could not be judged at all.
        """
        import pytest

        __tracebackhide__ = True
        verdict = self._shared.verdict()
        if self.name == "deviations":
            told = [f"{d.check} ({d.dtype}): {d.detail}" for d in verdict.deviations]
            assert not told, "\n".join(told)
            return
        result = self._of(verdict)
        if result.outcome == "skipped":
            pytest.skip(result.detail)
        if result.outcome == "failed":
            raise AssertionError(_told(result, verdict))

    def _of(self, verdict: Verdict) -> CheckResult:
        """The result of this check; one that was not made is skipped, with the reason that can be given."""
        found = [check for check in verdict.checks if (check.name, check.dtype) == (self.name, self.dtype)]
        if found:
            return found[0]
        refused = [d.detail for d in verdict.deviations if (d.check, d.dtype) == ("unsupported_dtype", self.dtype)]
        elsewhere = any(check.name == self.name for check in verdict.checks)
        reason = "decided in another dtype" if elsewhere else f"not reached: {verdict.message}"
        return CheckResult(self.name, self.dtype, "skipped", refused[0] if refused else reason)


def _told(result: CheckResult, verdict: Verdict) -> str:
    lines = [f"{result.name} in {result.dtype}: {result.detail}", f"It asks: {ASKS.get(result.name, '')}"]
    lines.append(f"Inputs of seed {verdict.seed}.")
    if result.witness:
        lines += ["Reproduce it with:", "", str(result.witness["code"])]
    return "\n".join(lines)


class _Shared:
    """The one vetting that all checks of a decorated test share, made when it is first asked for."""

    def __init__(
        self, source: Source, options: Options, candidate: Callable[..., Any], gradient: Callable[..., Any] | str | None
    ) -> None:
        self._source, self._options = source, options
        self._candidate, self._gradient = candidate, gradient
        self._refusal: Exception | None = None

    def verdict(self) -> Verdict:
        """The verdict; where there can be none, the exception that says why, every time."""
        if self._refusal is not None:
            raise self._refusal
        return self._verdict

    @functools.cached_property
    def _verdict(self) -> Verdict:
        vetting = Vetting(self._source, self._options, Listener(), session=self._local())
        try:
            return vetting.run()
        except Exception as refusal:  # kept: the next check would find nothing else
            self._refusal = refusal
            raise

    def _local(self) -> LocalSession | None:
        if self._source.importable:
            return None
        gradient = self._gradient if callable(self._gradient) else None
        return LocalSession(self._source, self._candidate, gradient=gradient, timeout=self._options.timeout)


def _one_of(what: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{what}: {value!r} is none of {', '.join(allowed)}")


def _fresh_seed() -> int:
    """A seed that nobody can foresee, and that all processes of one test run under pytest-xdist share."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    return int(hashlib.sha256(run.encode()).hexdigest()[:8], 16) if run else secrets.randbelow(2**32)


def _source(candidate: Callable[..., Any], framework: str | None) -> Source:
    """Where the candidate is: by its name in a module, or, for one that has none, where its code stands."""
    if not callable(candidate):
        raise ValueError(f"the candidate is a {type(candidate).__name__}, not a function or nn.Module class")
    if framework is not None:
        _one_of("framework", framework, FRAMEWORKS)
    module = _module_of(candidate)
    name = _name_in(module, candidate)
    path = _file_of(module) if name else _file_of(candidate)
    if name and path:
        try:
            source = read_source(f"{path}:{name}", framework)
        except CannotJudge as error:
            raise ValueError(str(error).replace("--framework", "framework=")) from error
        return _by_module(source, module)
    if framework is None and path:
        framework = _source_of_code(path)
    if framework is None:
        raise ValueError("say which framework the candidate is of: framework='numpy', 'torch' or 'jax'")
    known = getattr(candidate, "__name__", type(candidate).__name__)
    shown = known if known.isidentifier() else "candidate"
    return Source(Path(path or "closure.py"), shown, framework, importable=False)


def _source_of_code(path: str) -> str:
    try:
        return read_source(f"{path}:closure").framework
    except CannotJudge as error:
        raise ValueError(str(error).replace("--framework", "framework=")) from error


def _module_of(candidate: object) -> ModuleType | None:
    return sys.modules.get(getattr(candidate, "__module__", None) or "")


def _name_in(module: ModuleType | None, candidate: object) -> str:
    """The name by which a module holds an object, its own one first; ``""`` if it does not."""
    if module is None:
        return ""
    own = getattr(candidate, "__name__", "")
    if own.isidentifier() and vars(module).get(own) is candidate:
        return str(own)
    return next((name for name, value in vars(module).items() if value is candidate and name.isidentifier()), "")


def _file_of(holder: object) -> str | None:
    try:
        path = inspect.getsourcefile(inspect.unwrap(holder) if callable(holder) else holder)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return path if path and Path(path).is_file() else None


def _by_module(source: Source, module: ModuleType | None) -> Source:
    """The source, to be imported by its module's name where that leads to the same file in another process too."""
    assert module is not None
    name = module.__name__
    try:
        spec = importlib.util.find_spec(name) if name != "__main__" else None
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or Path(spec.origin).resolve() != source.path:
        return source
    up = name.count(".") + (source.path.name == "__init__.py")
    return replace(source, module=name, folder=source.path.parents[up])


def _gradient_name(gradient: Callable[..., Any] | str | None, source: Source, module: ModuleType | None) -> str | None:
    """The name of the gradient function in the candidate's module, or one to speak of it by."""
    if gradient is None:
        return None
    if source.framework != "numpy":
        raise ValueError(f"gradient is for NumPy: {source.framework} differentiates by itself")
    if not source.importable:
        if isinstance(gradient, str):
            raise ValueError("gradient: give the function itself, since the candidate has no module to be looked up in")
        return "gradient"
    name = gradient if isinstance(gradient, str) else _name_in(module, gradient)
    if not name:
        raise ValueError("gradient: it must be a function of the candidate's own module, by a name of its own there")
    return name
