"""Runs: strict JSON out, the same run back in, and damaged files refused by name and reason."""

import json
import math
from dataclasses import asdict, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.run import SCHEMA, Result, Run, RunFileError, Timing, strict

FLOAT = st.floats() | st.sampled_from([math.inf, -math.inf, math.nan, 5e-324, 1.7976931348623157e308, -0.0])
TEXT = st.text(max_size=12) | st.sampled_from(["nan", "inf", "-inf", "Infinity", "NaN", "ü → ∞", "\u2028", '"', "\\"])
MAYBE = st.none() | FLOAT
WITNESS = st.none() | st.dictionaries(TEXT, TEXT | st.lists(TEXT, max_size=2) | st.integers(), max_size=3)


def of(kind, **special):
    """Values of a dataclass, field by field."""
    chosen = {}
    for field in fields(kind):
        by_type = {"str": TEXT, "int": st.integers(0, 2**70), "float | None": MAYBE, "str | None": st.none() | TEXT}
        by_type["int | None"] = st.none() | st.integers(0, 2**70)
        chosen[field.name] = special.get(field.name, by_type.get(field.type))
    return st.builds(kind, **chosen)


RESULTS = of(Result, bound_ratios=st.dictionaries(TEXT, MAYBE, max_size=2), witness=WITNESS)
TIMINGS = of(
    Timing,
    shape=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    seconds=st.lists(FLOAT, max_size=3).map(tuple),
    copy_seconds=st.lists(FLOAT, max_size=3).map(tuple),
)
RUNS = st.builds(
    Run,
    environment=st.dictionaries(TEXT, TEXT | st.integers() | st.dictionaries(TEXT, TEXT, max_size=2), max_size=3),
    results=st.lists(RESULTS, max_size=3).map(tuple),
    families=st.dictionaries(TEXT, st.dictionaries(TEXT, TEXT, max_size=2), max_size=2),
    implementations=st.lists(st.dictionaries(TEXT, TEXT, max_size=2), max_size=2).map(tuple),
    timings=st.lists(TIMINGS, max_size=2).map(tuple),
    complete=st.booleans(),
)


def refuse(name):
    raise AssertionError(f"bare {name}")


def same(a, b):
    """Equality under which NaN equals itself and 0.0 does not equal −0.0."""
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


EXAMPLE = Result(
    implementation="f", framework="numpy", loss="cross_entropy", dtype="float32", device="cpu", backend="native",
    family="ties", what="loss", rows=16, judged=15, claimed="absolute", grade="relative", outcome="passed",
    max_ulp=math.inf, max_abs=1e-7, max_rel=None, max_bound_ratio=math.nan,
    bound_ratios={"absolute": math.inf, "x": None},
    witness={"got": "inf", "logits": ["nan", "0x1p+0"]}, detail="nan",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@given(run=RUNS)
def test_a_run_comes_back_as_it_went(folder, run):
    path = folder / "run.json"
    run.save(path)
    text = path.read_text(encoding="utf-8")
    data = json.loads(text, parse_constant=refuse)
    assert next(iter(data)) == "schema"
    assert data["schema"] == SCHEMA == 1
    assert same(asdict(Run.load(path)), asdict(run))
    assert text.isascii()


def test_what_json_cannot_hold_is_written_by_name(tmp_path):
    path = tmp_path / "run.json"
    Run(environment={"x": -math.inf}, results=(EXAMPLE,)).save(path)
    entry = json.loads(path.read_text(), parse_constant=refuse)["results"][0]
    assert (entry["max_ulp"], entry["max_bound_ratio"], entry["max_rel"]) == ("inf", "nan", None)
    assert entry["bound_ratios"] == {"absolute": "inf", "x": None}
    back = Run.load(path).results[0]
    assert back.max_ulp == math.inf
    assert math.isnan(back.max_bound_ratio)
    assert back.bound_ratios == {"absolute": math.inf, "x": None}
    # Words stay words: a detail that reads "nan" is no number, and a witness is text throughout.
    assert back.detail == "nan"
    assert back.witness == {"got": "inf", "logits": ["nan", "0x1p+0"]}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (1.5, 1.5),
        (None, None),
        (True, True),
        ({"a": (math.inf, [math.nan])}, {"a": ["inf", ["nan"]]}),
        ("inf", "inf"),
    ],
)
def test_strict(value, expected):
    assert same(strict(value), expected)


def test_every_key_of_the_contract_is_written():
    entry = Run(environment={}, results=(EXAMPLE,)).to_json()["results"][0]
    wanted = (
        "implementation framework dtype device backend family what rows judged grade outcome max_ulp max_abs max_rel "
        "max_bound_ratio nonfinite witness"
    )
    assert set(wanted.split()) <= set(entry)
    assert set(Run(environment={}, results=()).to_json()) == {
        "schema", "environment", "results", "families", "implementations", "timings", "complete"
    }  # fmt: skip


def saved(path, **changes):
    Run(environment={"seed": 1}, results=(EXAMPLE,)).save(path)
    data = json.loads(path.read_text())
    for key, value in changes.items():
        if value is ...:
            del data[key]
        else:
            data[key] = value
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema": 2}, "schema 2, but this version reads schema 1"),
        ({"schema": "1"}, "schema '1', but"),
        ({"schema": True}, "schema True, but"),
        ({"schema": 1.0}, "schema 1.0, but"),
        ({"schema": None}, "schema None, but"),
        ({"schema": ...}, 'not a run file (it has no "schema")'),
        ({"results": ...}, "a damaged run file: KeyError: 'results'"),
        ({"environment": ...}, "a damaged run file: KeyError: 'environment'"),
        ({"results": {"a": 1}}, "a damaged run file: TypeError: \"results\" is {'a': 1}, which is no list"),
        ({"results": ["x"]}, "a damaged run file: AttributeError"),
        ({"results": [{"implementation": "f"}]}, "a damaged run file: TypeError"),
        ({"environment": []}, 'a damaged run file: TypeError: "environment" is [], which is no dict'),
        ({"families": None}, 'a damaged run file: TypeError: "families" is None'),
        ({"timings": 3}, 'a damaged run file: TypeError: "timings" is 3'),
        ({"complete": "yes"}, "a damaged run file: TypeError: \"complete\" is 'yes', which is no bool"),
    ],
)
def test_other_schemas_and_damaged_entries_are_refused(tmp_path, changes, reason):
    path = tmp_path / "night.json"
    saved(path, **changes)
    with pytest.raises(RunFileError) as caught:
        Run.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"not json",
        b'{"schema": 1, "x": NaN}',
        b'{"schema": 1, "x": -Infinity}',
        b"\xff\xfe\x00",
        b"[" * 200_000,
        b'{"schema": ' + b"9" * 5000 + b"}",
        b"[]",
        b"null",
        b'"schema"',
    ],
    ids=lambda content: repr(content[:24]),
)
def test_what_is_no_run_file_is_refused(tmp_path, content):
    path = tmp_path / "night.json"
    path.write_bytes(content)
    with pytest.raises(RunFileError, match=r"night\.json: (cannot be read as a run file|not a run file)"):
        Run.load(path)


def test_every_truncation_is_refused(tmp_path):
    whole = tmp_path / "whole.json"
    Run(environment={}, results=(EXAMPLE,)).save(whole)
    content = whole.read_bytes().rstrip()
    path = tmp_path / "cut.json"
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(RunFileError, match=r"cut\.json: cannot be read"):
            Run.load(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(RunFileError, match="cannot be read as a run file"):
            Run.load(path)


def test_what_a_later_version_may_add_is_passed_over(tmp_path):
    path = tmp_path / "run.json"
    Run(environment={}, results=(EXAMPLE,)).save(path)
    data = json.loads(path.read_text())
    data["results"][0]["colour"] = "red"
    data["more"] = 1
    path.write_text(json.dumps(data))
    assert Run.load(path).results[0].family == "ties"


def test_what_json_has_no_words_for_leaves_the_old_file(tmp_path):
    path = tmp_path / "run.json"
    Run(environment={}, results=()).save(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        Run(environment={"x": object()}, results=()).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
