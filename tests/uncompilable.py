"""Kernels that do not compile, or kill their compiler, each in its way: for test_compile.py."""

from __future__ import annotations

import os
import signal
from typing import Any

import triton
import triton.language as tl


@triton.jit
def block_not_a_power_of_two(x, y, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at))


class Deadly:
    """Takes its compiler with it."""

    @property
    def arg_names(self) -> Any:
        os.kill(os.getpid(), signal.SIGSEGV)


deadly = Deadly()
not_a_kernel = len
