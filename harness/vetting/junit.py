"""A verdict as JUnit XML, which every CI system can show: one test case per check and dtype."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

__all__ = ["junit_xml"]


def junit_xml(verdict: Mapping[str, Any]) -> bytes:
    """The XML of a verdict given as its JSON data, in UTF-8.

    A failed check is a failure, with the code that reproduces its witness; a candidate that could not be judged is one
    test case with an error. Each deviation is a test case, and a failure where nothing else rejects the candidate.
    """
    candidate = _inert(verdict["candidate"])
    suite = TestSuite(candidate)
    for key in ("framework", "loss", "target", "seed", "verdict", "message"):
        suite.add_property(key, _inert(str(verdict[key])))
    for dtype, grade in verdict["grades"].items():
        suite.add_property(f"grade.{dtype}", str(grade))
    for check in verdict["checks"]:
        suite.add_testcase(_case(candidate, check))
    failed = any(check["outcome"] == "failed" for check in verdict["checks"])
    by_deviation = verdict["verdict"] == "rejected" and not failed
    for deviation in verdict["deviations"]:
        case = TestCase(f"deviation {_inert(deviation['check'])}", f"{candidate}.{_inert(deviation['dtype'])}")
        if by_deviation:
            case.result = [Failure(_inert(deviation["detail"]), "deviation")]
        else:
            case.system_out = _inert(deviation["detail"])
        suite.add_testcase(case)
    if verdict["verdict"] == "error":
        case = TestCase("vet", candidate)
        case.result = [Error(_inert(verdict["message"]), "cannot be judged")]
        suite.add_testcase(case)
    document = JUnitXml("xent vet")
    document.add_testsuite(suite)
    text: bytes = document.tostring()  # type: ignore[no-untyped-call]
    return text


def _case(candidate: str, check: Mapping[str, Any]) -> TestCase:
    case = TestCase(_inert(check["name"]), f"{candidate}.{_inert(check['dtype'])}")
    detail = _inert(check["detail"])
    if check["outcome"] == "skipped":
        case.result = [Skipped(detail)]
    elif check["outcome"] == "failed":
        failure = Failure(detail, "failed")
        code = (check["witness"] or {}).get("code", "")
        failure.text = _inert("\n".join(filter(None, (check["detail"], code))))
        case.result = [failure]
    return case


def _inert(text: str) -> str:
    """Text without the characters that XML 1.0 cannot hold, each as its escape."""
    return "".join(c if c in "\t\n" or (c >= " " and _is_xml(ord(c))) else ascii(c)[1:-1] for c in text)


def _is_xml(code: int) -> bool:
    """Whether a character of that code may stand in XML 1.0 (section 2.2), control characters from 0x7f on left out."""
    return code < 0x7F or 0xA0 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code >= 0x10000
