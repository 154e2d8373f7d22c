"""A verdict as JUnit XML, which every CI system can show: one test case per check and dtype."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from harness.xml_text import xml_text

__all__ = ["junit_xml"]


def junit_xml(verdict: Mapping[str, Any]) -> bytes:
    """The XML of a verdict given as its JSON data, in UTF-8.

    A failed check is a failure, with the code that reproduces its witness; a candidate that could not be judged is one
    test case with an error. Each deviation is a test case, and a failure where nothing else rejects the candidate.
    """
    candidate = xml_text(verdict["candidate"])
    suite = TestSuite(candidate)
    for key in ("framework", "loss", "target", "seed", "verdict", "message"):
        suite.add_property(key, xml_text(str(verdict[key])))
    for dtype, grade in verdict["grades"].items():
        suite.add_property(f"grade.{dtype}", str(grade))
    for check in verdict["checks"]:
        suite.add_testcase(_case(candidate, check))
    failed = any(check["outcome"] == "failed" for check in verdict["checks"])
    by_deviation = verdict["verdict"] == "rejected" and not failed
    for deviation in verdict["deviations"]:
        case = TestCase(f"deviation {xml_text(deviation['check'])}", f"{candidate}.{xml_text(deviation['dtype'])}")
        if by_deviation:
            case.result = [Failure(xml_text(deviation["detail"]), "deviation")]
        else:
            case.system_out = xml_text(deviation["detail"])
        suite.add_testcase(case)
    if verdict["verdict"] == "error":
        case = TestCase("vet", candidate)
        case.result = [Error(xml_text(verdict["message"]), "cannot be judged")]
        suite.add_testcase(case)
    document = JUnitXml("xent vet")
    document.add_testsuite(suite)
    text: bytes = document.tostring()  # type: ignore[no-untyped-call]
    return text


def _case(candidate: str, check: Mapping[str, Any]) -> TestCase:
    case = TestCase(xml_text(check["name"]), f"{candidate}.{xml_text(check['dtype'])}")
    detail = xml_text(check["detail"])
    if check["outcome"] == "skipped":
        case.result = [Skipped(detail)]
    elif check["outcome"] == "failed":
        failure = Failure(detail, "failed")
        code = (check["witness"] or {}).get("code", "")
        failure.text = xml_text("\n".join(filter(None, (check["detail"], code))))
        case.result = [failure]
    return case
