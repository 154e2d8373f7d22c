"""The page on the libraries' own losses: what vetting finds there has an explanation, or the tool says so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.vetting.verdict import CheckResult, Deviation, Verdict
from tools import vet_libraries
from tools.vet_libraries import DOCUMENT, FOLDER, LIBRARIES

CANDIDATE = "jax_losses.py:log_softmax"


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dtype: str) -> tuple[int, str]:
    """The tool on one candidate that fails `nonfinite` in a dtype, and deviates: its exit status and page."""
    failed = CheckResult("nonfinite", dtype, "failed", "got inf")
    deviation = Deviation("plus_inf", "float32", "the loss is inf")
    verdict = Verdict(CANDIDATE, "jax", "cross_entropy", "indices", 5, "rejected", {}, (deviation,), (failed,), "")
    monkeypatch.setattr(vet_libraries, "vet", lambda spec, options: verdict)
    page = tmp_path / "page.md"
    return vet_libraries.main(["--only", CANDIDATE, "--seed", "5", "-o", str(page)]), page.read_text(encoding="utf-8")


def test_a_known_failure_is_explained_beside_its_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    status, page = run(monkeypatch, tmp_path, "float16")
    assert status == 0
    assert "**Fails** `nonfinite` in float16. Exponentials of float16 logits" in page
    assert "https://github.com/jax-ml/jax/issues/40409" in page
    assert "**Deviates** `plus_inf` in float32. Conventions differ" in page


def test_a_failure_without_explanation_is_a_failure_of_the_tool(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, page = run(monkeypatch, tmp_path, "float32")
    assert status == 1
    assert "Not explained." in page
    assert f"unexplained: {CANDIDATE}: failed nonfinite in float32: got inf" in capsys.readouterr().out


def test_the_page_has_every_candidate_and_nothing_unexplained() -> None:
    page = DOCUMENT.read_text(encoding="utf-8")
    assert set(re.findall(r"`(\w+_losses\.py:\w+)`", page)) == set(LIBRARIES)
    assert "Not explained" not in page
    for candidate in LIBRARIES:
        path, _, name = candidate.partition(":")
        assert re.search(rf"^(def )?{name}\b", (FOLDER / path).read_text(encoding="utf-8"), re.MULTILINE)
