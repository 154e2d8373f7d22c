"""What the report draws from a run: marks, order, claims, figures, witnesses."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_fixtures import BCE, CE, make_run, result, run_of

from harness.grades import Grade, Outcome
from harness.run import Run
from reports import render
from reports.claims import claims
from reports.heatmap import FIELDS, heat_map
from reports.marks import mark_of
from reports.model import subjects
from reports.numbers import count, duration, figure, linked, ratio, spread
from reports.summary import commands, missing, summary
from reports.witness import short_hex, shortened


@pytest.fixture(scope="module")
def run() -> Run:
    return make_run()


# --- marks, order, claims ---


@pytest.mark.parametrize(
    ("changes", "glyph"),
    [
        *(({"grade": str(grade)}, glyph) for grade, glyph in zip(Grade, "FRASX", strict=True)),
        ({"nonfinite": 1, "grade": "inaccurate", "outcome": "nonfinite"}, "∞"),
        ({"nonfinite": 1, "grade": "inaccurate", "outcome": "known_failure", "witness": {"got": "nan"}}, "NaN"),
        ({"nonfinite": 1, "grade": None, "outcome": "nonfinite", "max_abs": math.nan}, "NaN"),
        ({"grade": None, "outcome": "not_judged"}, "·"),
        ({"grade": "absolute", "outcome": "not_judged"}, "·"),
        ({"grade": None, "outcome": "crashed"}, "!"),
        ({"grade": None, "outcome": "known_failure"}, "!"),
        ({"grade": None, "outcome": "skipped"}, ""),
        ({"grade": None, "outcome": "unavailable"}, ""),
    ],
)
def test_marks(changes: dict[str, Any], glyph: str) -> None:
    assert mark_of(result(**changes)).glyph == glyph


def test_best_comes_first_and_the_unmeasured_last(run: Run) -> None:
    names = [subject.name for subject in subjects(run) if subject.loss == CE]
    assert set(names[:2]) == {"torch_log1p", "numpy_log1p"}
    assert set(names[-4:-2]) == {"numpy_naive", "torch_naive"}
    assert set(names[-2:]) == {"jax_log_softmax", "optax_softmax_cross_entropy"}


def test_heat_map_has_a_cell_for_every_result(run: Run) -> None:
    heat = heat_map(run, subjects(run))
    data = json.loads(heat.data)
    assert {(grid.dtype, grid.loss) for grid in heat.grids} == {
        (d, loss) for d in ("float64", "float32", "bfloat16", "float16") for loss in (CE, BCE)
    }
    assert sum(len(cell) - 1 for cell in data["cells"]) == len(run.results)
    assert set(heat.numbers.values()) == set(range(len(data["cells"])))
    grid = next(g for g in heat.grids if (g.dtype, g.loss) == ("float32", BCE))
    assert "tail_mass" not in grid.families
    assert len(grid.rows[0].cells) == len(grid.families)


def test_data_holds_what_a_result_says() -> None:
    one = result(
        outcome="failed", grade="inaccurate", max_ulp=math.inf, max_rel=None, max_bound_ratio=1234.8, judged=7,
        bound_ratios={"relative": 1e9, "storage": None}, detail="why", thread="see pytorch/pytorch#11752", negative=2,
        witness={"row": 3, "column": None, "logits": ["0x1.8000000000000p+1", "-inf"], "target": 0, "got": "nan"},
    )  # fmt: skip
    run = run_of(one)
    data = json.loads(heat_map(run, subjects(run)).data)
    place, record = data["cells"][0]
    told = dict(zip(FIELDS, [data["strings"][x] if isinstance(x, int) else x for x in record], strict=False))
    assert place == ["torch_one", "float32", "ties"]
    assert told["ulp"] == "∞"
    assert told["rel"] == "–"
    assert told["ratio"] == "1,235"
    assert told["ratios"] == "relative:1e9"
    assert (told["rows"], told["judged"], told["negative"]) == ("8", "7", "2")
    assert told["url"] == "https://github.com/pytorch/pytorch/issues/11752"
    assert (told["row"], told["target"], told["got"]) == ("3", "0", "nan")
    assert told["logits"] == "0:0x1.8p+1 1:-inf of 2"
    assert told["css"] == "X f"


def test_claims_are_grouped(run: Run) -> None:
    found = claims(run, subjects(run))
    assert {group.implementation for group in found.failures} == {"numpy_lse_minus_target", "liger_cross_entropy"}
    assert [(g.implementation, g.whats, g.families) for g in found.unexpected] == [
        ("torch_cross_entropy", ["gradient"], ["tail_mass"])
    ]
    compiled = next(g for g in found.known if g.implementation == "torch_compile")
    assert (compiled.dtypes, compiled.whats, len(compiled.results)) == (["float32"], ["loss", "gradient"], 2)


@pytest.mark.parametrize(
    ("grade", "outcome", "improvable"),
    [("relative", "passed", True), ("absolute", "passed", False), ("relative", "failed", False)],
)
def test_a_claim_weaker_than_what_is_reached_is_improvable(grade: str, outcome: str, improvable: bool) -> None:
    run = run_of(
        result(grade="faithful"),
        result(grade=grade, outcome=outcome, what="gradient"),
        result(grade="inaccurate", outcome="known_failure", family="wide"),
        result(grade=None, outcome="not_judged", family="masked"),
    )
    found = claims(run, subjects(run)).improvable
    assert [(i.claimed, i.reached) for i in found] == ([(Grade.ABSOLUTE, Grade.RELATIVE)] if improvable else [])


def test_summary_counts_every_outcome_once(run: Run) -> None:
    made = summary(run, subjects(run))
    parts = made.passed + made.known + made.failed + made.unexpected + made.not_judged
    assert parts == made.results
    assert made.results + made.not_run == len(run.results)
    assert (made.failed, made.unexpected) == (4, 1)
    assert "4 fail their claim and 1 known failure unexpectedly passes." in made.verdict


def test_every_outcome_is_counted_and_rendered() -> None:
    run = run_of(*(result(outcome=o, grade=None, family=o.value) for o in Outcome))
    made = summary(run, subjects(run))
    assert (made.passed, made.known, made.unexpected, made.not_judged, made.not_run) == (1, 1, 1, 1, 2)
    assert made.failed == len(Outcome) - 6
    assert "as accurate as claimed" in render(run)


def test_missing_gives_a_command_where_the_reason_has_none() -> None:
    entries = ({"name": "a", "available": False, "reason": "no optax", "requires": {"optax": "optax>=0.2"}},)
    (entry,) = missing(run_of(implementations=entries))
    assert (entry.names, entry.command) == (("a",), "pip install 'optax>=0.2'")


def test_commands_repeat_what_was_asked_for() -> None:
    request = {"only": ["torch_*", "a"], "families": ["ties"], "dtypes": [], "logits": ["my file.npz"], "quick": True}
    run = Run(environment={"seed": 3, "request": request}, results=())
    assert commands(run) == [
        "xent accuracy --only 'torch_*' --only a --family ties --logits 'my file.npz' --quick --seed 3 --json run.json",
        "xent report run.json -o report.html",
    ]


# --- numbers ---


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (math.nan, "NaN"), (math.inf, "∞"), (-math.inf, "−∞"), (0.0, "0"), (1.0, "1"), (-2.5, "−2.5"),
        (0.48123, "0.481"), (9.996, "10"), (99.96, "100"), (12345.4, "12,345"), (999_499.0, "999,499"),
        (999_500.0, "1e6"), (1.23e9, "1.2e9"), (1e300, "1e300"), (0.00012, "0.00012"), (9.99e-5, "1e-4"),
        (5e-324, "4.9e-324"),
    ],
)  # fmt: skip
def test_figures(value: float | None, text: str) -> None:
    assert figure(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: abs(x) < 1e308))
def test_figures_are_short_and_near(value: float) -> None:
    text = figure(value)
    assert len(text) <= 9
    read = float(text.replace("−", "-").replace(",", ""))
    assert read == pytest.approx(value, rel=0.051, abs=5e-324)


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(0.0098, 0.0123, "9.80–12.3 ms"), (1.0, 1.0, "1.00 s"), (2e-10, 2e-10, "0.200 ns"), (1e-6, 2.5e-4, "1.00–250 µs")],
)
def test_spreads(low: float, high: float, text: str) -> None:
    assert spread(low, high) == text


def test_other_words() -> None:
    assert duration(0.014) == "14.0 ms"
    assert (ratio(None), ratio(1.0), ratio(12.345), ratio(1e5)) == ("–", "1.00×", "12.3×", "100,000×")
    assert (count(1, "family", "families"), count(1200, "result")) == ("1 family", "1,200 results")


def test_links() -> None:
    pieces = linked("see a/b-c#12, https://x.org/y. javascript:alert(1)")
    assert [(p.text, p.url) for p in pieces] == [
        ("see ", ""),
        ("a/b-c#12", "https://github.com/a/b-c/issues/12"),
        (", ", ""),
        ("https://x.org/y", "https://x.org/y"),
        (". javascript:alert(1)", ""),
    ]


# --- witnesses ---


@given(st.floats())
def test_short_hex_is_the_same_number(value: float) -> None:
    text = value.hex() if math.isfinite(value) else str(value)
    short = short_hex(text)
    assert len(short) <= len(text)
    assert float.fromhex(short) == value or math.isnan(value)


def test_a_long_row_is_cut_to_what_matters() -> None:
    logits = [float(i % 97) for i in range(1000)]
    told = shortened(
        {"row": 5, "column": 3, "logits": logits, "target": 40, "got": 1.5, "options": {"label_smoothing": 0.1}}
    )
    indices = [int(entry.split(":")[0]) for entry in told["logits"].split(" of ")[0].split()]
    assert indices == [3, 40, 96, 193, 290, 387]
    assert told["logits"].endswith(" of 1000")
    assert told["got"] == "0x1.8p+0"
    assert told["more"] == "options label_smoothing = 0x1.999999999999ap-4"


def test_a_row_given_by_index() -> None:
    told = shortened(
        {"logits": {"7": "0x1.8p+1", "128000": "0x1.0p+1"}, "classes": 128256, "target": 7, "column": None}
    )
    assert told == {"logits": "7:0x1.8p+1 128000:0x1p+1 of 128256", "target": "7"}


def test_an_element_shows_its_own_upstream() -> None:
    told = shortened({"logits": ["0x1p+0", "0x1p+1"], "column": 1, "upstream": ["0x1.8p+0", "-0x1.8000p+1"]})
    assert told["upstream"] == "-0x1.8p+1"


def test_a_soft_target_is_cut_at_the_same_places() -> None:
    told = shortened({"logits": [9.0, *[0.0] * 20, 8.0], "target": [0.5, *[0.0] * 20, 0.5]})
    places = [[e.split(":")[0] for e in told[k].split(" of ")[0].split()] for k in ("logits", "target")]
    assert places[0] == places[1] == ["0", "1", "2", "21"]
