"""Published numbers, reproduced: what NumPy, SciPy and torch show on a CPU, beside the certified truth.

Each test names its source. A number that moves here is news, from a library or from this harness.
"""

import dataclasses
import math

import ml_dtypes
import numpy as np
import pytest
import scipy.special
import torch
import torch.nn.functional as F

import harness
from harness.batch import Batch
from harness.formats import named
from harness.grades import Grade
from harness.judge import judge
from harness.output import Output
from harness.reference import reference_of
from implementations.numpy_log1p import numpy_log1p
from implementations.numpy_lse_minus_target import numpy_lse_minus_target
from implementations.numpy_shifted import numpy_shifted

# ---------------------------------------------------------------------------- Blanchard, Higham & Higham 2021, float16

HALF = np.float16
U16 = 2.0**-11
CLASSES, VECTORS = 10, 2500


def scores():
    """A stand-in for the 2,500 vectors of ten class scores of BHH's experiment: seeded, float16, a third of them wide.

    The scales are chosen so that exp overflows in float16 (from 11.09 on) in some vectors and the shifted form in none.
    The published counts, 475 overflows and 0, belong to the authors' own data and are not claimed here.
    """
    rng = np.random.default_rng(20201)
    scale = np.resize([2.0, 4.0, 8.0], VECTORS)[:, None]
    return (rng.standard_normal((VECTORS, CLASSES)) * scale).astype(HALF)


def recursive_sum(terms):
    """s = t_1; s = fl(s + t_i), every addition rounded to float16: the order that the bounds are stated for."""
    total = terms[:, 0].copy()
    for column in terms.T[1:]:
        total = total + column
    return total


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def plain(x):
    e = np.exp(x)
    s = recursive_sum(e)
    return np.log(s), e / s[:, None]


def shifted(x):
    m = x.max(axis=1)
    e = np.exp(x - m[:, None])
    s = recursive_sum(e)
    return m + np.log(s), e / s[:, None]


@pytest.fixture(scope="module")
def experiment():
    """Scores, true log-sum-exp and true softmax, from the certified loss and gradient of class 0."""
    x = scores()
    truth = harness.truth(x, np.zeros(VECTORS, np.int64))
    softmax = truth.grad_hi + np.eye(CLASSES)[0]
    return x, truth.loss_hi + x[:, 0].astype(np.float64), softmax


def relative(got, y):
    return np.abs(got.astype(np.float64) - y) / np.abs(y)


def normwise(got, p):
    """In the maximum norm, as the paper measures vectors: entries that underflow have no relative accuracy."""
    return np.abs(got.astype(np.float64) - p).max(axis=1) / p.max(axis=1)


# First-order bounds: what they leave out is below (n u)² / 2, a 400th of them.
SECOND_ORDER = 1 + CLASSES * U16


def test_plain_log_sum_exp_overflows_in_float16_and_the_shifted_one_never(experiment):
    x, _, _ = experiment
    overflowed = ~np.isfinite(plain(x)[0])
    assert overflowed.sum() == (np.exp(x.astype(np.float64)).sum(axis=1) >= 65520).sum() == 541
    assert (x.max(axis=1)[overflowed] > 10).all()
    y, p = shifted(x)
    assert np.isfinite(y).all()
    assert np.isfinite(p).all()


def test_bhh_bounds_hold_for_log_sum_exp_vector_by_vector(experiment):
    x, y, _ = experiment
    z = x.astype(np.float64)
    with np.errstate(divide="ignore"):
        of_plain = (1 + (CLASSES + 1) / np.abs(y)) * U16
        of_shifted = np.abs(y + CLASSES - z.min(axis=1)) / np.abs(y) * U16
    fits = np.isfinite(plain(x)[0])
    ratio_plain = (relative(plain(x)[0], y) / of_plain)[fits]
    ratio_shifted = relative(shifted(x)[0], y) / of_shifted
    assert ratio_plain.max() <= SECOND_ORDER
    assert ratio_shifted.max() <= SECOND_ORDER
    # They are bounds of the worst case, and no vector is the worst: the figures seen here.
    assert 0.05 < ratio_plain.max() < 0.75
    assert 0.05 < ratio_shifted.max() < 0.75


def test_bhh_bounds_hold_for_softmax_vector_by_vector(experiment):
    x, _, p = experiment
    z = x.astype(np.float64)
    fits = np.isfinite(plain(x)[1]).all(axis=1) & np.isfinite(plain(x)[0])
    of_plain = np.full(VECTORS, (CLASSES + 3) * U16)
    of_shifted = (CLASSES + 2 + 2 * np.ptp(z, axis=1)) * U16
    ratio_plain = (normwise(plain(x)[1], p) / of_plain)[fits]
    ratio_shifted = normwise(shifted(x)[1], p) / of_shifted
    assert ratio_plain.max() <= SECOND_ORDER
    assert ratio_shifted.max() <= SECOND_ORDER
    assert 0.05 < ratio_plain.max() < 0.75
    assert 0.05 < ratio_shifted.max() < 0.75


# ------------------------------------------------------------------------------------------------------- common offset

# ml-explore/mlx#4188, pytorch/pytorch#11752: logits [2, −1] + c, class 0, by lse(z) − z_y in float32.
OFFSETS = [(0.0, 0.04858735), (1e4, 0.048828125), (1e6, 0.0625), (1e8, 0.0)]
BY_LSE = {
    "numpy": lambda z: numpy_lse_minus_target(z[None], np.array([0]))[0],
    "scipy": lambda z: scipy.special.logsumexp(z) - z[0],
    "torch": lambda z: (torch.logsumexp(torch.from_numpy(z), 0) - z[0]).numpy(),
}


@pytest.mark.parametrize("form", list(BY_LSE))
@pytest.mark.parametrize(("offset", "published"), OFFSETS)
def test_common_offset_table(form, offset, published):
    z = (np.array([2.0, -1.0]) + offset).astype(np.float32)
    got = BY_LSE[form](z)
    assert got.dtype == np.float32
    # At c = 0 the last bit of a log-sum-exp near 2 is the library's own; the others are exact.
    assert got == pytest.approx(published, abs=2.0**-22 if offset == 0 else 0)


@pytest.mark.parametrize(
    ("offset", "true_loss"), [(0.0, 0.04858735157374196), (1e4, 0.04858735157374196), (1e8, math.log(2))]
)
def test_the_shifted_forms_do_not_mind_the_offset(offset, true_loss):
    """In float32 [2, −1] + 1e8 is a tie: the true loss of what is stored there is log 2, and not 0."""
    z = (np.array([[2.0, -1.0]]) + offset).astype(np.float32)
    assert harness.truth(z, [0]).loss_hi[0] == pytest.approx(true_loss, rel=1e-15)
    for form in (numpy_log1p, numpy_shifted):
        assert form(z, np.array([0]), reduction="none")[0] == pytest.approx(true_loss, rel=2.0**-20)


# ------------------------------------------------------------------------------- the true class's gradient in bfloat16

BF16 = ml_dtypes.bfloat16


def confident_rows(p):
    """Logits [N, 2] in float32 whose p_0 is within 2 % (of 1 − p) of p, and 1 − p_0."""
    rest = (1 - p) * np.linspace(0.98, 1.02, 1001)
    z = np.stack([np.log1p(-rest) - np.log(rest), np.zeros_like(rest)], axis=1).astype(np.float32)
    return z, -harness.truth(z, np.zeros(len(z), np.int64)).grad_hi[:, 0]


@pytest.mark.parametrize(("p", "broken", "within"), [(0.90, 0.0195, 0.03), (0.99, 0.20, 0.03), (0.999, 1.0, 0.0)])
def test_read_modify_write_of_a_rounded_softmax_loses_the_true_class(p, broken, within):
    """linkedin/Liger-Kernel#1329: p is stored as bfloat16 and read back before 1 is subtracted.

    The largest relative error is half the spacing below 1, 2^-9, over 1 − p: 1.95 %, 20 %, and all of it once p rounds
    to 1. Subtracting first leaves the rounding of the result alone, u = 2^-8 = .4 %.
    """
    z, rest = confident_rows(p)
    softmax = torch.softmax(torch.from_numpy(z), 1).numpy()[:, 0]
    stored = softmax.astype(BF16)
    wrong = (stored.astype(np.float32) - 1).astype(BF16).astype(np.float64)
    right = (softmax - 1).astype(BF16).astype(np.float64)
    assert (np.abs(wrong + rest) / rest).max() == pytest.approx(broken, rel=within)
    assert 0.002 < (np.abs(right + rest) / rest).max() < 0.004


def test_torch_s_bfloat16_kernel_loses_the_true_class_at_three_nines():
    """100 % at p = .999: within the bound of the storage grade, and of no better one."""
    z = named("bfloat16").round([[6.90625, 0.0]])
    batch = Batch("cross_entropy", z, np.array([0]), named("bfloat16").round([1.0]))
    leaf = torch.tensor([[6.90625, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    loss = F.cross_entropy(leaf, torch.tensor([0]), reduction="none")
    loss.backward(torch.ones(1, dtype=torch.bfloat16))
    gradient = leaf.grad.float().numpy().astype(BF16)
    assert gradient.astype(np.float64).tolist() == [[0.0, pytest.approx(0.001, rel=0.01)]]
    judged = judge(batch, reference_of(batch), Output(loss=loss.detach().float().numpy(), gradient=gradient))
    assert judged["gradient"].grade is Grade.STORAGE


# ------------------------------------------------------------------------------------------------------ tails below 1

TWO = np.array([[37.42994775023705, 0.0]])


def test_the_true_gradient_that_torch_rounds_to_zero():
    """pytorch/pytorch#195678, jax-ml/jax#40384: ∓5.55e-17; torch gives [0, 5.55e-17]."""
    truth = harness.truth(TWO, [0])
    assert truth.grad_hi[0].tolist() == pytest.approx([-5.55e-17, 5.55e-17], rel=1e-3)
    assert truth.grad_hi[0, 0] == -truth.grad_hi[0, 1]
    leaf = torch.tensor(TWO, requires_grad=True)
    F.cross_entropy(leaf, torch.tensor([0])).backward()
    assert leaf.grad[0, 0] == 0
    assert leaf.grad[0, 1].item() == pytest.approx(5.55e-17, rel=1e-3)
    gradient = numpy_log1p.__xent_implementation__.gradient(TWO, np.array([0]), np.ones(1), reduction="none")
    assert gradient[0].tolist() == pytest.approx([-5.55e-17, 5.55e-17], rel=1e-3)
    batch = Batch("cross_entropy", TWO, np.array([0]), np.ones(1))
    found = Output(loss=truth.loss_hi, gradient=leaf.grad.numpy())
    assert judge(batch, truth, found)["gradient"].grade is Grade.ABSOLUTE
    better = judge(batch, truth, dataclasses.replace(found, gradient=gradient))["gradient"]
    assert better.grade.meets(Grade.RELATIVE)


def test_logsumexp_of_0_and_minus_40():
    """scipy/scipy#18295: 4.248354255291589e-18, which SciPy gives since it leaves the largest term out of the sum."""
    truth = harness.truth([[0.0, -40.0]], [0]).loss_hi[0]
    assert truth == 4.248354255291589e-18
    assert scipy.special.logsumexp([0.0, -40.0]) == pytest.approx(truth, rel=1e-15)
    assert torch.logsumexp(torch.tensor([0.0, -40.0], dtype=torch.float64), 0) == 0
    assert numpy_log1p(np.array([[0.0, -40.0]]), np.array([0]), reduction="none")[0] == pytest.approx(truth, rel=1e-15)


def test_scipy_log_softmax_at_one_minus_log_epsilon():
    """scipy/scipy#19521: float32 [1 − ln ε, 0] gives [−0, −16.942385]; the first is −4.4e-8."""
    eps = np.finfo(np.float32).eps
    z = np.array([1 - np.log(eps), 0], dtype=np.float32)
    truth = [harness.truth(z[None], [y]).loss_hi[0] for y in (0, 1)]
    assert truth == pytest.approx([4.38546649e-08, 16.94238476], rel=1e-8)
    got = -scipy.special.log_softmax(z)
    assert got[0] == 0
    assert got[1] == np.float32(16.942385)
    twice = np.array([1 - np.log(2 * eps), 0], dtype=np.float32)
    assert -scipy.special.log_softmax(twice)[0] == pytest.approx(1.19209275e-07, rel=1e-6)
    exact = harness.truth(twice[None], [0]).loss_hi[0]
    assert 1.1920929e-07 / exact == pytest.approx(math.e / 2, rel=1e-6)  # 36 % too large
    assert numpy_log1p(z[None], np.array([0]), reduction="none")[0] == pytest.approx(truth[0], rel=2.0**-22)


def test_forty_zero_zero():
    """8.497e-18, and 0 from every form that adds the tail to 1."""
    z = np.array([[40.0, 0.0, 0.0]])
    truth = harness.truth(z, [0]).loss_hi[0]
    assert truth == pytest.approx(2 * math.exp(-40.0), rel=1e-15)
    assert f"{truth:.3e}" == "8.497e-18"
    y = np.array([0])
    assert numpy_shifted(z, y, reduction="none")[0] == 0
    assert numpy_lse_minus_target(z, y)[0] == 0
    assert F.cross_entropy(torch.tensor(z), torch.tensor(y)) == 0
    assert scipy.special.log_softmax(z, axis=1)[0, 0] == 0
    assert numpy_log1p(z, y, reduction="none")[0] == pytest.approx(truth, rel=1e-15)
