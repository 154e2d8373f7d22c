"""Worst cases: the records of the package are true, damaged ones are refused by name, and every run draws them."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from harness.declaration import Declaration
from harness.discovery import discover
from harness.evaluation import Evaluator
from harness.families import families_for, make_batch
from harness.formats import DTYPES, FORMATS, named
from harness.grades import Grade
from harness.output import Output
from harness.reference import reference_of
from harness.rows import Row, batch_of
from harness.scoring import Metric, score
from harness.worker import Workers
from harness.worst_case import FOLDER, KEPT_CLASSES, WorstCase, WorstCaseError, holds, keep, load, load_all

ROOT = Path(__file__).resolve().parent.parent
CASES = load_all()
IMPORTANT = """torch_cross_entropy torch_logsumexp_gather numpy_shifted numpy_lse_minus_target numpy_log1p
    scipy_log_softmax jax_log_softmax optax_integer_labels"""


def row_of(case: WorstCase) -> Row:
    return Row(
        case.reals, case.target if isinstance(case.target, int) else 0, case.targets, float.fromhex(case.upstream)
    )


def label(case: WorstCase) -> str:
    return "-".join(case.key)


# The records of the package


def test_the_main_implementations_have_records() -> None:
    have = {case.key for case in CASES}
    for name in IMPORTANT.split():
        for dtype in ("float32", "float64", *(("bfloat16",) if name == "torch_cross_entropy" else ())):
            for metric in ("ulp", "bound_ratio"):
                assert (name, dtype, "loss", metric) in have
    assert {path.stem for path in FOLDER.iterdir()} == {case.implementation for case in CASES}
    assert all(len(case.logits) in KEPT_CLASSES for case in CASES)
    assert all("-inf" not in case.logits for case in CASES)
    assert all(case.versions["python"] and len(case.versions) > 1 for case in CASES)


@pytest.mark.parametrize("case", CASES, ids=label)
def test_a_record_is_true(case: WorstCase) -> None:
    """Truth, error and bound follow from the row and from what was got, on any machine."""
    fmt = FORMATS[case.dtype]
    batch = batch_of([row_of(case)], case.loss, fmt)
    reference = reference_of(batch)
    gradient = case.what == "gradient"
    hi, lo = (reference.grad_hi, reference.grad_lo) if gradient else (reference.loss_hi, reference.loss_lo)
    at = case.column or 0
    want = Fraction(float(hi.flat[at])) + Fraction(float(lo.flat[at]))
    said = Fraction(float.fromhex(case.want)) + Fraction(float.fromhex(case.want_low))
    # Truth is certified to 2^-90: two ways to it may differ by twice that.
    assert abs(said - want) <= max(abs(want) / 2**89, Fraction(5e-324))
    got = hi.copy()  # the row's other values are not in the record, and not what it is about
    got.flat[at] = float.fromhex(case.got)
    rounded = FORMATS[case.output_dtype].round(got)
    output = Output(loss=None if gradient else rounded, gradient=rounded if gradient else None)
    flushed = frozenset(FORMATS) if case.framework in ("jax", "pallas") else frozenset()
    strictly = score(Metric(case.metric), case.what, reference, output, fmt, Grade(case.bound))
    leniently = score(
        Metric(case.metric), case.what, reference, replace(output, flushed=flushed), fmt, Grade(case.bound)
    )
    assert leniently.score[0] <= case.value * (1 + 1e-9) <= strictly.score[0] * (1 + 2e-9)


@pytest.mark.parametrize("framework", ["numpy", "torch", pytest.param("jax", marks=pytest.mark.long)])
def test_the_records_are_looked_at_again(framework: str) -> None:
    """On this machine: exponentials differ between processors, so that the figures may, by a small factor."""
    cases = [case for case in CASES if case.framework == framework]
    assert cases
    with Workers(threads=1) as workers:
        names = sorted({case.implementation for case in cases})
        found = {f.name: f.declaration for f in discover(names, workers=workers)}
        for case in cases:
            declaration = found[case.implementation]
            assert declaration is not None
            value = recheck(case, declaration, workers)
            assert value <= 2 * case.value + 2, label(case)
            if case.metric == "ulp" and case.ulp > 1e4:
                assert value >= case.value / 2, f"{label(case)}: it is not lost any more, hunt again"


def recheck(case: WorstCase, declaration: Declaration, workers: Workers) -> float:
    evaluator = Evaluator(
        declaration, workers[declaration.framework], named(case.dtype), case.what, Metric(case.metric)
    )
    (candidate,) = evaluator([row_of(case)])
    return candidate.score


# The families


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_record_is_drawn(dtype: str) -> None:
    losses = {case.loss for case in CASES}
    drawn = set()
    for loss in losses:
        for family in families_for(loss, dtype, ["worst_cases_*"]):
            batch = make_batch(family.name, loss, dtype, 3)
            assert len(batch.logits) % 64 == 0, "a shape that compilers have met"
            for z, t in zip(batch.logits.astype(np.float64), batch.target, strict=True):
                drawn.add((loss, z.tobytes(), np.asarray(t, dtype=np.float64).tobytes()))
    for case in CASES:
        if case.dtype == dtype:
            t = np.float64(case.target) if isinstance(case.target, int) else case.targets
            assert (case.loss, case.reals.tobytes(), np.asarray(t).tobytes()) in drawn


def test_what_a_format_holds() -> None:
    assert holds(FORMATS["float16"], np.array([65504.0, -(2.0**-24), 0.0, -np.inf]))
    for value in (65505.0, 2.0**-25, np.nan, np.inf, 65536.0, 1 / 3):
        assert not holds(FORMATS["float16"], np.array([value]))
    rng = np.random.default_rng(0)
    for dtype in DTYPES:
        form = named(dtype)
        values = rng.choice([-1.0, 1.0], 500) * 2.0 ** rng.uniform(-1000, 1000, 500)
        rounded = form.round(values).astype(np.float64)
        for value, nearest in zip(values, rounded, strict=True):
            assert holds(form, np.array([value])) == (value == nearest and math.isfinite(nearest))
    assert holds(FORMATS["float64"], np.array([5e-324, 1.7976931348623157e308]))


# Keeping and loading


def case(value: float = 3.0, **changes: object) -> WorstCase:
    one, three = (1.0).hex(), (3.0).hex()
    plain = WorstCase(
        "mine", "numpy", "cross_entropy", "float32", "float32", "loss", "ulp", value, (one, three), 1, one, None,
        one, one, "0x0.0p+0", value, None, "absolute", {}, {"numpy": "2"}, {"seed": 0, "evaluations": 9},
    )  # fmt: skip
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    both = [
        case(),
        case(math.inf, what="gradient", column=1, got="nan", bound_ratio=0.25, logits=((0.0).hex(), "-inf"), target=0),
    ]
    assert keep(both, tmp_path) == both
    assert sorted(load(tmp_path / "mine.json"), key=lambda c: c.what == "gradient") == both
    assert load_all(tmp_path) == load(tmp_path / "mine.json")
    soft = case(implementation="other", target=((0.5).hex(), (1.0).hex()), loss="binary_cross_entropy_with_logits")
    keep([soft], tmp_path)
    assert load_all(tmp_path)[-1] == soft


def test_only_what_is_worse_is_kept(tmp_path: Path) -> None:
    keep([case(3.0)], tmp_path)
    assert keep([case(3.0), case(2.0)], tmp_path) == []
    assert keep([case(4.0), case(9.0, dtype="float64")], tmp_path) == [case(4.0), case(9.0, dtype="float64")]
    assert sorted(c.value for c in load_all(tmp_path)) == [4.0, 9.0]


def test_rows_that_do_not_stack_are_not_kept(tmp_path: Path) -> None:
    with pytest.raises(WorstCaseError, match=r"mine: records have .* classes, this one has 3"):
        keep([case(logits=((1.0).hex(),) * 3)], tmp_path)
    assert list(tmp_path.iterdir()) == []


Damage = Callable[[dict], object]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "a missing field": (lambda entry: entry.pop("want"), 'it has no "want"'),
    "another dtype": (lambda entry: entry.update(dtype="float8"), "\"dtype\" is 'float8'"),
    "another result": (lambda entry: entry.update(what="hessian"), "\"what\" is 'hessian'"),
    "a number of another format": (lambda entry: entry.update(logits=["0x1.00000001p+0", "0x0p+0"]), "not numbers of"),
    "a NaN": (lambda entry: entry.update(logits=["nan", "0x0p+0"]), "not numbers of"),
    "no number": (lambda entry: entry.update(got="one"), "invalid hexadecimal"),
    "a number for a text": (lambda entry: entry.update(loss=3), '"loss" is 3, which is no text'),
    "no list": (lambda entry: entry.update(logits=5), "of another kind"),
    "a label out of range": (lambda entry: entry.update(target=2), '"target" 2 does not fit 2 logits'),
    "a decimal text": (lambda entry: entry.update(value="many"), "could not convert"),
    "another implementation's": (lambda entry: entry.update(implementation="yours"), "it is another one's"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_refused_by_name(damage: str, tmp_path: Path) -> None:
    keep([case(), case(5.0, dtype="float64")], tmp_path)
    path = tmp_path / "mine.json"
    data = json.loads(path.read_text())
    change, message = DAMAGES[damage]
    change(data["cases"][0])
    path.write_text(json.dumps(data))
    with pytest.raises(WorstCaseError, match=r"mine\.json: record 0 is damaged") as refused:
        load(path)
    assert message in str(refused.value)
    with pytest.raises(WorstCaseError):
        keep([case(99.0)], tmp_path)
    assert json.loads(path.read_text()) == data, "and nothing is written over it"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"schema": 2, "cases": []}', '{"schema": 1}', '{"schema": 1, "cases": [3]}']
)
def test_a_file_that_is_none_is_refused_by_name(content: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(WorstCaseError, match=r"mine\.json: "):
        load(path)


def test_a_record_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    keep([case()], tmp_path)
    path = tmp_path / "mine.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "cases": data["cases"] * 2}))
    with pytest.raises(WorstCaseError, match="record 1 is damaged: it is another one's, or there twice"):
        load(path)


# The table


def tool() -> object:
    spec = importlib.util.spec_from_file_location("worst_cases_tool", ROOT / "tools" / "worst_cases.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_current() -> None:
    assert (ROOT / "docs" / "worst_cases.md").read_text() == tool().table(CASES), (  # type: ignore[attr-defined]
        "run python tools/worst_cases.py"
    )


def test_the_table_has_a_line_for_each_record() -> None:
    text = tool().table([case(2.0**24), case(0.25, metric="bound_ratio", bound_ratio=0.25)])  # type: ignore[attr-defined]
    assert "| `mine` | float32 | loss | 16,777,216 |  | 1 | 1 | [1, 3]; label 1 |" in text
    assert "| `mine` | float32 | loss | 0.25 | 0.25 of absolute | 1 | 1 | [1, 3]; label 1 |" in text
    assert "| numpy | 2 |" in text
