"""Serving: the child's side of a conversation, from the descriptors that it inherits to its end with its parent."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Never

from harness.wire import LIMIT, Channel, Message, WireClosed, WireError

__all__ = ["inherited", "serve"]


def inherited(fds: list[str], *, limit: int = LIMIT, at_the_end: Callable[[], None] = lambda: None) -> Channel:
    """The channel to the parent, of the three descriptors that `harness.process.Child` puts on the command line.

    From now on this process ends when the parent does, whatever it is doing, and leaves Ctrl-C to it.

    Parameters
    ----------
    fds : list of str
        To read requests from, to write replies to, and the lifeline, on which nothing is ever written.
    limit : int
        Most bytes of arrays in one message.
    at_the_end : callable
        What is still to be done when the parent has gone.
    """
    requests, replies, lifeline = map(int, fds)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for fd in (requests, replies, lifeline):
        os.set_inheritable(fd, False)

    def wait() -> None:
        with suppress(OSError):
            os.read(lifeline, 1)  # returns only at its end
        at_the_end()
        os._exit(0)

    # A thread, and not PR_SET_PDEATHSIG, because that signal comes when the parent's *thread* ends, and only on Linux.
    threading.Thread(target=wait, name="lifeline", daemon=True).start()
    return Channel(requests, replies, limit=limit)


def serve(
    channel: Channel, answer: Callable[[Message], Message], unsendable: Callable[[Message, WireError], Message]
) -> Never:
    """Answer one parent until it closes the channel.

    Parameters
    ----------
    channel : Channel
        See `inherited`.
    answer : callable
        The reply to a request.
    unsendable : callable
        What to say instead of a reply that is too large, to a request.
    """
    serving = os.getpid()
    while True:
        try:
            request = channel.receive()
        except WireClosed:
            os._exit(0)
        reply = answer(request)
        if os.getpid() != serving:  # a fork that was let return: it is not the one that was asked
            os._exit(0)
        try:
            channel.send(reply)
        except WireClosed:
            os._exit(0)
        except WireError as error:  # nothing has been written yet
            channel.send(unsendable(request, error))
        del request, reply
