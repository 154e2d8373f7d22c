"""Right cross-entropies in torch, as strangers hand them in: objects, partials, transforms, borrowed arithmetic."""

import functools
import logging
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

_log = logging.getLogger(__name__)


def _up(logits):
    return logits.float() if logits.itemsize == 2 else logits


def _row(logits, label):
    return torch.logsumexp(logits, 0) - logits.gather(0, label[None])[0]


class _Transformed(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(logits, target):
        gradient, loss = torch.func.vmap(torch.func.grad_and_value(_row))(_up(logits), target)
        return loss, gradient

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx, upstream, _):
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[:, None], None


def by_grad_and_value(logits, target):
    return _Transformed.apply(logits, target)[0]


class _InChunks(torch.autograd.Function):
    """As fused kernels have it: the mean, its gradient made by the forward on a copy, a few rows at a time."""

    @staticmethod
    def forward(ctx, logits, target, weight, ignore_index, smoothing):
        rows, classes = logits.shape
        kept = target != ignore_index
        w = torch.ones_like(_up(logits[:1]))[0] if weight is None else _up(weight)
        denominator, total = w[target[kept]].sum(), 0.0
        gradient = torch.zeros_like(logits, memory_format=torch.contiguous_format)
        for start in range(0, rows, 8):
            some = torch.arange(start, min(start + 8, rows))[kept[start : start + 8]]
            z, y = _up(logits[some]), target[some][:, None]
            lse = torch.logsumexp(z, 1, keepdim=True)
            mass = (w * (smoothing / classes)).expand_as(z).scatter_add(1, y, (1 - smoothing) * w[y])
            total += torch.where(mass == 0, 0.0, mass * (lse - z)).sum()
            gradient[some] = ((mass.sum(1, keepdim=True) * (z - lse).exp() - mass) / denominator).to(gradient.dtype)
        ctx.save_for_backward(gradient)
        return total / denominator

    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None, None, None


def mean_in_chunks(logits, target, weight=None, ignore_index=-100, label_smoothing=0.0):
    return _InChunks.apply(logits, target, weight, ignore_index, label_smoothing)


class _Borrowed(torch.autograd.Function):
    """The arithmetic is NumPy's, in float64."""

    @staticmethod
    def forward(ctx, logits, target):
        z, rows = logits.detach().double().numpy(), np.arange(len(target))
        top = z.max(1, keepdims=True)
        e = np.exp(z - top)
        total = e.sum(1, keepdims=True)
        gradient = e / total
        gradient[rows, target.numpy()] -= 1
        ctx.gradient = torch.from_numpy(gradient)
        loss = (np.log(total) + top)[:, 0] - z[rows, target.numpy()]
        return torch.from_numpy(loss).to(torch.promote_types(logits.dtype, torch.float32))

    @staticmethod
    def backward(ctx, upstream):
        return ctx.gradient * upstream.double()[:, None], None


def in_numpy(logits, target):
    return _Borrowed.apply(logits, target)


class _OnlyTheSum(torch.autograd.Function):
    """Saves the log-sum-exp alone; forward and backward write to buffers, four rows at a time."""

    @staticmethod
    def forward(ctx, logits, target):
        with torch.no_grad():
            lse = logits.new_empty(len(logits), dtype=torch.promote_types(logits.dtype, torch.float32))
            for some in torch.arange(len(logits)).split(4):
                lse[some] = torch.logsumexp(logits[some].to(lse.dtype), -1)
        ctx.save_for_backward(logits, target, lse)
        return lse - logits.gather(1, target[:, None]).squeeze(1).to(lse.dtype)

    @staticmethod
    def backward(ctx, upstream):
        logits, target, lse = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for some in torch.arange(len(logits)).split(4):
            p = (logits[some].to(lse.dtype) - lse[some, None]).exp()
            p.scatter_add_(1, target[some, None], -torch.ones_like(p[:, :1]))
            gradient[some] = (p * upstream[some, None]).to(gradient.dtype)
        return gradient, None


def only_the_sum_saved(logits, target):
    return _OnlyTheSum.apply(logits, target)


def by_kl_div(logits, target, *, label_smoothing=0.0):
    logp = F.log_softmax(_up(logits), 1)
    q = F.one_hot(target, logits.shape[1]).to(logp.dtype) * (1 - label_smoothing) + label_smoothing / logits.shape[1]
    logp = torch.where(q == 0, 0.0, logp)
    return F.kl_div(logp, q, reduction="none").sum(1) + torch.special.entr(q).sum(1)


def sums_by_matrix_products(logits, target):
    z = _up(logits)
    top = z.detach().amax(1, keepdim=True)
    ones = z.new_ones(z.shape[1])
    return torch.log(torch.exp(z - top) @ ones) + (top - z.gather(1, target[:, None]))[:, 0]


_told = []


def tells_of_itself(logits, target, reduction: str = "mean", **kwargs):
    if not _told:
        warnings.warn("this is the first call", UserWarning, stacklevel=2)
        _told.append(True)
    _log.warning("a loss of %s", tuple(logits.shape))
    from scipy.special import logsumexp  # noqa: F401

    workspace = torch.empty(64, 1 << 14)
    workspace.zero_()
    wide = torch.promote_types(logits.dtype, torch.float32)
    return F.nll_loss(F.log_softmax(logits, -1, dtype=wide), target, reduction=reduction)


def options_without_defaults(logits, target, ignore_index, reduction):
    return F.cross_entropy(_up(logits), target, ignore_index=ignore_index, reduction=reduction)


class ClassWithoutDefaults(nn.Module):
    """What torch has for defaults is given to its constructor."""

    def __init__(self, weight, label_smoothing):
        super().__init__()
        self.register_buffer("weight", None if weight is None else _up(weight))
        self.loss = nn.CrossEntropyLoss(self.weight, label_smoothing=label_smoothing, reduction="none")

    def forward(self, logits, target):
        return self.loss(_up(logits), target)


def _with_options(logits, target, ignore_index=-100, reduction="mean"):
    return F.cross_entropy(_up(logits), target, ignore_index=ignore_index, reduction=reduction)


class _Counting:
    def __init__(self):
        self.calls, self.rows = 0, {}

    def __call__(self, logits, target, *, label_smoothing=0.0):
        self.calls += 1
        rows = self.rows.setdefault(len(target), torch.arange(len(target)))
        logp = F.log_softmax(_up(logits), -1)
        loss = -logp[rows, target]
        return (1 - label_smoothing) * loss - label_smoothing * logp.mean(-1) if label_smoothing else loss


@torch.compile
def _compiled(logits, target):
    return F.cross_entropy(_up(logits), target, reduction="none")


def compiled_for_each_shape(logits, target):
    return _compiled(logits, target)


partly_applied = functools.partial(_with_options, reduction="none")
an_object = _Counting()
an_instance = nn.CrossEntropyLoss()

EXPECT = {
    "by_grad_and_value": {"style": "torch.func.vmap of grad_and_value, setup_context"},
    "mean_in_chunks": {"style": "the mean only, with options; its gradient made by the forward, in chunks of rows"},
    "in_numpy": {"style": "autograd.Function, float64 arithmetic of NumPy's"},
    "only_the_sum_saved": {"style": "autograd.Function that saves the log-sum-exp only, chunks of rows"},
    "by_kl_div": {"style": "kl_div plus the target's entropy"},
    "sums_by_matrix_products": {"style": "sums as products with a vector of ones"},
    "tells_of_itself": {"style": "logs, warns once, imports when called, has a workspace, **kwargs"},
    "options_without_defaults": {"style": "options that have no defaults"},
    "ClassWithoutDefaults": {"style": "nn.Module class whose options have no defaults"},
    "partly_applied": {"style": "functools.partial"},
    "an_object": {"style": "an object with __call__ that counts its calls"},
    "compiled_for_each_shape": {
        "style": "torch.compile, first for one shape and then for any: other last bits in a fresh process",
        "options": {"dtypes": ["float32"], "timeout": 120.0},
        "deviation": "repeated_backward",
    },
    "an_instance": {
        "style": "an instance of nn.CrossEntropyLoss",
        "options": {"dtypes": ["float32", "bfloat16", "float64"]},
        "deviation": "target_gradient_lost",
    },
}
