"""Batches drawn to be hard on the truth, as hypothesis strategies: what both truth and its oracle are asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from harness.formats import DTYPES, FORMATS, Format
from tests.arb_oracle import Element, Row

Array = np.ndarray[Any, Any]

EXTREMES = [0.0, -0.0, 1.0, -1.0, 5e-324, -5e-324, 1e-310, 1e-300, -1e-300, 2.0**-30, 40.0, -745.2, 1e6, 1e300, -1e300]
EXTREMES += [1.7976931348623157e308, -1.7976931348623157e308, 88.72, -103.97, 11.09, 65504.0]
FACTORS = [0.0, 1.0, 0.1, 5e-324, 1e-300, 1e300, 1.7976931348623157e308, 3.0, 2.0**-60]


@dataclass(frozen=True)
class Case:
    """Arguments of one call of `harness.truth`, in some dtype."""

    logits: Array
    target: Array
    upstream: Array
    options: Mapping[str, Any]

    def rows(self) -> list[Row]:
        """The same rows for the oracle of cross-entropy."""
        weight = _floats(self.options["weight"]) if "weight" in self.options else None
        smoothing = self.options.get("label_smoothing", 0.0)
        ignore = self.options.get("ignore_index", -100)
        rows = []
        for z, target in zip(self.logits, self.target, strict=True):
            if self.target.ndim == 1:
                label = int(target)
                row = Row(_floats(z), max(label, 0), (), weight, smoothing, label == ignore)
            else:
                row = Row(_floats(z), -1, _floats(target), weight, smoothing)
            rows.append(row)
        return rows

    def elements(self) -> list[list[Element]]:
        """The same elements for the oracle of binary cross-entropy with logits."""
        shape = self.logits.shape
        columns = [self.logits, self.target]
        columns += [np.broadcast_to(self.options.get(name, np.ones(())), shape) for name in ("weight", "pos_weight")]
        return [[Element(*x) for x in zip(*(_floats(c[i]) for c in columns), strict=True)] for i in range(shape[0])]


def _floats(array: Array) -> list[float]:
    values: list[float] = np.asarray(array).astype(np.float64).tolist()
    return values


def rounded(fmt: Format, values: Any) -> Array:
    """Values in a format, finite ones kept finite."""
    return fmt.round(np.where(np.isinf(values), values, np.clip(values, -fmt.largest, fmt.largest)))


@st.composite
def numbers(draw: st.DrawFn, fmt: Format) -> float:
    """One finite number of a format: any bit pattern, a known troublemaker, or any magnitude."""
    kind = draw(st.sampled_from(["bits", "extreme", "moderate", "magnitude"]))
    if kind == "bits":
        value = float(np.uint64(draw(st.integers(0, 2**64 - 1))).view(np.float64))
        value = value if np.isfinite(value) else 0.5
    elif kind == "extreme":
        value = draw(st.sampled_from(EXTREMES))
    elif kind == "moderate":
        value = draw(st.floats(-30, 30))
    else:
        value = draw(st.sampled_from([-1.0, 1.0])) * 10.0 ** draw(st.floats(-320, 308))
    return float(rounded(fmt, value))


@st.composite
def logit_rows(draw: st.DrawFn, fmt: Format, width: int) -> list[float]:
    """One row of logits: unlike ones, ties, ties but for an ulp, a common offset, a confident row; some masked."""
    kind = draw(st.sampled_from(["unlike", "ties", "near ties", "tiny", "offset", "confident"]))
    base = draw(numbers(fmt))
    unit = draw(st.lists(st.floats(-1, 1), min_size=width, max_size=width))
    if kind == "unlike":
        row = np.array([draw(numbers(fmt)) for _ in range(width)])
    elif kind == "ties":
        row = np.full(width, base)
    elif kind == "near ties":
        ulp = np.maximum(abs(base) * 2.0 ** (1 - fmt.precision), fmt.smallest_subnormal)
        row = base * (1 - 2.0**-8) + ulp * np.round(unit)
    elif kind == "tiny":
        row = np.array(unit) * 10.0 ** draw(st.floats(-320, 0))
    elif kind == "offset":
        row = draw(st.sampled_from([1e6, -1e6, 1e4, 1e15])) + 3 * np.array(unit)
    else:
        row = -draw(st.floats(15, 800)) * (1 + 0.01 * np.abs(unit))
        row[draw(st.integers(0, width - 1))] = 0.0
    row = rounded(fmt, row).astype(np.float64)
    masked = draw(st.lists(st.integers(0, width - 1), max_size=width - 1)) if draw(st.booleans()) else []
    row[masked] = -np.inf
    return _floats(row)


def softmax(z: Array) -> Array:
    """Softmax in float64, row by row."""
    with np.errstate(over="ignore", under="ignore"):
        e = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def factors(fmt: Format) -> st.SearchStrategy[float]:
    """A non-negative factor of a format."""
    return st.one_of(st.sampled_from(FACTORS), numbers(fmt), st.floats(0, 1)).map(lambda x: abs(float(rounded(fmt, x))))


def upstreams(fmt: Format) -> st.SearchStrategy[float]:
    """An upstream gradient of a format."""
    return st.one_of(numbers(fmt), st.floats(-2, 2).map(lambda x: float(rounded(fmt, x))))


@st.composite
def cross_entropies(draw: st.DrawFn, soft: bool | None = None, most_rows: int = 2) -> Case:
    """A batch of a cross-entropy, every option included."""
    fmt = FORMATS[draw(st.sampled_from(DTYPES))]
    n, v = draw(st.integers(1, most_rows)), draw(st.integers(1, 6))
    logits = np.array([draw(logit_rows(fmt, v)) for _ in range(n)])
    options: dict[str, Any] = {}
    if soft if soft is not None else draw(st.booleans()):
        kind = draw(st.sampled_from(["any", "softmax", "softmax but for a factor"]))
        if kind == "any":
            target = np.array([[draw(factors(fmt)) for _ in range(v)] for _ in range(n)])
        else:
            factor = 1.0 if kind == "softmax" else 1 + 2.0 ** -draw(st.integers(3, 52))
            target = softmax(logits) * factor
        target = rounded(fmt, target)
    else:
        target = np.array([draw(st.integers(0, v - 1)) for _ in range(n)])
        if draw(st.booleans()):
            options["ignore_index"] = draw(st.sampled_from([-100, 0, v - 1]))
            target[draw(st.integers(0, n - 1))] = options["ignore_index"]
    if draw(st.booleans()):
        options["weight"] = rounded(fmt, [draw(factors(fmt)) for _ in range(v)])
    if draw(st.booleans()):
        options["label_smoothing"] = draw(st.one_of(st.sampled_from([0.0, 1.0, 0.1, 1e-300, 5e-324]), st.floats(0, 1)))
    upstream = rounded(fmt, [draw(upstreams(fmt)) for _ in range(n)])
    return Case(rounded(fmt, logits), target, upstream, options)


@st.composite
def binary_cross_entropies(draw: st.DrawFn) -> Case:
    """A batch of a binary cross-entropy with logits, every option included."""
    fmt = FORMATS[draw(st.sampled_from(DTYPES))]
    n, k = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    count = n * k

    def array(strategy: st.SearchStrategy[float], size: int = count) -> Array:
        return rounded(fmt, draw(st.lists(strategy, min_size=size, max_size=size)))

    infinite = st.sampled_from([np.inf, -np.inf, 0.0, 1.0])
    logits = array(st.one_of(numbers(fmt), st.floats(-40, 40), infinite)).reshape(n, k)
    if draw(st.booleans()):
        target = array(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, 0.5, 5e-324, 1e-300]))).reshape(n, k)
    else:  # the logistic function itself, so that the gradient cancels
        with np.errstate(over="ignore"):
            target = rounded(fmt, 1 / (1 + np.exp(-logits.astype(np.float64))))
    options: dict[str, Any] = {}
    if draw(st.booleans()):
        options["weight"] = array(factors(fmt)).reshape(n, k)
    if draw(st.booleans()):
        if draw(st.booleans()):
            options["pos_weight"] = array(factors(fmt), k)
        else:  # (1 - t) σ(x) and c t σ(-x) alike
            with np.errstate(all="ignore"):
                t, x = target.astype(np.float64), logits.astype(np.float64)
                alike = np.nan_to_num((1 - t) / t * np.exp(x), nan=1.0, posinf=1.0)
            options["pos_weight"] = rounded(fmt, alike)
    return Case(logits, target, array(upstreams(fmt)).reshape(n, k), options)
