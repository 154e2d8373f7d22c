"""Runs of several machines as one, and the page that is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

import reports
from harness.merging import Unlike, together
from harness.run import Run, Timing
from tests.commands import call
from tests.report_fixtures import result, run_of

HERE = run_of(
    result(implementation="ours", family="ties"),
    environment={"seed": 3, "cpu": "a small one", "versions": {"numpy": "2.4"}},
    families={"ties": {"breaks": "Here.", "source": "s", "losses": ["cross_entropy"]}},
    implementations=(
        {"name": "ours", "framework": "torch", "available": True, "reason": ""},
        {"name": "theirs", "framework": "triton", "available": False, "reason": "not installed"},
    ),
)
ON_GPU = run_of(
    result(implementation="ours", family="ties", device="cuda"),
    result(implementation="theirs", family="wide", device="cuda", framework="triton"),
    environment={"seed": 3, "cpu": "a large one", "workers": {"torch": {"gpu": "H100"}, "jax": {"error": "none"}}},
    families={
        "ties": {"breaks": "There.", "source": "s", "losses": ["cross_entropy"]},
        "wide": {"breaks": "There.", "source": "s", "losses": ["cross_entropy"]},
    },
    implementations=({"name": "theirs", "framework": "triton", "available": True, "reason": ""},),
)


def timing(**changes: object) -> Timing:
    fixed = {"implementation": "ours", "framework": "torch", "loss": "cross_entropy", "dtype": "float32"}
    more = {"device": "cpu", "what": "forward", "shape": (4, 10), "seconds": (1.0,), "baseline": "ours", "ratio": 1.0}
    return Timing(**{**fixed, **more, **changes})  # type: ignore[arg-type]


def test_one_run_is_itself() -> None:
    assert together([HERE], ["here.json"]) is HERE


def test_results_stand_side_by_side_and_each_keeps_its_circumstances() -> None:
    run = together([HERE, ON_GPU], ["here.json", "gpu.json"])
    assert run.results == (*HERE.results, *ON_GPU.results)
    assert run.environment == {**HERE.environment, "beside": [{**ON_GPU.environment, "name": "gpu.json"}]}
    assert {name: about["breaks"] for name, about in run.families.items()} == {"ties": "Here.", "wide": "There."}
    assert [(entry["name"], entry["available"]) for entry in run.implementations] == [("ours", True), ("theirs", True)]
    assert run.complete
    assert not together([HERE, run_of(environment={"seed": 3}, complete=False)], ["a", "b"]).complete


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (run_of(environment={"seed": 4}), r"a.json has seed 3 and b.json seed 4: other rows, which do not compare"),
        (
            run_of(result(implementation="ours", family="ties"), environment={"seed": 3}),
            r"a.json and b.json both have results of ours, cross_entropy, float32, cpu, ties, loss: leave one of them",
        ),
    ],
)
def test_what_does_not_go_together(other: Run, said: str) -> None:
    with pytest.raises(Unlike, match=said):
        together([HERE, other], ["a.json", "b.json"])


def test_times_of_two_machines_are_not_taken_for_one() -> None:
    a, b = (run_of(timings=(timing(device=device),), environment={"seed": 0}) for device in ("cpu", "cuda"))
    assert [t.device for t in together([a, b], ["a", "b"]).timings] == ["cpu", "cuda"]
    with pytest.raises(
        Unlike, match=r"a and c both have times of ours, cross_entropy, float32, cpu, forward, \(4, 10\)"
    ):
        together([a, b, a], ["a", "b", "c"])


def test_the_page_shows_both_and_says_where_each_comes_from() -> None:
    page = reports.render(together([HERE, ON_GPU], ["here.json", "gpu.json"]))
    assert "beside it: gpu.json" in page
    assert "H100; a large one" in page
    assert page.count("cuda") >= 2


def test_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    here, gpu, page = tmp_path / "here.json", tmp_path / "gpu.json", tmp_path / "page.html"
    HERE.save(here)
    ON_GPU.save(gpu)
    found = call(monkeypatch, capsys, "report", here, gpu, "-o", page)
    assert (found.status, found.err) == (0, "")
    assert "3 results" in found.out
    assert "beside it: " in page.read_text()
    found = call(monkeypatch, capsys, "report", here, here, "-o", page)
    assert found.status == 2
    assert f"{here} and {here} both have results of ours" in found.line
