"""A benchmarking and numerical-stability harness for cross-entropy loss implementations.

`truth` gives the certified loss and gradient of a batch; the command ``xent`` does the rest.
"""

from harness.declaration import KnownFailure, implementation
from harness.recorder import Recorder, RecorderError
from harness.reference import Reduced, Reference, truth

__all__ = [
    "KnownFailure",
    "Recorder",
    "RecorderError",
    "Reduced",
    "Reference",
    "implementation",
    "truth",
]
