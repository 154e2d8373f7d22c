"""Values of options and upstream gradients that only some inputs show, and witnesses that show them again."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.batch import Batch
from harness.vetting import vet as vet_module
from harness.vetting.checks import Skipped
from harness.vetting.checks.option_values import values
from harness.vetting.context import Context
from harness.vetting.drivers import Call, NumpyDriver, driver_for
from harness.vetting.examination import Probe, Problem
from harness.vetting.examiner import Examiner
from harness.vetting.layouts import LAYOUTS, layout_of
from harness.vetting.reproduce import witness_of
from harness.vetting.session import Claims
from harness.vetting.settings import Options
from harness.vetting.source import read_source
from harness.vetting.vet import vet

RIGHT = """
import numpy as np

def cross_entropy(z, y, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    kept = y != ignore_index
    y = np.where(kept, y, 0)
    w = np.ones_like(z[0]) if weight is None else weight
    shifted = z - z.max(axis=1, keepdims=True)
    loss = np.log(np.exp(shifted).sum(axis=1, keepdims=True)) - shifted
    rows = (1 - label_smoothing) * w[y] * loss[np.arange(len(y)), y]
    if label_smoothing:
        rows = rows + label_smoothing / z.shape[1] * (w * loss).sum(axis=1)
    rows = np.where(kept, rows, 0).astype(z.dtype)
    if reduction == "none":
        return rows
    return rows.sum() if reduction == "sum" else rows.sum() / np.where(kept, w[y], 0).sum().astype(z.dtype)

def gradient(z, y, upstream):
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    return p * upstream[:, None]

"""


@pytest.fixture(autouse=True)
def no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Solve truth here, where it is asked for: these checks need little of it."""
    monkeypatch.setattr(vet_module, "truth_executor", lambda jobs: nullcontext(None))
    monkeypatch.setattr(vet_module, "by_dtype", lambda context, dtypes: ({d: [] for d in dtypes},) * 2)


OPTIONS = {
    "right": ("return cross_entropy(z, y, weight, ignore_index, label_smoothing, reduction)", ""),
    "smoothing of 1": (
        "return cross_entropy(z, y, weight, ignore_index, label_smoothing % 1, reduction)",
        "option_label_smoothing",
    ),
    "another negative index": (
        "return cross_entropy(z, np.where(y < -100, 0, y), weight, max(ignore_index, -100), label_smoothing, reduction)"
        " if ignore_index == -100 or ignore_index >= 0"
        " else cross_entropy(z, np.maximum(y, 0), weight, -100, label_smoothing, reduction)",
        "option_ignore_index",
    ),
    "weights in float16": (
        "return cross_entropy(z, y, None if weight is None else weight.astype(np.float16).astype(z.dtype),"
        " ignore_index, label_smoothing, reduction)",
        "option_weight",
    ),
    "smoothing beside weights": (
        "return cross_entropy(z, y, weight, ignore_index, label_smoothing if weight is None else 0.0, reduction)",
        "options_combined",
    ),
    "a denominator of one": (
        "rows = cross_entropy(z, y, weight, ignore_index, label_smoothing, reduction)\n"
        "    if reduction != 'mean' or weight is None: return rows\n"
        "    return rows * min(1, weight[y[y != ignore_index]].sum())",
        "reduction",
    ),
}


@pytest.mark.parametrize("what", OPTIONS)
def test_options_at_other_values(what: str, tmp_path: Path) -> None:
    body, check = OPTIONS[what]
    head = 'def f(z, y, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):\n    '
    (tmp_path / "candidate.py").write_text(RIGHT + head + body + "\n")
    for seed in (3, 4):
        found = vet(
            f"{tmp_path / 'candidate.py'}:f",
            Options(dtypes=("float32",), quick=True, seed=seed, checks=("option_weight",), shrink=False),
        )
        assert (check in {c.name for c in found.failed}) == bool(check), found.failed
        assert bool(found.failed) == bool(check), found.failed


def test_the_values_that_are_asked() -> None:
    """The settings as the candidate gets them: some of every kind, and each with rows that count."""
    sent: list[Batch] = []

    class Recorder(Examiner):
        def examine(self, batch: Batch, *_: object) -> Any:
            sent.append(batch)
            return type("Nothing", (), {"problems": ()})

    names = ("weight", "ignore_index", "label_smoothing", "reduction")
    examiner = Recorder(None, Claims(names), {}, True)  # type: ignore[arg-type]
    (skipped,) = values(Context(examiner, "cross_entropy", "indices", 9, True), "float64")
    assert skipped == Skipped("option_pos_weight", "pos_weight is not claimed, or is none of this loss and target")
    options = [batch.options for batch in sent]
    assert {o["label_smoothing"] for o in options if "label_smoothing" in o} >= {1.0}
    assert any(o.get("ignore_index", 0) >= 9 for o in options)
    assert {0, 8} & {o.get("ignore_index") for o in options}
    kept = [int((b.target != b.options["ignore_index"]).sum()) for b in sent if "ignore_index" in b.options]
    assert min(kept) == 1
    weights = [o["weight"] for o in options if "weight" in o]
    assert all((w == 0).sum() == 1 and 0 < w.sum() < 1 for w in weights)
    assert all((w.astype(np.float32) != w).any() for w in weights)  # more digits than float32 has


def test_digits_are_those_that_the_next_narrower_format_lacks() -> None:
    context = Context(None, "cross_entropy", "indices", 1)  # type: ignore[arg-type]
    values = np.random.default_rng(1).uniform(1e-3, 1e3, 200)
    for dtype, bits, relative in (("float64", 30, 2.0**-30), ("float32", 15, 2.0**-15), ("bfloat16", 3, 2.0**-3)):
        rounded = context.digits(dtype, values)
        assert np.abs(rounded / values - 1).max() <= relative
        mantissa, _ = np.frexp(rounded)
        assert ((mantissa * 2**bits) % 1 == 0).all()
    assert (context.digits("float32", values).astype(np.float16) != context.digits("float32", values)).mean() > 0.5


UPSTREAM = {
    "np.float16": ("float32", True),
    "np.float32": ("float32", False),
    "lambda g: np.clip(g, -900, 900)": ("float32", True),
    "lambda g: np.where(abs(g) < 1e-6, 0, g)": ("float32", True),
}


@pytest.mark.parametrize("change", UPSTREAM)
def test_upstream_gradients_of_every_size(change: str, tmp_path: Path) -> None:
    dtype, wrong = UPSTREAM[change]
    (tmp_path / "candidate.py").write_text(
        RIGHT
        + textwrap.dedent(
            f"""
            change = {change}
            def f(z, y):
                return cross_entropy(z, y, reduction="none")
            def g(z, y, upstream):
                return gradient(z, y, np.asarray(change(upstream), z.dtype))
            """
        )
    )
    options = Options(dtypes=(dtype,), gradient="g", quick=True, seed=1, checks=("upstream_gradient",), shrink=False)
    found = vet(f"{tmp_path / 'candidate.py'}:f", options)
    assert [c.name for c in found.failed] == ["upstream_gradient"] * wrong, found.failed


def test_a_changed_option_is_no_replay(tmp_path: Path) -> None:
    code = "kept = {}\ndef f(z, y, *, label_smoothing=0.0, reduction='mean'):\n"
    code += "    e = kept.setdefault(z.dtype, label_smoothing) if label_smoothing else 0.0\n"
    code += "    return cross_entropy(z, y, label_smoothing=e, reduction=reduction)\n"
    (tmp_path / "candidate.py").write_text(RIGHT + code)
    options = Options(dtypes=("float32",), quick=True, seed=1, checks=("no_replay",), shrink=False)
    assert [c.name for c in vet(f"{tmp_path / 'candidate.py'}:f", options).failed] == ["no_replay"]


# ------------------------------------------------------------------------------------------------ memory, and witnesses


def batch() -> Batch:
    rng = np.random.default_rng(0)
    logits = np.broadcast_to(rng.standard_normal(5), (4, 5)).astype(np.float32)
    return Batch(
        "cross_entropy", logits.copy(), np.arange(4), np.full(4, -0.75, np.float32), {"weight": logits[0] ** 2}
    )


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "far"])
def test_each_array_lies_as_its_layout_says(framework: str, layout: str) -> None:
    if framework == "torch":
        pytest.importorskip("torch")
    sent = batch()
    driver = driver_for(framework, 1)
    given = driver.give(sent, Call(layout=layout))
    for name, array in (("logits", given.logits), ("target", given.target), ("upstream", given.upstream)):
        np.testing.assert_array_equal(driver.read(array), getattr(sent, name))
    np.testing.assert_array_equal(driver.read(given.options["weight"]), sent.options["weight"])
    strides = [
        s // (a.itemsize if isinstance(driver, NumpyDriver) else 1)
        for a in (given.logits, given.upstream)
        for s in (a.strides if isinstance(driver, NumpyDriver) else a.stride())
    ]
    plain = [5, 1, 1]
    expected = {"transposed": [1, 4, 1], "strided": [10, 2, 2], "expanded": [0, 1, 0]}
    assert strides == expected.get(layout, plain)


@pytest.mark.parametrize(
    ("name", "axes", "layout", "own"),
    [
        ("logits", 2, "expanded", "expanded"),
        ("target", 1, "expanded", "contiguous"),
        ("target", 2, "expanded", "expanded"),
        ("upstream", 1, "expanded", "spread"),
        ("weight", 1, "expanded", "contiguous"),
        ("weight", 1, "transposed", "offset"),
        ("logits", 2, "transposed", "transposed"),
        ("upstream", 1, "strided", "strided"),
    ],
)
def test_the_layout_of_each_array(name: str, axes: int, layout: str, own: str) -> None:
    assert layout_of(name, axes, layout) == own


CANDIDATES = {
    "numpy": """
        import numpy as np
        def f(z, y, *, weight=None):
            print([[s // a.itemsize for s in a.strides] for a in (z, y, weight)], z.flags.writeable)
            return z[:, 0]
        """,
    "torch": """
        def f(z, y, *, weight=None):
            print([list(a.stride()) for a in (z, y, weight)], [a.storage_offset() > 0 for a in (z, y, weight)])
            return z[:, 0]
        """,
}


@pytest.mark.parametrize("framework", CANDIDATES)
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "far"])
def test_the_code_of_a_witness_lays_arrays_out_alike(
    framework: str, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if framework == "torch":
        pytest.importorskip("torch")
        if layout == "read_only":
            return
    path = tmp_path / "laid_out.py"
    path.write_text(textwrap.dedent(CANDIDATES[framework]))
    sent, driver = batch(), driver_for(framework, 1)
    problem = Problem("loss", "inaccurate", "wrong", sent, Probe(layout=layout), 0, None, 1.0, 2.0)
    code = witness_of(read_source(f"{path}:f", framework), problem, ("weight",))["code"]
    monkeypatch.chdir(tmp_path)
    space: dict[str, Callable[..., object]] = {}
    exec(compile(code, "witness", "exec"), space)
    printed = capsys.readouterr().out.splitlines()[0]
    given = driver.give(sent, Call(layout=layout))
    space["f"](given.logits, given.target, weight=given.options["weight"])
    assert capsys.readouterr().out.splitlines()[0] == printed
