"""The JAX bridge: 64-bit types stay 64-bit, arrays cross bit for bit and as copies, and flushing to zero is found out.

What the judge makes of flushing to zero is here too, since XLA on the CPU is what does it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.arithmetic import Arithmetic
from harness.batch import Batch
from harness.bridges import Bridge, bridge_for, frameworks
from harness.bridges.jax_bridge import KEPT_SHAPES
from harness.declaration import _DEFAULT_DTYPES, Implementation, implementation
from harness.formats import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, FORMATS
from harness.grades import Grade, Outcome
from harness.judge import judge
from harness.output import Output
from harness.reference import reference_of
from harness.worker import Worker

jax = pytest.importorskip("jax")

FLOATS = [np.dtype("f8"), np.dtype("f4"), np.dtype("f2"), np.dtype(ml_dtypes.bfloat16)]
FLUSHED = frozenset({"float64", "float32", "bfloat16"})


def declared(function: Any, framework: str = "jax", **keywords: Any) -> Implementation:
    implementation(framework=framework, loss="cross_entropy", grade="absolute", **keywords)(function)
    found: Implementation = function.__xent_implementation__
    return found


def make_batch(dtype: Any = np.float64, **options: Any) -> Batch:
    rng = np.random.default_rng(3)
    logits, upstream = rng.standard_normal((5, 7)).astype(dtype), rng.standard_normal(5).astype(dtype)
    return Batch("cross_entropy", logits, rng.integers(0, 7, 5), upstream, options)


def jax_loss(logits, target, *, reduction="mean"):
    losses = -jax.numpy.take_along_axis(jax.nn.log_softmax(logits), target[:, None], axis=1)[:, 0]
    return losses if reduction == "none" else getattr(losses, reduction)()


def true_gradient(batch: Batch, upstream: Any = None) -> np.ndarray:
    z = batch.logits.astype("f8")
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(z)), batch.target] -= 1
    return np.asarray(batch.upstream if upstream is None else upstream).astype("f8")[:, None] * p


@pytest.fixture(scope="module")
def bridge() -> Bridge:
    return bridge_for("jax")


# ------------------------------------------------------------------------------------------------------------- crossing


@given(st.data())
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_bit_pattern_survives(bridge: Bridge, dtype: np.dtype, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, 8))
    patterns = data.draw(st.lists(st.integers(0, 256**dtype.itemsize - 1), min_size=size, max_size=size))
    array = np.array(patterns, dtype=f"u{dtype.itemsize}").view(dtype)
    back = bridge.numpy(bridge.native(array))
    assert back.dtype == dtype
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [*FLOATS, np.dtype("i8"), np.dtype("?")], ids=str)
def test_shapes_survive(bridge: Bridge, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    array = np.ones(shape, dtype)
    back = bridge.numpy(bridge.native(array))
    assert (back.dtype, back.shape, back.tobytes()) == (dtype, shape, array.tobytes())


def test_float64_and_int64_stay_what_they_are_whatever_the_default(bridge: Bridge) -> None:
    seen = {}

    def spy(logits, target, *, weight=None):
        seen.update(logits=logits.dtype, target=target.dtype, weight=weight.dtype, made=jax.numpy.ones(2).dtype)
        return jax_loss(logits, target, reduction="none")

    with jax.enable_x64(False):
        returned = bridge.call(declared(spy), make_batch(weight=np.ones(7)))
    assert seen == {"logits": "float64", "target": "int64", "weight": "float64", "made": "float64"}
    assert (returned.loss.dtype, returned.gradient.dtype) == (np.float64, np.float64)
    np.testing.assert_allclose(returned.gradient, true_gradient(make_batch()), rtol=0, atol=1e-15)


def test_labels_beyond_int32_survive(bridge: Bridge) -> None:
    assert bridge.numpy(bridge.native(np.array([2**40 + 1]))).tolist() == [2**40 + 1]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_arrays_are_copies_both_ways(bridge: Bridge, dtype: np.dtype) -> None:
    array = np.ones((64, 64), dtype)  # large enough that JAX would share the memory
    native = bridge.native(array)
    array[...] = 2
    back = bridge.numpy(native)
    assert (back.astype("f8") == 1).all()
    back[...] = 3
    assert (bridge.numpy(native).astype("f8") == 1).all()


@pytest.mark.parametrize("value", ["text", None, [1.0], 3, 0.5, np.zeros(5)], ids=repr)
def test_what_is_no_jax_array_is_refused(bridge: Bridge, value: Any) -> None:
    for gradient in (True, False):
        with pytest.raises(TypeError, match=rf"returned {type(value).__name__}, not a jax\.Array"):
            bridge.call(declared(lambda logits, target: value), make_batch(), gradient=gradient)


def test_a_dtype_that_is_none_of_the_contract_s_is_refused(bridge: Bridge) -> None:
    with pytest.raises(TypeError, match="returned an array of dtype int32"):
        bridge.call(declared(lambda logits, target: target.astype("int32")), make_batch(), gradient=False)


# ------------------------------------------------------------------------------------------------------------ gradients


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_gradient_is_upstream_times_p_minus_y(bridge: Bridge, dtype: np.dtype) -> None:
    batch = make_batch(dtype)
    returned = bridge.call(declared(jax_loss), batch)
    assert (returned.loss.dtype, returned.loss.shape) == (dtype, (5,))
    assert returned.gradient.dtype == dtype
    # A few roundings in the format, and the results are of order one.
    unit = float(ml_dtypes.finfo(dtype).eps)
    assert np.abs(returned.gradient.astype("f8") - true_gradient(batch)).max() < 8 * unit
    assert returned.seconds > 0


def test_upstream_takes_the_dtype_of_a_wider_output(bridge: Bridge) -> None:
    def widened(logits, target):
        return jax_loss(logits.astype("float32"), target, reduction="none")

    batch = make_batch(ml_dtypes.bfloat16)
    returned = bridge.call(declared(widened), batch)
    assert (returned.loss.dtype, returned.gradient.dtype) == (np.float32, BFLOAT16.dtype)
    # Computed in float32, so the only visible rounding is the last one, to bfloat16.
    assert (returned.gradient == true_gradient(batch).astype(ml_dtypes.bfloat16)).all()


@pytest.mark.parametrize(("reduction", "share"), [("mean", -2.5 / 5), ("sum", -2.5)])
def test_reduced_losses_take_a_scalar_upstream(bridge: Bridge, reduction: str, share: float) -> None:
    batch = make_batch()
    scalar = Batch(batch.loss, batch.logits, batch.target, np.array(-2.5))
    returned = bridge.call(declared(jax_loss), scalar, reduction=reduction)
    assert returned.loss.shape == ()
    np.testing.assert_allclose(returned.gradient, true_gradient(batch, np.full(5, share)), rtol=0, atol=1e-15)


def test_an_upstream_of_another_size_is_refused(bridge: Bridge) -> None:
    with pytest.raises(ValueError, match=r"the loss has shape \(3,\), but the upstream gradient \(5,\)"):
        bridge.call(declared(lambda logits, target: jax_loss(logits, target, reduction="none")[:3]), make_batch())


def test_a_scalar_without_a_claim_takes_the_first_upstream_element(bridge: Bridge) -> None:
    batch = make_batch()
    returned = bridge.call(declared(lambda logits, target: jax_loss(logits, target)), batch)
    assert returned.loss.shape == ()
    want = true_gradient(batch, np.full(5, batch.upstream[0] / 5))
    np.testing.assert_allclose(returned.gradient, want, rtol=0, atol=1e-15)


def test_one_compiled_function_serves_both_widths(bridge: Bridge) -> None:
    compiled = declared(jax.jit(lambda logits, target: jax_loss(logits, target, reduction="none")).__wrapped__)
    for dtype in ("f4", "f8", "f4"):
        returned = bridge.call(compiled, make_batch(dtype))
        assert (returned.loss.dtype, returned.gradient.dtype) == (np.dtype(dtype), np.dtype(dtype))


def test_results_are_computed_when_they_are_returned(bridge: Bridge) -> None:
    batch = make_batch()
    found = declared(jax_loss)
    inputs = bridge.inputs(found, batch)
    assert bridge.forward(found, inputs).is_ready()
    assert all(array.is_ready() for array in bridge.forward_backward(found, inputs))


# ---------------------------------------------------------------------------------------------------------- environment


def test_the_cpu_unless_another_device_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    bridge_for("jax", threads=3)
    assert (os.environ["JAX_PLATFORMS"], os.environ["PJRT_NPROC"]) == ("cpu", "3")
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    bridge_for("jax")
    assert os.environ["JAX_PLATFORMS"] == "cuda,cpu"


def test_a_worker_says_what_it_runs_on() -> None:
    with Worker("jax") as worker:
        environment = worker.environment()
    assert environment["variables"].items() >= {"PJRT_NPROC": "1", "JAX_PLATFORMS": "cpu"}.items()
    assert environment["flushed"] == sorted(FLUSHED)
    assert environment["versions"].items() >= {"jax": jax.__version__, "numpy": np.__version__}.items()
    assert {"jaxlib", "ml_dtypes"} <= set(environment["versions"])


def test_compiled_programs_are_kept_on_disk_and_give_the_same(tmp_path: Path) -> None:
    code = """if True:
        import sys
        import numpy as np
        from harness.batch import Batch
        from harness.bridges import bridge_for
        from implementations.jax_log_softmax import jax_log_softmax as function
        rng = np.random.default_rng(0)
        batch = Batch("cross_entropy", rng.standard_normal((4, 9)), rng.integers(0, 9, 4), rng.standard_normal(4))
        bridge = bridge_for("jax")
        returned = bridge.call(function.__xent_implementation__, batch)
        print(returned.loss.tobytes().hex(), returned.gradient.tobytes().hex())
    """

    def run(cache: str) -> str:
        environment = {**os.environ, "XENT_CACHE": cache}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    fresh = run(str(tmp_path))
    entries = sorted(path.name for path in (tmp_path / "xla").glob("*/*-cache"))
    assert entries
    assert run(str(tmp_path)) == fresh
    assert sorted(path.name for path in (tmp_path / "xla").glob("*/*-cache")) == entries
    for path in (tmp_path / "xla").glob("*/*-cache"):
        path.write_bytes(b"damaged")
    assert run(str(tmp_path)) == fresh
    assert run("off") == fresh


def test_compiled_programs_are_let_go_after_many_shapes(bridge: Bridge) -> None:
    found = declared(jax_loss)
    compiled = jax.jit(lambda x: x + 1)
    compiled(1.0)
    for rows in range(1, KEPT_SHAPES + 2):
        logits = np.zeros((rows, 3), np.float32)
        batch = Batch("cross_entropy", logits, np.zeros(rows, np.int64), np.ones(rows, np.float32))
        bridge.call(found, batch, gradient=False)
    assert compiled._cache_size() == 0


def test_every_framework_with_a_bridge_has_default_dtypes() -> None:
    assert set(_DEFAULT_DTYPES) == set(frameworks())


# ----------------------------------------------------------------------------------------------------- flushing to zero


def test_what_is_flushed_is_found_by_computing_it(bridge: Bridge) -> None:
    assert bridge.flushed == FLUSHED  # XLA computes float16 in float32, where its subnormals are normal
    assert bridge_for("numpy").flushed == frozenset()
    if "torch" in frameworks() and pytest.importorskip("torch"):
        assert bridge_for("torch").flushed == frozenset()


def test_xla_flushes_what_numpy_keeps() -> None:
    assert float(jax.numpy.exp(jax.numpy.float32(-100))) == 0.0
    assert float(np.exp(np.float32(-100))) == pytest.approx(3.7835e-44, rel=1e-4)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("grade", [Grade.RELATIVE, Grade.ABSOLUTE, Grade.STORAGE])
def test_the_floor_is_half_a_subnormal_or_the_smallest_normal(grade: Grade, name: str) -> None:
    form = FORMATS[name]
    terms = np.array([0.0, 1.0, 1000.0])
    plain = Arithmetic.at(grade, form)
    flushing = Arithmetic.at(grade, form, frozenset(FORMATS))
    inner = form if grade is Grade.STORAGE else form.arithmetic
    c = plain.constant
    # Of float64's own η a half is not a number: it is doubled here.
    assert (2 * plain.floor(terms, form)).tolist() == pytest.approx(
        (terms * inner.smallest_subnormal + c * form.smallest_subnormal).tolist(), rel=1e-15
    )
    assert flushing.floor(terms, form).tolist() == (terms * inner.smallest_normal + c * form.smallest_normal).tolist()


def test_a_format_that_is_not_flushed_keeps_its_floor() -> None:
    plain, flushing = (Arithmetic.at(Grade.STORAGE, FLOAT16, flushed) for flushed in (frozenset(), FLUSHED))
    assert flushing.floor(np.array(10.0), FLOAT16) == plain.floor(np.array(10.0), FLOAT16)
    # float32 arithmetic under a float16 result is flushed; that costs nothing that float16 can show.
    absolute = [
        Arithmetic.at(Grade.ABSOLUTE, FLOAT16, f).floor(np.array(10.0), FLOAT16) for f in (frozenset(), FLUSHED)
    ]
    assert absolute[0] == pytest.approx(absolute[1], rel=1e-28)


def subnormal_gradient() -> Batch:
    """Logits [0, 100] with label 1, twice: the true gradient of class 0 is 3.8e-44, and so is the loss."""
    logits = np.array([[0.0, 100.0]] * 2, np.float32)
    return Batch("cross_entropy", logits, np.array([1, 1]), np.ones(2, np.float32))


def zeros(batch: Batch, flushed: frozenset[str]) -> Output:
    return Output(np.zeros(2, np.float32), np.zeros((2, 2), np.float32), flushed=flushed)


def test_flushing_is_excused_where_the_framework_does_it_and_nowhere_else() -> None:
    batch = subnormal_gradient()
    reference = reference_of(batch)
    strict = judge(batch, reference, zeros(batch, frozenset()))
    excused = judge(batch, reference, zeros(batch, FLUSHED))
    other = judge(batch, reference, zeros(batch, frozenset({"float64"})))
    for what, values in (("loss", 2), ("gradient", 4)):
        assert (strict[what].detail, other[what].detail) == ("", "")
        assert strict[what].grades.tolist() == other[what].grades.tolist()
        assert excused[what].outcome is Outcome.PASSED
        assert excused[what].grade is Grade.RELATIVE
        assert excused[what].detail == (
            f"flush_to_zero: {values} values are as good only where subnormal results are zero"
        )
    assert strict["gradient"].grade is Grade.INACCURATE  # class 0 is lost to it, and nothing absorbs that
    # The loss and the label's entry stand next to 1 in the absolute bound.
    assert strict["loss"].grade is Grade.ABSOLUTE


def test_flushing_excuses_nothing_else() -> None:
    batch = subnormal_gradient()
    reference = reference_of(batch)
    wrong = np.full((2, 2), 100 * FLOAT32.smallest_normal, np.float32)
    judged = judge(batch, reference, Output(np.zeros(2, np.float32), wrong, flushed=FLUSHED))["gradient"]
    assert judged.grade is Grade.INACCURATE
    moderate = Batch("cross_entropy", np.array([[2.0, 1.0, 0.5]]), np.array([0]), np.ones(1))
    truth = reference_of(moderate)
    right = Output(truth.loss_hi, truth.grad_hi, flushed=FLUSHED)
    assert [j.detail for j in judge(moderate, truth, right).values()] == ["", ""]


def test_a_mean_that_is_flushed_is_excused_too() -> None:
    batch = subnormal_gradient()
    reference = reference_of(batch)
    output = {
        flushed: Output(np.float32(0.0).reshape(()), np.zeros((2, 2), np.float32), flushed=flushed)
        for flushed in (frozenset(), FLUSHED)
    }
    strict, excused = (judge(batch, reference, output[f], reduction="mean") for f in (frozenset(), FLUSHED))
    assert strict["gradient"].grade is Grade.INACCURATE
    assert excused["gradient"].grade is Grade.RELATIVE
    assert excused["loss"].grade is Grade.RELATIVE


def test_float64_is_flushed_at_its_own_edge() -> None:
    batch = Batch("cross_entropy", np.array([[0.0, 720.0]]), np.array([1]), np.ones(1))
    reference = reference_of(batch)
    assert 0 < reference.loss_hi[0] < FLOAT64.smallest_normal
    output = Output(np.zeros(1), np.zeros((1, 2)), flushed=FLUSHED)
    assert {judgement.grade for judgement in judge(batch, reference, output).values()} == {Grade.RELATIVE}
