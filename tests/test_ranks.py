"""The Mann-Whitney test: against SciPy's, against every choice counted one by one, and at its edges."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, rankdata

from harness.compare import mann_whitney

DISTINCT = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=14, unique=True)
TIED = st.lists(st.integers(0, 4).map(float), min_size=2, max_size=9)


def split(values: list[float], data: st.DataObject) -> tuple[list[float], list[float]]:
    cut = data.draw(st.integers(1, len(values) - 1))
    return values[:cut], values[cut:]


@given(DISTINCT, st.data())
def test_without_ties_it_is_scipys_exact_test(values: list[float], data: st.DataObject) -> None:
    larger, smaller = split(values, data)
    expected = mannwhitneyu(larger, smaller, alternative="greater", method="exact").pvalue
    assert mann_whitney(larger, smaller) == pytest.approx(expected, rel=1e-12)


@given(TIED, st.data())
def test_with_ties_it_is_the_share_of_all_choices(values: list[float], data: st.DataObject) -> None:
    larger, smaller = split(values, data)
    ranks = rankdata(values).tolist()
    observed = sum(ranks[: len(larger)])
    sums = [sum(ranks[i] for i in choice) for choice in combinations(range(len(values)), len(larger))]
    assert mann_whitney(larger, smaller) == sum(total >= observed for total in sums) / len(sums)


@pytest.mark.parametrize(
    ("larger", "smaller", "p"),
    [
        ([4.0, 5.0, 6.0], [1.0, 2.0, 3.0], 1 / 20),
        ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], 1.0),
        ([1.0, 1.0], [1.0, 1.0], 1.0),
        ([30.0, 31.0, 32.0], [float(i) for i in range(20)], 1 / 1771),
        ([18.5, 31.0, 32.0], [float(i) for i in range(20)], 2 / 1771),
        ([30.0, 31.0, 32.0], [float(i) for i in range(8)], 1 / 165),
    ],
)
def test_known_values(larger: list[float], smaller: list[float], p: float) -> None:
    assert mann_whitney(larger, smaller) == pytest.approx(p, rel=1e-15)


@pytest.mark.parametrize(("larger", "smaller"), [([], [1.0]), ([1.0], []), ([float("nan")], [1.0])])
def test_what_cannot_be_ranked_is_refused(larger: list[float], smaller: list[float]) -> None:
    with pytest.raises(ValueError, match="not empty, without NaN"):
        mann_whitney(larger, smaller)
