"""``xent speed``: its table, its exit statuses and lines, its run file, and that Ctrl-C keeps what was finished."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import cli, speed
from harness.cli.speed_table import speed_lines, wrong
from harness.run import Run, Timing
from harness.speed import NothingToTime, SpeedRequest, run_speed
from reports.summary import commands

FAST = ("--shape", "8,10", "--budget", "1", "--no-memory", "--baseline", "numpy_shifted")


@pytest.fixture
def xent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["xent", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, captured.out, captured.err

    return run


Xent = Callable[..., tuple[int, str, str]]


def test_a_table_and_a_run_file(xent: Xent, tmp_path: Path) -> None:
    file = tmp_path / "speed.json"
    status, out, _ = xent("speed", "--only", "numpy_naive", *FAST, "--shape", "16,3", "--json", file)
    assert status == 0
    assert "forward+backward, float32, relative to numpy_shifted (cpu, 1 thread)" in out
    row = next(line.split() for line in out.splitlines() if "numpy_naive" in line)
    assert len(row) == 4
    assert all(float(ratio) > 0 for ratio in row[1:3])
    run = Run.load(file)
    assert {(t.implementation, t.what, t.shape) for t in run.timings} == {
        (name, what, shape)
        for name in ("numpy_naive", "numpy_shifted")
        for what in ("forward", "forward+backward")
        for shape in ((8, 10), (16, 3))
    }
    assert run.environment["threads"] == 1
    assert run.environment["workers"]["numpy"]["variables"]["MALLOC_TRIM_THRESHOLD_"]
    assert commands(run)[0].startswith("xent speed --only numpy_naive --shape 8,10 --shape 16,3 --dtype float32 --what")
    assert json.loads(file.read_text())["schema"] == 1


def test_peak_memory_stands_in_the_table(xent: Xent) -> None:
    status, out, _ = xent(
        "speed", "--only", "numpy_shifted", "--shape", "64,32000", "--what", "forward", "--budget", "20",
        "--baseline", "numpy_shifted",
    )  # fmt: skip
    assert status == 0
    row = next(line.split() for line in out.splitlines() if line.strip().startswith("numpy_shifted"))
    assert 4.0 < float(row[-1].removesuffix("×")) < 6.5


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--shape", "12"], "--shape '12' is no shape: write rows and classes, as in --shape 64,32000"),
        (["--shape", "0,4"], "a shape of 0 rows and 4 classes has no logits: both count from 1"),
        (["--dtype", "float8"], "unknown dtype 'float8': choose from float64, float32, bfloat16, float16"),
        (["--what", "sideways"], "unknown what 'sideways': choose from forward, backward, forward+backward"),
        (["--mode", "lazy"], "unknown mode 'lazy': choose from eager, compiled"),
        (["--device", "tpu"], "unknown device 'tpu': choose from cpu, cuda"),
        (["--only", "nobody"], "no implementation is called 'nobody'"),
        (["--only", "numpy_shifted", "--dtype", "float16", "--baseline", "numpy_shifted"], "nothing to time"),
        (["--only", "numpy_bce_naive", "--baseline", "numpy_bce_naive"], "nothing to time: no cross-entropy of class"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(xent: Xent, arguments: list[str], line: str) -> None:
    status, out, err = xent("speed", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"xent speed: {line}")
    assert err.count("\n") == 1


def test_without_a_gpu_cuda_is_refused_with_the_reason() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        return
    with pytest.raises(NothingToTime, match=r"nothing to time: .* on cuda .*CUDA"):
        run_speed(SpeedRequest(only=("torch_naive",), shapes=((4, 5),), device="cuda"))


def test_an_interrupt_keeps_what_was_finished(xent: Xent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measured = speed.measure_speed

    def interrupted(*args: Any, **keywords: Any) -> Any:
        yield next(measured(*args, **keywords))
        raise KeyboardInterrupt

    monkeypatch.setattr(speed, "measure_speed", interrupted)
    file = tmp_path / "speed.json"
    status, out, err = xent("speed", "--only", "numpy_naive", *FAST, "--json", file)
    assert (status, err.splitlines()[-1]) == (130, "xent speed: interrupted after 2 timings")
    run = Run.load(file)
    assert not run.complete
    assert {t.what for t in run.timings} == {"forward"}
    assert "numpy_naive" in out


def test_the_slow_are_timed_only_where_they_are_named() -> None:
    assert speed._chosen(SpeedRequest(), []) == []
    from harness.discovery import discover

    found = discover(["torch_compiled_cross_entropy", "torch_naive"])
    assert [d.name for d in speed._chosen(SpeedRequest(), found)] == ["torch_naive"]
    assert len(speed._chosen(SpeedRequest(only=("torch_*",)), found)) == 2


# -------------------------------------------------------------------------------------------------------------- a table

MADE = Timing("a", "numpy", "cross_entropy", "float32", "cpu", "forward", (4, 5), (0.2, 0.4, 0.3), "b", 2.0)


def lines(*timings: Timing, width: int = 100) -> list[str]:
    return [line.plain.rstrip() for line in speed_lines(timings, width, {"threads": 2})]


def test_failures_stand_where_the_ratio_would_and_below_with_the_reason() -> None:
    bad = replace(MADE, implementation="bad", seconds=(), ratio=None, outcome="failed", detail="the loss is inaccurate")
    late = replace(bad, implementation="late", outcome="timed_out", detail="did not return within 1 s")
    left = replace(bad, implementation="left", outcome="unavailable", detail="no compiler")
    shown = lines(MADE, bad, late, left)
    cells = [line.split() for line in shown]
    assert ["bad", "wrong"] in cells
    assert ["late", "too", "long"] in cells
    assert ["left", "-"] in cells
    assert "no speed: bad: the loss is inaccurate" in shown
    assert "not timed: left: no compiler" in shown
    assert wrong([MADE, bad, late, left]) == ["bad", "late"]


def test_the_fastest_on_the_largest_shape_stands_first_and_the_baseline_has_its_time() -> None:
    base = replace(MADE, implementation="b", ratio=1.0, seconds=(0.15,), bandwidth=0.5, memory=2.98)
    compiled = replace(MADE, ratio=0.5, mode="compiled")
    shown = lines(MADE, base, compiled)
    assert [line.split()[0] for line in shown[3:6]] == ["a", "b", "a"]
    assert shown[3].split() == ["a", "(compiled)", "0.50"]
    assert shown[4].split() == ["b", "1.00", "50.0%", "3.0×"]
    assert any(line.split() == ["the", "baseline's", "time", "150", "ms"] for line in shown)
    assert "(cpu, 2 threads)" in shown[2]


def test_a_narrow_terminal_gets_fewer_columns() -> None:
    wide = [replace(MADE, shape=shape, bandwidth=0.5, memory=2.0) for shape in ((4096, 10), (1024, 1000), (64, 32000))]
    assert max(map(len, lines(*wide, width=60)[1:4])) <= 60
    assert "64×32000" in "\n".join(lines(*wide, width=40))
    assert "of copy" in "\n".join(lines(*wide, width=100))


@pytest.mark.parametrize(("load", "told"), [(0.5, False), (2.0, False), (2.5, True), (None, False)])
def test_a_busy_machine_is_told(load: float | None, told: bool) -> None:
    shown = [line.plain for line in speed_lines([MADE], 100, {"threads": 1, "load": load, "cores": 2})]
    assert any("The machine was busy (load 2.5 on 2 cores)" in line for line in shown) is told


def test_nothing_measured_is_no_table() -> None:
    assert lines() == []
