"""The history: what a night's file keeps, how it is named, what is left out, and that nothing is ever lost."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nights as made
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_fixtures import result

from harness.grades import Grade, Outcome
from harness.history import (
    Acceptance,
    Alarm,
    Cell,
    CellKey,
    History,
    Identity,
    Night,
    NightFileError,
    Series,
    SeriesKey,
    load_acceptances,
    machine_name,
)
from harness.history.records import pack_accuracy, unpack_accuracy
from harness.run import Result

RESULTS = (
    result(max_ulp=0.1234567891),
    result(family="masked", grade="inaccurate", outcome="nonfinite", nonfinite=2, max_ulp=float("inf"), judged=3),
    result(what="gradient", witness={"column": 1, "target": 1}, max_ulp=7.0),
    result(implementation="torch_two", grade=None, outcome="raised", max_ulp=None, claimed=None),
    result(implementation="torch_two", family="masked", outcome="skipped", grade=None),
    result(implementation="torch_three", outcome="unavailable", grade=None),
)


def test_a_night_survives_its_file(tmp_path: Path) -> None:
    alarms = (Alarm("speed", "torch_two float32", "50 % slower", since="earlier", seen=False),)
    timings = (made.timing("torch_two", 1.5), made.timing("torch_three", None), made.timing(made.BASELINE, 1.0))
    night = made.night(3, results=RESULTS, timings=timings, label="newest")
    saved = History.save(replace(night, alarms=alarms, baseline="an earlier one"), tmp_path)
    (path,) = (tmp_path / "nights").iterdir()
    found = Night.load(path)
    assert path.name == f"{saved.name}.json"
    assert found.identity == night.identity
    assert (found.alarms, found.baseline, found.started, found.complete) == (
        alarms,
        "an earlier one",
        made.started(3),
        True,
    )
    assert found.cells == night.cells
    assert found.series == night.series
    assert found.to_json() == saved.to_json()
    assert found.encoded()[0] == saved.name


def test_cells_hold_what_a_comparison_looks_at() -> None:
    cells = made.night(results=RESULTS).cells
    key = ("torch_one", "torch", "cross_entropy", "float32", "cpu", "native")
    assert cells == {
        CellKey(*key, "loss", "ties"): Cell("absolute", "absolute", "passed", 0.123457, 8, 8, 0, False),
        CellKey(*key, "loss", "masked"): Cell("absolute", "inaccurate", "nonfinite", float("inf"), 8, 3, 2, False),
        CellKey(*key, "gradient", "ties"): Cell("absolute", "absolute", "passed", 7.0, 8, 8, 0, True),
        CellKey("torch_two", *key[1:], "loss", "ties"): Cell(None, None, "raised", None, 8, 8, 0, False),
    }


def test_series_hold_ratio_and_median() -> None:
    timing = made.timing("torch_two", 1.25, seconds=(3e-3, 1e-3, 2e-3), mode="compiled", shape=(64, 32000))
    series = made.night(timings=[timing, made.timing("torch_three", None)]).series
    key = SeriesKey(
        "torch_two", "torch", "cross_entropy", "float32", "cpu", "compiled", "forward", 64, 32000, made.BASELINE
    )
    assert series == {key: Series(1.25, 2e-3)}
    assert key.told == "torch_two float32 forward 64 × 32000 (compiled)"


RESULT = st.builds(
    result,
    implementation=st.sampled_from(["a", "b"]),
    dtype=st.sampled_from(["float32", "float64"]),
    family=st.text(min_size=1, max_size=5),
    what=st.sampled_from(["loss", "gradient"]),
    grade=st.sampled_from([None, *map(str, Grade)]),
    outcome=st.sampled_from([str(o) for o in Outcome if o not in (Outcome.SKIPPED, Outcome.UNAVAILABLE)]),
    max_ulp=st.none() | st.floats(0, allow_nan=False),
    rows=st.integers(0, 9),
    judged=st.integers(0, 9),
    nonfinite=st.integers(0, 9),
)


@given(st.lists(RESULT, max_size=12, unique_by=lambda r: (r.implementation, r.dtype, r.what, r.family)))
def test_packing_loses_nothing_but_digits(results: list[Result]) -> None:
    cells = unpack_accuracy(json.loads(json.dumps(pack_accuracy(results))))
    assert len(cells) == len(results)
    for r in results:
        cell = cells[CellKey(r.implementation, r.framework, r.loss, r.dtype, r.device, r.backend, r.what, r.family)]
        assert (cell.grade, cell.outcome, cell.rows, cell.judged) == (r.grade, r.outcome, r.rows, r.judged)
        assert (cell.nonfinite, cell.claimed) == (r.nonfinite, r.claimed)
        assert cell.ulp == (None if r.max_ulp is None else pytest.approx(r.max_ulp, rel=1e-5))


# --------------------------------------------------------------------------------------------------------------- names


def test_names_tell_night_and_machine_and_never_collide() -> None:
    names = {
        night.encoded()[0]
        for night in (
            made.night(0),
            made.night(1),
            made.night(0, machine="Lab 7"),
            made.night(0, label="newest"),
            made.night(0, results=[result()]),
            made.night(0, seed=1),
        )
    }
    assert len(names) == 6
    assert all(re.fullmatch(r"20260[0-9]{3}T030000Z-[a-z0-9.-]+-[0-9a-f]{8}", name) for name in names)
    assert sum("-lab-7-" in name for name in names) == 1
    assert sum(".newest-" in name for name in names) == 1


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"platform": "Linux-6.9-x86_64-with-glibc2.41"}, True),
        ({"python": "3.13.0"}, True),
        ({"cpu": "Other CPU"}, False),
        ({"cores": 4}, False),
        ({"platform": "macOS-15-arm64"}, False),
        ({"workers": {"torch": {"gpu": "H100"}}}, False),
    ],
)
def test_a_machine_is_what_its_figures_depend_on(change: dict[str, Any], same: bool) -> None:
    one, other = machine_name(made.ENVIRONMENT), machine_name(made.ENVIRONMENT | change)
    assert (one == other) == same
    assert re.fullmatch(r"[a-z0-9.-]+-[0-9a-f]{6}", other)


def test_a_machine_without_a_description_has_a_name() -> None:
    assert re.fullmatch(r"[a-z0-9.-]+", machine_name({}))


# ------------------------------------------------------------------------------------------------------------- folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(3):
        History.save(made.night(index, results=[result()]), tmp_path)
    return tmp_path / "nights"


def test_nights_come_in_order_from_either_folder(folder: Path) -> None:
    for place in (folder, folder.parent):
        history = History.load(place)
        assert [night.started for night in history.nights] == [made.started(i) for i in range(3)]
        assert history.left_out == ()
    with pytest.raises(NightFileError, match="there is no such folder"):
        History.load(folder / "elsewhere")


def damaged(path: Path) -> str:
    content = path.read_bytes()
    path.write_bytes(content.replace(b"0.5", b"0.6").replace(b'"ties"', b'"tied"'))
    return "damaged: its content is not what its name says; take another copy"


def cut_short(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:-200])
    return "damaged: its content is not what its name says; take another copy"


def cut_and_renamed(path: Path) -> str:
    path.with_name("0.json").write_bytes(path.read_bytes()[:300])
    path.unlink()
    return "cannot be read: "


def other_schema(path: Path) -> str:
    path.with_name("0.json").write_text(path.read_text().replace('"schema":1', '"schema":2'))
    path.unlink()
    return "schema 2, but this version reads schema 1"


def other_kind(path: Path) -> str:
    path.with_name("0.json").write_text('{"schema": 1, "results": []}')
    path.unlink()
    return 'not a file of the history (its "kind" is not "night")'


def not_strict(path: Path) -> str:
    path.with_name("0.json").write_text(path.read_text().replace('"complete":true', '"complete":NaN'))
    path.unlink()
    return "cannot be read: NaN is not JSON"


def wrong_table(path: Path) -> str:
    path.with_name("0.json").write_text(
        path.read_text().replace('"speed":{"columns":["loss"', '"speed":{"columns":["x"')
    )
    path.unlink()
    return "a damaged night: ValueError: no table with the columns loss"


def wrong_identity(path: Path) -> str:
    path.with_name("0.json").write_text(path.read_text().replace('"seed":0,"threads"', '"seed":[],"threads"', 1))
    path.unlink()
    return "a damaged night: TypeError"


def another_seed(path: Path) -> str:
    path.unlink()
    History.save(made.night(0, results=[result()], seed=5), path.parent.parent)
    return "seed 5, not 0"


def another_machine(path: Path) -> str:
    path.unlink()
    History.save(made.night(0, results=[result()], machine="elsewhere"), path.parent.parent)
    return "machine elsewhere, not test-3-ghz-8-cores-linux-x86-64"


def another_selection(path: Path) -> str:
    path.unlink()
    History.save(made.night(0, results=[result()], request={"quick": True, "only": []}), path.parent.parent)
    return 'scope {"quick": true}, not all'


def interrupted(path: Path) -> str:
    path.unlink()
    History.save(made.night(0, results=[result()], complete=False), path.parent.parent)
    return "it was interrupted"


def copied(path: Path) -> str:
    path.rename(path.with_name("zz (1).json"))
    shutil.copy(path.with_name("zz (1).json"), path)
    return f"a copy of {path.name}"


CASES = (
    damaged, cut_short, cut_and_renamed, other_schema, other_kind, not_strict, wrong_table, wrong_identity,
    another_seed, another_machine, another_selection, interrupted, copied,
)  # fmt: skip


@pytest.mark.parametrize("spoil", CASES)
def test_what_cannot_be_used_is_left_out_by_name(spoil: Callable[[Path], str], folder: Path) -> None:
    reason = spoil(min(folder.iterdir()))
    like = History.load(folder).like(made.night(2).identity)
    assert [night.started for night in like.nights][-2:] == [made.started(1), made.started(2)]
    assert len(like.nights) == (3 if spoil is copied else 2)
    (left,) = like.left_out
    assert left.name.endswith(".json")
    assert left.reason.startswith(reason)


def test_damaged_accuracy_under_another_name_is_refused_where_it_is_looked_at(folder: Path) -> None:
    path = min(folder.iterdir())
    spoilt = folder / "0.json"
    spoilt.write_bytes(path.read_bytes().replace(b'"rows":[[', b'"rows":[[1,'))
    with pytest.raises(NightFileError, match=r"0: damaged accuracy: ValueError: a row that has not 16 entries"):
        Night.load(spoilt).cells  # noqa: B018


def test_histories_are_merged_by_copying(tmp_path: Path) -> None:
    for index in range(4):
        History.save(made.night(index, machine=f"m{index % 2}"), tmp_path / f"clone{index % 2}")
    for clone in ("clone0", "clone1", "clone0"):
        shutil.copytree(tmp_path / clone, tmp_path / "all", dirs_exist_ok=True)
    history = History.load(tmp_path / "all")
    assert [night.identity.machine for night in history.nights] == ["m0", "m1", "m0", "m1"]
    assert history.left_out == ()


def test_an_identity_tells_how_another_differs() -> None:
    one = Identity("m", "", 0, 1, "all")
    assert one.difference(one) == ""
    assert (
        one.difference(Identity("n", "newest", 0, 2, "all"))
        == "machine n, not m; label newest, not none; threads 2, not 1"
    )


def test_a_disk_that_is_full_costs_no_earlier_night(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        History.save(made.night(9), folder.parent)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# --------------------------------------------------------------------------------------------------------- acceptances


def test_an_acceptance_survives_its_file(tmp_path: Path) -> None:
    one = Acceptance(
        "a-night", "2026-01-02T03:04:05+00:00", (Alarm("accuracy", "x", "worse", since="a-night"),), "known"
    )
    other = Acceptance("b-night", "2026-01-01T03:04:05+00:00", ())
    path = one.save(tmp_path / "accepted")
    other.save(tmp_path / "accepted")
    assert re.fullmatch(r"20260102T030405Z-[0-9a-f]{8}\.json", path.name)
    assert load_acceptances(tmp_path / "accepted") == (other, one)
    assert load_acceptances(tmp_path / "nothing") == ()


@pytest.mark.parametrize("content", ["{", '{"schema": 1, "kind": "acceptance"}', '{"schema": 9, "kind": "acceptance"}'])
def test_a_damaged_acceptance_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(NightFileError, match=r"a\.json: "):
        load_acceptances(tmp_path)


# ---------------------------------------------------------------------------------------------------------------- size


@pytest.mark.long
def test_a_year_of_nights_with_400_series_loads_in_under_a_second(tmp_path: Path) -> None:
    shapes = [(64 * i, 1000) for i in range(1, 21)]
    timings = [made.timing(f"implementation_{i}", 1 + i / 7, shape=s) for i in range(20) for s in shapes]
    results = [
        result(implementation=f"implementation_{i}", family=f"family_{j}", max_ulp=i + j / 7, what=what, dtype=dtype)
        for i in range(20)
        for j in range(35)
        for what in ("loss", "gradient")
        for dtype in ("float64", "float32", "bfloat16", "float16")
    ]
    one = made.night(0, timings=timings, results=results)
    for index in range(365):
        History.save(replace(one, started=made.started(index)), tmp_path)
    begin = time.process_time()
    history = History.load(tmp_path)
    took = time.process_time() - begin
    assert len(history.nights) == 365
    assert len(history.nights[-1].series) == 400
    assert len(history.nights[-1].cells) == len(results)
    assert took < 1.0, f"{took:.2f} s of processor time"
