"""Right cross-entropies in torch, written by hand: eager, chunked, and with a backward of their own."""

import math

import torch
from torch.autograd.function import once_differentiable


def _wide(logits):
    return logits.float() if logits.itemsize == 2 else logits


def log1p_of_the_rest(logits, target):
    z = _wide(logits)
    m, first = z.detach().max(1, keepdim=True)
    relative = z - m
    leader = torch.arange(z.shape[1]) == first
    rest = torch.where(leader, torch.expm1(relative), torch.exp(relative)).sum(1)  # 0 there, with derivative 1
    return torch.log1p(rest) - relative.gather(1, target[:, None])[:, 0]


def softmax_from_the_rest(logits, target):
    return _FromTheRest.apply(logits, target)


class _FromTheRest(torch.autograd.Function):
    """Nothing is subtracted that cancels: log1p of the rest, and for the target's gradient minus the others' sum."""

    @staticmethod
    def forward(ctx, logits, target):
        z = _wide(logits)
        m, first = z.max(1, keepdim=True)
        e = torch.exp(z - m)
        rest = e.scatter(1, first, 0.0).sum(1)
        ctx.save_for_backward(e / (1 + rest)[:, None], target)
        return torch.log1p(rest) + (m - z.gather(1, target[:, None]))[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        p, target = ctx.saved_tensors
        others = p.scatter(1, target[:, None], 0.0)
        gradient = others.scatter(1, target[:, None], -others.sum(1, keepdim=True))
        return gradient * upstream[:, None], None


def online_over_classes(logits, target):
    z = _wide(logits)
    m = torch.full_like(z[:, :1], -math.inf)
    s = torch.zeros_like(m)
    for start in range(0, z.shape[1], 1024):
        block = z[:, start : start + 1024]
        new = torch.maximum(m, block.detach().amax(1, keepdim=True))
        safe = torch.where(torch.isinf(new), 0.0, new)  # so far everything is masked
        s = s * torch.exp(m - safe) + torch.exp(block - safe).sum(1, keepdim=True)
        m = new
    return (m - z.gather(1, target[:, None]) + torch.log(s))[:, 0]


def chunked_over_rows(logits, target, *, ignore_index=-100, reduction="mean"):
    if len(logits) == 0:
        rows = logits.sum(1)
    else:
        chunks = zip(logits.split(16), target.split(16), strict=True)
        rows = torch.cat(
            [
                torch.nn.functional.cross_entropy(_wide(z), y, ignore_index=ignore_index, reduction="none")
                for z, y in chunks
            ]
        )
    if reduction == "none":
        return rows
    return rows.sum() if reduction == "sum" else rows.sum() / (target != ignore_index).sum()


class _Saved(torch.autograd.Function):
    """The gradient is computed in the forward and scaled in the backward, as fused kernels do."""

    @staticmethod
    def forward(ctx, logits, target):
        z = _wide(logits)
        logp = torch.log_softmax(z, 1)
        gradient = torch.exp(logp)
        gradient.scatter_add_(1, target[:, None], -torch.ones_like(target[:, None], dtype=z.dtype))
        ctx.save_for_backward(gradient)
        return -logp.gather(1, target[:, None])[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[:, None], None


def gradient_saved(logits, target):
    return _Saved.apply(logits, target)


class _Recomputed(torch.autograd.Function):
    """The backward recomputes the softmax from the logits and the log-sum-exp."""

    @staticmethod
    def forward(ctx, logits, target):
        z = _wide(logits)
        lse = torch.logsumexp(z, 1)
        ctx.save_for_backward(logits, target, lse)
        return lse - z.gather(1, target[:, None])[:, 0]

    @staticmethod
    def backward(ctx, upstream):
        logits, target, lse = ctx.saved_tensors
        gradient = torch.exp(_wide(logits) - lse[:, None])
        gradient[torch.arange(len(target)), target] -= 1
        return gradient * upstream[:, None], None


def softmax_recomputed(logits, target):
    return _Recomputed.apply(logits, target)


class _ReadModifyWrite(torch.autograd.Function):
    """Probabilities are stored in the input's format, and 1 is taken from them there, as torch's CPU kernel does."""

    @staticmethod
    def forward(ctx, logits, target):
        logp = torch.log_softmax(_wide(logits), 1)
        ctx.save_for_backward(torch.exp(logp).to(logits.dtype), target)
        return -logp.gather(1, target[:, None])[:, 0]

    @staticmethod
    def backward(ctx, upstream):
        p, target = ctx.saved_tensors
        gradient = p.clone()
        gradient[torch.arange(len(target)), target] -= 1
        return gradient * upstream[:, None].to(p.dtype), None


def target_stored_in_16_bits(logits, target):
    return _ReadModifyWrite.apply(logits, target)


def one_hot_by_einsum(logits, target):
    z = _wide(logits)
    shifted = z - z.detach().amax(1, keepdim=True)
    one_hot = torch.nn.functional.one_hot(target, z.shape[1]).to(z.dtype)
    alone = shifted.masked_fill(one_hot == 0, 0.0)  # 0 · -inf is NaN
    return torch.log(torch.exp(shifted).sum(1)) - torch.einsum("nv,nv->n", one_hot, alone)


def options_by_hand(logits, target, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    z = _wide(logits)
    ignored = target == ignore_index
    label = target.masked_fill(ignored, 0)
    logp = torch.log_softmax(z.masked_fill(ignored[:, None], 0.0), 1)
    w = torch.ones_like(z[0]) if weight is None else weight.to(z.dtype)
    rows = -w[label] * logp.gather(1, label[:, None])[:, 0]
    if label_smoothing:
        uniform = -(w * logp).sum(1) / z.shape[1]
        rows = (1 - label_smoothing) * rows + label_smoothing * uniform
    rows = torch.where(ignored, 0.0, rows)
    if reduction == "none":
        return rows
    return rows.sum() if reduction == "sum" else rows.sum() / w[label].masked_fill(ignored, 0.0).sum()


def probabilities_by_hand(logits, target, *, weight=None, label_smoothing=0.0, reduction="mean"):
    z = _wide(logits)
    q = target.to(z.dtype) * (1 - label_smoothing) + label_smoothing / z.shape[1]
    t = q if weight is None else q * weight.to(z.dtype)
    logp = torch.log_softmax(z, 1)
    rows = -torch.where(t == 0, 0.0, t * torch.where(t == 0, 0.0, logp)).sum(1)
    if reduction == "none":
        return rows
    return rows.sum() if reduction == "sum" else rows.mean()


def probabilities_that_sum_to_one(logits, target):
    z = _wide(logits)
    q = target.to(z.dtype)
    return torch.logsumexp(z, 1) - torch.where(q == 0, 0.0, q * torch.where(q == 0, 0.0, z)).sum(1)


EXPECT = {
    "log1p_of_the_rest": {"style": "log1p of the sum without its largest term"},
    "softmax_from_the_rest": {"style": "log1p, and a target gradient without cancellation; once_differentiable"},
    "online_over_classes": {"style": "chunked over the classes, running maximum"},
    "chunked_over_rows": {"style": "chunked over the rows, ignore_index and reduction"},
    "gradient_saved": {"style": "autograd.Function, gradient saved by the forward; once_differentiable"},
    "softmax_recomputed": {"style": "autograd.Function, softmax recomputed by the backward"},
    "target_stored_in_16_bits": {
        "style": "probabilities kept in bfloat16",
        "options": {"dtypes": ["bfloat16"]},
        "deviation": "target_gradient_lost",
    },
    "one_hot_by_einsum": {"style": "one-hot and einsum"},
    "options_by_hand": {"style": "every option by masked_fill and where"},
    "probabilities_by_hand": {"style": "probabilities by hand", "options": {"target": "probabilities"}},
    "probabilities_that_sum_to_one": {
        "style": "probabilities that are taken to sum to one",
        "options": {"target": "probabilities"},
        "deviation": "unnormalised_targets",
    },
}
