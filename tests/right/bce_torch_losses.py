"""Right binary cross-entropies with logits in torch."""

import torch
import torch.nn.functional as F


def _wide(x):
    return x.float() if x.itemsize == 2 else x


def one_liner(logits, target, *, weight=None, pos_weight=None, reduction="mean"):
    return F.binary_cross_entropy_with_logits(logits, target, weight, pos_weight=pos_weight, reduction=reduction)


class Module(torch.nn.Module):
    """The options go to the constructor."""

    def __init__(self, weight=None, reduction="mean", pos_weight=None):
        super().__init__()
        self.loss = torch.nn.BCEWithLogitsLoss(weight=weight, reduction=reduction, pos_weight=pos_weight)

    def forward(self, logits, target):
        return self.loss(logits, target)


class _Stable(torch.autograd.Function):
    """Each term from its own softplus, the gradient from both sigmoids: nothing cancels."""

    @staticmethod
    def forward(ctx, x, positive, negative):
        tail = torch.log1p(torch.exp(-x.abs()))
        ctx.save_for_backward(x, positive, negative)
        return positive * ((-x).clamp(min=0) + tail) + negative * (x.clamp(min=0) + tail)

    @staticmethod
    def backward(ctx, upstream):
        x, positive, negative = ctx.saved_tensors
        return upstream * (negative * torch.sigmoid(x) - positive * torch.sigmoid(-x)), None, None


def both_softplus(logits, target, *, weight=None, pos_weight=None, reduction="mean"):
    x, t = _wide(logits), _wide(target)
    w = 1.0 if weight is None else _wide(weight)
    p = 1.0 if pos_weight is None else _wide(pos_weight)
    loss = _Stable.apply(x, w * p * t, w * (1 - t))
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.mean()


def by_log_sigmoid(logits, target):
    x, t = _wide(logits), _wide(target)
    return -(t * F.logsigmoid(x) + (1 - t) * F.logsigmoid(-x))


def by_logaddexp(logits, target, *, reduction="mean"):
    x, t = _wide(logits), _wide(target)
    loss = torch.logaddexp(x, torch.zeros_like(x)) - t * x
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.mean()


def mean_only(logits, target):
    return F.binary_cross_entropy_with_logits(_wide(logits), _wide(target))


EXPECT = {
    "one_liner": {
        "style": "F.binary_cross_entropy_with_logits",
        "options": {"loss": "binary_cross_entropy_with_logits"},
    },
    "Module": {"style": "nn.Module class", "options": {"loss": "binary_cross_entropy_with_logits"}},
    "both_softplus": {
        "style": "log1p for both terms and a backward of its own",
        "options": {"loss": "binary_cross_entropy_with_logits"},
    },
    "by_log_sigmoid": {"style": "two logsigmoids", "options": {"loss": "binary_cross_entropy_with_logits"}},
    "by_logaddexp": {"style": "logaddexp minus t·x", "options": {"loss": "binary_cross_entropy_with_logits"}},
    "mean_only": {
        "style": "a scalar mean, no options",
        "options": {"loss": "binary_cross_entropy_with_logits"},
    },
}
