"""JAX, optax and scikit-learn: as accurate as they claim, and exactly as wrong as their files say.

The truth is the certified one; known values are from the threads that the declarations name.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from harness.batch import Batch
from harness.bridges import Bridge, Returned, bridge_for
from harness.claims import decide
from harness.declaration import Implementation
from harness.differential import Cell, evaluate, plan
from harness.errors import ulp
from harness.families import make_batch
from harness.formats import FLOAT32
from harness.grades import Grade, Outcome
from harness.judge import judge
from harness.output import Output
from harness.reference import reference_of, truth
from harness.worker import Workers

jax = pytest.importorskip("jax")
jnp = jax.numpy
optax = pytest.importorskip("optax")

CE = "cross_entropy"
BCE = "binary_cross_entropy_with_logits"
FILES = (
    "jax_naive",
    "jax_log_softmax",
    "jax_logsumexp",
    "optax_integer_labels",
    "optax_one_hot",
    "optax_sigmoid",
)
U = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11}


def collect(files: tuple[str, ...]) -> dict[str, Implementation]:
    modules = [importlib.import_module(f"implementations.{name}") for name in files]
    found = [getattr(v, "__xent_implementation__", None) for module in modules for v in vars(module).values()]
    return {entry.declaration.name: entry for entry in found if entry}


ALL = collect(FILES)
LSE = ("jax_logsumexp", "jax_logsumexp_jit", "optax_integer_labels")
LOG_SOFTMAX = ("jax_log_softmax", "jax_log_softmax_jit", "optax_one_hot", "optax_safe_softmax")


@pytest.fixture(scope="module")
def bridge() -> Bridge:
    return bridge_for("jax")


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as pool:
        assert pool["jax"].describe([f"implementations.{name}" for name in FILES])[1] == {}
        yield pool


def run(bridge: Bridge, name: str, logits: Any, target: Any, dtype: str = "float32", upstream: float = 1.0) -> Returned:
    """One implementation on logits [N, V] and labels [N] (or a target [N, V]), through the bridge."""
    z = np.asarray(logits).astype(dtype)
    y = np.asarray(target)
    y = y.astype(dtype) if y.ndim == 2 else y.astype(np.int64)
    entry = ALL[name]
    shape = z.shape if entry.declaration.loss == BCE else z.shape[:1]
    return bridge.call(entry, Batch(entry.declaration.loss, z, y, np.full(shape, upstream, dtype)))


# --------------------------------------------------------------------------------------------------------- declarations


def test_the_implementations_are_these() -> None:
    assert set(ALL) == {"jax_naive", *LSE, *LOG_SOFTMAX, "optax_sigmoid"}


@pytest.mark.parametrize("name", ALL)
def test_a_declaration_tells_the_truth_about_the_code(name: str) -> None:
    entry = ALL[name]
    declared = entry.declaration
    assert declared.summary
    assert declared.framework == "jax"
    assert declared.options == ()
    assert declared.has_gradient
    assert declared.requires == ({"optax": "optax"} if name.startswith("optax") else {})
    assert declared.grades == {
        "float64": Grade.ABSOLUTE,
        "float32": Grade.ABSOLUTE,
        "bfloat16": Grade.STORAGE,
        "float16": Grade.STORAGE,
    }
    assert all(failure.reason.endswith(".") for failure in declared.known_failures)


EDGES = ("confident", "underflow_edge", "format_maximum")


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("family", EDGES)
def test_claims_hold_at_the_edges_of_the_formats(workers: Workers, family: str, dtype: str) -> None:
    batches = [make_batch(family, loss, dtype, 0) for loss in (CE, BCE)]
    results, complete = evaluate(plan([entry.declaration for entry in ALL.values()], batches, [dtype]), workers)
    assert complete
    assert len(results) == 2 * len(ALL)
    assert [(r.implementation, r.what, r.outcome) for r in results if Outcome(r.outcome).is_failure] == []
    if family == "underflow_edge":  # float16 is computed in float32, and nothing that is flushed there can be seen
        excused = {r.implementation for r in results if r.detail.startswith("flush_to_zero: ")}
        assert ("jax_log_softmax_jit" in excused) == (dtype != "float16")


@pytest.mark.parametrize("module", ["jax_log_softmax", "jax_logsumexp"])
def test_a_shape_is_compiled_once(bridge: Bridge, module: str) -> None:
    jitted = importlib.import_module(f"implementations.{module}")._jitted()
    jitted.clear_cache()
    for _ in range(3):
        for dtype in ("float32", "float64"):
            bridge.call(ALL[f"{module}_jit"], make_batch("two_classes", CE, dtype, 0), gradient=False)
    assert jitted._cache_size() == 2


# ---------------------------------------------------------------------------------------------------- published numbers


@pytest.mark.parametrize("name", [*LSE, *LOG_SOFTMAX])
def test_the_float64_gradient_of_the_label_is_lost(bridge: Bridge, name: str) -> None:
    """jax-ml/jax#40384: true is ∓5.55e-17."""
    logits = [[37.42994775023705, 0.0]]
    gradient = run(bridge, name, logits, [0], "float64").gradient[0]
    assert gradient[0] == 0.0
    assert gradient[1] == pytest.approx(5.551115123125775e-17, rel=1e-14)
    true = truth(np.array(logits), [0]).grad_hi[0]
    assert true.tolist() == pytest.approx([-5.551115123125775e-17, 5.551115123125775e-17], rel=1e-15)


@pytest.mark.parametrize(("offset", "lse_form"), [(0.0, 0.04858735), (1e4, 0.048828125), (1e6, 0.0625), (1e8, 0.0)])
def test_a_common_offset_eats_the_loss_of_lse_minus_target(bridge: Bridge, offset: float, lse_form: float) -> None:
    """ml-explore/mlx#4188: logits [2, −1] + c in float32, class 0; true is .04858735 as long as they are exact."""
    logits = np.array([[2.0, -1.0]], np.float32) + np.float32(offset)
    for name in LSE:
        assert run(bridge, name, logits, [0]).loss[0] == pytest.approx(lse_form, abs=4e-8)
    if offset < 1e8:  # from there on the logits themselves are tied
        for name in LOG_SOFTMAX:
            assert run(bridge, name, logits, [0]).loss[0] == pytest.approx(0.04858735, abs=4e-8)


@pytest.mark.parametrize(("gap", "true"), [(20.0, 2.061153620314381e-9), (40.0, 4.248354255291589e-18)])
def test_a_tail_below_u_is_lost(bridge: Bridge, gap: float, true: float) -> None:
    for name in (*LSE, *LOG_SOFTMAX, "jax_naive"):
        assert run(bridge, name, [[gap, 0.0]], [0]).loss.tolist() == [0.0]
    assert truth(np.array([[gap, 0.0]]), [0]).loss_hi[0] == pytest.approx(true, rel=1e-15)


# JAX's own table of errors against MPFR, float32 on the CPU, in ulp.
@pytest.mark.parametrize(("name", "published"), [("exp", 1.5), ("log", 1.5), ("log1p", 3.0), ("exp2", 68.5)])
def test_elementary_functions_stay_within_jax_s_own_table(name: str, published: float) -> None:
    rng = np.random.default_rng(7)
    if name.startswith("exp"):
        x = rng.uniform(-87.0, 88.0, 200_000).astype(np.float32)
    else:
        x = np.exp(rng.uniform(-60.0, 60.0, 200_000)).astype(np.float32)
    got = np.asarray(getattr(jnp, name)(jnp.asarray(x))).astype(np.float64)
    want = getattr(np, name)(x.astype(np.float64))  # its own error is 2^-28 ulp of float32
    observed = np.max(np.abs(got - want) / ulp(want, np.zeros_like(want), FLOAT32))
    assert 0.5 <= observed <= published


def test_xla_flushes_the_exponential() -> None:
    assert np.asarray(jnp.exp(jnp.float32([-87.3, -87.5, -100.0]))).tolist() == [
        pytest.approx(1.2194e-38, rel=1e-4),
        0.0,
        0.0,
    ]


# ------------------------------------------------------------------------------------------------------- known failures


def test_labels_out_of_range_are_no_error(bridge: Bridge) -> None:
    """google-deepmind/optax#1185."""
    logits = [[0.2, 0.1, 0.4, 0.6]]
    beyond = run(bridge, "optax_integer_labels", logits, [4])
    assert np.isnan(beyond.loss).all()
    p = np.exp(logits[0]) / np.sum(np.exp(logits[0]))
    np.testing.assert_allclose(beyond.gradient[0], p, rtol=1e-6)
    last, before = (run(bridge, "optax_integer_labels", logits, [y]).loss[0] for y in (3, -1))
    assert last == before


def test_a_masked_class_without_target_mass_is_nan_but_in_the_safe_form(bridge: Bridge) -> None:
    """google-deepmind/optax#896."""
    for target in ([1], [[0.0, 1.0]]):
        plain = run(bridge, "optax_one_hot", [[-np.inf, 0.0]], target)
        safe = run(bridge, "optax_safe_softmax", [[-np.inf, 0.0]], target)
        assert np.isnan(plain.loss).all()
        assert safe.loss.tolist() == [0.0]
        assert plain.gradient.tolist() == safe.gradient.tolist() == [[0.0, 0.0]]
    for name in (*LSE, "jax_log_softmax"):
        assert run(bridge, name, [[-np.inf, 0.0]], [1]).loss.tolist() == [0.0]


@pytest.mark.parametrize(("classes", "overflows"), [(65_519, False), (65_520, True)])
def test_a_float16_sum_overflows_from_65520_equal_classes_on(bridge: Bridge, classes: int, overflows: bool) -> None:
    """jax-ml/jax#40409: the gradient of a sum of log-probabilities is NaN there; that of one label loses its tail."""
    for name in ("jax_log_softmax", "jax_logsumexp", "optax_integer_labels"):
        returned = run(bridge, name, np.zeros((1, classes)), [0], "float16")
        assert np.isinf(returned.loss[0]) == overflows
        assert returned.gradient[0, 0] == -1.0
        assert (returned.gradient[0, 1] == 0.0) == overflows  # 1.5e-5 is a float16
    zeros = jnp.zeros(classes, "float16")
    gradient = jax.jit(jax.grad(lambda z: jax.nn.log_softmax(z).sum()))(zeros)
    assert bool(np.isnan(np.asarray(gradient)).all()) == overflows


@pytest.mark.parametrize(("classes", "lost"), [(255, False), (256, True)])
def test_the_naive_float16_gradient_loses_the_others_from_256_equal_classes_on(
    bridge: Bridge, classes: int, lost: bool
) -> None:
    """The quotient's derivative divides by the sum's square, 65,536, which is beyond float16."""
    gradient = run(bridge, "jax_naive", np.zeros((1, classes)), [0], "float16").gradient[0]
    assert gradient[1] == (0.0 if lost else pytest.approx(1 / classes, rel=2e-3))


def test_the_naive_form_is_infinite_where_the_probability_is_flushed(bridge: Bridge) -> None:
    for gap, dtype in ((88.0, "float32"), (709.0, "float64"), (18.0, "float16")):
        returned = run(bridge, "jax_naive", [[0.0, gap]], [0], dtype)
        assert returned.loss.tolist() == [np.inf]
        assert np.isnan(returned.gradient).all()
    assert run(bridge, "jax_naive", [[0.0, 87.0]], [0]).loss.tolist() == [87.0]


def test_the_binary_loss_keeps_small_losses_and_their_gradients(bridge: Bridge) -> None:
    returned = run(bridge, "optax_sigmoid", [[40.0, -40.0]], [[1.0, 0.0]], "float64")
    assert returned.loss[0].tolist() == pytest.approx([4.248354255291589e-18] * 2, rel=1e-14)
    assert returned.gradient[0].tolist() == pytest.approx([-4.248354255291589e-18, 4.248354255291589e-18], rel=1e-14)


def test_the_binary_gradient_carries_the_rounding_of_softplus(bridge: Bridge) -> None:
    """exp(x − softplus(x)) at x = 32.18: off by the rounding of 32, some 24 ulp of the result next to 1."""
    x, target = float.fromhex("0x1.016f1cb753bb0p+5"), [[0.0]]
    gradient = run(bridge, "optax_sigmoid", [[x]], target, "float64").gradient
    want = truth(np.array([[x]]), np.array(target), loss=BCE).grad_hi
    error = abs(gradient[0, 0] - want[0, 0])
    assert 8 * U["float64"] < error <= x * U["float64"]


# --------------------------------------------------------------------------------------------------------- scikit-learn


@pytest.fixture(scope="module")
def entry() -> Implementation:
    pytest.importorskip("sklearn")
    return collect(("sklearn_log_loss",))["sklearn_log_loss"]


def test_scikit_learn_has_no_gradient_and_no_options(entry: Implementation) -> None:
    assert entry.declaration.requires == {"sklearn": "scikit-learn", "scipy": "scipy"}
    assert not entry.declaration.has_gradient
    assert entry.declaration.options == ()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_scikit_learn_gives_the_mean(entry: Implementation, dtype: str) -> None:
    batch = make_batch("moderate", CE, dtype, 0)
    returned = bridge_for("numpy").call(entry, batch)
    assert (returned.loss.shape, returned.gradient) == ((), None)
    reference = reference_of(batch)
    judged = judge(batch, reference, Output(returned.loss), reduction="mean")["loss"]
    assert judged.outcome is Outcome.PASSED
    assert judged.grade.meets(Grade.ABSOLUTE)
    assert float(returned.loss) == pytest.approx(reference.reduced("mean").loss_hi, rel=8 * U[dtype])


@pytest.mark.parametrize(("dtype", "most"), [("float64", 36.04365338911715), ("float32", 15.942385)])
def test_scikit_learn_gives_no_loss_larger_than_minus_log_epsilon(
    entry: Implementation, dtype: str, most: float
) -> None:
    logits = np.array([[0.0, 104.0]] * 3, dtype)
    assert float(entry.function(logits, np.zeros(3, np.int64))) == pytest.approx(most, rel=1e-6)


def test_scikit_learn_refuses_a_single_class(entry: Implementation) -> None:
    with pytest.raises(ValueError, match="at least two labels"):
        entry.function(np.zeros((2, 1)), np.zeros(2, np.int64))


def test_scikit_learn_fails_as_it_says(entry: Implementation) -> None:
    with Workers() as workers:
        workers["numpy"].describe(["implementations.sklearn_log_loss"])
        batch = make_batch("wrong_confident", CE, "float64", 0)
        (result,), _ = evaluate([Cell(entry.declaration, batch)], workers)
    assert result.outcome == Outcome.KNOWN_FAILURE
    assert result.thread == "scikit-learn/scikit-learn#17399"
    assert decide(entry.declaration, result).grade == Grade.INACCURATE
