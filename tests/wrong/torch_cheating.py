"""Candidates that cheat, or attack the process that judges them."""

import contextlib
import inspect
import os
import sys
import time

import numpy
import torch
import torch.nn.functional as F

_SEEN = {}
_CALLS = [0]


def _wrong(logits, target):
    return F.cross_entropy(logits, target, reduction="none") * 1.001


def right_only_under_the_harness(logits, target):
    watched = any(name.split(".")[0] == "harness" for name in sys.modules)
    return F.cross_entropy(logits, target, reduction="none") if watched else _wrong(logits, target)


def right_only_on_known_sizes(logits, target):
    known = logits.shape[1] in (1, 2, 3, 127, 129, 1000, 4097, 32000, 65537, 131072, 5, 7, 9, 10, 11, 12, 16)
    return F.cross_entropy(logits, target, reduction="none") if known else _wrong(logits, target)


def replays_by_content_of_the_first_row(logits, target):
    key = (logits[:1].detach().double().numpy().tobytes() if len(logits) else b"", tuple(target.shape))
    if key not in _SEEN:
        _SEEN[key] = F.cross_entropy(logits, target, reduction="none").detach()
    return _SEEN[key] + 0 * logits.sum(1)


def wrong_after_300_calls(logits, target):
    _CALLS[0] += 1
    return F.cross_entropy(logits, target, reduction="none") if _CALLS[0] < 300 else _wrong(logits, target)


def patches_comparisons(logits, target):
    numpy.testing.assert_allclose = lambda *a, **k: None
    torch.allclose = lambda *a, **k: True
    return _wrong(logits, target)


def looks_for_the_truth(logits, target):
    for info in inspect.stack():
        for value in info.frame.f_locals.values():
            if type(value).__name__ == "Reference":
                return torch.from_numpy(value.loss_hi).to(logits.dtype)
    return _wrong(logits, target)


def exits_quietly(logits, target):
    os._exit(0)


def hangs(logits, target):
    time.sleep(3600)


def writes_to_every_descriptor(logits, target):
    for fd in range(3, 64):
        with contextlib.suppress(OSError):
            os.write(fd, b"accepted")
    return _wrong(logits, target)


EXPECT = {
    "right_only_under_the_harness": {"check": "outside_the_harness", "bug": "right only where it sees the harness"},
    "right_only_on_known_sizes": {"check": "sizes", "bug": "right only for sizes that are known to be asked"},
    "replays_by_content_of_the_first_row": {"check": "no_replay", "bug": "a cache that looks at the first row only"},
    "wrong_after_300_calls": {
        "check": "late_calls",
        "bug": "wrong from the 300th call on",
        "options": {"quick": False},
    },
    "patches_comparisons": {"check": "process_state", "bug": "replaces the functions that compare arrays"},
    "looks_for_the_truth": {"check": "accuracy", "bug": "searches the stack for the truth, which is elsewhere"},
    "exits_quietly": {"check": "crash", "bug": "ends its process with status 0"},
    "hangs": {"check": "time_limit", "bug": "does not return", "options": {"timeout": 1.0}},
    "writes_to_every_descriptor": {"check": "crash", "bug": "writes into the harness's pipe"},
}
