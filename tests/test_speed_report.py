"""The report's speed half: the picture of accuracy against speed, the columns of memory and bandwidth, the trends."""

from __future__ import annotations

import itertools
import math
import re
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_fixtures import CE, make_run, result, run_of

from harness.run import Run, Timing
from reports import render
from reports.speed import tables
from reports.tradeoff import HEIGHT, SIDE, WIDTH, Picture, Point, _labelled, pictures
from reports.trends import trends

BASE = Timing("base", "torch", CE, "float32", "cpu", "forward+backward", (4, 5), (0.001,) * 3, "base", 1.0,
              grade="absolute", max_ulp=9.0)  # fmt: skip


def timing(name: str, ratio: float | None, **changes: object) -> Timing:
    return replace(BASE, implementation=name, ratio=ratio, **changes)  # type: ignore[arg-type]


def picture(run: Run) -> Picture:
    (only,) = pictures(run)
    return only


# ---------------------------------------------------------------------------------------------------------- the picture


def test_up_is_less_accurate_and_right_is_slower() -> None:
    run = run_of(
        result(implementation="base", max_bound_ratio=0.5),
        result(implementation="slow_and_right", grade="relative", max_bound_ratio=0.01),
        result(implementation="fast_and_wrong", grade="inaccurate", max_bound_ratio=3e5, outcome="known_failure"),
        timings=(BASE, timing("slow_and_right", 8.0), timing("fast_and_wrong", 0.5)),
    )
    made = picture(run)
    at = {point.name: point for point in made.points}
    assert at["fast_and_wrong"].x < at["base"].x < at["slow_and_right"].x
    assert at["fast_and_wrong"].y < (made.limit or 0) < at["base"].y < at["slow_and_right"].y
    assert at["base"].x == made.one
    assert [at[name].mark.glyph for name in ("base", "slow_and_right", "fast_and_wrong")] == ["A", "R", "X"]
    assert "Most accurate: slow_and_right, at 8.00× the time" in made.label


def test_what_is_not_finite_somewhere_has_a_lane_above_all() -> None:
    lost = result(implementation="lost", nonfinite=2, outcome="nonfinite", max_bound_ratio=0.1, witness={"got": "inf"})
    made = picture(run_of(result(implementation="base"), lost, timings=(BASE, timing("lost", 2.0))))
    assert made.lane
    by_name = {point.name: point for point in made.points}
    assert by_name["lost"].y < by_name["base"].y
    assert by_name["lost"].error == "∞"
    assert not picture(
        run_of(result(implementation="base"), result(implementation="b"), timings=(BASE, timing("b", 2.0)))
    ).lane


def test_a_run_of_speed_alone_shows_the_errors_of_what_was_timed() -> None:
    made = picture(run_of(timings=(BASE, timing("b", 2.0, max_ulp=90.0, grade="relative"))))
    assert (made.unit, made.limit) == ("ulp", None)
    assert {point.error for point in made.points} == {"9", "90"}


def test_the_largest_shape_with_a_backward_is_pictured_and_each_dtype_once() -> None:
    others = [replace(t, shape=(9, 9), what="forward") for t in (BASE, timing("b", 2.0))]
    more = [replace(t, shape=(6, 6)) for t in (BASE, timing("b", 2.0))]
    half = [replace(t, dtype="bfloat16") for t in (BASE, timing("b", 2.0))]
    found = pictures(run_of(timings=(BASE, timing("b", 2.0), *others, *more, *half)))
    assert [(p.dtype, p.shape, p.what) for p in found] == [
        ("float32", (6, 6), "forward+backward"),
        ("bfloat16", (4, 5), "forward+backward"),
    ]


@pytest.mark.parametrize("ratio", [None, math.nan, math.inf, 0.0, -1.0])
def test_without_two_ratios_there_is_no_picture(ratio: float | None) -> None:
    assert pictures(run_of(timings=(BASE, timing("b", ratio)))) == []
    assert pictures(run_of()) == []


@given(
    st.lists(
        st.tuples(st.floats(1e-6, 1e9, allow_subnormal=False), st.floats(0, 1e300) | st.just(math.inf)),
        min_size=2,
        max_size=12,
    )
)
def test_whatever_is_measured_stays_inside(values: list[tuple[float, float]]) -> None:
    names = [f"implementation_{i}" for i in range(len(values))]
    timings = tuple(timing(name, ratio, baseline=names[0]) for name, (ratio, _) in zip(names, values, strict=True))
    results = [
        result(implementation=name, max_bound_ratio=error, nonfinite=int(math.isinf(error)))
        for name, (_, error) in zip(names, values, strict=True)
    ]
    made = picture(run_of(*results, timings=timings))
    assert len(made.points) == len(values)
    for point in made.points:
        assert SIDE / 2 < point.x < WIDTH - SIDE / 2
        assert SIDE / 2 < point.y < HEIGHT - SIDE / 2
    assert 1 <= len(made.up) <= 10
    assert 1 <= len(made.across) <= 10


def test_names_do_not_lie_on_each_other() -> None:
    mark = picture(run_of(timings=(BASE, timing("b", 2.0)))).points[0].mark
    crowd = [Point(f"an_implementation_{i}", mark, "", "", 300 + 4 * i, 200 + i % 3) for i in range(8)]
    boxes = [
        (p.label_x, p.label_y - 6.5, p.label_x + 6.3 * len(p.name), p.label_y + 6.5) for p in _labelled(crowd, None)
    ]
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_the_page_says_the_picture_in_words_and_as_a_table() -> None:
    html = render(make_run())
    assert html.count('class="plane"') == len(pictures(make_run())) > 0
    assert html.count("The same as a table") == html.count('class="plane"')
    assert re.search(r'aria-label="\d+ implementations in float32: across, the time relative to', html)


# ----------------------------------------------------------------------------------------------------------- the tables


def test_memory_and_bandwidth_are_columns_where_they_are_known() -> None:
    plain = run_of(timings=(BASE, timing("b", 2.0)))
    assert ("of copy</th>" in render(plain), "memory</th>" in render(plain)) == (False, False)
    known = run_of(timings=(BASE, timing("b", 2.0, bandwidth=0.1234, memory=2.96)))
    html = render(known)
    assert "12 %" in html
    assert "3.0×" in html


def test_a_wrong_answer_is_told_in_place_of_a_bar() -> None:
    wrong = timing("b", None, seconds=(), outcome="failed", detail="the loss is inaccurate, 9 times the absolute bound")
    assert "the loss is inaccurate, 9 times the absolute bound" in render(run_of(timings=(BASE, wrong)))


def test_a_mode_is_part_of_the_name_and_only_the_eager_one_is_the_baseline() -> None:
    (table,) = tables(run_of(timings=(BASE, timing("base", 0.5, mode="compiled", seconds=(0.0005,) * 3))))
    assert [(e.name, e.is_baseline, e.low) for e in table.entries] == [
        ("base (compiled)", False, 0.5),
        ("base", True, None),
    ]


def test_a_run_of_speed_alone_says_so_and_how_to_repeat_it() -> None:
    request = {"command": "speed", "only": ["b*"], "shapes": ["4,5"], "device": "cpu", "budget": 9.0, "memory": False}
    html = render(run_of(timings=(BASE,), environment={"seed": 3, "request": request}))
    assert "This run timed 1 implementation" in html
    assert (
        "xent speed --only &#39;b*&#39; --shape 4,5 --device cpu --budget 9.0 --no-memory --seed 3 --json run.json"
        in html
    )


# ----------------------------------------------------------------------------------------------------------- the trends


def nights(*values: float) -> list[tuple[str, float]]:
    return [(f"2026-01-{day:02}", value) for day, value in enumerate(values, start=1)]


def test_a_series_is_a_line_and_its_change() -> None:
    (trend,) = trends({"a": nights(1.0, 1.1, 0.9, 1.0, 1.5, 1.5, 1.6)})
    assert (trend.first_date, trend.last_date, trend.last, trend.usual) == ("2026-01-01", "2026-01-07", "1.6", "1")
    assert trend.change_text == "+50 %"
    assert trend.path.startswith("M3 ")
    assert trend.path.count("L") == 6
    assert (trend.last_x, trend.last_y) == (217.0, 3.0)
    assert "from 2026-01-01 to 2026-01-07: last 1.6" in trend.label


def test_what_got_worse_stands_first_and_order_in_time_is_ours() -> None:
    series = {"calm": nights(1, 1, 1, 1, 1), "worse": nights(1, 1, 3, 3, 3)[::-1], "better": nights(2, 2, 1, 1, 1)}
    assert [(t.name, t.change_text) for t in trends(series)] == [("worse", "3×"), ("calm", "±0 %"), ("better", "−50 %")]


@pytest.mark.parametrize("values", [(), (1.0,), (math.nan, 2.0), (math.inf, math.inf)])
def test_one_point_is_no_line(values: tuple[float, ...]) -> None:
    assert trends({"a": nights(*values)}) == []


def test_a_gap_interrupts_the_line() -> None:
    (trend,) = trends({"a": nights(1.0, 2.0, math.nan, 1.0, 2.0)})
    assert trend.path.count("M") == 2
    assert "nan" not in trend.path


def test_the_page_has_a_row_per_series_and_names_are_inert() -> None:
    html = render(run_of(timings=(BASE,)), {"<b>": nights(1, 2), "c": nights(3, 1)})
    assert html.count('class="spark"') == 2
    assert "<b>:" not in html
    assert "Over the nights" in html
    assert "Over the nights" not in render(run_of(timings=(BASE,)))
    assert "Over the nights" in render(run_of(), {"c": nights(3, 1)})


def test_a_year_of_400_series_is_made_in_a_second() -> None:

    series = {
        f"series {i}": [(f"{2026 + d // 365}-{d % 365:03}", 1 + (d * i % 7) / 9) for d in range(365)]
        for i in range(400)
    }
    start = time.process_time()
    assert len(trends(series)) == 400
    assert time.process_time() - start < 5
