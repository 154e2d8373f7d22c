"""Nightly: alarms that stay until they are accepted, one run at a time, and what a CI system gets to see."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nights as made
import pytest
from commands import Finished, call
from junitparser import JUnitXml
from report_fixtures import result

from harness.compare import Limits
from harness.history import Acceptance, Alarm, History, Night
from harness.nightly import (
    AlreadyRunning,
    NothingMeasured,
    accept,
    conclude,
    exclusive,
    junit_error,
    junit_xml,
    must_have_measured,
    standing,
    step_summary,
    summary,
    verdict,
)
from harness.nightly.alarms import begins, last_accepted
from harness.nightly.summary import LIMIT

# -------------------------------------------------------------------------------------------------------------- alarms


class Chronicle:
    """Nights concluded one after the other, as `xent nightly` does it."""

    def __init__(self) -> None:
        self.nights: list[Night] = []
        self.accepted: list[Acceptance] = []

    def next(self, night: Night) -> list[tuple[str, str, bool]]:
        """The alarms after this night: kind, subject, and whether it was seen that night."""
        told, _ = conclude(self.nights, night, self.accepted)
        self.nights.append(replace(told, name=told.encoded()[0]))
        return [(alarm.kind, alarm.subject, alarm.seen) for alarm in told.alarms]

    def accept(self, note: str = "") -> Acceptance | None:
        entry = accept(self.nights, self.accepted, note)
        if entry is not None:
            self.accepted.append(entry)
        return entry


def accuracy(index: int, ulp: float, **changes: Any) -> Night:
    return made.night(index, results=[result(max_ulp=ulp, **changes)])


def test_a_flaw_that_goes_away_stays_until_it_is_accepted() -> None:
    chronicle = Chronicle()
    alarm = ("accuracy", "torch_one float32 loss")
    ulps = (3.0, 103.0, 3.0, 103.0)
    seen = [chronicle.next(accuracy(i, ulp)) for i, ulp in enumerate(ulps)]
    assert seen == [[], [(*alarm, True)], [(*alarm, False)], [(*alarm, True)]]
    assert [night.baseline for night in chronicle.nights] == ["", *[chronicle.nights[0].name] * 3]
    (stands,) = standing(chronicle.nights, chronicle.accepted)
    assert stands.since == chronicle.nights[1].name
    assert stands.message == "ulp: ties: 103 ulp, 3 before"
    entry = chronicle.accept("a new release")
    assert entry is not None
    assert (entry.note, entry.night, [a.since for a in entry.alarms]) == (
        "a new release",
        chronicle.nights[3].name,
        [stands.since],
    )
    assert chronicle.accept() is None
    assert chronicle.next(accuracy(4, 103.0)) == []
    assert chronicle.nights[4].baseline == chronicle.nights[3].name
    assert chronicle.next(accuracy(5, 300.0)) == [(*alarm, True)]
    assert standing(chronicle.nights, chronicle.accepted)[0].since == chronicle.nights[5].name


def test_a_quiet_night_accepts_itself() -> None:
    chronicle = Chronicle()
    for index, ulp in enumerate((40.0, 3.0, 30.0)):
        chronicle.next(accuracy(index, ulp))
    assert [a.subject for a in chronicle.nights[2].alarms] == ["torch_one float32 loss"]
    assert chronicle.nights[2].baseline == chronicle.nights[1].name


def test_the_first_night_is_compared_with_its_claims() -> None:
    chronicle = Chronicle()
    failed = made.night(0, results=[result(), result(implementation="torch_bad", outcome="failed")])
    assert chronicle.next(failed) == [("accuracy", "torch_bad float32 loss", True)]
    chronicle.accept()
    again = replace(failed, started=made.started(1))
    assert chronicle.next(again) == []


def test_without_any_accepted_night_the_first_is_the_baseline() -> None:
    chronicle = Chronicle()
    for index in range(3):
        chronicle.next(made.night(index, results=[result(outcome="failed", max_ulp=3.0 * 10**index)]))
    assert last_accepted(chronicle.nights, []) is None
    assert chronicle.nights[2].baseline == chronicle.nights[0].name


def test_a_slow_down_is_latched_and_its_acceptance_moves_the_level() -> None:
    chronicle = Chronicle()
    told = []
    for night in made.noisy(11, 70, series=4, noise=0.02, slower={"torch_1": (30, 1.5)}):
        told.append(chronicle.next(night))
        if len(told) == 45:
            chronicle.accept("a fix that costs time")
    subject = f"torch_1 float32 forward 1024 × 1000 against {made.BASELINE}"
    assert [len(alarms) for alarms in told] == [0] * 32 + [1] * 13 + [0] * 25
    assert told[32] == [("speed", subject, True)]
    assert told[44] == [("speed", subject, False)]  # it has become its own past, and stands all the same
    (entry,) = chronicle.accepted
    places = begins(chronicle.nights[:46], [entry], Limits())
    assert {key.implementation: start for key, start in places.items()} == {"torch_1": made.started(30)}


def test_a_series_that_is_gone_is_an_alarm_until_accepted() -> None:
    chronicle = Chronicle()
    told = [chronicle.next(made.timed(i, {"a": 1.0 + i / 1e5, "b": None if i >= 15 else 1.0})) for i in range(20)]
    assert [len(alarms) for alarms in told] == [0] * 16 + [1] * 4
    assert told[16][0][0] == "lost"
    chronicle.accept()
    assert [chronicle.next(made.timed(i, {"a": 1.0 + i / 1e5})) for i in range(20, 24)] == [[]] * 4


def test_alarms_do_not_depend_on_the_order_of_merging() -> None:
    """Two runs of one machine at the same time: the second began without knowing the first one's alarm."""
    first = accuracy(0, 3.0)
    first = replace(first, name=first.encoded()[0])
    alarmed, _ = conclude([first], accuracy(1, 99.0), [])
    alarmed = replace(alarmed, name=alarmed.encoded()[0])
    unaware, _ = conclude([first], accuracy(2, 3.0), [])
    unaware = replace(unaware, name=unaware.encoded()[0])
    assert unaware.alarms == ()
    nights = [first, alarmed, unaware]
    assert [alarm.since for alarm in standing(nights, [])] == [alarmed.name]
    after, _ = conclude(nights, accuracy(3, 3.0), [])
    assert [(alarm.since, alarm.seen) for alarm in after.alarms] == [(alarmed.name, False)]


def test_thirty_quiet_nights_are_quiet() -> None:
    chronicle = Chronicle()
    assert [alarms for night in made.noisy(30, 56, series=30) if (alarms := chronicle.next(night))] == []


# ------------------------------------------------------------------------------------------------------ nothing at all


@pytest.mark.parametrize(
    ("results", "timings", "speed", "message"),
    [
        ([], [], False, "no accuracy was measured: no result at all"),
        (
            [
                result(grade="inaccurate", outcome="crashed", max_ulp=None),
                result(grade=None, outcome="skipped", max_ulp=None),
            ],
            [],
            False,
            "no accuracy was measured: 1 crashed, 1 skipped",
        ),
        ([result()], [], True, "no speed was measured: nothing was timed; --no-speed leaves it out"),
        (
            [result()],
            [made.timing("a", None, detail="it died")],
            True,
            "no speed was measured: 1 failed, the first: it died; --no-speed leaves it out",
        ),
    ],
)
def test_a_night_that_measured_nothing_is_refused(
    results: Sequence[Any], timings: Sequence[Any], speed: bool, message: str
) -> None:
    with pytest.raises(NothingMeasured) as error:
        must_have_measured(made.run(0, results, timings), speed=speed)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("timings", "speed", "refused"),
    [([made.timing("a", 1.0)], True, False), ([], False, False), ([], True, True)],
)
def test_a_night_is_refused_for_what_was_asked_for_only(timings: Sequence[Any], speed: bool, refused: bool) -> None:
    try:
        must_have_measured(made.run(0, [result()], timings), speed=speed)
    except NothingMeasured:
        assert refused
    else:
        assert not refused


# ---------------------------------------------------------------------------------------------------------------- lock


HOLDER = "import sys,time; from pathlib import Path; from harness.nightly import exclusive\n"
HOLDER += "with exclusive(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_only_one_at_a_time_and_a_dead_one_holds_nothing(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    (tmp_path / "nights").mkdir()
    with pytest.raises(AlreadyRunning, match=f"process {holder.pid}\\): wait for it, or end it"), exclusive(tmp_path):
        pass
    left = tmp_path / "nights" / ".x.json.abc.tmp"
    left.touch()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with exclusive(tmp_path):
        assert not left.exists()
    with exclusive(tmp_path):
        pass


# -------------------------------------------------------------------------------------------------------------- output


def alarmed() -> tuple[Night, Any]:
    earlier = [made.timed(0, {"a": 1.0})]
    tonight = made.timed(1, {"a": 1.0}, results=[result(max_ulp=500.0), result(dtype="float64")])
    return conclude(earlier, tonight, [])


def test_junit_fails_what_an_alarm_is_about() -> None:
    night, _ = alarmed()
    latched = Alarm("lost", "gone \x00 <series>", "was timed before", since="earlier", seen=False)
    document = JUnitXml.fromstring(junit_xml(replace(night, alarms=(*night.alarms, latched))))
    cases = {case.name: [entry.message for entry in case.result] for suite in document for case in suite}
    assert cases == {
        "torch_one float32 loss": ["ulp: ties: 500 ulp, 3 before"],
        "torch_one float64 loss": [],
        f"a float32 forward 1024 × 1000 against {made.BASELINE}": [],
        f"{made.BASELINE} float32 forward 1024 × 1000 against {made.BASELINE}": [],
        "gone \\x00 <series>": ["was timed before"],
    }
    assert (document.tests, document.failures, document.errors) == (5, 2, 0)
    root = ET.fromstring(junit_error("no\x01thing"))
    assert root.find(".//error").get("message") == "no\\x01thing"  # type: ignore[union-attr]


def test_the_summary_says_what_stands() -> None:
    night, found = alarmed()
    assert verdict(night).startswith("1 alarm on test-3-ghz")
    assert verdict(night).endswith(": 1 new.")
    text = summary(night, found)
    assert "| accuracy | torch\\_one float32 loss | ulp: ties: 500 ulp, 3 before | tonight |" in text
    assert "torch 2.13.0" in text
    assert "**Worse: 1 regression of accuracy" in text
    quiet, nothing = conclude([], accuracy(0, 3.0), [])
    assert summary(quiet, nothing).startswith("## No alarm on test")
    latched = replace(night, alarms=(Alarm("speed", "a", "b", since="x", seen=False),))
    assert "| x, not seen tonight |" in summary(latched, found)
    assert verdict(latched).endswith(": 1 not yet accepted.")


def test_a_step_summary_is_cut_cleanly() -> None:
    assert step_summary("short\n") == "short\n"
    line = "| ü " * 20 + "|\n"
    text = line * 40_000
    cut = step_summary(text)
    assert len(text.encode()) > LIMIT >= len(cut.encode()) > LIMIT - 1000
    kept, _, note = cut.rpartition("\n*")
    assert set(kept.splitlines()) == {line.rstrip("\n")}
    assert note == f"{40_000 - len(kept.splitlines())} more lines: the report has everything.*\n"
    assert len(step_summary(text, LIMIT // 2).encode()) <= LIMIT // 2
    assert step_summary(text, LIMIT) == ""


# ----------------------------------------------------------------------------------------------- the command, for real


PLANTED = """
import numpy as np
from harness.declaration import implementation


def gradient(logits, target, upstream):
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(target)), target] -= 1
    return p * upstream[:, None]


@implementation(framework="numpy", loss="cross_entropy", grade="absolute", dtypes=("float32",), gradient=gradient)
def planted(logits, target):
    z = logits - logits.max(axis=1, keepdims=True)
    loss = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(target)), target]
    return {change}
"""
RIGHT = "loss"
NUDGED = "loss + 100 * np.spacing(loss)"
NOT_A_NUMBER = "np.where(np.arange(len(loss)) == 1, np.float32(np.nan), loss)"
DIES = "__import__('os')._exit(1)"


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Install an implementation that can be made wrong between two nights."""
    place = tmp_path / "plugins"
    (place / "planted-1.0.dist-info").mkdir(parents=True)
    (place / "planted-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
    entry = "[cross_entropy_harness.implementations]\nplanted = planted_loss\n"
    (place / "planted-1.0.dist-info" / "entry_points.txt").write_text(entry)
    monkeypatch.syspath_prepend(str(place))
    numbers = itertools.count()

    def write(change: str) -> None:
        path = place / "planted_loss.py"
        path.write_text(PLANTED.replace("{change}", change))
        os.utime(path, (1e9 + next(numbers),) * 2)  # another time for each, whatever the clock's grain
        shutil.rmtree(place / "__pycache__", ignore_errors=True)

    write(RIGHT)
    return write


@pytest.fixture
def xent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """The command, in this process."""
    return lambda *arguments: call(monkeypatch, capsys, *arguments)


SMALL = ("--only", "planted", "--family", "moderate_8", "--family", "ties", "--jobs", 1, "--no-speed")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every run begin a day after the one before."""
    from harness import accuracy

    days = itertools.count()
    describe = accuracy.describe_environment
    monkeypatch.setattr(
        accuracy, "describe_environment", lambda *a: describe(*a) | {"started": made.started(next(days))}
    )


@pytest.mark.usefixtures("clock")
def test_planted_regressions_of_accuracy(
    xent: Callable[..., Finished], plant: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "history"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "step.md"))
    assert xent("nightly", folder, *SMALL).status == 0
    assert xent("nightly", folder, *SMALL).status == 0

    plant(NUDGED)
    worse = xent("nightly", folder, *SMALL, "--json", tmp_path / "night.json")
    assert worse.status == 1
    assert worse.err.splitlines()[-1].startswith("xent nightly: 1 alarm on ")
    (alarm,) = [line for line in worse.out.splitlines() if line.startswith("ALARM")]
    assert re.match(r"ALARM accuracy: planted float32 loss: .*: (failed, passed before|1\d\d ulp, )", alarm)
    data = json.loads((tmp_path / "night.json").read_text())
    assert [(a["kind"], a["subject"]) for a in data["alarms"]] == [("accuracy", "planted float32 loss")]
    assert {c["key"]["family"] for c in data["comparison"]["accuracy"]} == {"moderate_8", "ties"}
    ulps = {c["key"]["family"]: (c["old"]["ulp"], c["new"]["ulp"]) for c in data["comparison"]["accuracy"]}
    # Of 100 units added at the computed loss: more below a power of two, less where the error had the other sign.
    assert all(before < 10 and 50 < now <= 210 for before, now in ulps.values()), ulps

    plant(RIGHT)
    latched = xent("nightly", folder, *SMALL)
    assert latched.status == 1
    assert "(not seen tonight)" in latched.out
    accepted = xent("nightly", folder, "--accept", "--note", "known")
    assert accepted.status == 0
    assert "1 alarm of " in accepted.out
    assert xent("nightly", folder, "--accept").out == "There is no alarm to accept.\n"
    assert xent("nightly", folder, *SMALL).status == 0

    plant(NOT_A_NUMBER)
    broken = xent("nightly", folder, *SMALL)
    assert broken.status == 1
    assert "not finite: moderate_8: 1 values not finite, 0 before" in broken.out
    compared = xent("compare", folder, folder, "--markdown", tmp_path / "c.md")
    assert compared.status == 1
    assert "planted float32 loss | not finite | moderate\\_8" in (tmp_path / "c.md").read_text()

    plant(DIES)
    nothing = xent("nightly", folder, *SMALL)
    assert nothing.status == 3
    assert nothing.err.splitlines()[-1].startswith("xent nightly: nothing was measured: no accuracy was measured: ")
    assert len(History.load(folder).nights) == 6
    names = {path.name for path in (folder / "latest").iterdir()}
    assert names == {"junit.xml", "summary.md"}  # nothing of an earlier night passes for tonight's
    told = (tmp_path / "step.md").read_text()
    assert len(re.findall("^## ", told, re.MULTILINE)) == 7
    assert told.endswith("crashed\n")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--only", "nothing_like_it"], 2, "xent nightly: no implementation is called 'nothing_like_it'"),
        (["--dtype", "float23"], 2, "xent nightly: unknown dtype 'float23': choose from float64"),
        (["--family", "tiez"], 2, "xent nightly: unknown family 'tiez'"),
        (["--accept"], 2, "there is no night to accept; `xent nightly "),
        (["--only", "planted", "--dtype", "float16"], 3, "xent nightly: nothing was measured: nothing to judge: "),
    ],
)
@pytest.mark.usefixtures("plant")
def test_what_cannot_be_done(
    arguments: list[str], status: int, message: str, xent: Callable[..., Finished], tmp_path: Path
) -> None:
    found = xent("nightly", tmp_path / "history", *arguments)
    assert (found.status, found.out) == (status, "")
    assert message in found.err.splitlines()[-1]


def test_a_folder_that_is_a_file_and_one_that_is_held(
    xent: Callable[..., Finished], holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    assert xent("nightly", tmp_path / "file").line.endswith("it is not a folder; name another")
    held = xent("nightly", tmp_path, *SMALL)
    assert held.status == 2
    assert f"another xent nightly is at work on {tmp_path} (process {holder.pid})" in held.line


@pytest.mark.usefixtures("plant")
def test_a_full_disk_is_said_and_loses_no_night(
    xent: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "history"
    assert xent("nightly", folder, *SMALL).status == 0
    before = {path.name: path.read_bytes() for path in (folder / "nights").iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.files.os.fsync", full)
    found = xent("nightly", folder, *SMALL)
    assert found.status == 2
    assert (
        found.err.splitlines()[-1] == "xent nightly: cannot write: No space left on device; make room and run it again"
    )
    assert {path.name: path.read_bytes() for path in (folder / "nights").iterdir()} == before


@pytest.mark.usefixtures("plant")
def test_killed_half_way_and_started_again(xent: Callable[..., Finished], plant: Any, tmp_path: Path) -> None:
    folder = tmp_path / "history"
    assert xent("nightly", folder, *SMALL).status == 0
    before = {path.name: path.read_bytes() for path in (folder / "nights").iterdir()}
    plant("__import__('time').sleep(300) or loss")
    command = [sys.executable, "-c", "from harness.cli import main; main()", "nightly", str(folder), *map(str, SMALL)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        limit = time.monotonic() + 60
        while (folder / ".lock").read_text() != f"{process.pid}\n":
            assert time.monotonic() < limit
            time.sleep(0.05)
        second = xent("nightly", folder, *SMALL)
        assert second.status == 2
        assert f"process {process.pid}" in second.line
        process.kill()
    assert {path.name: path.read_bytes() for path in (folder / "nights").iterdir()} == before
    plant(RIGHT)
    assert xent("nightly", folder, *SMALL).status == 0
    assert len(History.load(folder).nights) == 2


@pytest.mark.usefixtures("plant")
def test_an_interrupt_leaves_a_run_and_no_night(
    xent: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.cli import nightly

    whole = nightly.run_accuracy
    monkeypatch.setattr(nightly, "run_accuracy", lambda *a: replace(whole(*a), complete=False))
    found = xent("nightly", tmp_path / "history", *SMALL)
    assert found.status == 130
    assert "interrupted: 4 results are in" in found.err.splitlines()[-1]
    assert (tmp_path / "history" / "latest" / "run.json").exists()
    assert not (tmp_path / "history" / "nights").exists()


@pytest.mark.usefixtures("plant")
def test_speed_is_measured_too(xent: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.cli import nightly

    asked = []

    def timed(request: Any, show: Any) -> Any:
        asked.append(request)
        return made.run(0, timings=[made.timing("planted", 2.0), made.timing(made.BASELINE, 1.0)])

    monkeypatch.setattr(nightly, "run_speed", timed)
    found = xent("nightly", tmp_path, *SMALL[:-1], "--budget", 7, "--seed", 3)
    assert found.status == 0
    (request,) = asked
    assert (request.only, request.budget, request.seed) == (("planted",), 7.0, 3)
    (night,) = History.load(tmp_path).nights
    assert {key.implementation: series.ratio for key, series in night.series.items()} == {
        "planted": 2.0,
        made.BASELINE: 1.0,
    }
    assert "planted" in (tmp_path / "latest" / "report.html").read_text()
