"""The worst known inputs of the implementations, as the hunt found them: each run looks at every one of them again.

Their rows stack into one batch per number of classes. A row is drawn in every dtype that holds its numbers exactly:
what is hard for one implementation and format is tried on the others too.
"""

from __future__ import annotations

import functools

import numpy as np

from harness.families.base import BCE, CROSS_ENTROPY, Array, Draw, Drawer, also_draws, family
from harness.formats import Format
from harness.worst_case import ELEMENTS, KEPT_CLASSES, WorstCase, holds, load_all

ROWS = 64
Found = tuple[Array, int, Array | None]


@functools.cache
def _cases() -> tuple[WorstCase, ...]:
    return tuple(load_all())


def _rows(loss: str, classes: int, form: Format) -> list[Found]:
    """Logits, label and targets of the rows that the format holds, each once, in the order of the records."""
    found: dict[object, Found] = {}
    for case in _cases():
        if case.loss == loss and len(case.logits) == classes:
            logits, targets = case.reals, case.targets
            if holds(form, logits if targets is None else np.concatenate([logits, targets])):
                label = case.target if isinstance(case.target, int) else 0
                found.setdefault((case.logits, case.target), (logits, label, targets))
    return list(found.values())


def _drawer(loss: str, classes: int) -> Drawer:
    def draw(rng: np.random.Generator, form: Format) -> Draw:
        rows = _rows(loss, classes, form)
        # As often as it takes to fill batches of the shape that the other families have, in any order: a compiler runs
        # once for all of them, and a row is not always met in the same place.
        order = rng.permutation(ROWS * -(-len(rows) // ROWS)) % len(rows)
        logits, labels = np.stack([row[0] for row in rows]), np.array([row[1] for row in rows], dtype=np.int64)
        targets = [row[2] for row in rows if row[2] is not None]
        return Draw(logits[order], labels[order], np.stack(targets)[order] if targets else None)

    return draw


for _classes in KEPT_CLASSES:
    family(
        f"worst_cases_{_classes}",
        breaks=f"What the hunt found to be the worst inputs, with {_classes} classes, of the implementations here.",
        source="xent hunt, docs/worst_cases.md",
    )(_drawer(CROSS_ENTROPY, _classes))

also_draws(f"worst_cases_{ELEMENTS}", BCE)(_drawer(BCE, ELEMENTS))
