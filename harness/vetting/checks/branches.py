"""Branches: every combination of claimed options, under each reduction, with a gradient and without one.

What kernels do in a fused mean, with weights given or in an evaluation is often code of its own. Each of those paths
gets rows on which short cuts show.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np

from harness.vetting.checks import Finding, Skipped, inspection
from harness.vetting.context import Context
from harness.vetting.examination import Probe

__all__: list[str] = []

Array = np.ndarray[Any, Any]

_WEIGHTS = (0.5, 2.0, 1.5, 3.0, 0.25, 1.0, 0.0, 0.75, 1.25)
_POSITIVE_WEIGHTS = (1.5, 3.0, 1.0, 2.0, 5.0, 1.25, 4.0, 8.0, 1.75)
"""From 1 on, as the usual 1 + (pos_weight - 1)·t cancels below."""


_OPTIONS = {f"option_{name}": name for name in ("weight", "ignore_index", "label_smoothing", "pos_weight")}


@inspection(*_OPTIONS, "options_combined", "reduction", "without_gradient")
def branches(context: Context, dtype: str) -> Iterator[Finding]:
    """All losses of a set of options on the same hard rows; what a path that was wrong before leads to is not asked."""
    examiner, jax = context.examiner, context.examiner.session.source.framework == "jax"
    reductions = ("mean", "sum") if examiner.claims.reduction else ("mean",) * examiner.mean_only
    values = _values(context)
    for check, name in _OPTIONS.items():
        if name not in values:
            yield Skipped(check, f"{name} is not claimed, or is none of this loss and target")
    if len(values) < 2:
        yield Skipped("options_combined", "not claimed together")
    if not reductions:
        yield Skipped("reduction", "reduction is not claimed, and the output has one loss per row")
    if examiner.session.source.framework == "numpy":
        yield Skipped("without_gradient", "a NumPy candidate is always called so")
    plain = examiner.examine(context.hard(dtype, "hard rows", {}))
    if plain.problems:
        yield from context.attribute(plain)
        return
    for names in _sets(list(values), few=context.brief):
        options = {name: values[name] for name in names}
        evaluated = len(names) in (0, len(values)) or (len(names) == 1 and not jax)
        yield from _paths(context, dtype, options, reductions, evaluated)


def _paths(
    context: Context, dtype: str, options: Mapping[str, Any], reductions: tuple[str, ...], evaluated: bool
) -> Iterator[Finding]:
    """One set of options: by rows, under each reduction, and without a gradient."""
    examiner = context.examiner
    word = "hard rows" + "".join(f", {name}" for name in options)
    batch = context.hard(dtype, word, options, _labels(context, options))
    own = "options_combined" if len(options) > 1 else "".join(f"option_{name}" for name in options) or "accuracy"
    by_rows = () if examiner.mean_only else (None,)
    right: list[str | None] = []
    for reduction in (*by_rows, *reductions):
        problems = examiner.examine(batch, Probe(reduction=reduction)).problems
        for problem in problems:
            yield context.under(own if reduction is None else "reduction", problem)
        if problems:
            break
        right.append(reduction)
    if not evaluated or examiner.session.source.framework == "numpy":
        return
    for reduction in right[:2]:
        # In torch with gradients switched off: those of the logits are off then, too.
        probe = Probe(reduction=reduction, gradient=False, no_grad=examiner.session.source.framework == "torch")
        for problem in examiner.examine(batch, probe).problems:
            yield context.under("without_gradient", problem)


def _values(context: Context) -> dict[str, Any]:
    """A value for each claimed option that this loss and target have."""
    values = {
        "weight": np.array(_WEIGHTS),
        "pos_weight": np.array(_POSITIVE_WEIGHTS),
        "label_smoothing": 0.125,
        "ignore_index": 3,
    }
    absent = set() if context.indices else {"ignore_index"}
    return {name: values[name] for name in context.claims if name in values and name not in absent}


def _sets(names: list[str], few: bool) -> list[tuple[str, ...]]:
    """Every set of the names; or the empty one and the whole."""
    if few:
        return list(dict.fromkeys([(), tuple(names)]))
    return [chosen for count in range(len(names) + 1) for chosen in combinations(names, count)]


def _labels(context: Context, options: Mapping[str, Any]) -> Array:
    """A label of each row [8]: classes of different weights, and three rows ignored where an index is."""
    labels: Array = context.rng("hard labels").permutation([0, 1, 2, 4, 5, 6, 7, 8])
    if "ignore_index" in options:
        labels[[1, 3, 7]] = options["ignore_index"]
    return labels
