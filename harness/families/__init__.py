"""Families: named generators of adversarial batches, each with a sentence on what it breaks and a source.

A *family* is what is wrong with the numbers (an offset, ties, a long tail); a *batch* is one draw of it, rounded to a
format. The same family, loss, dtype and seed give the same batch, in every process.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

import numpy as np

from harness.batch import Batch
from harness.families.base import REGISTRY, Draw, Family, draw_upstream, streams
from harness.formats import Format, named
from harness.losses import loss_named

__all__ = ["FAMILIES", "Draw", "Family", "UnknownFamily", "families_for", "family_named", "make_batch"]

# In the order in which a reader meets them: from the ordinary to the extreme, then those that were found, not drawn.
_THEMES = "moderate edges offsets confident masked shapes targets options linear recorded worst_cases"
for _theme in _THEMES.split():
    importlib.import_module(f"harness.families.{_theme}")

FAMILIES: Mapping[str, Family] = MappingProxyType(REGISTRY)


class UnknownFamily(ValueError):
    """No family has that name, or none matches that pattern; the message names those that are spelt nearly so."""


def family_named(name: str) -> Family:
    """The family of that name.

    Raises
    ------
    UnknownFamily
        Where there is none; the message names near misses.
    """
    if name not in FAMILIES:
        raise UnknownFamily(_unknown(name))
    return FAMILIES[name]


def families_for(loss: str, dtype: str, patterns: Iterable[str] = ()) -> tuple[Family, ...]:
    """The families that serve a loss in a dtype, in their order of registration.

    Parameters
    ----------
    loss, dtype : str
        Names.
    patterns : iterable of str
        Names, or ``fnmatch`` patterns such as ``"recorded/*"``: only families that match one. None given: all.

    Raises
    ------
    UnknownFamily
        For a pattern that matches no family of any loss; one that matches only families of other losses is no error.
    """
    wanted = tuple(patterns)
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in FAMILIES):
            raise UnknownFamily(_unknown(pattern))
    return tuple(
        entry
        for name, entry in FAMILIES.items()
        if loss in entry.draws
        and dtype in entry.dtypes
        and (not wanted or any(fnmatchcase(name, pattern) for pattern in wanted))
    )


def make_batch(family_name: str, loss_name: str, dtype_name: str, seed: int) -> Batch:
    """Draw one batch: a function of the four arguments alone.

    Parameters
    ----------
    family_name, loss_name, dtype_name : str
        Names of a family, of a loss that it serves, and of a dtype.
    seed : int
        0 or more.

    Returns
    -------
    Batch
        Every number in it is exact in the dtype. Logits, target and upstream gradient come from streams of their own.

    Raises
    ------
    UnknownFamily
        For an unknown family.
    ValueError
        For an unknown dtype or loss, a negative seed, or a loss or dtype that the family does not serve.
    """
    family, form, loss = family_named(family_name), named(dtype_name), loss_named(loss_name)
    if loss_name not in family.draws:
        raise ValueError(f"family {family_name!r} does not serve {loss_name}: it serves {', '.join(family.losses)}")
    if dtype_name not in family.dtypes:
        raise ValueError(f"family {family_name!r} does not draw {dtype_name}: it draws {', '.join(family.dtypes)}")
    for_draw, for_target, for_upstream = streams(seed, family_name, loss_name, dtype_name)
    draw = family.draws[loss_name](for_draw, form)
    logits = form.round(draw.logits)
    if draw.probabilities is None:
        target = loss.draw_target(for_target, logits, draw.labels)
    else:
        target = form.round(draw.probabilities)
    return Batch(
        loss=loss_name,
        logits=logits,
        target=target,
        upstream=form.round(draw_upstream(for_upstream, loss.output_shape(logits))),
        options={key: _rounded(form, value) for key, value in draw.options.items()},
        family=family_name,
        seed=seed,
        projection=None if draw.projection is None else form.round(draw.projection),
    )


def _rounded(form: Format, option: Any) -> Any:
    return form.round(option) if isinstance(option, np.ndarray) else option


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name.rstrip("*"), FAMILIES, n=3, cutoff=0.5)
    near += [known for known in FAMILIES if known not in near and name.strip("*") and name.strip("*") in known][:3]
    advice = f"did you mean {', '.join(near)}?" if near else f"choose from {', '.join(FAMILIES)}"
    return f"unknown family {name!r}: {advice}"
