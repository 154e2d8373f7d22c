"""What every test runs under: a cache of its own, deterministic properties, one thread per test process."""

from __future__ import annotations

import os
import shutil
import tempfile

import hypothesis
import pytest

# A test that fails today and not tomorrow is no gate: by default the examples follow from the test alone.
# `HYPOTHESIS_PROFILE=explore make test` draws fresh ones, and many. No deadlines: machines are shared.
hypothesis.settings.register_profile("default", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if IS_WORKER:
    # There is a worker per core already.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Give the whole test run one empty cache: the user's own must not decide what a test sees, nor be written to."""
    if not IS_WORKER:  # workers inherit it
        os.environ["XENT_CACHE"] = tempfile.mkdtemp(prefix="xent-test-cache-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the cache of the test run."""
    if not IS_WORKER:
        shutil.rmtree(os.environ.pop("XENT_CACHE", ""), ignore_errors=True)
