"""Calling `xent` in the process of a test, and what came of it."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from harness import cli


@dataclass
class Finished:
    status: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line on standard error."""
        (line,) = self.err.splitlines()
        return line


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> Finished:
    """The command with these arguments."""
    monkeypatch.setattr(sys, "argv", ["xent", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    captured = capsys.readouterr()
    assert isinstance(exit_.value.code, int)
    return Finished(exit_.value.code, captured.out, captured.err)
