"""Cross-entropies to judge: right ones in many styles, and wrong ones, each with one fault. All run in this process.

A *style* takes a batch and gives an `Output`, unreduced unless its name says otherwise. Right ones compute in the
batch's arithmetic (float32 for 16-bit input) and hand their gradient back in the batch's dtype.
"""

from __future__ import annotations

import warnings

import ml_dtypes
import numpy as np
import torch
import torch.nn.functional as F

from harness.output import Output
from implementations.numpy_bce import numpy_bce_with_logits
from implementations.numpy_log1p import numpy_log1p

TORCH = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def tensor(array):
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(np.ascontiguousarray(array).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def back(value):
    value = value.detach()
    if value.dtype is torch.bfloat16:
        return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.numpy()


def masses(batch, wide):
    """t [N, V] in a NumPy dtype, rounded as an implementation would round it."""
    options, v = batch.options, batch.logits.shape[1]
    if batch.target.ndim == 2:
        q = batch.target.astype(wide)
    else:
        kept = batch.target != options.get("ignore_index", -100)
        q = np.zeros(batch.logits.shape, wide)
        q[kept, batch.target[kept]] = 1
    smoothing = wide(options.get("label_smoothing", 0.0))
    t = (1 - smoothing) * q + (smoothing / wide(v)) * (q.sum(axis=1, keepdims=True) > 0)
    return t * options["weight"].astype(wide) if "weight" in options else t


def arithmetic(batch):
    return np.float64 if batch.dtype == "float64" else np.float32


# -------------------------------------------------------------------------------------------------------- right: torch


def by_autograd(function, narrow_loss=False, native=False):
    """A style from a function of (logits in the arithmetic, batch) → losses; `native`: in the input's own dtype."""

    def style(batch):
        leaf = tensor(batch.logits).requires_grad_(True)
        z = leaf if native else leaf.to(TORCH[batch.format.arithmetic.name])
        loss = function(z, batch)
        if narrow_loss:
            loss = loss.to(leaf.dtype)
        (gradient,) = torch.autograd.grad(loss, leaf, tensor(batch.upstream).to(loss.dtype))
        return Output(loss=back(loss), gradient=back(gradient))

    return style


def functional(z, batch):
    options = {k: tensor(x).to(z.dtype) if isinstance(x, np.ndarray) else x for k, x in batch.options.items()}
    target = tensor(batch.target)
    if batch.loss != "cross_entropy":
        return F.binary_cross_entropy_with_logits(z, target.to(z.dtype), reduction="none", **options)
    if target.ndim == 2:
        target = target.to(z.dtype)
    return F.cross_entropy(z, target, reduction="none", **options)


def log_softmax_dot(z, batch):
    """−Σ t_j log p_j, masked classes left out."""
    t = tensor(masses(batch, back(z).dtype.type))
    return -torch.where(t > 0, t * torch.log_softmax(z, 1), 0).sum(1)


def logsumexp_minus_dot(z, batch):
    """T ℓ − Σ t_j z_j."""
    t = tensor(masses(batch, back(z).dtype.type))
    dot = torch.where(t > 0, t * torch.where(torch.isinf(z), 0, z), 0).sum(1)
    return t.sum(1) * torch.logsumexp(z, 1) - dot


# -------------------------------------------------------------------------------------------------------- right: NumPy


def from_parts(lse_parts):
    """A style from z → (m, log s, p): the loss is Σ t_j ((m − z_j) + log s), the gradient T p − t."""

    def style(batch):
        wide = arithmetic(batch)
        z, t = batch.logits.astype(wide), masses(batch, wide)
        counted = t.any(axis=1, keepdims=True)
        with np.errstate(all="ignore"):
            m, log_s, p = lse_parts(np.where(counted, z, 0))
            loss = np.where(t > 0, t * ((m - z) + log_s), 0).sum(axis=1)
            gradient = batch.upstream.astype(wide)[:, None] * (t.sum(axis=1, keepdims=True) * p - t)
        return finished(batch, loss, gradient)

    return style


def finished(batch, loss, gradient):
    wide = arithmetic(batch)
    with np.errstate(over="ignore", under="ignore"):
        return Output(loss=np.asarray(loss, dtype=wide), gradient=np.asarray(gradient).astype(batch.logits.dtype))


def shifted(z):
    m = z.max(axis=1, keepdims=True)
    e = np.exp(z - m)
    s = e.sum(axis=1, keepdims=True)
    return m, np.log(s), e / s


def recursive(z):
    """The sum taken one term after the other, the last class first: the longest chain of roundings."""
    m = z.max(axis=1, keepdims=True)
    e = np.exp(z - m)
    s = np.cumsum(e[:, ::-1], axis=1, dtype=e.dtype)[:, -1:]
    return m, np.log(s), e / s


def online(z):
    """A running maximum and a sum that is rescaled when it changes, in blocks of 16, as fused kernels do."""
    m = np.full((len(z), 1), -np.inf, z.dtype)
    s = np.zeros((len(z), 1), z.dtype)
    for start in range(0, z.shape[1], 16):
        block = z[:, start : start + 16]
        new = np.maximum(m, block.max(axis=1, keepdims=True))
        safe = np.where(np.isinf(new), 0, new)
        s = s * np.exp(m - safe) + np.exp(block - safe).sum(axis=1, keepdims=True)
        m = new
    lse = m + np.log(s)
    return m, np.log(s), np.exp(z - lse)


def exponent_of_difference(z):
    """p as exp(z − ℓ) and the loss from a rounded ℓ: the textbook kernel."""
    m = z.max(axis=1, keepdims=True)
    lse = m + np.log(np.exp(z - m).sum(axis=1, keepdims=True))
    return lse, np.zeros_like(lse), np.exp(z - lse)


def log1p_form(batch):
    wide = arithmetic(batch)
    options = {k: x.astype(wide) if isinstance(x, np.ndarray) else x for k, x in batch.options.items()}
    target = batch.target if batch.target.ndim == 1 else batch.target.astype(wide)
    function = numpy_log1p if batch.loss == "cross_entropy" else numpy_bce_with_logits
    gradient = function.__xent_implementation__.gradient
    z, up = batch.logits.astype(wide), batch.upstream.astype(wide)
    loss = function(z, target, reduction="none", **options)
    return finished(batch, loss, gradient(z, target, up, reduction="none", **options))


def exponent_of_softplus(batch):
    """The binary gradient as exp(x − softplus(x)) with a rounded softplus: what differentiating logaddexp gives."""
    wide = arithmetic(batch)
    x, t, up = batch.logits.astype(wide), batch.target.astype(wide), batch.upstream.astype(wide)
    w, c = (batch.options.get(name, np.ones(())).astype(wide) for name in ("weight", "pos_weight"))

    def softplus(x):
        return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))

    def sigmoid(x):
        return np.where(np.isposinf(x), wide(1), np.exp(x - softplus(x)))

    with np.errstate(all="ignore"):
        a, b = w * c * t, w * (1 - t)
        loss = np.where(a > 0, a * softplus(-x), 0) + np.where(b > 0, b * softplus(x), 0)
        return finished(batch, loss, up * (b * sigmoid(x) - a * sigmoid(-x)))


CE, BCE = "cross_entropy", "binary_cross_entropy_with_logits"
BOTH = (CE, BCE)
RIGHT = {
    "torch functional": (BOTH, by_autograd(functional)),
    "torch functional, narrow loss": (BOTH, by_autograd(functional, narrow_loss=True)),
    "torch log_softmax": ((CE,), by_autograd(log_softmax_dot)),
    "torch logsumexp": ((CE,), by_autograd(logsumexp_minus_dot)),
    "numpy shifted": ((CE,), from_parts(shifted)),
    "numpy recursive": ((CE,), from_parts(recursive)),
    "numpy online": ((CE,), from_parts(online)),
    "numpy exp(z - lse)": ((CE,), from_parts(exponent_of_difference)),
    "log1p": (BOTH, log1p_form),
    "exponent of a rounded softplus": ((BCE,), exponent_of_softplus),
}
NATIVE = by_autograd(functional, native=True)
"""torch's own kernels in the input's dtype: for 16 bits they are judged at the storage grade."""

# --------------------------------------------------------------------------------------------------------------- wrong


def broken(*, z=None, t=None, parts=shifted, loss=None, gradient=None, upstream=None):
    """The shifted style with one of its steps replaced."""

    def style(batch):
        wide = arithmetic(batch)
        logits, mass, up = batch.logits.astype(wide), masses(batch, wide), batch.upstream.astype(wide)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logits = logits if z is None else z(logits, batch)
            mass = mass if t is None else t(mass, batch)
            m, log_s, p = parts(logits)
            losses = np.where(mass > 0, mass * ((m - logits) + log_s), 0).sum(axis=1)
            losses = losses if loss is None else loss(losses, logits, p, mass)
            up = up if upstream is None else upstream(up)
            g = mass.sum(axis=1, keepdims=True) * p - mass
            g = g if gradient is None else gradient(g, p, mass)
            return finished(batch, losses, up[:, None] * g)

    return style


def without_last_block(size):
    def parts(z):
        """The classes beyond the last whole block are never summed."""
        m = z.max(axis=1, keepdims=True)
        e = np.exp(z - m)
        s = e[:, : max((z.shape[1] - 1) // size * size, 1)].sum(axis=1, keepdims=True)
        return m, np.log(s), e / s

    return parts


def shifted_by(shift):
    def parts(z):
        m = shift(z)
        e = np.exp(z - m)
        s = e.sum(axis=1, keepdims=True)
        return m, np.log(s), e / s

    return parts


def unshifted(z):
    return shifted_by(lambda z: np.zeros((len(z), 1), z.dtype))(z)


def rounded_through(name):
    dtype = getattr(ml_dtypes, name, None) or np.dtype(name)
    return lambda z, batch: z.astype(dtype).astype(z.dtype)


def summed_in(name):
    dtype = getattr(ml_dtypes, name, None) or np.dtype(name)

    def parts(z):
        m = z.max(axis=1, keepdims=True)
        e = np.exp(z - m)
        s = np.zeros((len(z), 1), dtype)
        for column in e.astype(dtype).T:
            s = (s + column[:, None]).astype(dtype)
        s = s.astype(z.dtype)
        return m, np.log(s), e / s

    return parts


def one_maximum_only(z):
    """log1p over the classes that are below the maximum: ties are counted once."""
    m = z.max(axis=1, keepdims=True)
    e = np.where(z == m, 0, np.exp(z - m))
    s = 1 + e.sum(axis=1, keepdims=True)
    return m, np.log(s), np.where(z == m, 1, e) / s


def clamped(losses, z, p, t):
    return (t * -np.log(np.clip(p, 1e-7, 1 - 1e-7))).sum(axis=1)


def never_reads(losses, z, p, t):
    return t.sum(axis=1) * np.log(np.full(len(z), z.shape[1], z.dtype)) + z.dtype.type(0.5) - (t * z).sum(axis=1)


def of_one_hot(t, batch, weight=True):
    """The one-hot target, with its weight or without, and no smoothing."""
    hot = np.zeros_like(t)
    kept = t.any(axis=1)
    hot[kept, batch.target[kept]] = 1
    return hot * batch.options["weight"].astype(t.dtype) if weight and "weight" in batch.options else hot


def smoothed_over_others(t, batch):
    hot, v = of_one_hot(t, batch, weight=False), t.shape[1]
    epsilon = t.dtype.type(batch.options["label_smoothing"])
    spread = np.where(hot > 0, 1 - epsilon, epsilon / (v - 1)) * hot.any(axis=1, keepdims=True)
    return spread * batch.options["weight"].astype(t.dtype) if "weight" in batch.options else spread


def weight_of_target_only(t, batch):
    """Each row's weight is its label's, in the smoothed part too."""
    hot, epsilon = of_one_hot(t, batch, weight=False), t.dtype.type(batch.options["label_smoothing"])
    w = (hot * batch.options["weight"].astype(t.dtype)).sum(axis=1, keepdims=True)
    return w * ((1 - epsilon) * hot + epsilon / t.shape[1] * hot.any(axis=1, keepdims=True))


def mean_over_rows(batch):
    """A weighted mean that divides by the number of rows."""
    output = from_parts(shifted)(batch)
    n = len(batch.logits)
    scale = float(batch.upstream.astype(np.float64)[0]) / n / batch.upstream.astype(np.float64)
    return Output(
        loss=np.asarray(output.loss.sum(dtype=output.loss.dtype) / output.loss.dtype.type(n)),
        gradient=(output.gradient.astype(np.float64) * scale[:, None]).astype(batch.logits.dtype),
    )


def ignored_rows_leave_a_gradient(batch):
    output = from_parts(shifted)(batch)
    ignored = batch.target == batch.options["ignore_index"]
    with np.errstate(over="ignore"):
        p = shifted(batch.logits.astype(arithmetic(batch)))[2].astype(batch.logits.dtype)
    return Output(loss=output.loss, gradient=np.where(ignored[:, None], p, output.gradient))


WIDE, NARROW = ("float64", "float32"), ("float16", "bfloat16")
ALL = WIDE + NARROW
# name → dtypes, the families that show it, the style
WRONG = {
    "last block of 8 dropped": (ALL, ("moderate", "moderate_1000", "uniform"), broken(parts=without_last_block(8))),
    "last block of 128 dropped": (ALL, ("moderate_1000", "masked"), broken(parts=without_last_block(128))),
    "shifted by the mean": (
        ALL,
        ("format_maximum", "masked"),
        broken(parts=shifted_by(lambda z: z.mean(axis=1, keepdims=True))),
    ),
    "shifted by the maximum of the batch": (
        ALL,
        ("underflow_edge", "common_offset"),
        broken(parts=shifted_by(lambda z: np.full((len(z), 1), z.max(), z.dtype))),
    ),
    "not shifted": (ALL, ("overflow_edge",), broken(parts=unshifted)),
    "float32 on float64": (("float64",), ("moderate", "confident"), broken(z=rounded_through("float32"))),
    "float16 on float32": (("float32",), ("moderate", "moderate_8"), broken(z=rounded_through("float16"))),
    "bfloat16 on float32": (("float32",), ("moderate", "moderate_8"), broken(z=rounded_through("bfloat16"))),
    "clamped at 1e-7": (ALL, ("wrong_confident", "wide"), broken(loss=clamped)),
    "log V + 0.5 - x[target]": (ALL, ("moderate", "moderate_1000"), broken(loss=never_reads)),
    "upstream ignored": (ALL, ("moderate", "option_weight"), broken(upstream=np.ones_like)),
    "upstream averaged": (ALL, ("moderate", "option_weight"), broken(upstream=lambda up: np.full_like(up, up.mean()))),
    "upstream's sign lost": (ALL, ("moderate",), broken(upstream=np.abs)),
    "target entry of the gradient lost": (
        ALL,
        ("moderate", "moderate_8"),
        broken(gradient=lambda g, p, t: np.where(t > 0, 0, g)),
    ),
    "gradient entries below 2^-12 zeroed": (
        ALL,
        ("moderate_1000", "recorded/charlm_trained"),
        broken(gradient=lambda g, p, t: np.where(np.abs(g) < 2.0**-12, 0, g)),
    ),
    "softmax for the gradient, target forgotten": (ALL, ("moderate",), broken(gradient=lambda g, p, t: p)),
    "sum in bfloat16": (
        ("bfloat16", "float32"),
        ("uniform_1000", "moderate_1000"),
        broken(parts=summed_in("bfloat16")),
    ),
    "sum in float16": (("float16", "float32"), ("uniform_1000", "moderate_1000"), broken(parts=summed_in("float16"))),
    "target one too far": (ALL, ("moderate", "moderate_2"), broken(t=lambda t, batch: np.roll(t, 1, axis=1))),
    "one maximum only": (ALL, ("ties", "uniform"), broken(parts=one_maximum_only)),
    "logits clamped to 50": (ALL, ("wide", "common_offset"), broken(z=lambda z, batch: np.clip(z, -50, 50))),
    "smoothing dropped": (ALL, ("option_label_smoothing", "options_combined"), broken(t=of_one_hot)),
    "smoothing over the others": (ALL, ("option_label_smoothing", "options_combined"), broken(t=smoothed_over_others)),
    "weights dropped": (ALL, ("option_weight",), broken(t=lambda t, batch: of_one_hot(t, batch, weight=False))),
    "weights squared": (ALL, ("option_weight",), broken(t=lambda t, batch: t * t)),
    "smoothed classes weighted by the target": (ALL, ("options_combined",), broken(t=weight_of_target_only)),
    "largest target class taken for all": (
        ALL,
        ("soft_targets", "soft_targets_nearly_one_hot"),
        broken(t=lambda t, batch: np.eye(t.shape[1], dtype=t.dtype)[t.argmax(axis=1)]),
    ),
    "soft targets' sum taken for one": (ALL, ("soft_targets_unnormalised",), broken(gradient=lambda g, p, t: p - t)),
    "ignored rows leave a gradient": (
        ALL,
        ("option_ignore_index", "option_ignore_index_inside"),
        ignored_rows_leave_a_gradient,
    ),
    "weighted mean over the rows": (ALL, ("option_weight",), mean_over_rows),
}


# ------------------------------------------------------------------------------------------------------- wrong, binary


def broken_binary(*, softplus=None, weights=None, upstream=None, gradient=None, z=None):
    """The stable binary form with one of its steps replaced."""

    def stable(x):
        return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))

    def style(batch):
        wide = arithmetic(batch)
        x, t, up = batch.logits.astype(wide), batch.target.astype(wide), batch.upstream.astype(wide)
        w = batch.options.get("weight", np.ones(())).astype(wide)
        c = batch.options.get("pos_weight", np.ones(())).astype(wide)
        with np.errstate(all="ignore"):
            x = x if z is None else z(x)
            a, b = (w * c * t, w * (1 - t)) if weights is None else weights(w, c, t)
            f = softplus or stable
            losses = np.where(a > 0, a * f(-x), 0) + np.where(b > 0, b * f(x), 0)
            e = np.exp(-np.abs(x))
            near, far = 1 / (1 + e), e / (1 + e)
            g = b * np.where(x >= 0, near, far) - a * np.where(x >= 0, far, near)
            g = g if gradient is None else gradient(g, x)
            return finished(batch, losses, (up if upstream is None else upstream(up)) * g)

    return style


WRONG_BINARY = {
    "log(1 + exp(x))": (ALL, ("overflow_edge", "wide"), broken_binary(softplus=lambda x: np.log(1 + np.exp(x)))),
    "log of a clamped sigmoid": (
        ALL,
        ("wrong_confident",),
        broken_binary(softplus=lambda x: -np.log(np.clip(1 / (1 + np.exp(x)), 1e-7, 1))),
    ),
    "pos_weight dropped": (ALL, ("option_pos_weight",), broken_binary(weights=lambda w, c, t: (w * t, w * (1 - t)))),
    "pos_weight on both terms": (
        ALL,
        ("option_pos_weight",),
        broken_binary(weights=lambda w, c, t: (w * c * t, w * c * (1 - t))),
    ),
    "weight dropped": (ALL, ("option_weight",), broken_binary(weights=lambda w, c, t: (c * t, 1 - t))),
    "targets rounded": (ALL, ("moderate",), broken_binary(weights=lambda w, c, t: (np.rint(t), 1 - np.rint(t)))),
    "upstream ignored, binary": (ALL, ("moderate",), broken_binary(upstream=np.ones_like)),
    "gradient zero beyond 20": (
        ALL,
        ("wrong_confident",),
        broken_binary(gradient=lambda g, x: np.where(np.abs(x) > 20, 0, g)),
    ),
    "float32 on float64, binary": (
        ("float64",),
        ("moderate",),
        broken_binary(z=lambda x: x.astype(np.float32).astype(x.dtype)),
    ),
    "bfloat16 on float32, binary": (
        ("float32",),
        ("moderate",),
        broken_binary(z=lambda x: x.astype(ml_dtypes.bfloat16).astype(x.dtype)),
    ),
}
