"""The strategies: sound batches, searches that climb, and witnesses that are families."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings, target
from hypothesis import strategies as st

from harness.batch import Batch
from harness.families import make_batch
from harness.families.base import BCE, CROSS_ENTROPY, REGISTRY
from harness.formats import DTYPES, FLOAT32
from harness.judge import judge
from harness.output import Output
from harness.parts import PARTS
from harness.reference import reference_of
from harness.rows import Row, rows_of
from harness.snippet import IMPORTS, family_snippet
from harness.strategies import CLASSES, batches, rows, witness
from implementations.numpy_log1p import numpy_log1p
from implementations.numpy_lse_minus_target import numpy_lse_minus_target


@pytest.fixture(autouse=True, scope="module")
def _truth_is_not_stored() -> Iterator[None]:
    """Thousands of batches that nobody asks for again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XENT_CACHE", "off")
        yield


QUICK = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def ratio(batch: Batch, loss: np.ndarray, grade: str = "absolute") -> float:
    """The error over the bound of a grade."""
    return judge(batch, reference_of(batch), Output(loss))["loss"].bound_ratios.get(grade, 0.0)


@QUICK
@given(
    st.sampled_from([CROSS_ENTROPY, BCE]).flatmap(
        lambda loss: st.sampled_from(DTYPES).flatmap(lambda d: batches(loss, d))
    )
)
def test_batches_are_exact_and_have_a_truth(batch: Batch) -> None:
    assert batch.logits.shape[1] in CLASSES
    assert 1 <= len(batch.logits) <= 4
    assert not np.isnan(batch.logits.astype(np.float64)).any()
    assert len(rows_of(batch)) == len(batch.logits)
    reference = reference_of(batch)
    assert (reference.loss_hi >= 0).all()
    assert np.isfinite(reference.grad_hi).all()


@QUICK
@given(batches(CROSS_ENTROPY, "float64"))
def test_the_log1p_form_holds_its_relative_bound(batch: Batch) -> None:
    found = ratio(batch, numpy_log1p(batch.logits, batch.target, reduction="none"), "relative")
    target(found)
    assert found <= 1


@QUICK
@given(batches(CROSS_ENTROPY, "float32"))
def test_log_sum_exp_minus_target_holds_the_absolute_bound(batch: Batch) -> None:
    found = ratio(batch, numpy_lse_minus_target(batch.logits, batch.target))
    target(found)
    assert found <= 1


def lost(row: Row) -> float:
    """The relative error of a loss that adds the tail to a one, as float32 does."""
    batch = Batch(CROSS_ENTROPY, row.logits[None].astype(np.float32), np.array([row.label]), np.ones(1, np.float32))
    want = float(reference_of(batch).loss_hi[0])
    with np.errstate(all="ignore"):
        got = float(numpy_lse_minus_target(batch.logits, batch.target)[0])
    return 0.0 if want == 0 or want == np.inf else abs(got - want) / want


def largest_mean(aimed: bool) -> float:
    """The largest mean of eight logits in 300 examples: a thing that no one number of an example decides."""
    seen = []

    @hypothesis.seed(1)
    @settings(QUICK, max_examples=300, database=None, phases=[Phase.generate, Phase.target], derandomize=False)
    @given(rows(CROSS_ENTROPY, "float32", 8, ("relabel",)))
    def look(row: Row) -> None:
        seen.append(float(row.logits.mean()))
        if aimed:
            target(seen[-1])

    look()
    return max(seen)


def test_a_target_makes_the_search_climb() -> None:
    assert largest_mean(aimed=True) > largest_mean(aimed=False) + 0.5


@contextlib.contextmanager
def pasted(source: str) -> Iterator[None]:
    """The registry with the families of some source."""
    before = dict(REGISTRY)
    try:
        exec(compile(IMPORTS + "\n\n" + source, "pasted", "exec"), {})
        yield
    finally:
        REGISTRY.clear()
        REGISTRY.update(before)


@QUICK
@given(st.sampled_from([CROSS_ENTROPY, BCE]).flatmap(lambda loss: batches(loss, "float32", classes=(2, 40))))
def test_a_witness_is_a_family_of_the_same_numbers(batch: Batch) -> None:
    last = len(batch.logits) - 1
    with pasted(witness(batch, last, name="found_by_search", about="got 0, want 1.")):
        drawn = make_batch("found_by_search", batch.loss, "float32", 0)
        assert np.array_equal(drawn.logits, batch.logits[last:], equal_nan=False)
        assert np.array_equal(np.signbit(drawn.logits), np.signbit(batch.logits[last:]))
        assert np.array_equal(drawn.target, batch.target[last:])
        entry = REGISTRY["found_by_search"]
        assert (entry.losses, entry.dtypes, entry.source) == ((batch.loss,), ("float32",), "Hypothesis")
    assert "found_by_search" not in REGISTRY


def test_a_snippet_reads_as_one_would_write_it() -> None:
    row = Row(np.array([40.0, 0.0, -np.inf]), 0)
    source = family_snippet(
        row, CROSS_ENTROPY, "float32", name="lost/at 40", breaks='It says "0".', source="me", about="Got 0."
    )
    assert (
        source
        == '''@family(
    "lost/at 40",
    breaks="It says \\\\"0\\\\".",
    source="me",
    dtypes=("float32",),
)
def lost_at_40(rng: np.random.Generator, form: Format) -> Draw:
    """Got 0."""
    logits = np.array([[float.fromhex(x) for x in "0x1.4000000000000p+5 0x0.0p+0 -inf".split()]])
    return Draw(logits, np.array([0]))
'''.replace("\\\\", "\\")
    )


def test_what_fails_shrinks_to_a_short_row() -> None:
    smallest: list[Row] = []

    @settings(max_examples=1000, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(rows(CROSS_ENTROPY, "float32", 2))
    def lose(row: Row) -> None:
        if lost(row) > 0.9:
            smallest.append(row)
            raise AssertionError("lost")

    with pytest.raises(AssertionError, match="lost"):
        lose()
    row = smallest[-1]
    assert lost(row) > 0.9
    # What is left is a lead or a common offset: one number says it.
    assert len(set(row.logits[row.logits != 0].tolist())) == 1
    assert (row.label, row.upstream) == (0, 1.0)
    assert all(float(z) == FLOAT32.round(z) for z in row.logits)


def test_parts_can_be_chosen() -> None:
    @QUICK
    @given(rows(CROSS_ENTROPY, "float32", 4, ("mask",)))
    def only_masks(row: Row) -> None:
        finite = row.logits[np.isfinite(row.logits)]
        assert (np.abs(finite) <= 4).all()

    only_masks()
    assert set(PARTS) >= {"offset", "spread", "tie", "near_tie", "lead", "tail", "mask", "subnormal", "pattern", "flip"}
