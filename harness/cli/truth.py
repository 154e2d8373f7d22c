"""``xent truth``: certified loss and gradient of a user's own logits."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from harness.cli.exits import Refused, command
from harness.cli.targets import must_be_writable, write
from harness.losses import LOSSES
from harness.reference import Reference, truth
from harness.run import strict
from harness.witness import hexadecimal

__all__ = ["register"]

EPILOG = """\b
Examples:
  xent truth batch.npz                     print the losses
  xent truth batch.npz -o truth.npz        loss and gradient, as hi + lo
  xent truth batch.npz --reduction mean

The file holds the arrays logits [N, V] and target (or labels); further ones are upstream and the options of the loss:
weight, pos_weight, ignore_index, label_smoothing. For linear_cross_entropy it holds hidden [N, D], projection [V, D]
and perhaps linear_bias [V]; the gradient, [N + V, D], is that of the hidden states and below it the projection's.
"""

OPTIONS = ("weight", "pos_weight", "ignore_index", "label_smoothing", "linear_bias")
SHOWN_ROWS = 20


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("truth", epilog=EPILOG, short_help="Print or write the certified truth of a batch.")(
        command("truth", truth_command)
    )


def truth_command(
    file: Annotated[Path, typer.Argument(metavar="FILE.npz", help="logits, target (or labels), options, upstream.")],
    loss: Annotated[str, typer.Option(metavar="LOSS", help=f"{' or '.join(LOSSES)}.")] = "cross_entropy",
    reduction: Annotated[str, typer.Option(metavar="HOW", help="none, mean or sum.")] = "none",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.npz", help="Write loss and gradient, hi + lo.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the same as JSON.")] = None,
) -> int:
    """Print or write the certified truth of a batch: loss and gradient, error at most 2^-90 relative."""
    for target in (output, json_file):
        if target is not None:
            must_be_writable(target)
    if reduction not in ("none", "mean", "sum"):
        raise Refused(f"reduction: {reduction!r} is none of none, mean, sum")
    try:
        arrays = _arrays(_solve(file, loss), reduction)
    except (ValueError, TypeError) as error:
        raise Refused(f"{file}: {error}") from error
    if output is not None:
        stream = io.BytesIO()
        np.savez(stream, allow_pickle=False, **arrays)
        write(output, stream.getvalue())
    if json_file is not None:
        write(json_file, (json.dumps(_as_json(arrays, loss, reduction), allow_nan=False) + "\n").encode())
    if output is None and json_file is None:
        _print(arrays)
    return 0


def _solve(file: Path, loss: str) -> Reference:
    try:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it holds one array; save logits and target with numpy.savez")
        with archive:
            given = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise ValueError("there is no such file; check the path") from None
    except Exception as error:
        raise ValueError(f"cannot be read as an .npz file: {error}") from error
    names = ", ".join(given) or "no array at all"
    if "projection" in given and "logits" not in given and "hidden" in given:
        given["logits"] = given.pop("hidden")
    logits, target = given.pop("logits", None), given.pop("target", None)
    if target is None:
        target = given.pop("labels", None)
    if logits is None or target is None:
        raise ValueError(f"needs the arrays logits and target (or labels), and has {names}")
    upstream = given.pop("upstream", None)
    unknown = sorted(set(given) - {*OPTIONS, "projection"})
    if unknown:
        raise ValueError(f"array {unknown[0]!r} is no option; options are {', '.join(OPTIONS)}")
    options: dict[str, Any] = {k: v.item() if v.ndim == 0 else v for k, v in given.items()}
    return truth(logits, target, loss=loss, upstream=upstream, **options)


def _arrays(reference: Reference, reduction: str) -> dict[str, np.ndarray[Any, Any]]:
    source = reference if reduction == "none" else reference.reduced(reduction)
    return {name: np.asarray(getattr(source, name)) for name in ("loss_hi", "loss_lo", "grad_hi", "grad_lo")}


def _as_json(arrays: dict[str, np.ndarray[Any, Any]], loss: str, reduction: str) -> dict[str, Any]:
    data: dict[str, Any] = strict({name: array.tolist() for name, array in arrays.items()})
    return {"schema": 1, "loss": loss, "reduction": reduction, **data}


def _print(arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    hi, lo = np.atleast_1d(arrays["loss_hi"]), np.atleast_1d(arrays["loss_lo"])
    for index in list(np.ndindex(hi.shape))[:SHOWN_ROWS]:
        where = ", ".join(map(str, index))
        print(f"loss[{where}] = {hi[index]!s:<24} {hexadecimal(float(hi[index]))} + {hexadecimal(float(lo[index]))}")
    if hi.size > SHOWN_ROWS:
        print(f"… and {hi.size - SHOWN_ROWS} more: write them all with -o FILE.npz")
