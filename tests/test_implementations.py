"""The built-in implementations: right on ordinary input, exactly as wrong as documented on hostile input.

The referee is the textbook formula, written out in mpmath at 60 digits.
"""

import fnmatch
import importlib
import importlib.util
import inspect
import pkgutil
import shutil

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import implementations
from harness.families import FAMILIES
from harness.grades import Grade

CE = "cross_entropy"
BCE = "binary_cross_entropy_with_logits"
U = {"float64": 2.0**-53, "float32": 2.0**-24}
DTYPES = tuple(U)


def collect():
    found = {}
    for info in pkgutil.iter_modules(implementations.__path__):
        if info.name.startswith(("numpy_", "scipy_", "torch_")):  # the others have tests of their own
            module = importlib.import_module(f"implementations.{info.name}")
            for value in vars(module).values():
                declared = getattr(value, "__xent_implementation__", None)
                if declared is not None and declared.declaration.loss in (CE, BCE):
                    found[value.__name__] = value.__xent_implementation__
    return found


ALL = collect()


def installed(implementation):
    needed = {implementation.declaration.framework, *implementation.declaration.requires}
    return all(importlib.util.find_spec(module) for module in needed)


def here(loss, *, slow=False):
    """Names of the implementations of a loss that can run here; the slow ones only where they are asked for."""
    return [
        name
        for name, entry in ALL.items()
        if entry.declaration.loss == loss and entry.declaration.slow <= slow and installed(entry)
    ]


def call(name, logits, target, upstream=None, **options):
    """Loss and gradient, in the dtype that came back; the inputs of NumPy forms are read-only. Unreduced by default."""
    entry = ALL[name]
    logits = np.asarray(logits)
    target = np.asarray(target, dtype=logits.dtype if np.ndim(target) == 2 else np.int64)
    if "reduction" in entry.declaration.options:
        options.setdefault("reduction", "none")
    if upstream is None:
        upstream = np.ones(logits.shape if entry.declaration.loss == BCE else len(logits))
    upstream = np.asarray(upstream, dtype=logits.dtype)
    if entry.declaration.framework == "torch":
        return call_torch(entry, logits, target, upstream, options)
    for array in (logits, target, upstream, *options.values()):
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    return entry.function(logits, target, **options), entry.gradient(logits, target, upstream, **options)


def call_torch(entry, logits, target, upstream, options):
    import torch

    leaf = torch.tensor(logits, requires_grad=True)
    options = {key: torch.tensor(value) if isinstance(value, np.ndarray) else value for key, value in options.items()}
    loss = entry.function(leaf, torch.tensor(target), **options)
    (gradient,) = torch.autograd.grad(loss, leaf, torch.tensor(upstream))
    return loss.detach().numpy(), gradient.numpy()


def exact_terms(target, classes, weight=None, smoothing=0.0):
    """t of one row: w_j ((1 − ε) q_j + ε / V)."""
    q = np.eye(classes)[target] if np.ndim(target) == 0 else target
    w = np.ones(classes) if weight is None else weight
    smoothing = mpmath.mpf(smoothing)
    return [
        mpmath.mpf(float(wj)) * ((1 - smoothing) * mpmath.mpf(float(qj)) + smoothing / classes)
        for wj, qj in zip(w, q, strict=True)
    ]


def exact_row(logits, t):
    """Loss and gradient of one row, Σ t_j (ℓ − z_j) and T p_j − t_j, at mpmath's precision."""
    z = [mpmath.mpf(float(x)) for x in logits]
    e = [mpmath.exp(x) for x in z]
    s = mpmath.fsum(e)
    total = mpmath.fsum(t)
    loss = mpmath.fsum(tj * (mpmath.log(s) - zj) for tj, zj in zip(t, z, strict=True) if tj)
    return loss, [total * ej / s - tj for ej, tj in zip(e, t, strict=True)]


def exact(
    logits, target, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="none", upstream=None, digits=60
):
    """The literal formulas for a batch, rounded to float64."""
    n, v = logits.shape
    with mpmath.workdps(digits):
        losses, gradients = [mpmath.mpf(0)] * n, [[mpmath.mpf(0)] * v] * n
        denominator = mpmath.mpf(0)
        for row in range(n):
            if target.ndim == 1 and target[row] == ignore_index:
                continue
            t = exact_terms(target[row], v, weight, label_smoothing)
            losses[row], gradients[row] = exact_row(logits[row], t)
            indices_with_weight = target.ndim == 1 and weight is not None
            denominator += mpmath.mpf(float(weight[target[row]])) if indices_with_weight else 1
        scale = mpmath.mpf(1) / denominator if reduction == "mean" else 1
        up = np.broadcast_to(1.0 if upstream is None else upstream, n)
        gradient = [[float(g * scale * float(u)) for g in row] for row, u in zip(gradients, up, strict=True)]
        loss = [float(x) for x in losses] if reduction == "none" else float(mpmath.fsum(losses) * scale)
    return np.array(loss), np.array(gradient)


def moderate(dtype, v, seed=0, n=4):
    rng = np.random.default_rng([seed, v])
    return (3 * rng.standard_normal((n, v))).astype(dtype), rng.integers(0, v, n), rng


def tolerance(dtype, logits):
    """4u(V + |ℓ| + |z_y|), the absolute bound of one row, is at most this, since |ℓ| ≤ max |z| + V."""
    return 16 * logits.shape[1] * U[dtype] * (1 + float(np.abs(logits).max()))


# --------------------------------------------------------------------------------------------------------- declarations


def test_the_implementations_are_these():
    assert sorted(ALL) == [
        "numpy_bce_naive",
        "numpy_bce_with_logits",
        "numpy_clipped_1e15",
        "numpy_clipped_1e7",
        "numpy_log1p",
        "numpy_lse_minus_target",
        "numpy_naive",
        "numpy_shifted",
        "scipy_log_softmax",
        "scipy_logsumexp",
        "torch_bce_naive",
        "torch_bce_with_logits",
        "torch_clipped",
        "torch_compiled_cross_entropy",
        "torch_cross_entropy",
        "torch_cross_entropy_module",
        "torch_log_softmax_nll",
        "torch_logsumexp_gather",
        "torch_naive",
    ]


@pytest.mark.parametrize("name", ALL)
def test_a_declaration_tells_the_truth_about_the_code(name):
    entry = ALL[name]
    declared = entry.declaration
    assert declared.summary
    assert importlib.import_module(entry.function.__module__).__doc__
    assert declared.name.startswith({"torch": "torch"}.get(declared.framework, ("numpy", "scipy")))
    assert declared.requires == ({"scipy": "scipy"} if name.startswith("scipy") else {})
    assert set(declared.options) == set(list(inspect.signature(entry.function).parameters)[2:])
    if declared.framework == "numpy":
        assert set(declared.options) == set(list(inspect.signature(entry.gradient).parameters)[3:])
        assert set(declared.grades) == {"float64", "float32"}
    else:
        assert set(declared.grades) == {"float64", "float32", "bfloat16", "float16"}
        assert declared.grades["bfloat16"] is declared.grades["float16"] is Grade.STORAGE
    assert all(failure.reason.endswith(".") for failure in declared.known_failures)


@pytest.mark.parametrize("name", ALL)
def test_known_failures_name_families_that_exist(name):
    patterns = [pattern for failure in ALL[name].declaration.known_failures for pattern in failure.families]
    assert [pattern for pattern in patterns if not fnmatch.filter(FAMILIES, pattern)] == []


def test_only_the_log1p_forms_claim_to_be_relative():
    relative = {name for name, entry in ALL.items() if entry.declaration.grades["float32"] is Grade.RELATIVE}
    assert relative == {"numpy_log1p", "numpy_bce_with_logits"}


# ------------------------------------------------------------------------------------------------------- ordinary input


@pytest.mark.parametrize("v", [2, 5, 17])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", here(CE))
def test_right_on_moderate_logits(name, dtype, v):
    logits, target, rng = moderate(dtype, v)
    upstream = rng.choice([-1.5, 0.75, 2.0], len(target))
    loss, gradient = call(name, logits, target, upstream)
    true_loss, true_gradient = exact(logits, target, upstream=upstream)
    assert loss.dtype == gradient.dtype == dtype
    assert loss.shape == (4,)
    assert np.abs(loss - true_loss).max() <= tolerance(dtype, logits)
    assert np.abs(gradient - true_gradient).max() <= 2 * tolerance(dtype, logits)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # Inductor's own
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(set(here(CE, slow=True)) - set(here(CE))))
def test_the_compiled_form_is_right_on_moderate_logits(name, dtype):
    for v in (2, 5, 17):
        logits, target, _ = moderate(dtype, v)
        loss, gradient = call(name, logits, target)
        true_loss, true_gradient = exact(logits, target)
        assert np.abs(loss - true_loss).max() <= tolerance(dtype, logits)
        assert np.abs(gradient - true_gradient).max() <= tolerance(dtype, logits)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", here(CE))
def test_the_tutorial_s_example(name, dtype):
    loss, _ = call(name, np.array([[2.0, 1.0, 0.1]], dtype), [0])
    assert round(float(loss[0]), 4) == 0.4170


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", here(CE))
def test_an_empty_batch_has_an_empty_loss_and_gradient(name, dtype):
    loss, gradient = call(name, np.zeros((0, 3), dtype), np.zeros(0, np.int64))
    assert loss.shape == (0,)
    assert gradient.shape == (0, 3)
    assert loss.dtype == gradient.dtype == dtype


# -------------------------------------------------------------------------------------------------------------- options

WITH_OPTIONS = [name for name in here(CE) if "label_smoothing" in ALL[name].declaration.options]
OPTIONS = [
    {},
    {"weight": np.array([0.5, 2.0, 0.0, 1.25, 3.0])},
    {"ignore_index": 2},
    {"label_smoothing": 0.125},
    {"weight": np.array([0.5, 2.0, 0.0, 1.25, 3.0]), "label_smoothing": 0.25, "ignore_index": 1},
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options) or "none")
@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_options_mean_what_the_formulas_say(name, options, reduction, dtype):
    logits, _, _ = moderate(dtype, 5, seed=1, n=6)
    target = np.array([0, 1, 2, 3, 4, 0])
    options = {key: value.astype(dtype) if isinstance(value, np.ndarray) else value for key, value in options.items()}
    upstream = np.array([-1.5, 0.75, 2.0, -0.25, 1.25, 3.0]) if reduction == "none" else np.array(-1.75)
    loss, gradient = call(name, logits, target, upstream, reduction=reduction, **options)
    true_loss, true_gradient = exact(logits, target, reduction=reduction, upstream=upstream, **options)
    assert np.shape(loss) == ((6,) if reduction == "none" else ())
    assert np.asarray(loss).dtype == gradient.dtype == dtype
    # Weights are at most 3, and the sum of six rows has six times the error of one.
    assert np.abs(loss - true_loss).max() <= 18 * tolerance(dtype, logits)
    assert np.abs(gradient - true_gradient).max() <= 9 * tolerance(dtype, logits)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.25])
@pytest.mark.parametrize("name", [name for name in WITH_OPTIONS if "probabilities" in ALL[name].declaration.targets])
def test_probabilities_mean_what_the_formulas_say(name, smoothing, reduction, dtype):
    logits, _, rng = moderate(dtype, 5, seed=2)
    weight = np.array([0.5, 2.0, 0.0, 1.25, 3.0], dtype)
    target = rng.dirichlet(np.ones(5), 4).astype(dtype)
    options = {"weight": weight, "label_smoothing": smoothing, "reduction": reduction}
    upstream = np.array([-1.5, 0.75, 2.0, -0.25]) if reduction == "none" else np.array(-1.75)
    loss, gradient = call(name, logits, target, upstream, **options)
    true_loss, true_gradient = exact(logits, target, upstream=upstream, **options)
    assert np.abs(loss - true_loss).max() <= 12 * tolerance(dtype, logits)
    assert np.abs(gradient - true_gradient).max() <= 6 * tolerance(dtype, logits)


@pytest.mark.parametrize("name", ["numpy_log1p", "numpy_shifted"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_options_agree_with_torch(name, reduction):
    functional = pytest.importorskip("torch.nn.functional")
    import torch

    logits, _, _ = moderate("float64", 5, seed=3, n=6)
    target = np.array([0, -100, 2, 3, 1, 0])
    weight = np.array([0.5, 2.0, 0.0, 1.25, 3.0])
    loss, _ = call(name, logits, target, np.ones(()), weight=weight, label_smoothing=0.1, reduction=reduction)
    theirs = functional.cross_entropy(
        torch.tensor(logits),
        torch.tensor(target),
        weight=torch.tensor(weight),
        label_smoothing=0.1,
        reduction=reduction,
    )
    assert np.allclose(loss, theirs.numpy(), rtol=0, atol=18 * tolerance("float64", logits))


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_when_everything_is_ignored_the_mean_is_nan_and_the_sum_zero(name):
    logits, target = np.zeros((2, 3)), [-100, -100]
    mean, gradient = call(name, logits, target, np.ones(()), reduction="mean")
    assert np.isnan(mean)
    assert (gradient == 0).all()
    assert call(name, logits, target, np.ones(()), reduction="sum")[0] == 0


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_when_no_target_has_weight_the_mean_and_its_gradient_are_nan(name):
    options = {"weight": np.array([0.0, 1.0, 1.0]), "reduction": "mean"}
    mean, gradient = call(name, np.zeros((2, 3)), [0, 0], np.ones(()), **options)
    assert np.isnan(mean)
    assert np.isnan(gradient).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["numpy_log1p", "numpy_shifted"])
def test_what_an_ignored_row_holds_does_not_matter(name, dtype):
    logits = np.array([[1.0, 2.0], [np.nan, 0.0], [np.inf, 1.0]], dtype)
    loss, gradient = call(name, logits, [0, -100, -100])
    alone, its_gradient = call(name, logits[:1], [0])
    assert loss.tolist() == [alone[0], 0, 0]
    assert gradient.tolist() == [its_gradient[0].tolist(), [0, 0], [0, 0]]


@pytest.mark.parametrize("name", ["numpy_log1p", "numpy_shifted"])
@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_out_of_range_is_refused(name, label):
    with pytest.raises(IndexError, match=f"target {label} is out of range: there are 3 classes"):
        call(name, np.zeros((2, 3)), [0, label])


@pytest.mark.parametrize("name", ["numpy_log1p", "numpy_shifted", "numpy_bce_with_logits"])
def test_an_unknown_reduction_is_refused(name):
    with pytest.raises(ValueError, match="reduction 'average' is unknown"):
        call(
            name, np.zeros((2, 3)), [0, 1] if name != "numpy_bce_with_logits" else np.zeros((2, 3)), reduction="average"
        )


# ----------------------------------------------------------------------------------------- published numbers and limits


@pytest.mark.parametrize(
    ("offset", "published", "within", "true"),
    [
        (0, 0.04858735, 2.0**-23, 0.04858735),  # lse is about 2, where the spacing is 2^-22
        (1e4, 0.048828125, 0, 0.04858735),
        (1e6, 0.0625, 0, 0.04858735),
        (1e8, 0.0, 0, 0.6931472),
    ],
)
def test_a_common_offset_eats_the_loss_of_lse_minus_target(offset, published, within, true):
    """ml-explore/mlx#4188, pytorch/pytorch#11752. At 1e8 both logits round to the same number: log 2 is true."""
    logits = np.array([[2, -1]], np.float32) + np.float32(offset)
    assert abs(call("numpy_lse_minus_target", logits, [0])[0][0] - published) <= within
    for name in ("numpy_shifted", "numpy_log1p"):
        assert abs(call(name, logits, [0])[0][0] - np.float32(true)) <= 2.0**-24


@pytest.mark.parametrize("dtype", DTYPES)
def test_naive_is_not_finite_once_exp_overflows(dtype):
    loss, gradient = call("numpy_naive", np.array([[1000.0, 0.0]], dtype), [0])
    assert np.isnan(loss[0])
    assert np.isnan(gradient[0, 0])


@pytest.mark.parametrize("name", ["numpy_clipped_1e7", "numpy_clipped_1e15", "torch_clipped"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_clipped_saturates_and_stops_learning(name, dtype):
    if name not in here(CE):
        pytest.importorskip("torch")
    epsilon = 1e-15 if name.endswith("15") else 1e-7
    loss, gradient = call(name, np.array([[0.0, 50.0], [0.0, 80.0]], dtype), [0, 0])
    assert np.abs(loss + np.log(epsilon)).max() <= 2 * U[dtype] * -np.log(epsilon)
    assert (gradient == 0).all()


@pytest.mark.parametrize(
    ("name", "dtype", "floor"),
    [
        ("numpy_clipped_1e7", "float64", 1.0000000494736474e-07),
        ("numpy_clipped_1e7", "float32", 2.0**-23),  # 1 − 1e-7 rounds to 1 − 2^-23
        ("numpy_clipped_1e15", "float64", 9.992007221626413e-16),
        ("numpy_clipped_1e15", "float32", 0.0),  # 1 − 1e-15 rounds to 1
    ],
)
def test_a_clipped_loss_has_a_floor_that_depends_on_the_format(name, dtype, floor):
    loss, _ = call(name, np.array([[80.0, 0.0]], dtype), [0])
    assert loss[0] == pytest.approx(floor, rel=2 * U[dtype], abs=0)


def test_the_upper_clip_at_1e_7_does_nothing_in_16_bits():
    torch = pytest.importorskip("torch")
    for dtype in (torch.bfloat16, torch.float16):
        logits = torch.tensor([[15.0, 0.0]], dtype=dtype)
        for name in ("torch_clipped", "torch_naive"):
            assert ALL[name].function(logits, torch.tensor([0])).item() == 0.0  # 3.06e-7 is true


@pytest.mark.parametrize(
    ("logits", "label", "published"),
    [([0.0, -40.0], 0, 4.248354255291589e-18), ([40.0, 0.0, 0.0], 0, 8.496708510583178e-18)],
)
def test_only_log1p_has_a_tail_below_the_roundoff(logits, label, published):
    """scipy/scipy#18295; SciPy's log-sum-exp has it too, but only where the maximum is 0."""
    z = np.array([logits])
    assert call("numpy_log1p", z, [label])[0][0] == published
    for name in set(here(CE)) - {"numpy_log1p", "scipy_logsumexp"}:
        if "clipped" not in name:
            assert call(name, z, [label])[0][0] == 0, name
    if "scipy_logsumexp" in here(CE):
        assert call("scipy_logsumexp", z, [label])[0][0] == (published if max(logits) == 0 else 0)


def test_scipy_log_softmax_absorbs_the_tail_in_float32():
    """scipy/scipy#19521: a tail of a quarter of the spacing at 1 is absorbed; the true value is 1.19e-7 / e."""
    pytest.importorskip("scipy")
    z = np.array([[1 - np.log(np.finfo(np.float32).eps), 0]], np.float32)
    true = exact(z, np.array([0]))[0][0]
    assert true == pytest.approx(4.3854665e-08, rel=1e-7)
    assert call("scipy_log_softmax", z, [0])[0][0] == 0
    assert call("numpy_log1p", z, [0])[0][0] == pytest.approx(true, rel=8 * U["float32"], abs=0)


def test_torch_loses_the_target_s_gradient_and_log1p_does_not():
    """pytorch/pytorch#195678, jax-ml/jax#40384."""
    z = np.array([[37.42994775023705, 0.0]])
    _, gradient = call("numpy_log1p", z, [0])
    assert gradient.tolist() == [[-5.551115123125776e-17, 5.551115123125776e-17]]
    if "torch_cross_entropy" in here(CE):
        assert call("torch_cross_entropy", z, [0])[1].tolist() == [[0.0, 5.551115123125776e-17]]


def test_torch_loses_the_loss_at_a_gap_of_20_in_float32():
    z = np.array([[20.0, 0.0]], np.float32)
    true = exact(z, np.array([0]))[0][0]
    assert true == pytest.approx(2.061153620314381e-09, rel=1e-12)
    assert call("numpy_log1p", z, [0])[0][0] == pytest.approx(true, rel=8 * U["float32"], abs=0)
    if "torch_cross_entropy" in here(CE):
        assert call("torch_cross_entropy", z, [0])[0][0] == 0


# ---------------------------------------------------------------------------------------------------------------- log1p


@pytest.mark.parametrize(
    ("gap", "dtype", "size"), [(69.0, "float32", 1e-30), (69.0, "float64", 1e-30), (690.0, "float64", 1e-300)]
)
def test_log1p_keeps_the_digits_of_any_loss(gap, dtype, size):
    z = np.array([[0.0, gap, 0.0]], dtype)
    loss, gradient = call("numpy_log1p", z, [1])
    true, true_gradient = exact(z, np.array([1]), digits=400)  # the formula cancels 300 of them
    assert size < true[0] < 10 * size
    assert abs(loss[0] / true[0] - 1) <= 8 * U[dtype]
    assert np.abs(gradient / true_gradient - 1).max() <= 8 * U[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_log1p_with_one_class_is_zero(dtype):
    loss, gradient = call("numpy_log1p", np.array([[5.0], [-1e30], [0.0]], dtype), [0, 0, 0])
    assert loss.tolist() == [0, 0, 0]
    assert gradient.tolist() == [[0], [0], [0]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_log1p_leaves_one_of_several_maxima_out(dtype):
    loss, gradient = call("numpy_log1p", np.full((1, 1000), 1e4, dtype), [7])
    assert abs(loss[0] - np.log(1000)) <= 4 * U[dtype] * np.log(1000)
    assert gradient[0, 7] == pytest.approx(-0.999, rel=4 * U[dtype], abs=0)
    assert gradient[0, 6] == pytest.approx(0.001, rel=4 * U[dtype], abs=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_log1p_takes_masked_classes(dtype):
    z = np.array([[-np.inf, 1.0, 0.0], [-np.inf, -np.inf, 3.0]], dtype)
    loss, gradient = call("numpy_log1p", z, [1, 2])
    bare, bare_gradient = call("numpy_log1p", z[:1, 1:], [0])
    assert loss.tolist() == [bare[0], 0]
    assert gradient.tolist() == [[0, *bare_gradient[0]], [0, 0, 0]]
    assert call("numpy_log1p", z, [0, 2])[0].tolist() == [np.inf, 0]  # a target on a masked class


def test_log1p_gives_a_masked_class_without_mass_no_part_in_a_soft_target():
    """google-deepmind/optax#896: 0 · −∞ must not become NaN."""
    loss, gradient = call("numpy_log1p", np.array([[-np.inf, 0.0]]), np.array([[0.0, 1.0]]))
    assert loss.tolist() == [0]
    assert gradient.tolist() == [[0, 0]]


def test_log1p_keeps_a_soft_target_s_gradient_when_it_is_all_but_one_hot():
    z, q = np.array([[40.0, 0.0, 1.0]]), np.array([[1.0, 2.0**-60, 0.0]])
    _, gradient = call("numpy_log1p", z, q)
    assert np.abs(gradient / exact(z, q)[1] - 1).max() <= 16 * U["float64"]


@pytest.mark.parametrize("name", ["numpy_log1p", "numpy_shifted", "numpy_lse_minus_target"])
def test_nan_spreads_in_its_row_and_no_further(name):
    loss, gradient = call(name, np.array([[np.nan, 1.0], [1.0, 0.0]]), [1, 0])
    assert np.isnan(loss).tolist() == [True, False]
    assert np.isnan(gradient).tolist() == [[True, True], [False, False]]


def test_log1p_gives_a_transposed_view_what_it_gives_a_copy():
    z = np.random.default_rng(5).standard_normal((300, 4)).astype(np.float32).T
    loss, gradient = call("numpy_log1p", z, [0, 1, 2, 3])
    same, its_gradient = call("numpy_log1p", z.copy(), [0, 1, 2, 3])
    assert (loss == same).all()
    assert (gradient == its_gradient).all()


LOGITS = st.lists(
    st.one_of(st.floats(-300, 300, width=32), st.sampled_from([0.0, -0.0, 1.0, 80.0, 300.0])), min_size=2, max_size=9
)


@settings(max_examples=300, deadline=None)
@given(LOGITS, st.data())
def test_log1p_stays_within_the_relative_bound(logits, data):
    """|error| ≤ 4u(L + Σ_{j≠y} p_j (1 + log₂V + |z_j − z_y|)) + 2uL, and the like for the gradient; η below that."""
    y = data.draw(st.integers(0, len(logits) - 1))
    z = np.array([logits], np.float32)
    u, eta = 2.0**-24, 2.0**-149
    loss, gradient = call("numpy_log1p", z, [y])
    true, true_gradient = exact(z, np.array([y]))
    spread = 1 + np.log2(len(logits)) + np.abs(z[0].astype(float) - float(z[0, y]))
    p = true_gradient[0].copy()
    p[y] = 0
    tail = float((p * spread).sum())
    assert abs(float(loss[0]) - true[0]) <= 4 * u * (true[0] + tail) + 2 * u * true[0] + len(logits) * eta
    depth = 1 + np.log2(len(logits)) + np.abs(z[0].astype(float) - float(z[0, y]) + true[0])
    bound = 4 * u * (p * (1 + depth)) + len(logits) * eta
    bound[y] = 4 * u * (tail - true_gradient[0, y]) + len(logits) * eta
    assert (np.abs(gradient[0] - true_gradient[0]) <= bound).all()


# ------------------------------------------------------------------------------------------------------------------ BCE


def exact_bce(x, t, w=1.0, pos=1.0):
    with mpmath.workdps(60):
        x, t, w, pos = (mpmath.mpf(float(v)) for v in (x, t, w, pos))
        loss = w * (pos * t * mpmath.log1p(mpmath.exp(-x)) + (1 - t) * mpmath.log1p(mpmath.exp(x)))
        gradient = w * ((1 - t) / (1 + mpmath.exp(-x)) - pos * t / (1 + mpmath.exp(x)))
        return float(loss), float(gradient)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", here(BCE))
def test_bce_is_right_on_moderate_logits(name, dtype):
    rng = np.random.default_rng(0)
    x = rng.uniform(-3, 3, (5, 4)).astype(dtype)
    t = rng.uniform(0, 1, (5, 4)).astype(dtype)
    t[0] = [0, 1, 0, 1]
    loss, gradient = call(name, x, t)
    true = np.vectorize(exact_bce)(x, t)
    assert loss.dtype == gradient.dtype == dtype
    # The naive forms take 1 − p, which magnifies the error of p by 1 + e^|x| < 22.
    assert np.abs(loss - true[0]).max() <= 4 * 22 * U[dtype]
    assert np.abs(gradient - true[1]).max() <= 4 * 22 * U[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("name", ["numpy_bce_with_logits", "torch_bce_with_logits"])
def test_bce_options_mean_what_the_formulas_say(name, reduction, dtype):
    if name not in here(BCE):
        pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    x, t = rng.uniform(-3, 3, (5, 4)).astype(dtype), rng.uniform(0, 1, (5, 4)).astype(dtype)
    weight = np.array([0.5, 2.0, 0.0, 1.25], dtype)
    pos_weight = np.array([3.0, 0.25, 1.0, 1.5], dtype)
    upstream = rng.choice([-1.5, 0.75], (5, 4)) if reduction == "none" else np.array(-1.75)
    loss, gradient = call(name, x, t, upstream, weight=weight, pos_weight=pos_weight, reduction=reduction)
    elements, slopes = np.vectorize(exact_bce)(x, t, weight, pos_weight)
    true = {"none": elements, "mean": elements.mean(), "sum": elements.sum()}[reduction]
    true_gradient = slopes * upstream / (20 if reduction == "mean" else 1)
    assert np.asarray(loss).dtype == gradient.dtype == dtype
    assert np.abs(loss - true).max() <= 20 * 64 * U[dtype]
    assert np.abs(gradient - true_gradient).max() <= 64 * U[dtype]


def test_stable_bce_has_both_tails():
    """pytorch/pytorch#195529: torch has the loss of one mirror image and the gradient of the other."""
    x, t = np.array([[40.0, -40.0]]), np.array([[1.0, 0.0]])
    tail = 4.248354255291589e-18
    loss, gradient = call("numpy_bce_with_logits", x, t)
    assert loss.tolist() == [[tail, tail]]
    assert gradient.tolist() == [[-tail, tail]]
    if "torch_bce_with_logits" in here(BCE):
        loss, gradient = call("torch_bce_with_logits", x, t)
        assert loss.tolist() == [[tail, 0.0]]
        assert gradient.tolist() == [[0.0, tail]]


def test_stable_bce_takes_infinite_logits():
    """pytorch/pytorch#49844: torch has NaN where −∞ meets t = 0."""
    x, t = np.array([[-np.inf, np.inf, -np.inf, np.nan]]), np.array([[0.0, 1.0, 1.0, 1.0]])
    loss, gradient = call("numpy_bce_with_logits", x, t)
    assert loss[0, :3].tolist() == [0, 0, np.inf]
    assert gradient[0, :3].tolist() == [0, 0, -1]
    assert np.isnan(loss[0, 3])
    assert np.isnan(gradient[0, 3])


def test_naive_bce_fails_as_documented():
    assert call("numpy_bce_naive", np.array([[40.0]]), np.array([[0.0]]))[0][0, 0] == np.inf  # 40 is true
    assert np.isnan(call("numpy_bce_naive", np.array([[40.0]]), np.array([[1.0]]))[0][0, 0])  # 4.2e-18 is true
    if "torch_bce_naive" in here(BCE):
        loss, gradient = call("torch_bce_naive", np.array([[40.0, -50.0]], np.float32), np.array([[0.0, 1.0]]))
        assert loss[0].tolist() == [100.0, 50.0]  # 40 and 50 are true
        assert gradient[0, 1] == pytest.approx(-1.93e-10, rel=1e-2)  # −1 is true: pytorch/pytorch#103316


# -------------------------------------------------------------------------------------------------------------- compile


def test_torch_compile_without_a_compiler_says_what_to_do(monkeypatch):
    torch = pytest.importorskip("torch")
    module = importlib.import_module("implementations.torch_compile")
    module._compiled.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match=r"C\+\+ compiler and 'no-such-compiler' was not found: install one"):
        module.torch_compiled_cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1]))
