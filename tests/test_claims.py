"""Claims: every way in which a judgement and a declaration can meet, and entries that have gone stale."""

from dataclasses import replace

import pytest

from harness.claims import Improvable, decide, flag_unexpected_passes, improvable
from harness.declaration import Declaration, KnownFailure
from harness.families import Draw, Family
from harness.grades import Grade, Outcome
from harness.run import Result

CE, BCE = "cross_entropy", "binary_cross_entropy_with_logits"


def declaration(*known, name="f", **grades):
    grades = {d: Grade(g) for d, g in (grades or {"float64": "absolute", "float32": "absolute"}).items()}
    return Declaration(name=name, framework="numpy", loss=CE, grades=grades, known_failures=known)


def result(
    family="a", *, name="f", dtype="float32", what="loss", claimed="absolute", grade="absolute", outcome="passed"
):
    return Result(
        implementation=name,
        framework="numpy",
        loss=CE,
        dtype=dtype,
        device="cpu",
        backend="native",
        family=family,
        what=what,
        rows=4,
        judged=4,
        claimed=claimed,
        grade=grade,
        outcome=outcome,
        detail="as it came",
    )


def families(*names, losses=(CE,), dtypes=("float64", "float32", "bfloat16", "float16")):
    return {n: Family(n, "", "", dict.fromkeys(losses, lambda rng, form: Draw(rng, rng)), dtypes) for n in names}


REASON = KnownFailure(("a", "deep/*"), "It cancels.", "numpy/numpy#1")


# -------------------------------------------------------------------------------------------------------------- decide


@pytest.mark.parametrize("claimed", ["faithful", "relative", "absolute", "storage"])
@pytest.mark.parametrize("reached", [str(grade) for grade in Grade])
def test_a_grade_passes_where_it_is_the_claimed_one_or_better(claimed, reached):
    decided = decide(declaration(), result(claimed=claimed, grade=reached))
    order = ["faithful", "relative", "absolute", "storage", "inaccurate"]
    expected = "passed" if order.index(reached) <= order.index(claimed) else "failed"
    assert decided.outcome == expected
    assert decided.detail == "as it came"


@pytest.mark.parametrize(
    ("outcome", "alone", "known"),
    [
        # what came, what it is by itself, what it is where a known failure covers it; grade: inaccurate
        ("passed", "failed", "known_failure"),
        ("nonfinite", "nonfinite", "known_failure"),
        ("wrong_shape", "wrong_shape", "known_failure"),
        ("wrong_dtype", "wrong_dtype", "known_failure"),
        ("raised", "raised", "known_failure"),
        ("crashed", "crashed", "known_failure"),
        ("timed_out", "timed_out", "known_failure"),
        ("not_judged", "not_judged", "not_judged"),
        ("skipped", "skipped", "skipped"),
        ("unavailable", "unavailable", "unavailable"),
    ],
)
def test_every_outcome_alone_and_as_a_known_failure(outcome, alone, known):
    came = result(grade="inaccurate", outcome=outcome)
    assert decide(declaration(), came).outcome == alone
    decided = decide(declaration(REASON), came)
    assert decided.outcome == known
    if known == "known_failure":
        assert (decided.detail, decided.thread) == ("It cancels.", "numpy/numpy#1")
    else:
        assert decided == came


def test_every_outcome_that_can_come_is_in_the_table():
    made_here = {Outcome.FAILED, Outcome.KNOWN_FAILURE, Outcome.UNEXPECTED_PASS}
    table = test_every_outcome_alone_and_as_a_known_failure.pytestmark[0].args[1]
    assert {Outcome(row[0]) for row in table} == set(Outcome) - made_here


def test_a_nonfinite_result_never_passes_whatever_grade_it_says():
    assert decide(declaration(), result(grade="faithful", outcome="nonfinite")).outcome == "nonfinite"


def test_without_a_grade_or_a_claim_nothing_passes():
    assert decide(declaration(), result(grade=None)).outcome == "failed"
    assert decide(declaration(), result(claimed=None)).outcome == "failed"


@pytest.mark.parametrize(
    ("entry", "covered"),
    [
        (KnownFailure(("a",), "r"), True),
        (KnownFailure(("A",), "r"), False),  # names are matched as they are written, on every system
        (KnownFailure(("b", "a"), "r"), True),
        (KnownFailure(("?",), "r"), True),
        (KnownFailure(("*",), "r"), True),
        (KnownFailure(("a/*",), "r"), False),
        (KnownFailure((), "r"), False),
        (KnownFailure(("a",), "r", dtypes=("float32",)), True),
        (KnownFailure(("a",), "r", dtypes=("float64",)), False),
        (KnownFailure(("a",), "r", what=("gradient",)), False),
        (KnownFailure(("a",), "r", what=("loss",)), True),
    ],
)
def test_what_an_entry_covers(entry, covered):
    decided = decide(declaration(entry), result(grade="inaccurate"))
    assert decided.outcome == ("known_failure" if covered else "failed")


def test_the_first_entry_that_covers_gives_the_reason():
    decided = decide(declaration(KnownFailure(("*",), "first"), REASON), result(grade="inaccurate"))
    assert (decided.detail, decided.thread) == ("first", "")


# --------------------------------------------------------------------------------------------------- unexpected passes


def flagged(declarations, results, known):
    decided = [decide(next(d for d in declarations if d.name == r.implementation), r) for r in results]
    return flag_unexpected_passes(declarations, decided, known)


ENTRY = KnownFailure(("a", "b"), "It cancels.", what=("loss",), dtypes=("float32",))


def test_an_entry_of_which_nothing_fails_any_more_is_stale():
    cells = [result("a"), result("b"), result("c"), result("a", what="gradient"), result("a", dtype="float64")]
    found = flagged([declaration(ENTRY)], cells, families("a", "b", "c"))
    assert [r.outcome for r in found] == ["unexpected_pass", "unexpected_pass", "passed", "passed", "passed"]
    assert found[0].detail == "listed as a known failure (It cancels.), but it passes: this entry can be deleted"
    assert Outcome(found[0].outcome).is_failure
    assert found[2:] == cells[2:]


@pytest.mark.parametrize(
    "cells",
    [
        [result("a")],  # b was not run
        [result("a"), result("b", what="gradient")],  # nor was its loss
        [result("a"), result("b", dtype="float64")],
        [result("a"), result("b", grade="inaccurate")],  # b still fails
        [],
    ],
)
def test_on_part_of_a_run_nothing_is_stale(cells):
    found = flagged([declaration(ENTRY)], cells, families("a", "b", "c"))
    assert "unexpected_pass" not in [r.outcome for r in found]


def test_every_dtype_of_an_entry_must_have_been_run():
    entry = KnownFailure(("a",), "r")
    both = [result("a"), result("a", dtype="float64")]
    assert {r.outcome for r in flagged([declaration(entry)], both, families("a"))} == {"unexpected_pass"}
    assert {r.outcome for r in flagged([declaration(entry)], both[:1], families("a"))} == {"passed"}
    # A dtype that the implementation does not claim, or the family does not draw, has no cell to wait for.
    narrow = KnownFailure(("a",), "r", dtypes=("float32", "bfloat16"))
    assert flagged([declaration(narrow)], both[:1], families("a"))[0].outcome == "unexpected_pass"
    only = families("a", dtypes=("float32",))
    assert flagged([declaration(entry)], both[:1], only)[0].outcome == "unexpected_pass"


def test_a_pattern_waits_for_all_families_that_it_matches_of_this_loss():
    entry = KnownFailure(("deep/*",), "r", dtypes=("float32",))
    known = families("deep/x", "deep/y", "flat") | families("deep/z", losses=(BCE,))
    part = [result("deep/x")]
    assert flagged([declaration(entry)], part, known)[0].outcome == "passed"
    whole = [result("deep/x"), result("deep/y")]
    assert {r.outcome for r in flagged([declaration(entry)], whole, known)} == {"unexpected_pass"}


def test_a_family_that_nobody_knows_flags_nothing():
    entry = KnownFailure(("misspelt",), "r")
    assert flagged([declaration(entry)], [result("a")], families("a"))[0].outcome == "passed"


def test_cells_that_were_skipped_or_not_judged_are_left_as_they_are():
    entry = KnownFailure(("a", "b"), "r", what=("loss",), dtypes=("float32",))
    cells = [result("a", outcome="skipped", grade=None), result("b", outcome="not_judged", grade=None)]
    assert flagged([declaration(entry)], cells, families("a", "b")) == cells


def test_other_implementations_do_not_answer_for_an_entry():
    entry = KnownFailure(("a",), "r", what=("loss",), dtypes=("float32",))
    cells = [result("a", name="g"), result("a", name="f", grade="inaccurate")]
    found = flagged([declaration(entry), declaration(name="g")], cells, families("a"))
    assert [r.outcome for r in found] == ["passed", "known_failure"]


def test_each_entry_is_stale_by_itself():
    one, other = replace(ENTRY, families=("a",), reason="one"), replace(ENTRY, families=("b",), reason="other")
    cells = [result("a"), result("b", grade="inaccurate")]
    found = flagged([declaration(one, other)], cells, families("a", "b"))
    assert [r.outcome for r in found] == ["unexpected_pass", "known_failure"]
    assert "(one)" in found[0].detail


# ---------------------------------------------------------------------------------------------------------- improvable


@pytest.mark.parametrize(
    ("grades", "expected"),
    [
        (["relative", "faithful"], "relative"),
        (["relative", "absolute"], None),
        (["relative", "inaccurate"], None),
        (["faithful", "faithful"], None),  # an easy set of families: nothing to learn from it
        ([None, "relative"], "relative"),
        ([None], None),
        ([], None),
    ],
)
def test_a_claim_weaker_than_what_is_reached_everywhere_is_improvable(grades, expected):
    cells = [decide(declaration(), result(grade=g, outcome="passed" if g else "not_judged")) for g in grades]
    found = improvable([declaration()], cells)
    assert found == ([Improvable("f", "float32", Grade.ABSOLUTE, Grade(expected))] if expected else [])


def test_known_failures_do_not_stand_in_the_way_of_an_improvement():
    declared = declaration(KnownFailure(("b",), "r"))
    cells = [decide(declared, r) for r in (result("a", grade="relative"), result("b", grade="inaccurate"))]
    assert [entry.reached for entry in improvable([declared], cells)] == [Grade.RELATIVE]


def test_dtypes_and_implementations_are_looked_at_apart():
    declared = [declaration(), declaration(name="g")]
    cells = [result(grade="relative"), result(grade="absolute", dtype="float64"), result(name="g", grade="relative")]
    assert [(e.implementation, e.dtype) for e in improvable(declared, cells)] == [("f", "float32"), ("g", "float32")]


# ---------------------------------------------------------------------------------------------------------------- words


def test_grades_are_in_order_and_worst_of_none_is_the_best():
    assert [grade.rank for grade in Grade] == [0, 1, 2, 3, 4]
    assert Grade.worst([]) is Grade.FAITHFUL
    assert Grade.worst([Grade.STORAGE, Grade.RELATIVE]) is Grade.STORAGE
    assert Grade.RELATIVE.meets(Grade.RELATIVE)
    assert not Grade.STORAGE.meets(Grade.ABSOLUTE)


def test_every_outcome_has_advice_and_a_verdict():
    harmless = {"passed", "known_failure", "not_judged", "skipped", "unavailable"}
    for outcome in Outcome:
        assert outcome.advice.endswith(".")
        assert outcome.is_failure == (outcome.value not in harmless)
    assert len({outcome.advice for outcome in Outcome}) == len(Outcome)
