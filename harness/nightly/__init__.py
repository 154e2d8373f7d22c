"""What runs every night: measure, compare with what was accepted last, keep the night, raise alarms and latch them."""

from harness.nightly.alarms import accept, conclude, standing
from harness.nightly.junit import junit_error, junit_xml
from harness.nightly.lock import AlreadyRunning, exclusive
from harness.nightly.measured import NothingMeasured, must_have_measured
from harness.nightly.summary import step_summary, summary, verdict

__all__ = [
    "AlreadyRunning",
    "NothingMeasured",
    "accept",
    "conclude",
    "exclusive",
    "junit_error",
    "junit_xml",
    "must_have_measured",
    "standing",
    "step_summary",
    "summary",
    "verdict",
]
