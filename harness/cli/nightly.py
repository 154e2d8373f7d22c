"""``xent nightly``: measure, compare with what was accepted last, keep the night, and raise alarms."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from harness.accuracy import NothingToDo, Progress, Request, run_accuracy
from harness.bridges.stopwatch import DEVICES
from harness.cli.comparisons import print_comparison
from harness.cli.exits import INTERRUPTED, NOTHING_MEASURED, WORSE, Refused, command
from harness.cli.night_files import NightFiles
from harness.cli.progress import shown_progress
from harness.cli.targets import must_be_writable
from harness.compare import Comparison
from harness.compare.words import count
from harness.discovery import DiscoveryError
from harness.families import UnknownFamily
from harness.formats import DTYPES, FormatUnavailable
from harness.history import Acceptance, Alarm, History, Night, NightFileError, load_acceptances
from harness.nightly import (
    AlreadyRunning,
    NothingMeasured,
    accept,
    conclude,
    exclusive,
    must_have_measured,
    verdict,
)
from harness.run import Run
from harness.speed import NothingToTime, SpeedRequest, run_speed
from harness.worst_case import WorstCaseError

__all__ = ["register"]

ACCEPTED = "accepted"
"""The folder of the acceptances in that of a nightly run."""

EPILOG = """\b
Examples:
  xent nightly                           everything installed, in ./nightly
  xent nightly history --quick --label quick
  xent nightly history --only 'torch_*' --json night.json
  xent nightly history --accept --note 'torch 2.14 sums in another order'

\b
FOLDER/nights has a file per night, FOLDER/accepted what was accepted, and
FOLDER/latest the run, report.html, junit.xml, summary.md and comparison.json
of the last one.

\b
Exit status: 0 no alarm; 1 something got worse and is not yet accepted; 2 it
cannot be done as asked; 3 nothing was measured (or a fault of ours, which
says so); 130 interrupted.
"""


@dataclass(frozen=True)
class _Asked:
    """What a night is called, and how long it times."""

    machine: str
    label: str
    budget: float | None


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("nightly", epilog=EPILOG, short_help="Measure everything, and fail when something got worse.")(
        command("nightly", nightly)
    )


def nightly(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the history is kept.")] = Path("nightly"),
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Implementations: a name or pattern; repeatable.")
    ] = None,
    family: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Families: a name or pattern; repeatable.")
    ] = None,
    dtype: Annotated[list[str] | None, typer.Option(metavar="DTYPE", help="Only this dtype; repeatable.")] = None,
    seed: Annotated[int, typer.Option(metavar="S", min=0, help="What the families draw from.")] = 0,
    jobs: Annotated[int, typer.Option(metavar="J", min=0, help="Processes that solve truth; 0: one per core.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out slow implementations and large batches.")] = False,
    budget: Annotated[
        float, typer.Option(metavar="SECONDS", min=1.0, help="About how long speed takes; more time is less noise.")
    ] = 300.0,
    no_speed: Annotated[bool, typer.Option("--no-speed", help="Measure accuracy only.")] = False,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="What one call of an implementation may take.")
    ] = 120.0,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="cpu, or cuda for the implementations that can.")
    ] = "cpu",
    machine: Annotated[
        str,
        typer.Option(metavar="NAME", envvar="XENT_MACHINE", help="Name of this machine, if not after its hardware."),
    ] = "",
    label: Annotated[
        str, typer.Option(metavar="NAME", help="Tells apart what one machine measures with different installations.")
    ] = "",
    accept_: Annotated[
        bool, typer.Option("--accept", help="Accept the alarms that stand, and measure nothing.")
    ] = False,
    note: Annotated[str, typer.Option(metavar="TEXT", help="With --accept: why.")] = "",
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write alarms and comparison as JSON, too.")
    ] = None,
) -> int:
    """Measure accuracy and speed, compare them with the last accepted night, keep the night, and raise alarms.

    An alarm stands until it is accepted. Only nights of the same machine, label, seed and selection are compared.
    """
    for name in dtype or ():
        if name not in DTYPES:
            raise Refused(f"unknown dtype {name!r}: choose from {', '.join(DTYPES)}")
    if device not in DEVICES:
        raise Refused(f"unknown device {device!r}: choose from {', '.join(DEVICES)}")
    request = Request(
        only=tuple(only or ()),
        families=tuple(family or ()),
        dtypes=tuple(dtype or ()),
        seed=seed,
        jobs=jobs,
        quick=quick,
        timeout=timeout,
        device=device,
    )
    if json_file is not None:
        must_be_writable(json_file)
    if folder.exists() and not folder.is_dir():
        raise Refused(f"{folder}: it is not a folder; name another")
    try:
        with exclusive(folder):
            if accept_:
                return _accept(folder, machine, label, note)
            return _night(
                folder, request, _Asked(machine, label, None if no_speed else budget), NightFiles(folder, json_file)
            )
    except (AlreadyRunning, NightFileError, PermissionError) as error:
        raise Refused(error) from error


def _night(folder: Path, request: Request, asked: _Asked, files: NightFiles) -> int:
    history, accepted = _known(folder)
    for entry in history.left_out:
        print(f"xent nightly: left out: {entry.name}: {entry.reason}", file=sys.stderr)
    files.clear()
    try:
        run = _measured(request, asked.budget)
        if not run.complete:
            files.write_run(run)
            told = f"{len(run.results)} results are in {files.run}; the history is as it was"
            print(f"xent nightly: interrupted: {told}", file=sys.stderr)
            return INTERRUPTED
        must_have_measured(run, speed=asked.budget is not None)
    except NothingMeasured as error:
        files.write_failure(str(error))
        print(f"xent nightly: nothing was measured: {error}", file=sys.stderr)
        return NOTHING_MEASURED
    files.write_run(run)
    night = Night.of_run(run, machine=asked.machine, label=asked.label)
    like = history.like(night.identity)
    night, found = conclude(like.nights, night, accepted)
    found = replace(found, left_out=tuple(dict.fromkeys([*like.left_out, *found.left_out])))
    night = History.save(night, folder)  # from here on the night counts, whatever becomes of the rest
    files.write_night(run, [*like.nights, night], found)
    files.tell_github(night, found)
    return _told(night, found, files)


def _known(folder: Path) -> tuple[History, tuple[Acceptance, ...]]:
    """What the folder holds; reading it comes first, so that what is damaged is said before the work."""
    history = History.load(folder / "nights") if (folder / "nights").is_dir() else History()
    return history, load_acceptances(folder / ACCEPTED)


def _measured(request: Request, budget: float | None) -> Run:
    """Accuracy, then speed, as one run."""
    try:
        with shown_progress() as show:
            run = run_accuracy(request, show)
        if budget is None or not run.complete:
            return run
        wanted = SpeedRequest(
            only=request.only, seed=request.seed, budget=budget, timeout=request.timeout, device=request.device
        )
        with shown_progress("groups") as show:
            speed = run_speed(wanted, lambda p: show(Progress(p.total, p.done, p.share, p.what)))
    except NothingToDo as error:
        raise NothingMeasured(str(error)) from error
    except NothingToTime as error:
        raise NothingMeasured(f"{error}; --no-speed leaves speed out") from error
    except (DiscoveryError, UnknownFamily, FormatUnavailable, WorstCaseError) as error:
        raise Refused(error) from error
    return replace(run, timings=speed.timings, complete=speed.complete)


def _told(night: Night, found: Comparison, files: NightFiles) -> int:
    with suppress(BrokenPipeError):
        print_comparison(found)
        print()
        for alarm in night.alarms:
            print(f"ALARM {_line(alarm)}")
        print(f"{verdict(night)} Kept as {night.name}; {files.report}")
    if night.alarms:
        print(f"xent nightly: {verdict(night)} --accept accepts them", file=sys.stderr)
        return WORSE
    return 0


def _line(alarm: Alarm) -> str:
    since = f" (since {alarm.since})" if alarm.since else ""
    return f"{alarm.kind}: {alarm.subject}: {alarm.message}{since}{'' if alarm.seen else ' (not seen tonight)'}"


def _accept(folder: Path, machine: str, label: str, note: str) -> int:
    """Accept what stands on every machine, or on one."""
    history, accepted = _known(folder)
    if not history.nights:
        raise Refused(f"{folder}: there is no night to accept; `xent nightly {folder}` measures one")
    done = 0
    for identity in dict.fromkeys(night.identity for night in history.nights):
        if machine not in ("", identity.machine) or label not in ("", identity.label):
            continue
        entry = accept(history.like(identity).nights, accepted, note)
        if entry is not None:
            path = entry.save(folder / ACCEPTED)
            done += len(entry.alarms)
            for alarm in entry.alarms:
                print(f"accepted: {_line(alarm)}")
            print(f"{count(len(entry.alarms), 'alarm')} of {identity.machine} accepted: {path}")
    if not done:
        print("There is no alarm to accept.")
    return 0
