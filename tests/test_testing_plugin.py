"""``parametrize_with_checks``: one pytest test per check, in a project's own test suite, run as its users run it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from harness.testing import Check, parametrize_with_checks
from harness.vetting import vet as vet_module
from harness.vetting.checks import ASKS
from harness.vetting.source import CannotJudge

LOSSES = """
import numpy as np

def right(z, y):
    m = z.max(axis=1)
    return np.log(np.exp(z - m[:, None]).sum(axis=1)) + (m - z[np.arange(len(z)), y])

def naive(z, y):
    return np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), y]
"""

SUITE = """
import numpy as np
from harness.testing import parametrize_with_checks
from losses import naive, right

QUICK = dict(dtypes=["float32"], quick=True)

@parametrize_with_checks(right, seed=3, **QUICK)
def test_right(check):
    check()

@parametrize_with_checks(naive, framework="numpy", **QUICK)
def test_naive(check):
    check()

def here(z, y):
    return right(z, y).astype(np.float16)

@parametrize_with_checks(here, **QUICK)
def test_here(check):
    check()
"""


def running(folder: Path, *arguments: str) -> tuple[int, dict[str, ElementTree.Element], str]:
    """The exit status of a pytest run in a folder, its test cases by name, and what it printed."""
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--junit-xml=out.xml"]
    done = subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    root = ElementTree.parse(folder / "out.xml").getroot()
    return done.returncode, {case.get("name", ""): case for case in root.iter("testcase")}, done.stdout


def outcomes(cases: dict[str, ElementTree.Element], prefix: str, kind: str) -> set[str]:
    return {
        name.removeprefix(prefix).strip("[]")
        for name, case in cases.items()
        if name.startswith(prefix) and case.find(kind) is not None
    }


def test_one_test_per_check(tmp_path: Path) -> None:
    (tmp_path / "losses.py").write_text(LOSSES)
    (tmp_path / "test_suite.py").write_text(SUITE)
    status, cases, said = running(tmp_path, "-k", "right or naive")
    assert status == 1, said
    assert set(cases) == {f"{test}[{name}-float32]" for test in ("test_right", "test_naive") for name in ASKS}
    assert outcomes(cases, "test_right", "failure") == set()
    skipped = outcomes(cases, "test_right", "skipped")
    assert {"upstream_gradient-float32", "option_weight-float32", "memory_growth-float32"} <= skipped
    assert {"accuracy-float32", "sizes-float32", "process_state-float32"}.isdisjoint(skipped)
    broken = {f"{name}-float32" for name in ("accuracy", "nonfinite", "row_independence", "masked_classes")}
    assert outcomes(cases, "test_naive", "failure") == broken
    failure = cases["test_naive[nonfinite-float32]"].find("failure")
    assert failure is not None
    text = str(failure.text)
    assert "AssertionError: nonfinite in float32: loss, " in text
    assert f"It asks: {ASKS['nonfinite']}" in text
    assert "from losses import naive" in text
    assert "Inputs of seed " in text
    assert "testing.py" not in text


def test_a_function_of_the_test_file_itself(tmp_path: Path) -> None:
    (tmp_path / "losses.py").write_text(LOSSES)
    (tmp_path / "test_suite.py").write_text(SUITE)
    status, cases, said = running(tmp_path, "-k", "here and (output_form or accuracy)", "--import-mode=importlib")
    assert status == 1, said
    assert "output_form-float32" in outcomes(cases, "test_here", "failure")


def test_no_pytest_for_those_who_do_not_use_it() -> None:
    code = "import harness.testing, sys; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# ----------------------------------------------------------------------------------------------------- in this process


def right(z: Any, y: Any) -> Any:
    m = z.max(axis=1)
    return np.log(np.exp(z - m[:, None]).sum(axis=1)) + (m - z[np.arange(len(z)), y])


@pytest.fixture
def few_checks(monkeypatch: pytest.MonkeyPatch) -> list[vet_module.Vetting]:
    """Lets a vetting make a few checks only, and collects the vettings."""
    made: list[vet_module.Vetting] = []
    init = vet_module.Vetting.__post_init__

    def fewer(self: vet_module.Vetting) -> None:
        checks = ("output_form", "process_state", "memory_growth", "outside_the_harness", "gradient_accuracy")
        self.options = vet_module.Options(**{**vars(self.options), "checks": checks})
        made.append(self)
        init(self)

    monkeypatch.setattr(vet_module.Vetting, "__post_init__", fewer)
    monkeypatch.setattr(vet_module, "truth_executor", lambda jobs: __import__("contextlib").nullcontext(None))
    return made


def checks_of(candidate: Callable[..., Any], **options: Any) -> dict[str, Check]:
    options = {"framework": "numpy", "dtypes": ["float32"], "quick": True, **options}
    mark = parametrize_with_checks(candidate, **options).mark
    assert (mark.name, mark.args[0]) == ("parametrize", "check")
    return {parameter.id: parameter.values[0] for parameter in mark.args[1]}


def test_a_closure_runs_here_and_the_verdict_says_so(few_checks: list[vet_module.Vetting]) -> None:
    seen: list[int] = []

    def counted(z: Any, y: Any, *, label_smoothing: float = 0.0) -> Any:
        seen.append(os.getpid())
        return right(z, y)

    before = dict(os.environ)
    checks = checks_of(counted, strict=True)
    assert (list(checks), seen) == ([*(f"{name}-float32" for name in ASKS), "deviations"], [])
    checks["output_form-float32"]()
    assert set(seen) == {os.getpid()}
    calls = len(seen)
    checks["process_state-float32"]()
    for name in ("memory_growth", "outside_the_harness"):
        with pytest.raises(pytest.skip.Exception):
            checks[f"{name}-float32"]()
    with pytest.raises(AssertionError, match=r"^not_isolated \(float32\): it is no module's own"):
        checks["deviations"]()
    assert len(seen) == calls
    assert len(few_checks) == 1
    assert dict(os.environ) == before


def test_a_closure_with_a_gradient_and_one_that_is_wrong(few_checks: list[vet_module.Vetting]) -> None:
    def slope(z: Any, y: Any, upstream: Any) -> Any:
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(len(z)), y] -= 1
        return (p * upstream[:, None]).astype(z.dtype)

    good = checks_of(lambda z, y: right(z, y), gradient=slope)
    good["output_form-float32"]()
    good["gradient_accuracy-float32"]()
    bad = checks_of(lambda z, y: right(z, y), gradient=lambda z, y, upstream: 2 * slope(z, y, upstream))
    with pytest.raises(AssertionError, match="gradient_accuracy in float32: gradient, ") as caught:
        bad["gradient_accuracy-float32"]()
    assert "your function, which has no module to be imported from" in str(caught.value)
    compile(str(caught.value).partition("Reproduce it with:\n\n")[2], "witness", "exec")


def test_an_interrupt_goes_through_a_closure(few_checks: list[vet_module.Vetting]) -> None:
    def interrupted(z: Any, y: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checks_of(interrupted)["output_form-float32"]()


def test_a_closure_that_is_too_slow_or_raises(few_checks: list[vet_module.Vetting]) -> None:
    import time

    slow = checks_of(lambda z, y: time.sleep(0.3) or right(z, y), timeout=0.1)
    with pytest.raises(AssertionError, match=r"time_limit in float32: .* took 0.3"):
        slow["time_limit-float32"]()
    raising = checks_of(lambda z, y: 1 / 0)
    with pytest.raises(AssertionError, match=r"crash in float32: .*ZeroDivisionError: division by zero"):
        raising["crash-float32"]()


def test_state_of_this_process_is_put_back(few_checks: list[vet_module.Vetting]) -> None:
    import warnings

    before = list(warnings.filters)
    checks = checks_of(lambda z, y: warnings.simplefilter("ignore") or right(z, y))
    with pytest.raises(AssertionError, match="a call changed the warnings filters of the process"):
        checks["process_state-float32"]()
    assert list(warnings.filters) == before


# --------------------------------------------------------------------------------------------------- at its decoration

REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no function": (3, {}, "the candidate is a int, not a function or nn.Module class"),
    "framework": (right, {"framework": "mxnet"}, "framework: 'mxnet' is none of numpy, torch, jax"),
    "loss": (right, {"loss": "hinge"}, "unknown loss 'hinge'"),
    "target": (right, {"target": "labels"}, "target: 'labels' is none of indices, probabilities"),
    "dtype": (right, {"dtypes": ["float8"]}, "dtypes: 'float8' is none of"),
    "grade": (right, {"grade": "good"}, "'good' is not a valid Grade"),
    "gradient": (right, {"framework": "torch", "gradient": right}, "gradient is for NumPy: torch differentiates"),
    "gradient elsewhere": (
        right,
        {"gradient": lambda z, y, u: z},
        "gradient: it must be a function of the candidate's",
    ),
    "gradient by name": (lambda z, y: z, {"gradient": "slope"}, "gradient: give the function itself"),
    "backend": (right, {"backend": "gpu"}, "backend: 'gpu' is none of native, interpret"),
    "backend of NumPy": (right, {"backend": "interpret"}, "backend='interpret' is for Triton and Pallas kernels"),
    "backend of a closure": (
        lambda z, y: z,
        {"framework": "torch", "backend": "interpret"},
        "backend='interpret' takes a process of its own",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_makes_no_sense_is_refused_when_it_is_written(what: str) -> None:
    candidate, options, message = REFUSED[what]
    with pytest.raises(ValueError) as caught:
        checks_of(candidate, **options)
    assert message in str(caught.value)


def test_the_backend_and_its_time_limit_go_to_the_vetting() -> None:
    for given, expected in (
        ({}, ("native", 20.0)),
        ({"backend": "interpret"}, ("interpret", 120.0)),
        ({"backend": "interpret", "timeout": 7.0}, ("interpret", 7.0)),
    ):
        (parameter, *_) = parametrize_with_checks(right, framework="torch", **given).args[1]
        options = parameter.values[0]._shared._options
        assert (options.backend, options.timeout) == expected


def test_the_framework_must_be_told_where_the_file_does_not_tell_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "two_frameworks.py").write_text(
        textwrap.dedent(
            """
            if False:
                import torch, jax
            def f(z, y): return z
            def make(): return lambda z, y: z
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    import two_frameworks  # type: ignore[import-not-found]

    for candidate in (two_frameworks.f, two_frameworks.make()):
        with pytest.raises(ValueError, match="imports both torch and jax: say which with framework="):
            parametrize_with_checks(candidate)
    with pytest.raises(ValueError, match="say which framework the candidate is of"):
        parametrize_with_checks(eval("lambda z, y: z"))


def test_what_cannot_be_judged_is_an_error_in_every_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax", None)
    checks = checks_of(right, framework="jax")
    for name in ("accuracy", "sizes"):
        with pytest.raises(CannotJudge, match="jax is not installed: pip install jax"):
            checks[f"{name}-float32"]()


def test_workers_of_one_run_share_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def seed() -> int:
        shared: Any = checks_of(right)["accuracy-float32"]._shared
        return int(shared._options.seed)

    monkeypatch.setenv("PYTEST_XDIST_TESTRUNUID", "one run")
    assert seed() == seed()
    monkeypatch.delenv("PYTEST_XDIST_TESTRUNUID")
    assert seed() != seed()
