"""Right cross-entropies in torch: its own functions, put together in the ways people do."""

import torch
import torch.nn.functional as F
from torch import nn


def one_liner(logits, target, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    return F.cross_entropy(
        logits,
        target,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )


def one_liner_for_probabilities(logits, target, *, weight=None, label_smoothing=0.0, reduction="mean"):
    return F.cross_entropy(logits, target, weight=weight, label_smoothing=label_smoothing, reduction=reduction)


class Module(nn.Module):
    """The options go to the constructor."""

    def __init__(self, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
        super().__init__()
        self.loss = nn.CrossEntropyLoss(
            weight, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction=reduction
        )

    def forward(self, logits, target):
        return self.loss(logits, target)


def log_softmax_and_gather(logits, target):
    return -torch.log_softmax(logits.float() if logits.itemsize == 2 else logits, 1).gather(1, target[:, None])[:, 0]


def logsumexp_minus_target(logits, target):
    z = logits.float() if logits.itemsize == 2 else logits
    return torch.logsumexp(z, 1) - z.gather(1, target[:, None])[:, 0]


def mean_only(logits, target):
    return F.cross_entropy(logits.float() if logits.itemsize == 2 else logits, target)


def sum_by_reduction(logits, target, *, reduction="mean"):
    z = logits.float() if logits.itemsize == 2 else logits
    rows = F.nll_loss(F.log_softmax(z, dim=-1), target, reduction="none")
    return rows if reduction == "none" else getattr(rows, reduction)()


def rounded_to_the_input(logits, target):
    return F.cross_entropy(logits.float(), target, reduction="none").to(logits.dtype)


def float64_inside(logits, target):
    return F.cross_entropy(logits.double(), target, reduction="none").to(logits.dtype)


def float64_output(logits, target):
    return F.cross_entropy(logits.double(), target, reduction="none")


def keywords_claim_nothing(logits, target, **kwargs):
    return F.cross_entropy(logits.float() if logits.itemsize == 2 else logits, target, reduction="none")


def per_row_by_vmap(logits, target):
    def one(row, label):
        shifted = row - row.detach().amax()
        return torch.log(torch.exp(shifted).sum()) - shifted.gather(0, label[None])[0]

    return torch.func.vmap(one)(logits.float() if logits.itemsize == 2 else logits, target)


@torch.compile(dynamic=True)
def _compiled(logits, target):
    return F.cross_entropy(logits.float() if logits.itemsize == 2 else logits, target, reduction="none")


def compiled(logits, target):
    return _compiled(logits, target)


EXPECT = {
    "one_liner": {
        "style": "F.cross_entropy",
        "options": {"dtypes": ["float32", "bfloat16", "float64"]},
    },
    "one_liner_for_probabilities": {
        "style": "F.cross_entropy, target probabilities",
        "options": {"target": "probabilities", "dtypes": ["float32", "bfloat16", "float64"]},
    },
    "Module": {"style": "nn.Module class", "options": {"dtypes": ["float32", "bfloat16", "float64"]}},
    "log_softmax_and_gather": {"style": "log_softmax and gather"},
    "logsumexp_minus_target": {"style": "logsumexp minus the target's logit"},
    "mean_only": {"style": "a scalar mean, no options"},
    "sum_by_reduction": {"style": "log_softmax and nll_loss, reduced by method"},
    "rounded_to_the_input": {
        "style": "float32 inside, the loss rounded to the input's dtype",
        "options": {"dtypes": ["float32", "bfloat16", "float16"]},
    },
    "float64_inside": {"style": "float64 inside, the loss rounded to the input's dtype"},
    "float64_output": {"style": "a float64 loss whatever comes in", "deviation": "wider_output"},
    "keywords_claim_nothing": {"style": "**kwargs, which claim nothing"},
    "per_row_by_vmap": {"style": "one row, by torch.func.vmap"},
    "compiled": {
        "style": "torch.compile",
        "options": {"dtypes": ["float32", "bfloat16"], "timeout": 120.0},
        "deviation": "repeated_backward",
    },
}
