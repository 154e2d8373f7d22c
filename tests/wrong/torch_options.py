"""Wrong cross-entropies in torch: an option or a reduction that does not mean what its name says."""

import torch
import torch.nn.functional as F


def _rows(logits, target):
    """Log-probabilities, and the loss of each row at a label that may be indexed with."""
    logp = torch.log_softmax(logits, 1)
    return logp, -logp.gather(1, target[:, None])[:, 0]


def _reduce(rows, denominator, reduction):
    if reduction == "none":
        return rows
    return rows.sum() if reduction == "sum" else rows.sum() / denominator


def ignore_index_unused(logits, target, *, ignore_index=-100):
    return _rows(logits, target.clamp(min=0))[1]


def ignores_minus_100_only(logits, target, *, ignore_index=-100):
    kept = target != -100
    return torch.where(kept, _rows(logits, torch.where(kept, target, 0))[1], 0.0)


def ignores_negative_labels(logits, target, *, ignore_index=-100):
    kept = target >= 0
    return torch.where(kept, _rows(logits, torch.where(kept, target, 0))[1], 0.0)


def ignored_rows_in_mean(logits, target, *, ignore_index=-100, reduction="mean"):
    kept = target != ignore_index
    rows = torch.where(kept, _rows(logits, torch.where(kept, target, 0))[1], 0.0)
    return _reduce(rows, len(rows), reduction)


class _IgnoredGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target, ignore_index):
        kept = target != ignore_index
        label = torch.where(kept, target, 0)
        logp, rows = _rows(logits, label)
        ctx.save_for_backward(torch.exp(logp), label)
        return torch.where(kept, rows, 0.0)

    @staticmethod
    def backward(ctx, upstream):
        p, label = ctx.saved_tensors
        gradient = p.clone()
        gradient[torch.arange(len(label)), label] -= 1
        return gradient * upstream[:, None], None, None


def gradient_of_ignored_rows(logits, target, *, ignore_index=-100):
    return _IgnoredGradient.apply(logits, target, ignore_index)


def ignored_by_product(logits, target, *, ignore_index=-100):
    kept = target != ignore_index
    return _rows(logits, torch.where(kept, target, 0))[1] * kept


def nan_of_ignored_row_in_mean(logits, target, *, ignore_index=-100, reduction="mean"):
    kept = target != ignore_index
    clean = torch.where(kept[:, None], logits, logits.sum() * 0)
    rows = torch.where(kept, _rows(clean, torch.where(kept, target, 0))[1], 0.0)
    return _reduce(rows, kept.sum(), reduction)


def ignored_rows_have_loss(logits, target, *, ignore_index=-100):
    if (target == ignore_index).all():
        return torch.logsumexp(logits, 1)
    return F.cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")


def weight_unused(logits, target, *, weight=None):
    return _rows(logits, target)[1]


def weight_squared(logits, target, *, weight=None):
    rows = _rows(logits, target)[1]
    return rows if weight is None else rows * weight[target] ** 2


def weight_normalised(logits, target, *, weight=None):
    rows = _rows(logits, target)[1]
    return rows if weight is None else rows * (weight / weight.mean())[target]


class _UnweightedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target, weight):
        logp, rows = _rows(logits, target)
        ctx.save_for_backward(torch.exp(logp), target)
        return rows if weight is None else rows * weight[target]

    @staticmethod
    def backward(ctx, upstream):
        p, target = ctx.saved_tensors
        gradient = p.clone()
        gradient[torch.arange(len(target)), target] -= 1
        return gradient * upstream[:, None], None, None


def gradient_without_weight(logits, target, *, weight=None):
    return _UnweightedGradient.apply(logits, target, weight)


def mean_over_rows_despite_weight(logits, target, *, weight=None, reduction="mean"):
    rows = _rows(logits, target)[1]
    rows = rows if weight is None else rows * weight[target]
    return _reduce(rows, len(rows), reduction)


def mean_over_all_weights(logits, target, *, weight=None, reduction="mean"):
    rows = _rows(logits, target)[1]
    if weight is None:
        return _reduce(rows, len(rows), reduction)
    return _reduce(rows * weight[target], weight.sum(), reduction)


def weights_of_ignored_rows_in_mean(logits, target, *, weight=None, ignore_index=-100, reduction="mean"):
    kept = target != ignore_index
    label = torch.where(kept, target, 0)
    w = torch.ones_like(logits[:, 0]) if weight is None else weight[label]
    rows = torch.where(kept, _rows(logits, label)[1] * w, 0.0)
    return _reduce(rows, w.sum() if weight is not None else kept.sum(), reduction)


def mean_of_chunk_means(logits, target, *, reduction="mean"):
    if reduction != "mean":
        return F.cross_entropy(logits, target, reduction=reduction)
    chunks = zip(logits.split(4), target.split(4), strict=True)
    return torch.stack([F.cross_entropy(z, y) for z, y in chunks]).mean()


def sum_is_mean(logits, target, *, reduction="mean"):
    return F.cross_entropy(logits, target, reduction="none" if reduction == "none" else "mean")


def smoothing_unused(logits, target, *, label_smoothing=0.0):
    return _rows(logits, target)[1]


def smoothing_over_other_classes(logits, target, *, label_smoothing=0.0):
    logp, rows = _rows(logits, target)
    if not label_smoothing:
        return rows
    others = -logp.sum(1) - rows
    return (1 - label_smoothing) * rows + label_smoothing * others / max(logits.shape[1] - 1, 1)


def smoothing_added(logits, target, *, label_smoothing=0.0):
    logp, rows = _rows(logits, target)
    return rows - label_smoothing * logp.mean(1) if label_smoothing else rows


def smoothing_in_loss_only(logits, target, *, label_smoothing=0.0):
    logp, rows = _rows(logits, target)
    uniform = -logp.mean(1)
    return rows + (label_smoothing * (uniform - rows)).detach() if label_smoothing else rows


def smoothing_with_row_weight(logits, target, *, weight=None, label_smoothing=0.0):
    logp, rows = _rows(logits, target)
    smoothed = rows
    if label_smoothing:
        smoothed = (1 - label_smoothing) * rows - label_smoothing * logp.mean(1)
    return smoothed if weight is None else smoothed * weight[target]


def smoothing_without_weight(logits, target, *, weight=None, label_smoothing=0.0):
    logp, rows = _rows(logits, target)
    weighted = rows if weight is None else rows * weight[target]
    return (1 - label_smoothing) * weighted - label_smoothing * logp.mean(1) if label_smoothing else weighted


def probabilities_mean_by_weight(logits, target, *, weight=None, reduction="mean"):
    t = target if weight is None else weight * target
    logp = torch.where(t == 0, 0.0, torch.log_softmax(logits, 1))
    return _reduce(-(t * logp).sum(1), len(t) if weight is None else t.sum(), reduction)


def probabilities_by_largest(logits, target):
    return F.cross_entropy(logits, target.argmax(1), reduction="none")


def entropy_subtracted(logits, target):
    ce = F.cross_entropy(logits, target, reduction="none")
    return ce + torch.xlogy(target, target).sum(1)


EXPECT = {
    "ignore_index_unused": {
        "check": "option_ignore_index",
        "bug": "ignored rows are counted as class 0",
        "source": "pytorch/pytorch#108148",
    },
    "ignores_minus_100_only": {
        "check": "option_ignore_index",
        "bug": "-100 is ignored whatever ignore_index says",
    },
    "ignores_negative_labels": {
        "check": "option_ignore_index",
        "bug": "negative labels are ignored, and so an ignore_index inside [0, V) is not",
    },
    "ignored_rows_in_mean": {
        "check": "reduction",
        "bug": "ignored rows count in the denominator of the mean",
        "source": "huggingface/transformers#34191",
    },
    "gradient_of_ignored_rows": {
        "check": "option_ignore_index",
        "bug": "an ignored row has loss 0 and the gradient of class 0",
    },
    "ignored_by_product": {
        "check": "ignored_nan",
        "bug": "ignored rows are multiplied by 0, which leaves a NaN there",
        "source": "keras-team/tf-keras#734",
    },
    "nan_of_ignored_row_in_mean": {
        "check": "ignored_nan",
        "bug": "an ignored row is replaced by a zero made of all logits, so that its NaN reaches every row",
    },
    "ignored_rows_have_loss": {
        "check": "all_ignored",
        "bug": "a batch of ignored rows only has the log-sum-exp as its loss",
        "source": "ROCm/aiter#5165",
    },
    "weight_unused": {"check": "option_weight", "bug": "class weights are ignored"},
    "weight_squared": {"check": "option_weight", "bug": "class weights are applied twice"},
    "weight_normalised": {"check": "option_weight", "bug": "class weights are divided by their mean"},
    "gradient_without_weight": {"check": "option_weight", "bug": "the loss is weighted and the gradient is not"},
    "mean_over_rows_despite_weight": {
        "check": "reduction",
        "bug": "a weighted mean is divided by N",
        "source": "pytorch/pytorch#31295",
    },
    "mean_over_all_weights": {
        "check": "reduction",
        "bug": "a weighted mean is divided by the sum of all classes' weights, not of the targets'",
    },
    "weights_of_ignored_rows_in_mean": {
        "check": "reduction",
        "bug": "an ignored row's weight is read at class 0 and counts in the denominator",
        "source": "microsoft/onnxruntime#28004",
    },
    "mean_of_chunk_means": {
        "check": "reduction",
        "bug": "the mean is that of the means of chunks of unequal length",
        "source": "NVIDIA-NeMo/Automodel#3803",
    },
    "sum_is_mean": {"check": "reduction", "bug": 'reduction="sum" gives the mean'},
    "smoothing_unused": {
        "check": "option_label_smoothing",
        "bug": "label_smoothing is taken and dropped",
        "source": "linkedin/Liger-Kernel#243",
    },
    "smoothing_over_other_classes": {
        "check": "option_label_smoothing",
        "bug": "the smoothing mass is spread over the V - 1 other classes",
        "source": "fastai/fastai#1814",
    },
    "smoothing_added": {
        "check": "option_label_smoothing",
        "bug": "the smoothing mass is added, and the target keeps all of its own",
    },
    "smoothing_in_loss_only": {
        "check": "option_label_smoothing",
        "bug": "the loss is smoothed and the gradient is not",
        "source": "NVIDIA/Megatron-LM#7464",
    },
    "smoothing_with_row_weight": {
        "check": "options_combined",
        "bug": "the target's weight multiplies the whole row, where each smoothed class has its own",
        "source": "pytorch/pytorch#104776",
    },
    "smoothing_without_weight": {
        "check": "options_combined",
        "bug": "the smoothing term is not weighted",
    },
    "probabilities_mean_by_weight": {
        "check": "reduction",
        "bug": "the mean over probabilities is divided by the targets' weights, where it is N",
        "options": {"target": "probabilities"},
    },
    "probabilities_by_largest": {
        "check": "accuracy",
        "bug": "the target's largest class is taken for all of it",
        "options": {"target": "probabilities"},
    },
    "entropy_subtracted": {
        "check": "accuracy",
        "bug": "the divergence from the target is returned, without the target's entropy",
        "options": {"target": "probabilities"},
    },
}
