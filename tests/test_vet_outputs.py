"""A verdict written down: as JUnit XML, as a page, as text; what a stranger put into it stays text in each."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from junitparser import Failure, JUnitXml, Skipped

from harness.cli.verdicts import print_verdict
from harness.vetting.checks import ASKS
from harness.vetting.junit import junit_xml
from harness.vetting.verdict import CheckResult, Deviation, Verdict
from reports import render_verdict

ROOT = Path(__file__).resolve().parent.parent
CSP = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
WITNESS = {
    "logits": [["0x1.9000000000000p+6", "-inf"]],
    "target": [0],
    "options": {"reduction": "none", "weight": ["0x1.0000000000000p+0", "0x0.0p+0"]},
    "upstream": ["0x1.0000000000000p+0"],
    "dtype": "float32",
    "row": 0,
    "column": None,
    "layout": "contiguous",
    "got": "inf",
    "want": "0x1.26bb1bbb55516p+1",
    "code": "import numpy as np\nprint(loss(logits, target))\n# want: 2.30258509   got: inf\n",
}
REJECTED = Verdict(
    candidate="my_kernel.py:my_loss",
    framework="numpy",
    loss="cross_entropy",
    target="indices",
    seed=123,
    verdict="rejected",
    grades={"float32": "inaccurate", "bfloat16": "storage"},
    deviations=(
        Deviation("label_out_of_range", "float32", "label 9 of 9 classes gives 0; torch raises"),
        Deviation("label_out_of_range", "bfloat16", "label 9 of 9 classes gives 0; torch raises"),
    ),
    checks=(
        CheckResult("accuracy", "bfloat16", "passed"),
        CheckResult("accuracy", "float32", "passed"),
        CheckResult("nonfinite", "float32", "failed", "loss, uniform (64 × 10): row 5: got inf, want 2.3", WITNESS),
        CheckResult("reduction", "float32", "skipped", "reduction is not claimed"),
    ),
    message="nonfinite in float32: loss, uniform (64 × 10): row 5: got inf, want 2.3",
    environment={"versions": {"numpy": "2.4.6"}, "python": "3.12.1", "claims": ["weight", "reduction"]},
)
ERROR = Verdict("x.py:f", "", "cross_entropy", "indices", 7, "error", message="cannot read x.py: No such file")


def changed(**changes: Any) -> dict[str, Any]:
    return REJECTED.to_json() | changes


# --------------------------------------------------------------------------------------------------------------- JUnit


def parsed(data: dict[str, Any]) -> Any:
    (suite,) = JUnitXml.fromfile(io.BytesIO(junit_xml(data)))
    return suite


def test_junit_has_a_case_per_check_and_dtype() -> None:
    suite = parsed(REJECTED.to_json())
    assert (suite.name, suite.tests, suite.failures, suite.errors, suite.skipped) == (
        "my_kernel.py:my_loss",
        6,
        1,
        0,
        1,
    )
    cases = {(case.name, case.classname.rpartition(".")[2]): case for case in suite}
    assert list(cases) == [
        ("accuracy", "bfloat16"),
        ("accuracy", "float32"),
        ("nonfinite", "float32"),
        ("reduction", "float32"),
        ("deviation label_out_of_range", "float32"),
        ("deviation label_out_of_range", "bfloat16"),
    ]
    assert cases["accuracy", "float32"].result == []
    (failure,) = cases["nonfinite", "float32"].result
    assert isinstance(failure, Failure)
    assert failure.message == REJECTED.checks[2].detail
    assert failure.text == f"{REJECTED.checks[2].detail}\n{WITNESS['code']}"
    (skipped,) = cases["reduction", "float32"].result
    assert isinstance(skipped, Skipped)
    assert skipped.message == "reduction is not claimed"
    assert cases["deviation label_out_of_range", "float32"].system_out == REJECTED.deviations[0].detail
    properties = {entry.name: entry.value for entry in suite.properties()}
    assert properties["seed"] == "123"
    assert properties["verdict"] == "rejected"
    assert properties["grade.bfloat16"] == "storage"


def test_junit_of_deviations_that_reject_and_of_an_error() -> None:
    data = REJECTED.to_json()
    data["checks"] = [check for check in data["checks"] if check["outcome"] == "passed"]
    assert parsed(data).failures == 2
    assert parsed(data | {"verdict": "accepted"}).failures == 0
    suite = parsed(ERROR.to_json())
    assert (suite.tests, suite.errors) == (1, 1)
    (case,) = suite
    assert case.result[0].message == "cannot read x.py: No such file"


HOSTILE = (
    '</script><img src=x onerror="broken()">]]>&amp;\x00\x1b[2J\x7f\x85\ufffe\ud800\U0001f600 {{ 7 * 7 }} {% raw %}'
)


def hostile(text: str) -> dict[str, Any]:
    """A verdict with a text wherever a stranger's text can get to."""
    data: dict[str, Any] = json.loads(json.dumps(REJECTED.to_json()))
    data["candidate"] = data["message"] = data["framework"] = text
    for check in data["checks"]:
        check["detail"] = text
        if check["witness"]:
            check["witness"] |= {"code": text, "got": text, "want": text, "options": {text: text}, "layout": text}
    for deviation in data["deviations"]:
        deviation |= {"check": text, "detail": text}
    data["environment"] = {"claims": [text], "versions": {text: text}, "platform": text}
    return data


def test_junit_of_a_hostile_verdict_is_xml_that_holds_it_as_text() -> None:
    root = ElementTree.fromstring(junit_xml(hostile(HOSTILE)))
    assert {element.tag for element in root.iter()} == {
        "testsuites", "testsuite", "properties", "property", "testcase", "failure", "skipped", "system-out",
    }  # fmt: skip
    failure = root.find(".//failure")
    assert failure is not None
    assert failure.get("message") == HOSTILE.replace("\x00", "\\x00").replace("\x1b", "\\x1b").replace(
        "\x7f", "\\x7f"
    ).replace("\x85", "\\x85").replace("\ufffe", "\\ufffe").replace("\ud800", "\\ud800")


@given(st.text(st.characters(exclude_categories=())))
def test_junit_is_xml_whatever_was_said(text: str) -> None:
    assert ElementTree.fromstring(junit_xml(hostile(text))).tag == "testsuites"


# ---------------------------------------------------------------------------------------------------------------- page


class Page(HTMLParser):
    """A parsed page: its elements, its text outside of style, and any bad nesting."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.faults: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def test_page_says_what_the_verdict_says() -> None:
    page = Page(render_verdict(REJECTED.to_json()))
    assert page.faults == []
    for words in (
        "Rejected: my_kernel.py:my_loss",
        REJECTED.message,
        "numpy 2.4.6",
        "weight, reduction",
        "nonfinite in float32",
        "want 2.30258509 (0x1.26bb1bbb55516p+1)",
        "print(loss(logits, target))",
        "[0x1.9000000000000p+6, -inf]",
        "storage",
        "label_out_of_range float32, bfloat16 label 9 of 9 classes gives 0; torch raises",
        "reduction float32 reduction is not claimed",
        "xent vet my_kernel.py:my_loss --framework numpy --loss cross_entropy --seed 123",
    ):
        assert words in page.words, words
    rows = re.findall(r'<tr><th scope="row" class="stick">(\w+)</th>', render_verdict(REJECTED.to_json()))
    assert rows == ["grade", "nonfinite", "accuracy", "reduction"]


def test_page_of_acceptance_and_of_an_error() -> None:
    accepted = Page(render_verdict(changed(verdict="accepted", checks=[], deviations=[], message="20 checks passed")))
    assert "Accepted: my_kernel.py:my_loss 20 checks passed" in accepted.words
    assert "Failures" not in accepted.words
    error = Page(render_verdict(ERROR.to_json()))
    assert "Could not be judged: x.py:f cannot read x.py: No such file" in error.words
    assert accepted.faults == error.faults == []


def test_page_needs_only_what_the_schema_promises() -> None:
    least = {"schema": 1, "candidate": "a.py:f", "framework": "torch", "loss": "cross_entropy", "seed": 1}
    least |= {"verdict": "accepted", "grades": {}, "deviations": [{"check": "a", "detail": "b"}], "checks": []}
    assert "Accepted: a.py:f" in Page(render_verdict(least)).words


def test_page_is_offline_the_same_each_time_and_small() -> None:
    html = render_verdict(REJECTED.to_json())
    assert html == render_verdict(REJECTED.to_json())
    assert len(html.encode()) < 64 * 1024
    page = Page(html)
    policies = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [CSP]
    assert [a for tag, a in page.elements if tag in ("script", "img", "iframe", "object", "base", "form")] == []
    assert [a["href"] for tag, a in page.elements if "href" in a and not str(a["href"]).startswith("#")] == ["data:,"]
    assert not re.search(r"@import|url\(", html)
    assert "color-scheme: light dark" in html


@pytest.mark.parametrize("text", [HOSTILE, "\n", "", "a" * 5000])
def test_page_of_a_hostile_verdict_is_inert(text: str) -> None:
    plain, odd = Page(render_verdict(REJECTED.to_json())), Page(render_verdict(hostile(text)))
    assert odd.faults == []
    assert {tag for tag, _ in odd.elements} <= {tag for tag, _ in plain.elements}
    names = {name for _, attributes in plain.elements for name in attributes}
    assert {name for _, attributes in odd.elements for name in attributes} <= names


@given(st.text(st.characters(exclude_categories=()), max_size=60))
def test_page_is_utf_8_and_nested_whatever_was_said(text: str) -> None:
    html = render_verdict(hostile(text))
    html.encode()
    assert Page(html).faults == []


# ---------------------------------------------------------------------------------------------------------------- text


def test_text_has_everything_in_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    print_verdict(REJECTED)
    assert capsys.readouterr().out == (
        "\nREJECTED my_kernel.py:my_loss: nonfinite in float32: loss, uniform (64 × 10): row 5: got inf, want 2.3\n"
        "  float32   inaccurate\n"
        "  bfloat16  storage\n"
        "\nFailed: 1 of 3\n"
        "  float32   nonfinite  loss, uniform (64 × 10): row 5: got inf, want 2.3\n"
        "What they ask:\n"
        f"  nonfinite  {ASKS['nonfinite']}\n"
        "\nWitness of nonfinite in float32, to be pasted beside your file\n"
        "import numpy as np\n"
        "print(loss(logits, target))\n"
        "# want: 2.30258509   got: inf\n"
        "\nDeviations: legitimate, but not what torch does; failures only under --strict\n"
        "  label_out_of_range (float32, bfloat16): label 9 of 9 classes gives 0; torch raises\n"
        "\nSkipped\n"
        "  reduction (float32): reduction is not claimed\n"
        "\nSeed 123: --seed 123 draws the same inputs again.\n"
    )


# ---------------------------------------------------------------------------------------------------------------- docs


def test_docs_list_every_check_with_what_it_asks() -> None:
    text = (ROOT / "docs" / "vetting.md").read_text()
    table = text.partition("## The checks")[2].partition("\n## ")[0]
    listed = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE))
    assert listed == ASKS, "docs/vetting.md: the table of checks and what they ask is not that of the code"


def test_docs_list_every_deviation() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "harness" / "vetting").rglob("*.py"))
    named = set(re.findall(r'Deviat(?:es|ion)\(\s*"(\w+)"', code)) | set(
        re.findall(r'^ +yield "(\w+)", ', code, re.MULTILINE)
    )
    assert len(named) > 15
    text = (ROOT / "docs" / "vetting.md").read_text().partition("## Deviations")[2].partition("\n## ")[0]
    listed = {name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert listed == named
