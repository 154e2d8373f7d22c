"""Wrong cross-entropies in torch: each shows on one kind of target, or of tie, and on nothing else."""

import torch


def _log_p(logits):
    return logits - torch.logsumexp(logits, 1, keepdim=True)


def small_probabilities_dropped(logits, target):
    kept = torch.where(target < 1e-6, 0.0, target)
    return -torch.where(kept == 0, 0.0, kept * _log_p(logits)).sum(1)


def sum_of_target_taken_for_one(logits, target):
    return torch.logsumexp(logits, 1) - torch.where(target == 0, 0.0, target * logits).sum(1)


def two_largest_probabilities(logits, target):
    top = target.topk(min(2, target.shape[1]), dim=1)
    return -torch.where(top.values == 0, 0.0, top.values * _log_p(logits).gather(1, top.indices)).sum(1)


def divergence_plus_entropy(logits, target):
    entropy = -(target * target.log()).sum(1)
    return (target * (target.log() - _log_p(logits))).sum(1) + entropy


def weights_miss_smoothed_probabilities(logits, target, *, weight=None, label_smoothing=0.0):
    logp, classes = _log_p(logits), logits.shape[1]
    weighted = target if weight is None else target * weight
    rows = -(1 - label_smoothing) * torch.where(weighted == 0, 0.0, weighted * logp).sum(1)
    return rows - label_smoothing / classes * logp.sum(1) if label_smoothing else rows


def negative_ignore_index_forgotten(logits, target, *, ignore_index=-100):
    kept = target != ignore_index if ignore_index >= 0 else torch.ones_like(target, dtype=torch.bool)
    rows = -_log_p(logits).gather(1, target.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
    return torch.where(kept, rows, 0.0)


def maximum_in_half(logits, target):
    leader = logits.argmax(1, keepdim=True)
    rounded = logits.gather(1, leader).half().to(logits.dtype).detach()
    top = torch.where(rounded.isfinite(), rounded, logits.gather(1, leader).detach())
    rest = torch.exp(logits - top).scatter(1, leader, 0.0)  # the leader's own term is taken for 1
    return (top - logits.gather(1, target[:, None]))[:, 0] + torch.log1p(rest.sum(1))


EXPECT = {
    "small_probabilities_dropped": {
        "check": "gradient_accuracy",  # the loss stays within what it may lose, mostly
        "bug": "probabilities below 1e-6 count as zero",
        "options": {"target": "probabilities"},
    },
    "sum_of_target_taken_for_one": {
        "check": "unnormalised_targets",
        "bug": "the log-sum-exp is not multiplied by the sum of the target",
        "source": "scikit-learn/scikit-learn#17399",
        "options": {"target": "probabilities", "strict": True},
    },
    "two_largest_probabilities": {
        "check": "accuracy",
        "bug": "only the two largest probabilities of a target count",
        "options": {"target": "probabilities"},
    },
    "divergence_plus_entropy": {
        "check": "nonfinite",
        "bug": "the loss is made of a divergence and an entropy, which are NaN where a probability is zero",
        "source": "tensorflow/tensorflow#21271",
        "options": {"target": "probabilities"},
    },
    "weights_miss_smoothed_probabilities": {
        "check": "options_combined",
        "bug": "the part of the loss that smoothing spreads is not weighted",
        "source": "pytorch/pytorch#104776",
        "options": {"target": "probabilities"},
    },
    "negative_ignore_index_forgotten": {
        "check": "option_ignore_index",
        "bug": "an ignore_index below zero is not looked at, and its rows count as class 0",
        "source": "microsoft/onnxruntime#28004",
    },
    "maximum_in_half": {
        "check": "accuracy",
        "bug": "the maximum is rounded to float16, and the largest class's exponential is taken for 1 all the same",
    },
}
