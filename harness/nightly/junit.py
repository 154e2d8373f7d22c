"""A night as JUnit XML: a test case for each implementation, dtype and what, and for each timed series."""

from __future__ import annotations

from collections.abc import Mapping

from junitparser import Error, Failure, JUnitXml, TestCase, TestSuite

from harness.compare.accuracy import subject_of
from harness.history import Alarm, Night
from harness.nightly.alarms import subject
from harness.xml_text import xml_text

__all__ = ["junit_error", "junit_xml"]


def junit_xml(night: Night) -> bytes:
    """The XML of a night, in UTF-8.

    A test case fails while an alarm about it stands; one whose subject was not measured that night is there all the
    same.
    """
    alarms = {alarm.id: alarm for alarm in night.alarms}
    accuracy = dict.fromkeys(subject_of(key) for key in night.cells)
    series = {subject(key): f"{times.seconds:.6g} s" for key, times in night.series.items()}
    document = JUnitXml("xent nightly")
    document.add_testsuite(_suite("accuracy", dict.fromkeys(accuracy, ""), alarms, ("accuracy",)))
    document.add_testsuite(_suite("speed", series, alarms, ("speed", "lost")))
    for suite in document:
        suite.add_property("machine", xml_text(night.identity.machine))
        suite.add_property("started", xml_text(night.started))
    text: bytes = document.tostring()  # type: ignore[no-untyped-call]
    return text


def junit_error(message: str) -> bytes:
    """The XML of a night that came to nothing: one test case with an error."""
    case = TestCase("measured", "xent nightly")
    case.result = [Error(xml_text(message), "nothing measured")]
    suite = TestSuite("nightly")
    suite.add_testcase(case)
    document = JUnitXml("xent nightly")
    document.add_testsuite(suite)
    text: bytes = document.tostring()  # type: ignore[no-untyped-call]
    return text


def _suite(
    name: str, subjects: Mapping[str, str], alarms: Mapping[tuple[str, str], Alarm], kinds: tuple[str, ...]
) -> TestSuite:
    suite = TestSuite(name)
    alarmed = [alarm.subject for alarm in alarms.values() if alarm.kind in kinds]
    for each in dict.fromkeys([*subjects, *alarmed]):
        case = TestCase(xml_text(each), name)
        case.system_out = xml_text(subjects.get(each, ""))
        case.result = [_failure(alarms[kind, each]) for kind in kinds if (kind, each) in alarms]
        suite.add_testcase(case)
    return suite


def _failure(alarm: Alarm) -> Failure:
    since = f", since {alarm.since}" if alarm.since else ""
    failure = Failure(xml_text(alarm.message), alarm.kind)
    failure.text = xml_text(
        f"{alarm.message}{since}{'' if alarm.seen else ' (not seen tonight; stands until accepted)'}"
    )
    return failure
