"""Recorded logits of real models, shipped as package data: nothing is drawn but the upstream gradient."""

from __future__ import annotations

import math
from functools import cache
from importlib import resources

import numpy as np
import safetensors.numpy

from harness.families.base import Array, Draw, Drawer, family
from harness.formats import Format

_RECORDINGS = {
    "ocr_8210": (
        "Code that is fitted to random logits, on 32 rows of a model of 8,210 characters that is mostly very sure.",
        "recorded logits of an OCR model with 8,210 classes",
    ),
    "charlm_trained": (
        "Code that is right only where the label leads, on 128 rows of a trained character model and its doubts.",
        "recorded logits of a character language model, trained",
    ),
    "charlm_diverging": (
        "Code without a shift and formulas that subtract a large log-sum-exp, on 128 rows with logits in the millions.",
        "recorded logits of a character language model, diverging",
    ),
}


@cache
def load(recording: str) -> tuple[Array, Array]:
    """The recorded logits, float32 [N, V], and labels, int64 [N], read-only."""
    file = resources.files("harness.families") / "data" / f"recorded_{recording}.safetensors"
    arrays = safetensors.numpy.load(file.read_bytes())
    for array in arrays.values():
        array.setflags(write=False)
    return arrays["logits"], arrays["labels"]


def _drawer(recording: str) -> Drawer:
    def draw(rng: np.random.Generator, form: Format) -> Draw:
        logits, labels = load(recording)
        reals = logits.astype(np.float64)
        # Where the format's range is too small, a power of two brings the logits within it and keeps their digits.
        excess = math.frexp(float(np.abs(reals).max()) / form.largest)[1]
        return Draw(reals * 2.0 ** -max(excess, 0), labels)

    return draw


for _recording, (_breaks, _source) in _RECORDINGS.items():
    family(f"recorded/{_recording}", breaks=_breaks, source=_source)(_drawer(_recording))
