"""The files of the last night, in the folder ``latest``: for people and for a CI system, not for the history."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.cli.targets import write
from harness.compare import Comparison
from harness.files import write_atomically
from harness.history import Night, lines
from harness.nightly import junit_error, junit_xml, step_summary, summary
from harness.run import Run, RunFileError

__all__ = ["NightFiles"]

LATEST = "latest"
SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"


@dataclass(frozen=True)
class NightFiles:
    """Where the files of the last night go; `json` is one that the user named."""

    folder: Path
    json: Path | None = None

    @property
    def run(self) -> Path:
        """The run with every result and witness."""
        return self.folder / LATEST / "run.json"

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / LATEST / "report.html"

    def clear(self) -> None:
        """Remove those of an earlier night: they must not pass for tonight's where tonight comes to nothing."""
        (self.folder / LATEST).mkdir(exist_ok=True)
        for name in ("run.json", "report.html", "junit.xml", "summary.md", "comparison.json"):
            (self.folder / LATEST / name).unlink(missing_ok=True)

    def write_run(self, run: Run) -> None:
        """Keep the run."""
        run.save(self.run)

    def write_night(self, run: Run, nights: Sequence[Night], found: Comparison) -> None:
        """Write page, JUnit, Markdown and JSON; tonight is the last of the nights."""
        import reports

        night = nights[-1]
        data = {"schema": 1, "kind": "nightly", "alarms": [asdict(alarm) for alarm in night.alarms]}
        data |= {"baseline": night.baseline, "comparison": found.to_json()}
        text = (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()
        latest = self.folder / LATEST
        try:
            write_atomically(self.report, reports.render(run, lines(nights)).encode())
        except RunFileError as error:
            raise RuntimeError(f"the page cannot be made: {error}") from error
        write_atomically(latest / "junit.xml", junit_xml(night))
        write_atomically(latest / "summary.md", summary(night, found).encode())
        write_atomically(latest / "comparison.json", text)
        if self.json is not None:
            write(self.json, text)

    def write_failure(self, message: str) -> None:
        """Write what a CI system shows of a night that came to nothing."""
        latest = self.folder / LATEST
        text = f"## Nothing was measured\n\n{message}\n"
        write_atomically(latest / "junit.xml", junit_error(message))
        write_atomically(latest / "summary.md", text.encode())
        self._append(text)

    def tell_github(self, night: Night, found: Comparison) -> None:
        """Append to the summary of the GitHub job's step, where this is one."""
        self._append(summary(night, found))

    def _append(self, text: str) -> None:
        name = os.environ.get(SUMMARY_VARIABLE, "")
        if not name:
            return
        path = Path(name)
        already = path.stat().st_size if path.is_file() else 0
        with path.open("ab") as file:
            file.write(step_summary(text, already).encode())
