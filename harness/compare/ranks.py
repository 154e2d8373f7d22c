"""The Mann-Whitney test, exact also with ties, without SciPy: nights are few, so the distribution can be counted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import comb

__all__ = ["mann_whitney"]


def mann_whitney(larger: Sequence[float], smaller: Sequence[float]) -> float:
    """The one-sided p-value of `larger` lying above `smaller` by chance.

    Under the null hypothesis every choice of len(larger) of the pooled values is as likely as another. The p-value is
    the share of those choices whose rank sum is at least the one observed, ties having the mean of their ranks
    (Mann & Whitney 1947; with ties it is the exact conditional distribution: Lehmann, *Nonparametrics*, 1.4). Counted
    by dynamic programming over the values, in whole numbers: no approximation.

    Parameters
    ----------
    larger, smaller : sequence of float
        The two samples, not empty, without NaN.

    Returns
    -------
    float
        Between 1 / C(m + n, m) and 1.

    Raises
    ------
    ValueError
        For an empty sample or a NaN.
    """
    pooled = [*larger, *smaller]
    if not larger or not smaller or any(value != value for value in pooled):
        raise ValueError("two samples that are not empty, without NaN, are needed")
    ranks = _double_ranks(pooled)
    observed = sum(ranks[: len(larger)])
    ways = _ways(tuple(sorted(ranks)), len(larger))
    extreme = sum(count for total, count in ways.items() if total >= observed)
    return extreme / comb(len(pooled), len(larger))


@lru_cache(maxsize=64)  # without ties it is the same for every series
def _ways(ranks: tuple[int, ...], chosen: int) -> dict[int, int]:
    """In how many ways so many of the ranks can be chosen, by their sum."""
    ways: list[dict[int, int]] = [{0: 1}] + [{} for _ in range(chosen)]
    for rank in ranks:
        for size in range(chosen, 0, -1):  # downwards, so that no value is chosen twice
            here = ways[size]
            for total, count in ways[size - 1].items():
                here[total + rank] = here.get(total + rank, 0) + count
    return ways[-1]


def _double_ranks(values: Sequence[float]) -> list[int]:
    """Twice the rank of each value, so that the mean rank of ties is a whole number too."""
    ordered = sorted(values)
    first: dict[float, int] = {}
    last: dict[float, int] = {}
    for rank, value in enumerate(ordered, 1):
        first.setdefault(value, rank)
        last[value] = rank
    return [first[value] + last[value] for value in values]
