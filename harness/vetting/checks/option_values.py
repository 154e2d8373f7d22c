"""Options at other values than everybody tries: of many digits, at the ends of their range, indices outside of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.vetting.checks import Finding, Skipped, inspection
from harness.vetting.context import CLASSES, ROWS, Context
from harness.vetting.examination import Probe

__all__: list[str] = []

Array = np.ndarray[Any, Any]

_BEYOND = 255
"""An index that no class has, which is customary for what is not labelled in images."""


@dataclass(frozen=True, eq=False)
class _Setting:
    """One set of options.

    Parameters
    ----------
    check : str
        What it is about.
    word : str
        What is special about the values.
    options : mapping
        The options.
    kept : int
        Rows that are not ignored, if an index to ignore is among the options.
    """

    check: str
    word: str
    options: Mapping[str, Any]
    kept: int = 5

    def counts(self, quick: bool) -> bool:
        """Whether the options enter the denominator of a mean, and in another way than they do elsewhere."""
        return "weight" in self.options or self.kept == 1 or ("ignore_index" in self.options and not quick)


@inspection(
    "option_weight",
    "option_ignore_index",
    "option_label_smoothing",
    "option_pos_weight",
    "options_combined",
    "reduction",
)
def values(context: Context, dtype: str) -> Iterator[Finding]:
    """Each claimed option, alone and with others, by rows and, where it enters the denominator, in the mean."""
    settings = list(_settings(context, dtype))
    asked = {setting.check for setting in settings}
    for check in ("option_weight", "option_ignore_index", "option_label_smoothing", "option_pos_weight"):
        if check not in asked:
            yield Skipped(check, f"{check.removeprefix('option_')} is not claimed, or is none of this loss and target")
    if "options_combined" not in asked:
        yield Skipped("options_combined", "not claimed together")
    if not (settings and context.examiner.claims.reduction):
        yield Skipped("reduction", "it is not claimed together with an option")
    for setting in settings:
        batch = context.batch(dtype, setting.word, labels=_labels(context, dtype, setting), options=setting.options)
        seen = context.examiner.examine(batch)
        for problem in seen.problems:
            yield context.found(problem, setting.check)
        if context.examiner.claims.reduction and not seen.problems and setting.counts(context.quick):
            for problem in context.examiner.examine(batch, Probe(reduction="mean")).problems:
                yield context.under("reduction", problem)


def _settings(context: Context, dtype: str) -> Iterator[_Setting]:
    """Each option alone, then together: weights sum to less than one, and one class has none."""
    rng, claims = context.rng("option values", dtype), context.claims
    weight = context.digits(dtype, rng.uniform(0.5, 3.0, CLASSES) / 64)
    weight[rng.integers(CLASSES)] = 0.0
    # From 1 on: the usual 1 + (pos_weight - 1)·t cancels below, which the bound has no term for.
    positive = context.digits(dtype, rng.uniform(1.0, 9.0, CLASSES))
    whole, little = {"label_smoothing": 1.0}, {"label_smoothing": float(rng.uniform(0.001, 0.004))}
    if "weight" in claims:
        yield _Setting("option_weight", "weights of many digits", {"weight": weight})
        if dtype != "float16":  # whose smallest numbers these would be
            yield _Setting("option_weight", "weights close to zero", {"weight": np.ldexp(weight, -24)})
    if "pos_weight" in claims:
        yield _Setting("option_pos_weight", "positive weights of many digits", {"pos_weight": positive})
    if "label_smoothing" in claims:
        yield _Setting("option_label_smoothing", "all the mass smoothed", whole)
        yield _Setting("option_label_smoothing", "little mass smoothed", little)
    if "weight" in claims and "pos_weight" in claims:
        yield _Setting("options_combined", "both weights", {"weight": weight, "pos_weight": positive})
    if "weight" in claims and "label_smoothing" in claims:
        yield _Setting("options_combined", "weights, little mass smoothed", {"weight": weight, **little})
    if not (context.indices and "ignore_index" in claims):
        return
    inside = 0  # which is false where anybody asks for no more than that
    ignored = {
        "index 0": inside,
        "the last index": CLASSES - 1,
        "an index beyond": _BEYOND,
        "a negative index": -int(rng.integers(1, 99)),
    }
    for word, index in ignored.items():
        yield _Setting("option_ignore_index", f"{word} ignored", {"ignore_index": index})
    yield _Setting("option_ignore_index", "one row not ignored", {"ignore_index": -100}, kept=1)
    others: dict[str, Any] = {"weight": weight} if "weight" in claims else {}
    others |= little if "label_smoothing" in claims else {}
    if others:
        yield _Setting("options_combined", "an index inside ignored, and more", {"ignore_index": inside, **others})


def _labels(context: Context, dtype: str, setting: _Setting) -> Array:
    """A label of each row [N]: all but a few ignored, and where weights are given, the class of none among the rest."""
    labels: Array = context.rng("labels", setting.word, dtype).permutation(CLASSES)[:ROWS]
    index = setting.options.get("ignore_index")
    if index is not None:
        labels = labels[labels != index]
        labels = np.concatenate([labels[: setting.kept], np.full(ROWS, index)])[:ROWS]
    return labels
