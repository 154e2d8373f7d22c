from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import mpmath
import numpy as np
import pytest

from harness.arithmetic import Arithmetic
from harness.batch import Batch
from harness.families import FAMILIES, UnknownFamily, families_for, family_named, make_batch
from harness.families.base import BCE, CROSS_ENTROPY, LINEAR, draw_upstream, family, streams
from harness.families.recorded import load
from harness.formats import DTYPES, FORMATS, named
from harness.grades import Grade
from harness.reference import reference_of

# Those of logits; test_linear_cross_entropy.py has the others.
OF_LOGITS = {name: entry for name, entry in FAMILIES.items() if entry.losses != (LINEAR,)}
CASES = [(entry.name, loss, dtype) for entry in OF_LOGITS.values() for loss in entry.losses for dtype in entry.dtypes]
WITHOUT_DRAWING = {"recorded/ocr_8210", "recorded/charlm_trained", "recorded/charlm_diverging"}


def reals(batch: Batch) -> np.ndarray:
    return batch.logits.astype(np.float64)


def ce(family_name: str, dtype: str = "float32", seed: int = 7) -> Batch:
    return make_batch(family_name, CROSS_ENTROPY, dtype, seed)


def true_loss(batch: Batch, row: int) -> float:
    with mpmath.workdps(400):
        z = [mpmath.mpf(x) for x in reals(batch)[row].tolist()]
        y = z[int(batch.target[row])]
        return float(mpmath.log1p(mpmath.fsum(mpmath.exp(x - y) for x in z) - 1))


def row_gaps(batch: Batch) -> np.ndarray:
    """The target's lead over the best other class, row by row."""
    z = reals(batch)
    rows = np.arange(len(z))
    target = z[rows, batch.target].copy()
    z[rows, batch.target] = -np.inf
    return target - z.max(axis=1)


def digest() -> str:
    """One digest over every family in every dtype."""
    total = hashlib.sha256()
    for name, loss, dtype in CASES:
        batch = make_batch(name, loss, dtype, 12345)
        for array in (batch.logits, batch.target, batch.upstream, *batch.options.values()):
            total.update(np.asarray(array).tobytes())
    return total.hexdigest()


# What the registry says


def test_every_family_that_was_promised_is_there():
    promised = """moderate wide overflow_edge underflow_edge common_offset ties near_ties confident wrong_confident
        tail_mass masked subnormal mixed_scales format_maximum one_class two_classes uniform recorded/ocr_8210
        recorded/charlm_trained recorded/charlm_diverging"""
    assert set(promised.split()) <= {entry.name for entry in families_for(CROSS_ENTROPY, "float32")}
    binary = "moderate wide overflow_edge underflow_edge confident subnormal mixed_scales uniform masked option_weight"
    assert set(binary.split()) <= {entry.name for entry in families_for(BCE, "float32")}


@pytest.mark.parametrize("name", FAMILIES)
def test_breaks_is_one_sentence_and_the_source_is_named(name):
    entry = FAMILIES[name]
    assert entry.name == name
    assert entry.breaks[0].isupper()
    assert entry.breaks.endswith(".")
    assert ". " not in entry.breaks, "two sentences"
    assert 40 <= len(entry.breaks) <= 160
    assert len(entry.source) >= 10
    assert set(entry.losses) <= {CROSS_ENTROPY, BCE} or entry.losses == (LINEAR,)
    assert entry.dtypes == DTYPES


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_shapes_are_few_and_the_numbers_affordable(dtype):
    shapes = [make_batch(name, loss, d, 0).logits.shape for name, loss, d in CASES if d == dtype]
    assert sum(n * v for n, v in shapes) < 1_200_000
    assert len(set(shapes)) <= 12
    assert max(n * v for n, v in shapes) == 32 * 8210


# What holds for every batch


def test_a_batch_follows_from_its_four_arguments_in_every_process():
    code = "from tests.test_families import digest; print(digest())"
    root = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)])}
    found = {digest()}
    for hash_seed in ("1", "4242"):
        environment["PYTHONHASHSEED"] = hash_seed
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found.add(done.stdout.strip())
    assert len(found) == 1


@pytest.mark.parametrize(("name", "loss", "dtype"), CASES)
def test_every_batch_is_well_formed_and_exact_in_its_dtype(name, loss, dtype):
    batch = make_batch(name, loss, dtype, 3)
    form = named(dtype)
    n, v = batch.logits.shape
    assert (batch.loss, batch.family, batch.seed, batch.dtype) == (loss, name, 3, dtype)
    z = reals(batch)
    assert not np.isnan(z).any()
    assert not np.isposinf(z).any() or (name, loss) == ("masked", BCE)
    assert not np.isneginf(z).any() or name == "masked"

    if batch.target.ndim == 1:
        ignored = batch.target == batch.options.get("ignore_index", -100)
        assert batch.target.dtype == np.int64
        assert batch.target.shape == (n,)
        assert ((batch.target >= 0) & (batch.target < v) | ignored).all()
        assert np.isfinite(z[np.flatnonzero(~ignored), batch.target[~ignored]]).all(), "a masked target"
    else:
        probabilities = batch.target.astype(np.float64)
        assert batch.target.dtype == form.dtype
        assert probabilities.shape == (n, v)
        assert (probabilities >= 0).all()
        assert np.isfinite(probabilities).all()
        assert loss == CROSS_ENTROPY or (probabilities <= 1).all()
    assert (loss == BCE) <= (batch.target.ndim == 2)

    assert batch.upstream.dtype == form.dtype
    assert batch.upstream.shape == ((n, v) if loss == BCE else (n,))
    for key, value in batch.options.items():
        if key in ("weight", "pos_weight"):
            assert value.dtype == form.dtype
            assert value.shape == (v,)
        else:
            assert type(value) in (int, float)


@pytest.mark.parametrize(("name", "loss", "dtype"), CASES)
def test_the_upstream_gradient_hides_nothing(name, loss, dtype):
    upstream = make_batch(name, loss, dtype, 5).upstream.astype(np.float64)
    magnitudes = np.abs(upstream)
    assert ((magnitudes >= 0.25) & (magnitudes <= 4.0)).all()
    assert not (magnitudes == 1.0).any()
    assert {-1.0, 1.0} == set(np.sign(upstream).ravel())
    assert len(np.unique(magnitudes)) >= 2
    # At most three significant bits, so that rounding to any format changed nothing.
    mantissas = np.frexp(magnitudes)[0] * 8
    assert (mantissas == np.rint(mantissas)).all()


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_an_upstream_gradient_of_any_size(size):
    upstream = draw_upstream(np.random.default_rng(0), (size,))
    assert upstream.shape == (size,)
    assert len(np.unique(np.sign(upstream))) == min(size, 2)
    assert abs(int(np.sign(upstream).sum())) <= 1


@pytest.mark.parametrize("name", [n for n in OF_LOGITS if n not in WITHOUT_DRAWING])
def test_another_seed_and_another_dtype_draw_other_numbers(name):
    loss = FAMILIES[name].losses[0]
    one, two = make_batch(name, loss, "float64", 1), make_batch(name, loss, "float64", 2)
    assert (one.logits.shape, one.dtype) == (two.logits.shape, two.dtype)
    drawn = [np.concatenate([b.logits.ravel(), b.target.ravel()]) for b in (one, two)]
    assert not np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(one.upstream, two.upstream) or one.upstream.size == 2


def test_the_streams_depend_on_every_word_and_on_where_it_ends():
    draws = [
        streams(seed, *words)[0].integers(2**62)
        for seed, words in [(0, ("ab", "c")), (0, ("a", "bc")), (0, ("ab", "d")), (1, ("ab", "c"))]
    ]
    assert len(set(draws)) == 4
    assert len({stream.integers(2**62) for stream in streams(0, "a", count=5)}) == 5


# What each family is about


def test_the_published_table_of_common_offsets():
    batch = ce("common_offset")
    z = reals(batch)
    assert z[[0, 2, 4]].tolist() == [[2.0, -1.0], [10002.0, 9999.0], [1000002.0, 999999.0]]
    assert z[6].tolist() == [1e8, 1e8], "2 and -1 are lost beside 1e8 in float32"
    assert batch.target[:8].tolist() == [0] * 8
    assert true_loss(batch, 0) == pytest.approx(0.04858735, rel=1e-7)
    # lse(z) - z_y in float32, as published: the family shows what it is meant to show.
    got = []
    for row in z[[0, 2, 4, 6]].astype(np.float32):
        top = row.max()
        got.append(float(top + np.log(np.exp(row - top).sum()) - row[0]))
    assert got == pytest.approx([0.04858735, 0.048828125, 0.0625, 0.0], rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["common_offset", "common_offset_random"])
def test_an_offset_leaves_the_differences_exact(name, dtype):
    form = named(dtype)
    (rng, *_) = streams(11, name, CROSS_ENTROPY, dtype)
    drawn = FAMILIES[name].draws[CROSS_ENTROPY](rng, form).logits
    exact = form.round(drawn).astype(np.float64) == drawn
    lost = [] if dtype != "float32" or name != "common_offset" else [6]
    assert np.flatnonzero(~exact.all(axis=1)).tolist() == lost
    assert np.abs(drawn).max() >= {"float64": 1e14, "float32": 1e6, "float16": 1e3, "bfloat16": 120}[dtype]
    assert np.abs(drawn).min() < 20
    assert (drawn < 0).any()
    assert (drawn > 0).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_are_exact_and_near_ties_a_few_ulp_apart(dtype):
    z = reals(ce("ties", dtype))
    tied = (z == z.max(axis=1, keepdims=True)).sum(axis=1)
    assert tied[:7].tolist() == [1000, 2, 3, 10, 100, 999, 500]
    assert z[0, 0] == float(named(dtype).round(1e4))

    near = ce("near_ties", dtype)
    spread = np.ptp(reals(near), axis=1)
    ulp = np.spacing(np.abs(near.logits).max(axis=1)).astype(np.float64)
    assert (spread <= 3 * ulp).all()
    assert (spread >= ulp).mean() > 0.9


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_exponential_overflows_on_one_side_of_the_edge_only(dtype):
    for form in (named(dtype), named(dtype).arithmetic):
        top = reals(ce("overflow_edge", dtype)).max(axis=1)
        edge = math.log(form.largest)
        above = np.sum((top > edge) & (top < edge + 3.5))
        below = np.sum((top < edge) & (top > edge - 3.5))
        assert min(above, below) >= 12
    signs = np.sign(reals(make_batch("overflow_edge", BCE, dtype, 0)))
    assert 0.3 < (signs > 0).mean() < 0.7


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_the_exponential_goes_subnormal_and_then_zero(dtype):
    form = named(dtype)
    batch = ce("underflow_edge", dtype)
    z = reals(batch)
    smallest = z.min(axis=1)
    first, last = math.log(form.smallest_normal), math.log(form.smallest_subnormal) - math.log(2)
    assert np.sum(smallest > first) >= 1
    assert np.sum((smallest < first) & (smallest > last)) >= 20
    assert np.sum(smallest < last) >= 1
    assert np.sum(z.max(axis=1) < -1) >= 16, "rows without a leader"
    leads = row_gaps(batch) > 5
    assert np.sum(leads) >= 16
    assert np.sum(row_gaps(batch) < -5) >= 16


@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormal_logits(dtype):
    form = named(dtype)
    for loss in (CROSS_ENTROPY, BCE):
        z = reals(make_batch("subnormal", loss, dtype, 1))
        assert np.abs(z).max() < form.smallest_normal
        assert np.abs(z[1:]).max() >= form.smallest_normal / 4
        assert not z[0].any()
        assert set(np.signbit(z[0])) == {True, False}
        assert np.abs(z[z != 0]).min() <= 4096 * form.smallest_subnormal


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_number_and_differences_that_overflow(dtype):
    form = named(dtype)
    z = reals(ce("format_maximum", dtype))
    assert np.abs(z).max() == form.largest
    with np.errstate(over="ignore"):
        spread = form.round(z.max(axis=1) - z.min(axis=1)).astype(np.float64)
    assert np.isposinf(spread).sum() >= 16
    masked = (z == -form.largest).any(axis=1) & (np.abs(z.max(axis=1)) < 10)
    assert masked.sum() == 32, "half of the rows are ordinary but for their mask"


@pytest.mark.parametrize("dtype", DTYPES)
def test_confident_rows(dtype):
    batch = ce("confident", dtype)
    gaps = row_gaps(batch)
    assert gaps[0] == 20.0
    assert true_loss(batch, 0) == pytest.approx(9 * math.exp(-20), rel=1e-6)
    slack = {"bfloat16": 0.07, "float16": 0.01}.get(dtype, 1e-6)
    doubts = [1 - math.exp(-true_loss(batch, row)) for row in range(1, 5)]
    assert doubts == pytest.approx([0.1, 0.01, 0.001, 0.0001], rel=slack)
    deepest = true_loss(batch, int(gaps.argmax()))
    assert deepest == pytest.approx(1e-300 if dtype == "float64" else 2.0**-124, rel=0.3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_wrongly_confident_rows(dtype):
    batch = ce("wrong_confident", dtype)
    gaps = -row_gaps(batch)
    assert gaps[0] == 104.0
    assert true_loss(batch, 0) == 104.0
    assert gaps.min() == pytest.approx(1.0)
    assert gaps[-1] == pytest.approx(named(dtype).largest / 4, rel=1e-3)
    assert np.sum(gaps <= named(dtype).arithmetic.unit_roundoff ** -1 / 100) >= 55, "few rows at the range's end"


def test_binary_confident_elements():
    batch = make_batch("confident", BCE, "float64", 7)
    z, t = reals(batch), batch.target.astype(np.float64)
    assert z[0, :4].tolist() == [40.0, -40.0, 100.0, -100.0]
    assert t[0, :4].tolist() == [1.0, 0.0, 1.0, 0.0]
    assert ((z > 0) == (t == 1)).all()
    assert np.abs(z).max() > 600
    wrong = make_batch("wrong_confident", BCE, "float64", 7)
    assert ((reals(wrong) > 0) == (wrong.target == 0)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_tail_carries_mass_that_no_term_shows(dtype):
    batch = ce("tail_mass", dtype)
    z = reals(batch)
    assert z.shape == (2, 128256)
    assert batch.target[0] == 0
    excess = np.exp(z - z[[0, 1], batch.target][:, None])
    excess[[0, 1], batch.target] = 0.0
    losses = np.log1p(excess.sum(axis=1))
    assert losses[0] == pytest.approx(0.00196, rel=0.01)
    own = {"float64": 1.09e-11, "float32": 0.0023}.get(dtype, 0.581)
    assert losses[1] == pytest.approx(own, rel=0.02)
    u = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    assert excess[1].max() < u
    assert excess[0].max() < 2.0**-24


@pytest.mark.parametrize("dtype", DTYPES)
def test_masks_cover_blocks_and_never_the_target(dtype):
    batch = ce("masked", dtype)
    masked = np.isneginf(reals(batch))
    left = (~masked).sum(axis=1)
    assert 0.05 < masked[0].mean() < 0.5
    blocks = {3: slice(0, 128), 4: slice(0, 256), 5: slice(0, 512), 6: slice(0, 999), 7: slice(500, None)}
    for row, block in blocks.items():
        assert masked[row, block].all()
        assert not masked[row].all()
    assert left[13:15].tolist() == [1, 1], "all but the target"
    assert left[15] == 1000
    assert not masked[np.arange(16), batch.target].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinite_binary_logits_have_the_target_that_makes_the_loss_zero(dtype):
    batch = make_batch("masked", BCE, dtype, 2)
    z, t = reals(batch), batch.target.astype(np.float64)
    infinite = np.isinf(z)
    assert 0.2 < infinite.mean() < 0.5
    assert (t[infinite] == (z[infinite] > 0)).all()
    assert len(np.unique(t[~infinite])) == 9


@pytest.mark.parametrize("dtype", DTYPES)
def test_wide_and_mixed_rows_use_the_range(dtype):
    form = named(dtype)
    assert np.abs(reals(ce("wide", dtype))).max() == pytest.approx(0.9 * math.log(form.arithmetic.largest), rel=0.02)
    z = np.abs(reals(ce("mixed_scales", dtype)))
    decades = np.ptp(np.log10(z[z > 0]))
    assert decades > {"float64": 200, "float32": 40, "bfloat16": 40, "float16": 10}[dtype]
    # The condition number stays fair: |z|·u well under .1.
    assert z.max() * form.arithmetic.unit_roundoff < 0.01


def test_one_class_two_classes_and_equal_rows():
    one, two = ce("one_class"), ce("two_classes", "float64")
    assert one.logits.shape == (64, 1)
    assert one.logits[0, 0] == 0.0
    assert not one.target.any()
    assert reals(two)[:4].tolist() == [[37.42994775023705, 0.0], [40.0, 0.0], [0.0, -40.0], [0.0, 0.0]]
    assert two.target[:4].tolist() == [0, 0, 0, 0]
    assert true_loss(two, 0) == pytest.approx(5.55e-17, rel=1e-3)
    assert true_loss(two, 2) == pytest.approx(4.248354255291589e-18, rel=1e-14)
    for name, shape in {"uniform": (64, 10), "uniform_1000": (16, 1000), "uniform_128256": (2, 128256)}.items():
        batch = ce(name, "float16")
        z = reals(batch)
        assert z.shape == shape
        assert not z[0].any()
        assert (z == z[:, :1]).all()
    assert true_loss(ce("uniform"), 5) == pytest.approx(math.log(10), rel=1e-15)


@pytest.mark.parametrize("dtype", DTYPES)
def test_soft_targets(dtype):
    u = named(dtype).unit_roundoff
    sums = {
        name: make_batch(name, CROSS_ENTROPY, dtype, 4).target.astype(np.float64).sum(axis=1)
        for name in FAMILIES
        if name.startswith("soft_targets")
    }
    assert len(sums) == 3
    for name in ("soft_targets", "soft_targets_nearly_one_hot"):
        # Each entry is rounded once to the format, after a division in float64 by a sum of at most 1000 terms.
        assert np.abs(sums[name] - 1).max() <= u + 2 * 1000 * 2.0**-53 + 1000 * named(dtype).smallest_subnormal
    unnormalised = sums["soft_targets_unnormalised"]
    assert unnormalised[0] == pytest.approx(0.125, rel=2 * u)
    assert unnormalised[-2] == pytest.approx(8.0, rel=0.1)
    assert unnormalised[-1] == 0
    assert not ce("soft_targets", dtype).target[::4, :3].any()
    near = ce("soft_targets_nearly_one_hot", dtype).target.astype(np.float64)
    assert (np.count_nonzero(near[::8], axis=1) == 1).all()
    assert (np.count_nonzero(near[1::8], axis=1) == 2).all()
    assert near[near > 0].min() <= 4 * u


def test_options():
    weight = ce("option_weight").options["weight"]
    assert sorted(weight.tolist()) == [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0]
    assert set(ce("option_weight").target) == set(range(10)), "a class of weight 0 among them"
    binary = make_batch("option_pos_weight", BCE, "bfloat16", 0)
    assert binary.options["pos_weight"].astype(np.float64).min() == 0.125
    assert not binary.logits[0].any()
    for name, index in [("option_ignore_index", -100), ("option_ignore_index_inside", 3), ("options_combined", -100)]:
        batch = ce(name)
        ignored = batch.target == batch.options["ignore_index"]
        assert batch.options["ignore_index"] == index
        assert ignored[0]
        assert 16 <= ignored.sum() <= 24
    assert ce("option_label_smoothing").options == {"label_smoothing": 0.1}
    assert set(ce("options_combined").options) == {"weight", "label_smoothing", "ignore_index"}
    assert set(make_batch("options_combined", BCE, "float32", 0).options) == {"weight", "pos_weight"}
    soft = ce("options_soft_targets")
    assert soft.target_kind == "probabilities"
    assert set(soft.options) == {"weight", "label_smoothing"}


@pytest.mark.parametrize("dtype", DTYPES)
def test_most_rows_of_every_family_can_be_judged(dtype):
    for name, loss, case_dtype in CASES:
        large = name.startswith("recorded/") or name.endswith(("1000", "128256")) or name == "tail_mass"
        if case_dtype != dtype or large:
            continue
        batch = make_batch(name, loss, dtype, 6)
        reference = reference_of(batch)
        absolute = Arithmetic.at(Grade.ABSOLUTE, batch.format)
        bound = reference.problem.loss_bound(absolute, batch.format.arithmetic, reference.loss_hi)
        judged = 1 - bound.vacuous.mean()
        least = 0.6 if name in ("format_maximum", "masked") else 0.9
        assert judged >= least, f"{name}, {loss}: only {judged:.0%} of the losses have a bound that means something"


# Recorded logits

RECORDED = {
    "ocr_8210": ((32, 8210), "64881876c173e70a56dbe2d4e69b886193c38393edb8a9f42d937ffdc586b19e", 28.889551),
    "charlm_trained": ((128, 94), "d5bb4e012dd8bb3b19dedc56174ce252b67d3c333a29fc7a6308cd3eafd323bf", 14.434689),
    "charlm_diverging": ((128, 94), "5caa451a5d502fd474fd45e90b304480b19cd72f366faa78ce15b88d02be52a8", 2339891.75),
}


@pytest.mark.parametrize("recording", RECORDED)
def test_the_recorded_files_are_what_they_were(recording):
    shape, checksum, largest = RECORDED[recording]
    data = resources.files("harness.families") / "data"
    assert hashlib.sha256((data / f"recorded_{recording}.safetensors").read_bytes()).hexdigest() == checksum
    assert checksum in (data / "README.md").read_text(encoding="utf-8")
    logits, labels = load(recording)
    assert (logits.shape, labels.shape, logits.dtype.name, labels.dtype.name) == (shape, shape[:1], "float32", "int64")
    assert float(np.abs(logits).max()) == pytest.approx(largest, rel=1e-6)
    assert not logits.flags.writeable

    batch = ce(f"recorded/{recording}", "float64")
    assert np.array_equal(batch.logits, logits.astype(np.float64)), "float32 is exact in float64"
    assert np.array_equal(ce(f"recorded/{recording}").logits, logits)
    assert np.array_equal(batch.target, labels)


def test_recorded_logits_beyond_float16_are_scaled_by_a_power_of_two():
    logits, _ = load("charlm_diverging")
    half = FORMATS["float16"]
    batch = ce("recorded/charlm_diverging", "float16")
    assert np.array_equal(batch.logits, half.round(logits.astype(np.float64) / 64))
    assert np.isfinite(batch.logits).all()
    assert np.abs(reals(batch)).max() > half.largest / 2
    trained, _ = load("charlm_trained")
    assert np.array_equal(ce("recorded/charlm_trained", "float16").logits, trained.astype(np.float16))


# Selecting, and what goes wrong


def test_patterns_select_by_name_loss_and_dtype():
    assert [f.name for f in families_for(CROSS_ENTROPY, "float32", ["recorded/*"])] == sorted(
        WITHOUT_DRAWING, key=list(FAMILIES).index
    )
    assert families_for(BCE, "float32", ["recorded/*"]) == ()
    assert [f.name for f in families_for(BCE, "float16", ["ties", "masked", "mod*"])] == ["moderate", "masked"]
    assert len(families_for(CROSS_ENTROPY, "float64")) == len(OF_LOGITS) - 1, "all but option_pos_weight"
    assert families_for(CROSS_ENTROPY, "int8") == ()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tyes", "did you mean ties"),
        ("recorded", "recorded/ocr_8210"),
        ("ocr*", "recorded/ocr_8210"),
        ("overflow-edge", "did you mean overflow_edge"),
        ("qqqqqq", "choose from moderate, "),
    ],
)
def test_an_unknown_family_is_refused_with_its_near_misses(name, said):
    for refuse in (
        lambda: family_named(name),
        lambda: families_for(CROSS_ENTROPY, "float32", ["ties", name]),
        lambda: make_batch(name, CROSS_ENTROPY, "float32", 0),
    ):
        with pytest.raises(UnknownFamily) as caught:
            refuse()
        assert f"unknown family '{name}'" in str(caught.value)
        assert said in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("ties", BCE, "float32", 0),
            "family 'ties' does not serve binary_cross_entropy_with_logits: it serves",
        ),
        (("ties", "mse", "float32", 0), "unknown loss 'mse'"),
        (("ties", CROSS_ENTROPY, "int8", 0), "unknown dtype 'int8'"),
        (("ties", CROSS_ENTROPY, "float32", -1), "seed -1 is negative: choose 0 or more"),
    ],
)
def test_bad_arguments_are_refused(arguments, said):
    with pytest.raises(ValueError) as caught:
        make_batch(*arguments)
    assert said in str(caught.value)


def test_a_second_family_of_a_name_is_refused():
    register = family("ties", breaks="Nothing.", source="nowhere")
    with pytest.raises(ValueError, match="a family named 'ties' is registered already"):
        register(lambda rng, form: None)
