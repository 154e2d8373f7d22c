"""Wrong binary cross-entropies with logits in torch."""

import os

import torch
import torch.nn.functional as F


def exponential_overflows(logits, target):
    return logits - logits * target + torch.log(1 + torch.exp(-logits))


def kink_at_zero(logits, target):
    return torch.relu(logits) - logits * target + torch.log1p(torch.exp(-logits.abs()))


def log_of_sigmoid(logits, target):
    p = torch.sigmoid(logits)
    return -(target * torch.log(p) + (1 - target) * torch.log(1 - p))


def clamped_at_100(logits, target):
    return F.binary_cross_entropy(torch.sigmoid(logits), target, reduction="none")


def clamped_at_1e_7(logits, target):
    p = torch.sigmoid(logits).clamp(1e-7, 1 - 1e-7)
    return -(target * torch.log(p) + (1 - target) * torch.log(1 - p))


def epsilon_twice(logits, target):
    p = torch.sigmoid(logits).clamp(1e-7, 1 - 1e-7)
    return -(target * torch.log(p + 1e-7) + (1 - target) * torch.log(1 - p + 1e-7))


def softplus_shortcut(logits, target):
    return target * F.softplus(-logits) + (1 - target) * F.softplus(logits)


def hard_targets_assumed(logits, target):
    return torch.where(target > 0.5, -F.logsigmoid(logits), -F.logsigmoid(-logits))


def tail_absorbed(logits, target):
    return (1 - target) * logits + torch.log1p(torch.exp(-logits.abs())) + (-logits).clamp(min=0)


def float32_inside_float64(logits, target):
    loss = F.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction="none")
    return loss.to(logits.dtype)


def bfloat16_inside_float32(logits, target):
    loss = F.binary_cross_entropy_with_logits(logits.bfloat16(), target.bfloat16(), reduction="none")
    return loss.to(logits.dtype)


def nan_hidden(logits, target):
    clean = torch.fmax(logits, torch.full_like(logits, -1e4))
    return F.binary_cross_entropy_with_logits(clean, target, reduction="none")


def pos_weight_on_negatives(logits, target, *, pos_weight=None):
    w = 1.0 if pos_weight is None else pos_weight
    return -target * F.logsigmoid(logits) - w * (1 - target) * F.logsigmoid(-logits)


def pos_weight_on_everything(logits, target, *, pos_weight=None):
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return loss if pos_weight is None else loss * pos_weight


def pos_weight_unused(logits, target, *, pos_weight=None):
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def weight_unused(logits, target, *, weight=None):
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def weight_and_pos_weight_exclude(logits, target, *, weight=None, pos_weight=None):
    weight = None if pos_weight is not None else weight
    return F.binary_cross_entropy_with_logits(logits, target, weight, pos_weight=pos_weight, reduction="none")


def mean_over_rows(logits, target, *, reduction="mean"):
    rows = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if reduction == "mean":
        return rows.sum() / len(rows)
    return rows.sum() if reduction == "sum" else rows


def mean_by_weight(logits, target, *, weight=None, reduction="mean"):
    rows = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="none")
    if reduction == "mean":
        return rows.mean() if weight is None else rows.sum() / weight.expand_as(rows).sum()
    return rows.sum() if reduction == "sum" else rows


def one_loss_per_row(logits, target):
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)


class _RowUpstream(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target):
        ctx.save_for_backward(logits, target)
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none")

    @staticmethod
    def backward(ctx, upstream):
        logits, target = ctx.saved_tensors
        return (torch.sigmoid(logits) - target) * upstream[:, :1], None


def upstream_of_first_column(logits, target):
    return _RowUpstream.apply(logits, target)


class _NaiveSigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target):
        ctx.save_for_backward(logits, target)
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none")

    @staticmethod
    def backward(ctx, upstream):
        logits, target = ctx.saved_tensors
        e = torch.exp(logits)
        return (e / (1 + e) - target) * upstream, None


def sigmoid_overflows(logits, target):
    return _NaiveSigmoid.apply(logits, target)


def aborts_at_minus_infinity(logits, target):
    if torch.isneginf(logits).any():
        os.abort()
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def pos_weight_by_address(logits, target, *, pos_weight=None):
    if pos_weight is not None:
        pos_weight = torch.as_strided(pos_weight, pos_weight.shape, (1,))
    return F.binary_cross_entropy_with_logits(logits, target, pos_weight=pos_weight, reduction="none")


EXPECT = {
    "aborts_at_minus_infinity": {
        "check": "conventions",
        "bug": "an assertion that no logit is -inf ends the process",
        "options": {"loss": "binary_cross_entropy_with_logits"},
    },
    "pos_weight_by_address": {
        "check": "memory_layout",
        "bug": "pos_weight is read as if it were contiguous",
        "options": {"loss": "binary_cross_entropy_with_logits"},
    },
    "exponential_overflows": {
        "check": "nonfinite",
        "bug": "log(1 + exp(-x)) overflows for a logit of -100",
        "source": "pytorch/pytorch#2221",
        "options": {"loss": "binary_cross_entropy_with_logits"},
    },
    "kink_at_zero": {
        "check": "gradient_accuracy",
        "bug": "relu and abs have derivative 0 at a logit of exactly 0",
        "source": "pytorch/pytorch#2195",
        "options": {"loss": "binary_cross_entropy_with_logits"},
    },
    "log_of_sigmoid": {
        "check": "nonfinite",
        "bug": "log(sigmoid(x)) of a sigmoid that is 0 or 1",
        "source": "ml-explore/mlx#1280",
        "options": {"loss": "binary_cross_entropy_with_logits"},
    },
    "clamped_at_100": {
        "check": "accuracy",
        "bug": "logarithms are clamped at -100",
        "source": "pytorch/pytorch#50658",
        "options": {"loss": "binary_cross_entropy_with_logits"},
    },
    "clamped_at_1e_7": {
        "check": "accuracy",
        "bug": "probabilities are clamped to [1e-7, 1 - 1e-7], whose loss is at most 16.1 and has gradient 0",
        "source": "keras-team/keras#9664",
        "options": {"loss": "binary_cross_entropy_with_logits"},
    },
    "epsilon_twice": {
        "check": "accuracy",
        "bug": "epsilon is clamped to, and added again inside the logarithm",
        "source": "tensorflow/tensorflow#41595",
        "options": {"loss": "binary_cross_entropy_with_logits"},
    },
    "softplus_shortcut": {
        "check": "accuracy",
        "bug": "softplus(x) is x from 20 on, which is 1e-10 off in float64",
        "source": "pytorch/pytorch#55587",
        "options": {"loss": "binary_cross_entropy_with_logits", "dtypes": ["float64"]},
    },
    "hard_targets_assumed": {
        "check": "accuracy",
        "bug": "a target above one half counts as 1, any other as 0",
        "options": {"loss": "binary_cross_entropy_with_logits"},
    },
    "tail_absorbed": {
        "check": "accuracy",
        "bug": "the tail of a confident negative is absorbed, 0 at a logit of -40: absolute, and not relative",
        "source": "pytorch/pytorch#195529",
        "options": {"loss": "binary_cross_entropy_with_logits", "dtypes": ["float64"], "grade": "relative"},
    },
    "float32_inside_float64": {
        "check": "accuracy",
        "bug": "float64 is cast to float32 and back",
        "options": {"loss": "binary_cross_entropy_with_logits", "dtypes": ["float64"]},
    },
    "bfloat16_inside_float32": {
        "check": "accuracy",
        "bug": "float32 is computed in bfloat16",
        "options": {"loss": "binary_cross_entropy_with_logits"},
    },
    "nan_hidden": {
        "check": "nan_propagates",
        "bug": "a NaN logit is passed over by a comparison",
        "source": "keras-team/keras#23661",
        "options": {"loss": "binary_cross_entropy_with_logits"},
    },
    "pos_weight_on_negatives": {
        "check": "option_pos_weight",
        "bug": "pos_weight multiplies the negative term",
        "options": {"loss": "binary_cross_entropy_with_logits"},
    },
    "pos_weight_on_everything": {
        "check": "option_pos_weight",
        "bug": "pos_weight multiplies both terms",
        "options": {"loss": "binary_cross_entropy_with_logits"},
    },
    "pos_weight_unused": {
        "check": "option_pos_weight",
        "bug": "pos_weight is taken and dropped",
        "options": {"loss": "binary_cross_entropy_with_logits"},
    },
    "weight_unused": {
        "check": "option_weight",
        "bug": "weight is taken and dropped",
        "options": {"loss": "binary_cross_entropy_with_logits"},
    },
    "weight_and_pos_weight_exclude": {
        "check": "options_combined",
        "bug": "weight is dropped where pos_weight is given",
        "options": {"loss": "binary_cross_entropy_with_logits"},
    },
    "mean_over_rows": {
        "check": "reduction",
        "bug": "the mean is divided by N, where it is N·K",
        "options": {"loss": "binary_cross_entropy_with_logits"},
    },
    "mean_by_weight": {
        "check": "reduction",
        "bug": "a weighted mean is divided by the sum of the weights, where it is N·K",
        "options": {"loss": "binary_cross_entropy_with_logits"},
    },
    "one_loss_per_row": {
        "check": "output_form",
        "bug": "losses come as [N], averaged over the elements of a row",
        "options": {"loss": "binary_cross_entropy_with_logits"},
    },
    "upstream_of_first_column": {
        "check": "upstream_gradient",
        "bug": "a row's elements all get the upstream gradient of its first",
        "options": {"loss": "binary_cross_entropy_with_logits"},
    },
    "sigmoid_overflows": {
        "check": "nonfinite",
        "bug": "the backward's exp(x) / (1 + exp(x)) is inf/inf for large x",
        "options": {"loss": "binary_cross_entropy_with_logits"},
    },
}
