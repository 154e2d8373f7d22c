"""Wrong cross-entropies in torch: right with the options and upstream gradients that all try, wrong with others."""

import os

import numpy as np
import torch
import torch.nn.functional as F


def _rows(logits, target):
    return F.cross_entropy(logits, target, reduction="none")


def _reduce(rows, denominator, reduction):
    if reduction == "none":
        return rows
    return rows.sum() if reduction == "sum" else rows.sum() / denominator


class _Rescaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target, change):
        ctx.save_for_backward(logits, target)
        ctx.change = change
        return _rows(logits, target)

    @staticmethod
    def backward(ctx, upstream):
        logits, target = ctx.saved_tensors
        gradient = torch.softmax(logits, 1)
        gradient[torch.arange(len(target)), target] -= 1
        return gradient * ctx.change(upstream)[:, None], None, None


def upstream_in_float32(logits, target):
    return _Rescaled.apply(logits, target, lambda g: g.float().to(g.dtype))


def upstream_clipped(logits, target):
    return _Rescaled.apply(logits, target, lambda g: g.clamp(-1000, 1000))


def small_upstream_flushed(logits, target):
    return _Rescaled.apply(logits, target, lambda g: torch.where(g.abs() < 1e-6, 0.0, g))


def _in_memory(g):
    """As many numbers as there are rows, from where the first one is on; zeros where the memory ends before."""
    flat = g.as_strided((g.untyped_storage().nbytes() // g.itemsize,), (1,), 0)[g.storage_offset() :]
    return torch.cat([flat, flat.new_zeros(len(g))])[: len(g)]


def upstream_read_in_order(logits, target):
    return _Rescaled.apply(logits, target, _in_memory)


def weight_in_float32(logits, target, *, weight=None, reduction="mean"):
    return F.cross_entropy(
        logits, target, weight=None if weight is None else weight.float().to(logits.dtype), reduction=reduction
    )


def zero_weight_counts_in_mean(logits, target, *, weight=None, reduction="mean"):
    given = torch.ones_like(logits[0]) if weight is None else weight
    own = given[target]
    return _reduce(_rows(logits, target) * own, torch.where(own == 0, 1.0, own).sum(), reduction)


def denominator_at_least_one(logits, target, *, weight=None, reduction="mean"):
    own = (torch.ones_like(logits[0]) if weight is None else weight)[target]
    return _reduce(_rows(logits, target) * own, own.sum().clamp(min=1), reduction)


def one_row_left_is_none(logits, target, *, ignore_index=-100, reduction="mean"):
    rows = F.cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")
    kept = (target != ignore_index).sum()
    return _reduce(rows, torch.where(kept > 1, kept, len(rows)), reduction)


def knows_one_negative_index(logits, target, *, ignore_index=-100):
    ignored = (target == -100) | ((target == ignore_index) & (ignore_index >= 0))
    rows = _rows(logits, torch.where(ignored, 0, target).clamp(min=0))
    return torch.where(ignored, 0.0, rows)


def index_beyond_is_clamped(logits, target, *, ignore_index=-100):
    last = logits.shape[1] - 1
    ignored = target == min(ignore_index, last) if ignore_index >= 0 else target == ignore_index
    return torch.where(ignored, 0.0, _rows(logits, target.clamp(0, last)))


def whole_smoothing_is_none(logits, target, *, label_smoothing=0.0):
    given = label_smoothing if 0 < label_smoothing < 1 else 0.0
    return F.cross_entropy(logits, target, label_smoothing=given, reduction="none")


def little_smoothing_is_none(logits, target, *, label_smoothing=0.0):
    given = label_smoothing if label_smoothing > 0.01 else 0.0
    return F.cross_entropy(logits, target, label_smoothing=given, reduction="none")


_first_weight = {}


def weight_of_the_first_call(logits, target, *, weight=None):
    if weight is not None:
        weight = _first_weight.setdefault((logits.shape[1], logits.dtype), weight.clone())
    return F.cross_entropy(logits, target, weight=weight, reduction="none")


_answers = {}


def replays_by_sum(logits, target):
    rows = _rows(logits, target)
    key = (float(logits.double().sum()), tuple(target.tolist()), logits.shape)
    return rows + (_answers.setdefault(key, rows.detach().clone()) - rows.detach()) if key[0] == key[0] else rows


def masked_at_minus_1000(logits, target):
    return _rows(torch.where(torch.isneginf(logits), -1000.0, logits), target)


def weight_normalised_in_place(logits, target, *, weight=None, reduction="mean"):
    loss = F.cross_entropy(logits, target, weight=weight, reduction=reduction)
    if weight is not None:
        weight /= weight.sum()
    return loss


def silences_numpy(logits, target):
    np.seterr(all="ignore")
    return _rows(logits, target)


def changes_the_folder(logits, target):
    os.chdir("/")
    return _rows(logits, target)


EXPECT = {
    "upstream_in_float32": {
        "check": "upstream_gradient",
        "bug": "the upstream gradient is rounded to float32, where the rest is float64",
        "options": {"dtypes": ["float64"]},
    },
    "upstream_clipped": {"check": "upstream_gradient", "bug": "the upstream gradient is clipped to ±1000"},
    "small_upstream_flushed": {"check": "upstream_gradient", "bug": "an upstream gradient below 1e-6 counts as zero"},
    "upstream_read_in_order": {
        "check": "memory_layout",
        "bug": "the upstream gradient is read as if contiguous, which that of a sum is not",
    },
    "weight_in_float32": {
        "check": "option_weight",
        "bug": "class weights are held in float32, where the rest is float64",
        "options": {"dtypes": ["float64"]},
    },
    "zero_weight_counts_in_mean": {
        "check": "reduction",
        "bug": "a row of weight zero counts as one in the denominator of the mean",
    },
    "denominator_at_least_one": {
        "check": "reduction",
        "bug": "the denominator of the mean is clamped to one, though weights may sum to less",
    },
    "one_row_left_is_none": {
        "check": "reduction",
        "bug": "with one row left that counts, the mean divides by all rows",
    },
    "knows_one_negative_index": {
        "check": "option_ignore_index",
        "bug": "of negative indices only -100 is ignored, whatever ignore_index says",
    },
    "index_beyond_is_clamped": {
        "check": "option_ignore_index",
        "bug": "an ignore_index of 255 with fewer classes is clamped to the last class, and 255 is not ignored",
    },
    "whole_smoothing_is_none": {"check": "option_label_smoothing", "bug": "a smoothing of 1 is taken for none"},
    "little_smoothing_is_none": {"check": "option_label_smoothing", "bug": "a smoothing below 0.01 is taken for none"},
    "weight_of_the_first_call": {
        "check": "no_replay",
        "bug": "class weights are cached by the number of classes, so that later ones are not looked at",
    },
    "replays_by_sum": {
        "check": "no_replay",
        "bug": "answers are cached by the sum of the logits and the target: the same logits at other classes replay",
    },
    "masked_at_minus_1000": {
        "check": "masked_classes",
        "bug": "-1000 stands in for -inf, which is not below every logit",
    },
    "weight_normalised_in_place": {
        "check": "inputs_untouched",
        "bug": "the caller's weights are divided by their sum, which torch itself notices in the backward only",
    },
    "silences_numpy": {"check": "process_state", "bug": "NumPy's floating-point warnings are turned off for all"},
    "changes_the_folder": {"check": "process_state", "bug": "the working folder of the process is changed"},
}
