"""Comparing: every way to get worse is seen, no quiet night raises an alarm, and a price is named."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import nights as made
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_fixtures import result

from harness.compare import Comparison, Limits, SpeedChange, Verdict, compare, compare_speed, markdown
from harness.compare.accuracy import Kind, grouped
from harness.compare.samples import of_nights, windows
from harness.compare.sections import headline, sections
from harness.compare.speed import Samples
from harness.history import History, Night, SeriesKey

# ------------------------------------------------------------------------------------------------------------ accuracy


def of_accuracy(old: Sequence[Any], new: Sequence[Any], **keywords: Any) -> Comparison:
    return compare([made.night(0, results=old)], [made.night(1, results=new)], **keywords)


WORSE: dict[str, tuple[dict[str, Any], dict[str, Any], Kind, str]] = {
    "a worse grade": ({"grade": "relative"}, {}, Kind.GRADE, "absolute (3 ulp), relative (3 ulp) before"),
    "a new NaN": ({}, {"nonfinite": 1}, Kind.NONFINITE, "1 values not finite, 0 before"),
    "more NaN": ({"nonfinite": 1}, {"nonfinite": 2}, Kind.NONFINITE, "2 values not finite, 1 before"),
    "a crash": ({}, {"outcome": "crashed", "grade": None, "max_ulp": None}, Kind.OUTCOME, "crashed, passed before"),
    "a claim that fails": ({}, {"outcome": "failed"}, Kind.OUTCOME, "failed, passed before"),
    "100 ulp": ({}, {"max_ulp": 103.0}, Kind.ULP, "103 ulp, 3 before"),
    "just beyond the factor": ({}, {"max_ulp": 6.01}, Kind.ULP, "6.01 ulp, 3 before"),
    "from less than one ulp": ({"max_ulp": 0.4}, {"max_ulp": 2.1}, Kind.ULP, "2.1 ulp, 0.4 before"),
    "an infinite error": ({}, {"max_ulp": float("inf")}, Kind.ULP, "inf ulp, 3 before"),
    "fewer rows": ({}, {"judged": 7}, Kind.JUDGED, "7 of 8 rows judged, 8 of 8 before"),
    "no grade any more": (
        {"outcome": "failed"},
        {"outcome": "raised", "grade": None},
        Kind.GRADE,
        "no grade (3 ulp), ",
    ),
}


@pytest.mark.parametrize("name", WORSE)
def test_each_way_to_get_worse_is_seen_and_the_reverse_is_better(name: str) -> None:
    old, new, kind, told = WORSE[name]
    (change,) = of_accuracy([result(**old)], [result(**new)]).accuracy
    assert (change.kind, change.worse) == (kind, True)
    assert change.told.startswith(told)
    back = of_accuracy([result(**new)], [result(**old)])
    assert back.worse == ()
    assert [c.kind for c in back.accuracy] == ([] if kind is Kind.JUDGED else [kind])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({}, {}),
        ({}, {"max_ulp": 5.9}),
        ({"max_ulp": 0.01}, {"max_ulp": 1.99}),
        ({"max_ulp": float("inf")}, {"max_ulp": float("inf")}),
        ({"outcome": "known_failure"}, {}),
        ({"outcome": "failed"}, {"outcome": "failed"}),
        ({}, {"judged": 8, "rows": 9}),
    ],
)
def test_what_is_no_worse(old: dict[str, Any], new: dict[str, Any]) -> None:
    found = of_accuracy([result(**old)], [result(**new)])
    assert (found.worse, found.cells, found.anything) == ((), 1, True)
    assert headline(found) == "Nothing got worse: 1 cell of accuracy and 0 series of speed compared."


def test_what_is_lost_is_seen_and_what_is_new_is_judged_by_its_claim() -> None:
    old = [result(), result(family="masked"), result(implementation="torch_two")]
    new = [result(), result(implementation="torch_new"), result(implementation="torch_bad", outcome="failed")]
    found = of_accuracy(old, new)
    assert [(c.key.implementation, c.key.family, c.kind) for c in found.accuracy] == [
        ("torch_bad", "ties", Kind.NOT_AS_CLAIMED),
        ("torch_one", "masked", Kind.LOST),
        ("torch_two", "ties", Kind.LOST),
    ]
    assert headline(found).startswith("Worse: 3 regressions of accuracy (1 cell of accuracy")


def test_the_factor_can_be_set() -> None:
    assert of_accuracy([result()], [result(max_ulp=29.0)], limits=Limits(ulp_factor=10)).worse == ()
    assert len(of_accuracy([result()], [result(max_ulp=31.0)], limits=Limits(ulp_factor=10)).worse) == 1


def test_many_cells_are_told_as_one() -> None:
    old = [result(family=f"f{i}") for i in range(5)]
    new = [result(family=f"f{i}", max_ulp=10.0**i) for i in range(5)]
    (group,) = grouped(of_accuracy(old, new).accuracy, worse=True)
    assert (group.subject, len(group.changes)) == ("torch_one float32 loss", 4)
    assert group.told == "ulp: f4: 1e+04 ulp, 3 before, and 3 more families"


# --------------------------------------------------------------------------------------------------------------- speed


def verdicts(nights: Sequence[Night], limits: Limits | None = None) -> dict[str, Verdict]:
    found = compare(nights[:-1], nights[-1:], limits)
    return {change.key.implementation: change.verdict for change in found.speed}


def test_a_series_made_half_slower_is_caught_on_the_third_night() -> None:
    nights = made.noisy(1, 29, noise=0.03, slower={"torch_7": (26, 1.5)})
    assert {k for k, v in verdicts(nights[:27]).items() if v is Verdict.SLOWER} == set()
    found = compare(nights[:-1], nights[-1:])
    (change,) = found.of(Verdict.SLOWER)
    assert change.key.implementation == "torch_7"
    assert change.change == pytest.approx(0.5, abs=0.08)
    assert (change.before, change.recent, change.p) == (20, 3, pytest.approx(1 / 1771))
    assert headline(found) == "Worse: 1 series slower (1 cell of accuracy and 41 series of speed compared)."


def test_a_series_made_half_slower_is_caught_under_ten_per_cent_of_noise() -> None:
    caught = 0
    for seed in range(40):
        nights = made.noisy(seed, 31, series=12, slower={"torch_7": (26, 1.5)})
        caught += any(verdicts(nights[:end])["torch_7"] is Verdict.SLOWER for end in (29, 30, 31))
    assert caught >= 38


def test_a_speed_up_is_no_alarm() -> None:
    nights = made.noisy(2, 30, noise=0.02, slower={"torch_3": (27, 0.5)})
    found = compare(nights[:-1], nights[-1:])
    assert [c.key.implementation for c in found.of(Verdict.FASTER)] == ["torch_3"]
    assert found.worse == ()


def test_a_slower_baseline_is_its_own_slow_down_and_not_the_speed_up_of_all() -> None:
    nights = [made.timed(i, dict.fromkeys("abcdef", (1.0 if i < 27 else 1 / 1.5) + i / 1e4)) for i in range(30)]
    found = verdicts(nights)
    assert found[made.BASELINE] is Verdict.SLOWER
    assert {found[name] for name in "abcdef"} == {Verdict.FASTER}


def test_with_few_others_the_baseline_stands_by_its_seconds() -> None:
    def with_seconds(index: int) -> Night:
        slow = 1.5 if index >= 27 else 1.0
        seconds = (slow * (1e-3 + 1e-7 * index),) * 7
        return made.night(index, results=[result()], timings=[made.timing(made.BASELINE, 1.0, seconds=seconds)])

    assert verdicts([with_seconds(i) for i in range(30)]) == {made.BASELINE: Verdict.SLOWER}


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, None), (2, Verdict.UNDECIDED), (11, Verdict.UNDECIDED), (12, Verdict.SLOWER), (40, Verdict.SLOWER)],
)
def test_it_takes_twelve_nights(count: int, expected: Verdict | None) -> None:
    nights = [made.timed(i, {"a": (1.5 if i >= count - 3 else 1.0) + i / 1e5}) for i in range(count)]
    assert verdicts(nights).get("a") == expected


def test_one_missing_night_is_undecided_and_two_are_a_loss() -> None:
    nights = [made.timed(i, {"a": 1.0 + i / 1e5, "b": None if i >= 28 else 1.0 + i / 1e5}) for i in range(30)]
    assert verdicts(nights[:29])["b"] is Verdict.UNDECIDED
    assert verdicts(nights)["b"] is Verdict.LOST
    assert headline(compare(nights[:-1], nights[-1:])).startswith("Worse: 1 series lost (")


def test_one_bad_night_of_three_is_no_alarm() -> None:
    rng = random.Random(5)
    nights = []
    for i in range(30):
        level = 1.6 if i == 28 else 1.06 if i > 26 else 1.0  # the other two are high, but within the noise
        nights.append(made.timed(i, {"a": level * math.exp(rng.gauss(0, 0.04)), "b": math.exp(rng.gauss(0, 0.06))}))
    assert Verdict.SLOWER not in verdicts(nights).values()


def test_windows_leave_out_the_nights_in_which_a_slow_down_settles() -> None:
    nights = [made.night(i) for i in range(40)]
    before, recent = windows(nights, Limits())
    assert [n.started for n in (before[0], before[-1], recent[0], recent[-1])] == [
        made.started(i) for i in (14, 33, 37, 39)
    ]
    before, recent = windows(nights[:25], Limits())
    assert [n.started for n in (before[0], before[-1], recent[0])] == [made.started(i) for i in (2, 21, 22)]


def test_an_accepted_series_begins_anew() -> None:
    nights = [made.timed(i, {"a": 1.5 if i >= 20 else 1.0}) for i in range(26)]
    key = next(key for key in nights[0].series if key.implementation == "a")
    whole = of_nights(nights[:23], nights[23:])[key]
    since = of_nights(nights[:23], nights[23:], {key: made.started(20)})[key]
    assert (len(whole.before), len(since.before)) == (23, 3)
    assert since.before == (1.5, 1.5, 1.5)


@given(st.lists(st.floats(0.5, 2.0), min_size=12, max_size=30), st.floats(1e-6, 1e6))
def test_the_unit_does_not_matter(values: list[float], unit: float) -> None:
    key = SeriesKey("a", "", "", "", "", "", "", 1, 1, "b")

    def judged(scale: float) -> SpeedChange:
        scaled = [scale * value for value in values]
        samples = {key: Samples(tuple(scaled[:-3]), tuple(scaled[-3:]))}
        return compare_speed(samples, Limits(), floor=0.05, fewest=(9, 3))[0]

    one, other = judged(1.0), judged(2.0 ** round(math.log2(unit)))
    assert (one.verdict, one.p) == (other.verdict, other.p)
    assert one.change == pytest.approx(other.change, abs=1e-9)


# -------------------------------------------------------------------------------------------------------- quiet nights


def false_alarms(seed: int, *, series: int, noise: float, count: int = 53) -> int:
    """Series that were ever called slower in thirty quiet nights after a full window."""
    nights = made.noisy(seed, count, series=series, noise=noise)
    alarms = set()
    for end in range(count - 30, count):
        found = compare(nights[max(0, end - 26) : end], [nights[end]])
        alarms |= {change.key for change in found.of(Verdict.SLOWER)}
    return len(alarms)


def test_thirty_quiet_nights_at_ten_per_cent_of_noise_raise_no_alarm() -> None:
    assert false_alarms(2026, series=40, noise=0.10) == 0


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("series", "repeats"), [(1, 60), (40, 40), (400, 4)])
def test_false_alarms_stay_below_the_stated_rate(series: int, repeats: int) -> None:
    found = sum(false_alarms(seed, series=series, noise=0.10) for seed in range(repeats))
    expected = 30 * repeats * Limits().false_alarms
    assert found <= expected + 3 * math.sqrt(expected), (found, expected)


# --------------------------------------------------------------------------------------------------------- single runs


def of_runs(old: float, new: float, **keywords: Any) -> Comparison:
    rng = random.Random(3)

    def one(index: int, ratio: float) -> Night:
        times = [tuple(1e-3 * (1 + rng.random() / 50) for _ in range(7)) for _ in range(5)]
        others = [made.timing(name, 1.0, seconds=s) for name, s in zip("bcd", times, strict=False)]
        a = made.timing("a", ratio, seconds=tuple(ratio * s for s in times[3]))
        timings = [a, *others, made.timing(made.BASELINE, 1.0, seconds=times[4])]
        return Night.of_run(made.run(index, [result(implementation="a")], timings), name=f"run {index}")

    return compare([one(0, old)], [one(1, new)], **keywords)


def test_two_runs_are_compared_round_by_round() -> None:
    found = of_runs(1.0, 1.5)
    assert found.by_rounds
    assert [c.key.implementation for c in found.of(Verdict.SLOWER)] == ["a"]
    assert [c.key.implementation for c in of_runs(1.5, 1.0).of(Verdict.FASTER)] == ["a"]


@pytest.mark.parametrize(("factor", "floor", "slower"), [(1.15, 0.20, False), (1.15, 0.10, True), (1.0, 0.0, False)])
def test_between_two_runs_it_takes_more(factor: float, floor: float, slower: bool) -> None:
    found = of_runs(1.0, factor, limits=Limits(slowdown_of_runs=floor))
    assert bool(found.of(Verdict.SLOWER)) == slower


# --------------------------------------------------------------------------------------------- prices, unlike, nothing


@pytest.mark.parametrize(
    ("change", "price"),
    [
        (
            {"what": "gradient", "max_ulp": 180.0, "witness": {"column": 1, "target": 1}},
            "2 % faster, true-class error 60 times worse on ties",
        ),
        ({"what": "gradient", "max_ulp": 180.0}, "2 % faster, gradient error 60 times worse on ties"),
        ({"max_ulp": 30.0}, "2 % faster, loss error 10 times worse on ties"),
        ({"nonfinite": 2}, "2 % faster, loss not finite on ties"),
        ({"max_ulp": float("inf")}, "2 % faster, loss error beyond measure worse on ties"),
    ],
)
def test_a_speed_up_that_costs_accuracy_is_named(change: dict[str, Any], price: str) -> None:
    what = change.get("what", "loss")
    nights = [made.timed(i, {"torch_one": 1.0 + i / 1e6}, results=[result(what=what)]) for i in range(27)]
    tonight = made.timed(27, {"torch_one": 0.98}, results=[result(**change)])
    found = compare([*nights, made.timed(26, {"torch_one": 0.98}, results=[result(what=what)])], [tonight])
    assert [(t.implementation, t.dtype, t.message) for t in found.trades] == [("torch_one", "float32", price)]
    assert next(sections(found)).title == "Faster at the price of accuracy"
    assert price.replace("-", "-") in markdown(found)


def test_accuracy_lost_without_a_gain_is_no_trade() -> None:
    old, new = made.timed(0, {"torch_one": 1.0}), made.timed(1, {"torch_one": 1.0}, results=[result(max_ulp=99.0)])
    assert compare([old], [new]).trades == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seed": 1}, "seed 1, not 0"),
        ({"machine": "other"}, "machine other, not test-3-ghz-8-cores-linux-x86-64-"),
        ({"label": "newest"}, "label newest, not none"),
        ({"threads": 4}, "threads 4, not 1"),
        ({"complete": False}, "it was interrupted"),
    ],
)
def test_unlike_runs_are_left_out_by_name(changes: dict[str, Any], reason: str) -> None:
    unlike = made.night(0, results=[result(max_ulp=1.0)], **changes)
    alone = compare([unlike], [made.night(2, results=[result(max_ulp=50.0)])])
    assert not alone.anything
    assert alone.worse == ()
    (left,) = alone.left_out
    assert left.name == unlike.name
    assert left.reason.startswith(reason)
    like = made.night(1, results=[result(max_ulp=40.0)])
    beside = compare([unlike, like], [made.night(2, results=[result(max_ulp=50.0)])])
    assert (beside.cells, beside.worse, beside.baseline) == (1, (), like.name)


def test_what_only_one_side_measured_is_said_and_is_no_loss() -> None:
    old, new = made.timed(0, {"a": 1.0}), made.night(1, results=[result()])
    found = compare([old], [new])
    assert [(entry.name, entry.reason) for entry in found.left_out] == [("speed", "measured before only")]
    assert (found.speed, found.worse, found.cells) == ((), (), 1)
    found = compare([new], [made.night(2, timings=[made.timing("a", 1.0)])])
    assert [(entry.name, entry.reason) for entry in found.left_out] == [
        ("accuracy", "measured before only"),
        ("speed", "measured now only"),
    ]
    assert not found.anything
    assert headline(found) == "Nothing comparable was measured."


def test_versions_that_differ_are_told() -> None:
    versions = made.ENVIRONMENT["versions"] | {"torch": "2.14.0", "jax": "0.11"}
    found = compare([made.night(0, results=[result()])], [made.night(1, results=[result()], versions=versions)])
    assert found.versions == {"torch": ("2.13.0", "2.14.0"), "jax": ("none", "0.11")}


# -------------------------------------------------------------------------------------------------------------- output


def test_json_is_strict_and_says_what_became_of_it() -> None:
    found = compare([made.timed(0, {"a": 1.0})], [made.timed(1, {"a": 1.2}, results=[result(max_ulp=float("inf"))])])
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (data["schema"], data["kind"], data["verdict"]) == (1, "comparison", "worse")
    assert data["accuracy"][0]["told"] == "inf ulp, 3 before"
    assert data["accuracy"][0]["new"]["ulp"] == "inf"
    assert {entry["verdict"] for entry in data["speed"]} == {"undecided"}


def test_markdown_shows_strangers_names_as_they_are() -> None:
    name = "a|b`<script>*x*\n[link](u)"
    found = of_accuracy([result(implementation=name)], [result(implementation=name, max_ulp=1e3)])
    text = markdown(found)
    rows = [line for line in text.splitlines() if "ulp" in line and line.startswith("| a")]
    assert rows
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 6 for row in rows)
    assert "<script>" not in re.sub(r"\\<|\\>", "", text)
    assert text.startswith("**Worse: 1 regression of accuracy")


def test_nothing_before_is_said() -> None:
    assert headline(compare([], [made.night(0, results=[result()])])) == "There is nothing before to compare with."


def test_a_folder_round_trip_changes_no_verdict(tmp_path: Any) -> None:
    nights = made.noisy(1, 29, noise=0.03, slower={"torch_7": (26, 1.5)})
    for night in nights:
        History.save(replace(night, name=""), tmp_path)
    loaded = History.load(tmp_path).nights
    there, here = compare(loaded[:-1], loaded[-1:]), compare(nights[:-1], nights[-1:])
    assert [(c.key, c.verdict) for c in there.speed] == [(c.key, c.verdict) for c in here.speed]
