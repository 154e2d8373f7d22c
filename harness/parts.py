"""Parts: the building blocks of adversarial rows, shared by the search for the worst input and by the strategies.

A *part* is a function that changes one thing about a row (an offset, a tie, a gap, a mask, a bit), with what it leaves
open drawn from dice. The families are fixed arrangements of the same things.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from harness.formats import Format
from harness.rows import Dice, Row

__all__ = ["PARTS", "Part", "apply", "stepped"]

Array = np.ndarray[Any, Any]
Choice = TypeVar("Choice")
Part = Callable[[Dice, Row, Format], Row]


def apply(part: Part, dice: Dice, row: Row, form: Format) -> Row:
    """The row that a part makes of another, rounded to the format, within its range, and with its label not masked."""
    with np.errstate(over="ignore", invalid="ignore"):  # brought back into the range below
        changed = part(dice, replace(row, logits=row.logits.copy()), form)
    z = np.asarray(changed.logits, dtype=np.float64)
    if np.isfinite(z).all():
        z = np.clip(z, -form.largest, form.largest)
    else:
        z = np.where(np.isnan(z), row.logits, z)
        # What overflows becomes the largest number; -inf stays where there are masked classes, which a part may move.
        masking = part is _mask or np.isneginf(row.logits).any()
        z = np.where(np.isneginf(z) & masking, -np.inf, np.clip(z, -form.largest, form.largest))
        if changed.target is None and np.isneginf(z[changed.label]):
            z[changed.label] = 0.0
    return replace(changed, logits=form.round(z).astype(np.float64, copy=False))


# How far the numbers go.


def _reach(form: Format) -> float:
    """The largest offset: from about 2^p on, p the precision of the arithmetic, every bound is vacuous."""
    return min(form.largest / 4, 2.0 ** (form.arithmetic.precision + 4))


def _depth(form: Format) -> float:
    """The gap from which on an exponential is zero in the arithmetic that is expected."""
    return -math.log(form.arithmetic.smallest_normal) + form.arithmetic.precision * math.log(2.0)


def _choose(dice: Dice, choices: Sequence[Choice]) -> Choice:
    return choices[dice.integer(0, len(choices) - 1)]


def _log_uniform(dice: Dice, low: float, high: float) -> float:
    """Log-uniform in [low, high], of either sign."""
    return float(_choose(dice, (1.0, -1.0)) * 2.0 ** dice.real(math.log2(low), math.log2(high)))


def _gap(dice: Dice, form: Format) -> float:
    """A difference of two logits: one that exp still tells from zero, or one of any magnitude."""
    if dice.integer(0, 3) < 3:
        return dice.real(0.0, 1.1 * _depth(form))
    return abs(_log_uniform(dice, form.unit_roundoff, _reach(form)))


def _any_class(dice: Dice, row: Row) -> int:
    """A class: the label in one case of three, and otherwise any."""
    return row.label if dice.integer(0, 2) == 0 else dice.integer(0, len(row.logits) - 1)


def _some(dice: Dice, row: Row) -> Array:
    """A set of classes, bool [V]: one, about half, or all but the label."""
    index: Array = np.arange(len(row.logits))
    kind = dice.integer(0, 2)
    if kind == 0:
        return np.asarray(index == dice.integer(0, len(index) - 1))
    if kind == 1:
        stride, start = dice.integer(2, 3), dice.integer(0, 2)
        return np.asarray((index + start) % stride == 0)
    return np.asarray(index != row.label)


# The parts.


def _offset(dice: Dice, row: Row, form: Format) -> Row:
    """A common offset."""
    return replace(row, logits=row.logits + _log_uniform(dice, 0.5, _reach(form)))


def _centre(dice: Dice, row: Row, form: Format) -> Row:
    """No offset: the largest logit, or the label's, is zero."""
    level = row.logits.max() if dice.integer(0, 1) == 0 else row.logits[row.label]
    return replace(row, logits=row.logits - (level if np.isfinite(level) else 0.0))


def _spread(dice: Dice, row: Row, form: Format) -> Row:
    """All logits times a factor, about their largest or about zero."""
    about = row.logits.max() if dice.integer(0, 1) else 0.0
    factor = 2.0 ** dice.real(-2.0, 2.0) * _choose(dice, (1.0, 1.0, 1.0, -1.0))
    z = about + (row.logits - about) * factor
    return replace(row, logits=np.where(np.isinf(row.logits), row.logits, z))


def _tie(dice: Dice, row: Row, form: Format) -> Row:
    """Some classes tie with another one."""
    row.logits[_some(dice, row)] = row.logits[_any_class(dice, row)]
    return row


def _near_tie(dice: Dice, row: Row, form: Format) -> Row:
    """One class within a few units in the last place of another one."""
    source, goal = _any_class(dice, row), dice.integer(0, len(row.logits) - 1)
    row.logits[goal] = stepped(row.logits[source], _choose(dice, (1, -1)) * dice.integer(1, 4), form)
    return row


def _lead(dice: Dice, row: Row, form: Format) -> Row:
    """The label leads, or trails, the largest other logit by a gap."""
    others = np.delete(row.logits, row.label)
    level = float(others.max(initial=-np.inf))
    gap = _choose(dice, (1.0, 1.0, -1.0)) * _gap(dice, form)
    row.logits[row.label] = (level if np.isfinite(level) else 0.0) + gap
    return row


def _tail(dice: Dice, row: Row, form: Format) -> Row:
    """Every class but the largest lies one gap below it, with some scatter."""
    top = int(row.logits.argmax())
    scatter = _choose(dice, (0.0, 0.5, 4.0)) * dice.normal(len(row.logits))
    row.logits[np.arange(len(row.logits)) != top] = (row.logits[top] - _gap(dice, form) + scatter)[1:]
    return row


def _mask(dice: Dice, row: Row, form: Format) -> Row:
    """Some classes are masked, or those that were are free again."""
    if row.target is None and np.isneginf(row.logits).any():
        row.logits[np.isneginf(row.logits)] = row.logits[row.label]
        return row
    if row.target is None:
        row.logits[_some(dice, row) & (np.arange(len(row.logits)) != row.label)] = -np.inf
    return row


def _subnormal(dice: Dice, row: Row, form: Format) -> Row:
    """Some logits become subnormal, or zeros of either sign."""
    steps = 2.0 ** dice.integer(0, form.precision - 2) * dice.integer(0, 1)
    row.logits[_some(dice, row)] = _choose(dice, (1.0, -1.0)) * steps * form.smallest_subnormal
    return row


def _magnitude(dice: Dice, row: Row, form: Format) -> Row:
    """One logit of log-uniform magnitude."""
    row.logits[_any_class(dice, row)] = _log_uniform(dice, form.smallest_normal, form.largest)
    return row


def _level(dice: Dice, row: Row, form: Format) -> Row:
    """One logit of an ordinary value."""
    row.logits[_any_class(dice, row)] = dice.real(-_depth(form), _depth(form))
    return row


def _edge(dice: Dice, row: Row, form: Format) -> Row:
    """One logit next to where exp overflows, underflows or no longer changes a one, in either format."""
    fmt = _choose(dice, (form, form.arithmetic))
    edges = (math.log(fmt.largest), -math.log(fmt.smallest_normal), -math.log(fmt.unit_roundoff))
    jitter = dice.real(-1.0, 1.0)
    row.logits[_any_class(dice, row)] = _choose(dice, (-1.0, 1.0)) * (_choose(dice, edges) + jitter)
    return row


def _pattern(dice: Dice, row: Row, form: Format) -> Row:
    """One logit of a random bit pattern."""
    kind = np.dtype(f"u{form.bits // 8}")
    half = form.bits // 2  # 64 bits at once are beyond the dice
    bits = np.array((dice.integer(0, 2**half - 1) << half) | dice.integer(0, 2**half - 1), dtype=kind)
    row.logits[_any_class(dice, row)] = _value(bits, form)
    return row


def _flip(dice: Dice, row: Row, form: Format) -> Row:
    """One bit of one logit turns over."""
    at = _any_class(dice, row)
    kind = np.dtype(f"u{form.bits // 8}")
    bits = form.round(row.logits[at]).view(kind) ^ kind.type(1 << dice.integer(0, form.bits - 1))
    row.logits[at] = _value(np.asarray(bits), form, row.logits[at])
    return row


def _step(dice: Dice, row: Row, form: Format) -> Row:
    """One logit moves by so many numbers of the format, few or many."""
    at = _any_class(dice, row)
    size = round(2.0 ** dice.real(0.0, form.precision - 1.0))
    row.logits[at] = stepped(row.logits[at], _choose(dice, (1, -1)) * size, form)
    return row


def _step_all(dice: Dice, row: Row, form: Format) -> Row:
    """Every logit moves by up to so many numbers of the format."""
    size = 2.0 ** dice.integer(0, max(1, form.precision // 2))
    row.logits[:] = stepped(row.logits, np.rint(np.clip(dice.normal(len(row.logits)), -2, 2) * size), form)
    return row


def _relabel(dice: Dice, row: Row, form: Format) -> Row:
    """Another label: the largest class, or any; for an element-wise loss another target."""
    if row.target is not None:
        target = row.target.copy()
        share = _choose(dice, (0.0, 1.0, 0.5, dice.integer(0, 16) / 16, 2.0 ** -dice.integer(1, form.precision)))
        target[_some(dice, row)] = share
        return replace(row, target=target)
    free = np.flatnonzero(row.logits > -np.inf)
    kind = dice.integer(0, 1)
    return replace(row, label=int(row.logits.argmax()) if kind == 0 else int(_choose(dice, free.tolist())))


def _shuffle(dice: Dice, row: Row, form: Format) -> Row:
    """Two logits change places, or the row is turned around: sums are taken in an order."""
    if dice.integer(0, 1) == 0:
        i, j = (dice.integer(0, len(row.logits) - 1) for _ in range(2))
        row.logits[[i, j]] = row.logits[[j, i]]
        return row
    return replace(row, logits=np.roll(row.logits, dice.integer(1, max(1, len(row.logits) - 1))))


def _upstream(dice: Dice, row: Row, form: Format) -> Row:
    """Another upstream gradient, exact in every format."""
    return replace(row, upstream=_choose(dice, (1.0, -1.0)) * dice.integer(1, 15) / 4)


PARTS: Mapping[str, Part] = MappingProxyType(
    {
        part.__name__.removeprefix("_"): part
        for part in (
            _offset,
            _centre,
            _spread,
            _tie,
            _near_tie,
            _lead,
            _tail,
            _mask,
            _subnormal,
            _magnitude,
            _level,
            _edge,
            _pattern,
            _flip,
            _step,
            _step_all,
            _relabel,
            _shuffle,
            _upstream,
        )
    }
)


def _value(bits: Array, form: Format, otherwise: float = 0.0) -> float:
    """The number of a bit pattern; `otherwise` where it is none."""
    with np.errstate(invalid="ignore"):  # a signalling NaN says so when it is converted
        value = float(bits.view(form.dtype).astype(np.float64))
    return value if math.isfinite(value) else otherwise


def stepped(value: Any, steps: Any, form: Format) -> Any:
    """So many spacings of the format away; a zero, a subnormal number, moves by the smallest one."""
    finite = np.where(np.isfinite(value), value, 0.0)
    _, exponent = np.frexp(finite)
    spacing = np.ldexp(1.0, np.maximum(exponent - 1, form.emin) - form.precision + 1)
    return np.where(np.isfinite(value), finite + steps * spacing, value)
