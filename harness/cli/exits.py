"""Exit codes, in one place, and the one clear line on standard error that goes with each that is not 0.

0: fine. 1: something is not as claimed. 2: it could not be done as asked (bad usage, no such file). 3: a fault of ours.
130: interrupted.
"""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer

__all__ = ["FAULT", "INTERRUPTED", "NOT_AS_CLAIMED", "REFUSED", "Refused", "command"]

NOT_AS_CLAIMED = 1
REFUSED = 2
FAULT = 3
INTERRUPTED = 130


class Refused(Exception):
    """What was asked cannot be done; the message says what was wrong, with which value, and what to do."""


def command(name: str, function: Callable[..., int]) -> Callable[..., None]:
    """The function of a command, which returns its exit status, as one that always ends in `typer.Exit` with it."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            status = function(*args, **kwargs)
        except typer.Exit:
            raise
        except Refused as error:
            print(f"xent {name}: {error}", file=sys.stderr)
            status = REFUSED
        except KeyboardInterrupt:
            print(f"xent {name}: interrupted", file=sys.stderr)
            status = INTERRUPTED
        except BrokenPipeError:  # the reader of our output went away: nothing more to say, and nobody to say it to
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = 0
        except Exception as error:
            traceback.print_exc()
            print(f"xent {name}: a fault of ours, please report it: {type(error).__name__}: {error}", file=sys.stderr)
            status = FAULT
        raise typer.Exit(status)

    return run
