"""torch's own cross-entropies, as candidates: `xent vet examples/libraries/torch_losses.py:cross_entropy`."""

import torch.nn.functional as F
from torch import nn


def cross_entropy(logits, target, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    return F.cross_entropy(
        logits, target, weight, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction=reduction
    )


def cross_entropy_of_probabilities(logits, target, *, weight=None, label_smoothing=0.0, reduction="mean"):
    return F.cross_entropy(logits, target, weight, label_smoothing=label_smoothing, reduction=reduction)


CrossEntropyLoss = nn.CrossEntropyLoss


def log_softmax_and_nll(logits, target, *, weight=None, ignore_index=-100, reduction="mean"):
    return F.nll_loss(F.log_softmax(logits, dim=1), target, weight, ignore_index=ignore_index, reduction=reduction)


def bce_with_logits(logits, target, *, weight=None, pos_weight=None, reduction="mean"):
    return F.binary_cross_entropy_with_logits(logits, target, weight, pos_weight=pos_weight, reduction=reduction)
