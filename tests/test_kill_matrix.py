"""The power of vetting: wrong candidates fall to the check meant for them, right ones are accepted.

By default a sample is vetted, quickly; the whole set is `long`, and `make kill-matrix` writes what comes out.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import pytest

from harness.batch import Batch
from harness.reference import Reference, reference_of
from harness.vetting.batches import family_batches, row_batches, size_batches
from harness.vetting.checks import ASKS, Failed
from harness.vetting.checks.numerics import families, sizes
from harness.vetting.context import Context
from harness.vetting.scale import Scale
from tests.candidates import Candidate, Vetted, numerics, read_all, read_file, vetted
from tools import kill_matrix

WRONG, RIGHT = read_all(wrong=True), read_all(wrong=False)
SEED = 20261121
"""For what is sampled and for what is drawn: a test that fails today and not tomorrow is no gate."""


def label(candidate: Candidate) -> str:
    return f"{'wrong' if candidate.wrong else 'right'}/{candidate.label}"


def sample(candidates: list[Candidate], key: str, count: int) -> list[Candidate]:
    """Candidates that a quick vetting can tell, no two of them alike in an attribute."""
    candidates = [c for c in candidates if "backend" not in c.options]  # test_triton.py has those
    drawn = random.Random(SEED).sample(candidates, len(candidates))
    quick = [c for c in drawn if c.options.get("quick", True) and "timeout" not in c.options]
    return list({getattr(c, key): c for c in quick}.values())[:count]


def one_dtype(candidate: Candidate) -> Candidate:
    """The candidate in float32, or in the first dtype that its file names."""
    dtypes = candidate.options.get("dtypes", ["float32"])[:1]
    return replace(candidate, options={**candidate.options, "dtypes": dtypes})


def check(found: Vetted) -> None:
    candidate = found.candidate
    assert found.verdict == ("rejected" if candidate.wrong else "accepted"), (found.seed, found.message)
    if candidate.wrong:
        assert candidate.check in found.caught_by, (found.seed, found.caught_by, found.message)
    elif candidate.deviation:
        assert candidate.deviation in found.deviations, (found.seed, found.deviations)


@pytest.mark.parametrize("candidate", sample(WRONG, "check", 8), ids=label)
def test_a_wrong_one_falls_to_the_check_meant_for_it(candidate: Candidate) -> None:
    check(vetted(one_dtype(candidate), True, SEED))


@pytest.mark.parametrize("candidate", sample(RIGHT, "style", 3), ids=label)
def test_a_right_one_is_accepted(candidate: Candidate) -> None:
    check(vetted(one_dtype(candidate), True, SEED))


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("candidate", WRONG, ids=label)
def test_every_wrong_one_falls_to_the_check_meant_for_it(candidate: Candidate) -> None:
    check(vetted(candidate, False, SEED))


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [None, 1, 2])
@pytest.mark.parametrize("candidate", RIGHT, ids=label)
def test_every_right_one_is_accepted_whatever_the_seed(candidate: Candidate, seed: int | None) -> None:
    check(vetted(candidate, False, seed))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("candidate", RIGHT, ids=label)
def test_the_numerical_checks_accept_a_right_one_under_fifty_seeds(candidate: Candidate) -> None:
    assert alarms(candidate, range(50)) == []


def test_the_numerical_checks_are_what_those_fifty_seeds_run() -> None:
    never_reads = next(c for c in WRONG if c.name == "never_reads")
    assert {alarm.partition(":")[0] for alarm in alarms(never_reads, [3])} >= {"accuracy", "gradient_accuracy", "sizes"}


def alarms(candidate: Candidate, seeds: Iterable[int]) -> list[str]:
    """Every failure of the numerical checks up to 4,097 classes, in every dtype, for each seed.

    Without the batches of thousands of rows, which take most of the time and repeat a few rows. Numbers of classes that
    are drawn from the seed, JAX, which compiles for each, meets with every tenth seed; and few rows where it is called
    for each of them, since it reduces them and traces every call.
    """
    found = []
    with numerics(candidate) as (context, dtypes):
        scale = replace(context.scale, tall=(), very_many_rows=False)
        if candidate.framework == "jax" and context.examiner.mean_only:
            scale = replace(scale, family_rows=4, rows=(1, 9))
        for context.seed in seeds:
            repeating = candidate.framework == "jax" and context.seed % 10
            here = replace(scale, odd_sizes=()) if repeating else scale
            for dtype in dtypes:
                found += _failures(context, dtype, here)
    return found


_DRAWN: dict[tuple[object, ...], tuple[list[Batch], list[Batch], dict[int, Reference]]] = {}
"""Batches up to 4,097 classes and their truth, for candidates that claim the same."""
ENTRIES = 50 * 4
"""So many are kept, of each dtype and seed one: some gigabytes."""


def _failures(context: Context, dtype: str, scale: Scale) -> list[str]:
    key = (context.loss, context.target, context.claims, dtype, context.seed, scale)
    with mock.patch.object(Context, "scale", scale):
        if key not in _DRAWN:
            drawn = [b for b in family_batches(context, dtype) if b.logits.shape[1] <= 4097]
            sized = [b for b in size_batches(context, dtype) if b.logits.shape[1] <= 4097] + row_batches(context, dtype)
            _DRAWN[key] = drawn, sized, {id(batch): reference_of(batch) for batch in drawn + sized}
            if len(_DRAWN) > ENTRIES:
                _DRAWN.pop(next(iter(_DRAWN)))
        drawn, sized, solved = _DRAWN[key]
        context.families, context.sizes = {dtype: drawn}, {dtype: sized}
        context.solved = {batch: partial(solved.__getitem__, batch) for batch in solved}
        findings = [*families(context, dtype), *sizes(context, dtype)]
    failed = [finding for finding in findings if isinstance(finding, Failed)]
    return [f"{finding.check}: {dtype}, seed {context.seed}: {finding.detail}" for finding in failed]


def test_the_sets_only_grow() -> None:
    assert len([c for c in WRONG if c.framework == "torch"]) >= 180
    assert len([c for c in RIGHT if c.framework == "torch"]) >= 43


@pytest.mark.parametrize("path", sorted({c.path for c in WRONG + RIGHT}), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_file_says_something_of_each_public_function_and_of_nothing_else(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    defined = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name[0] != "_"}
    assigned = [t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)]
    defined |= {name for name in assigned if name[0] != "_" and not name.isupper()}  # an instance, a partial
    # A candidate may have a gradient function beside it, named by its options.
    read = read_file(path, wrong=path.parent.name == "wrong")
    gradients = {c.options["gradient"] for c in read if "gradient" in c.options}
    assert {c.name for c in read} == defined - gradients


@pytest.mark.parametrize("candidate", WRONG, ids=label)
def test_a_wrong_one_names_an_existing_check_and_its_bug(candidate: Candidate) -> None:
    if not candidate.options.get("strict"):
        assert candidate.check in ASKS
    assert len(candidate.bug) > 10
    assert not candidate.source or re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", candidate.source)


def test_ordinary_gates_let_wrong_ones_pass() -> None:
    names = ("never_reads", "no_shift", "softcap_left_on", "clamp_1e_7")
    said = kill_matrix.ordinary_gates([c for c in WRONG if c.path.name == "torch_forward.py" and c.name in names])
    passed = {gate: {k.partition(":")[2] for k, v in said.items() if v[gate] is None} for gate in kill_matrix.GATES}
    assert passed == {"forward": set(names), "suite": {"no_shift", "clamp_1e_7"}}


def test_ordinary_gates_accept_right_ones() -> None:
    said = kill_matrix.ordinary_gates([c for c in RIGHT if c.path.name in ("torch_by_hand.py", "numpy_losses.py")])
    assert {name: why for name, why in said.items() if any(why.values())} == {}


def test_ordinary_gates_differentiate_in_every_framework() -> None:
    names = ("with_gradient_without_upstream", "with_gradient_for_the_mean", "rule_ignores_upstream", "clipped")
    names += ("half_of_the_gradient_stopped",)
    said = kill_matrix.ordinary_gates([c for c in WRONG if c.name in names and c.framework != "torch"])
    caught = {label.partition(":")[2] for label, why in said.items() if why["suite"]}
    assert caught == {"with_gradient_for_the_mean", "half_of_the_gradient_stopped"}
    assert all(why["forward"] is None for why in said.values())


def test_the_document_shows_what_was_missed_and_which_checks_catch_nothing() -> None:
    caught, missed = (replace(c, bug="a | bug") for c in WRONG[:2])
    found = [
        Vetted(caught, "rejected", (caught.check, "sizes"), {}, (), "", 7, 1.0),
        Vetted(missed, "accepted", (), {}, (), "", 7, 1.0),
        Vetted(RIGHT[0], "accepted", (), {"float32": "absolute"}, ("wider_output",), "", 7, 1.0),
    ]
    gates = {c.label: {"forward": None, "suite": "raises ValueError"} for c in (caught, missed)}
    text = kill_matrix.document(found, gates, 7, False)
    rows = text.splitlines()
    assert "1 of the 2 wrong ones fall to the check meant for them" in text
    assert any(row.startswith(f"| `{caught.name}` | a \\| bug") and "**✗**" in row for row in rows)
    assert any(row.startswith(f"| `{missed.name}` |") and "**missed**" in row for row in rows)
    assert any("`late_calls`" in row and "**nothing**" in row for row in rows)
    assert any(RIGHT[0].name in row and "float32 absolute | wider_output |" in row for row in rows)
    assert kill_matrix.counts(found)["sizes"] == (1, 0)
