"""What is said over the wire: batches as messages, replies that are none, exceptions as one line of text."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.batch import Batch
from harness.grades import Outcome
from harness.wire import Message, WireError

__all__ = ["batch_from", "batch_message", "check_reply", "describe_exception", "one_line"]

_OPTION = "option/"
_EXPECTED: dict[str, tuple[str, type]] = {
    "start": ("flushed", list),
    "load": ("declarations", list),
    "call": ("seconds", float),
    "memory": ("bytes", int),
    "compile": ("registers", int),
    "environment": ("environment", dict),
}


def batch_message(batch: Batch, body: dict[str, Any]) -> Message:
    """A request about a batch: `body`, with the batch's loss and options added, and its arrays.

    The family and the seed stay behind: code under test has no use for them.
    """
    arrays = {"logits": batch.logits, "target": batch.target, "upstream": batch.upstream}
    if batch.projection is not None:
        arrays["projection"] = batch.projection
    scalars = {}
    for name, value in batch.options.items():
        if isinstance(value, np.ndarray):
            arrays[_OPTION + name] = value
        else:
            scalars[name] = value.item() if isinstance(value, np.generic) else value
    return Message({**body, "loss": batch.loss, "options": scalars}, arrays)


def batch_from(message: Message) -> Batch:
    """The inverse of `batch_message`: the batch, less its family and seed."""
    arrays = message.arrays
    weights = {name.removeprefix(_OPTION): array for name, array in arrays.items() if name.startswith(_OPTION)}
    return Batch(
        loss=message.body["loss"],
        logits=arrays["logits"],
        target=arrays["target"],
        upstream=arrays["upstream"],
        options={**message.body["options"], **weights},
        projection=arrays.get("projection"),
    )


def check_reply(reply: Message, request: Message) -> None:
    """Refuse a reply that is none to this request.

    Raises
    ------
    WireError
        For a reply that lacks something, or a failure without its reason.
    """
    body, op = reply.body, str(request.body["op"])
    if "failure" in body:
        if body["failure"] not in (Outcome.RAISED, Outcome.UNAVAILABLE) or not isinstance(body.get("detail"), str):
            raise WireError(f"a malformed failure: {sorted(body)}")
        return
    key, kind = _EXPECTED.get(op, ("", object))
    if (key and not isinstance(body.get(key), kind)) or (op == "call" and "loss" not in reply.arrays):
        raise WireError(f"not a reply to {op!r}: {sorted(body)}")


def one_line(text: str, limit: int = 400) -> str:
    """The text on one line of at most `limit` characters."""
    joined = " ".join(text[: 10 * limit].split())
    return joined if len(joined) <= limit else joined[: limit - 1] + "…"


def describe_exception(error: BaseException) -> str:
    """``Type: message`` on one line."""
    try:
        text = str(error)
    except Exception:  # an exception may be a stranger's class, whose __str__ raises in its turn
        text = "(its message cannot be shown)"
    return one_line(f"{type(error).__name__}: {text}" if text else type(error).__name__)
