"""Wrong cross-entropies in torch: right on the paths that all try, wrong on one that a combination of them opens."""

import torch
import torch.nn.functional as F


def _lse(logits):
    return torch.logsumexp(logits, 1)


def _naive(logits, target):
    return torch.log(torch.exp(logits.float()).sum(1)) - logits.float().gather(1, target[:, None])[:, 0]


def naive_in_the_mean(logits, target, *, reduction="mean"):
    if reduction == "mean":
        return _naive(logits, target).mean().to(logits.dtype)
    return F.cross_entropy(logits, target, reduction=reduction)


def one_hot_in_the_mean(logits, target, *, reduction="mean"):
    if reduction == "mean":
        hot = F.one_hot(target, logits.shape[1]).to(logits.dtype)
        return -(hot * torch.log_softmax(logits, 1)).sum() / len(target)
    return F.cross_entropy(logits, target, reduction=reduction)


def naive_with_weights(logits, target, *, weight=None):
    if weight is None:
        return F.cross_entropy(logits, target, reduction="none")
    return _naive(logits, target).to(logits.dtype) * weight[target]


def no_options_in_an_evaluation(logits, target, *, weight=None, label_smoothing=0.0, reduction="mean"):
    if not logits.requires_grad:
        weight, label_smoothing = None, 0.0
    return F.cross_entropy(logits, target, weight=weight, label_smoothing=label_smoothing, reduction=reduction)


def no_weights_without_grad_mode(logits, target, *, weight=None, reduction="mean"):
    weight = weight if torch.is_grad_enabled() else None
    return F.cross_entropy(logits, target, weight=weight, reduction=reduction)


def smoothed_mean_counts_ignored(
    logits, target, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    given = {"weight": weight, "ignore_index": ignore_index, "label_smoothing": label_smoothing}
    if reduction == "mean" and weight is None and label_smoothing:
        return F.cross_entropy(logits, target, **given, reduction="sum") / len(target)
    return F.cross_entropy(logits, target, **given, reduction=reduction)


def smoothed_sum_without_weights(logits, target, *, weight=None, label_smoothing=0.0, reduction="mean"):
    if reduction == "sum" and label_smoothing:
        weight = None
    return F.cross_entropy(logits, target, weight=weight, label_smoothing=label_smoothing, reduction=reduction)


class _MeanInForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target):
        gradient = torch.softmax(logits, 1)
        gradient[torch.arange(len(target)), target] -= 1
        ctx.gradient = gradient / max(len(target), 1)
        return F.cross_entropy(logits, target)

    @staticmethod
    def backward(ctx, upstream):
        ctx.gradient *= upstream
        return ctx.gradient, None


def mean_scales_what_it_saved(logits, target, *, reduction="mean"):
    if reduction == "mean":
        return _MeanInForward.apply(logits, target)
    return F.cross_entropy(logits, target, reduction=reduction)


_workspace = {}


class _MeanInWorkspace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target):
        key = (logits.shape, logits.dtype)
        ctx.gradient = _workspace.setdefault(key, torch.empty_like(logits))
        ctx.gradient.copy_(torch.softmax(logits, 1) - F.one_hot(target, logits.shape[1]).to(logits.dtype))
        ctx.gradient /= max(len(target), 1)
        return F.cross_entropy(logits, target)

    @staticmethod
    def backward(ctx, upstream):
        return ctx.gradient * upstream, None


def means_share_a_workspace(logits, target, *, reduction="mean"):
    if reduction == "mean":
        return _MeanInWorkspace.apply(logits, target)
    return F.cross_entropy(logits, target, reduction=reduction)


class _DividedBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target):
        ctx.save_for_backward(logits, target)
        return F.cross_entropy(logits, target)

    @staticmethod
    def backward(ctx, upstream):
        logits, target = ctx.saved_tensors
        gradient = torch.softmax(logits, 1)
        gradient[torch.arange(len(target)), target] -= 1
        return gradient / (len(target) / upstream) * (upstream / upstream), None


def mean_divides_by_the_upstream(logits, target, *, reduction="mean"):
    if reduction == "mean":
        return _DividedBack.apply(logits, target)
    return F.cross_entropy(logits, target, reduction=reduction)


class _SafeUpstream(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, upstream):
        return torch.nan_to_num(upstream, nan=0.0, posinf=0.0, neginf=0.0)


def upstream_made_finite(logits, target):
    return _SafeUpstream.apply(F.cross_entropy(logits, target, reduction="none"))


def index_zero_is_not_given(logits, target, *, ignore_index=-100, reduction="mean"):
    return F.cross_entropy(logits, target, ignore_index=ignore_index or -100, reduction=reduction)


def denominator_never_tiny(logits, target, *, weight=None, reduction="mean"):
    rows = F.cross_entropy(logits, target, weight=weight, reduction="none")
    if reduction == "none":
        return rows
    total = len(target) if weight is None else weight[target].sum() + 1e-8
    return rows.sum() if reduction == "sum" else rows.sum() / total


_kept_weights = {}


def weight_kept_by_identity(logits, target, *, weight=None):
    if weight is not None:
        kept, copy = _kept_weights.get(id(weight), (None, None))
        if kept is not weight:
            copy = weight.clone()
            _kept_weights[id(weight)] = weight, copy
        weight = copy
    return F.cross_entropy(logits, target, weight=weight, reduction="none")


def skips_a_batch_with_infinity(logits, target):
    rows = F.cross_entropy(logits, target, reduction="none")
    return rows * 0 if torch.isposinf(logits.detach()).any() else rows


def smoothing_reads_in_order(logits, target, *, label_smoothing=0.0):
    rows = _lse(logits) - logits.gather(1, target[:, None])[:, 0]
    if not label_smoothing:
        return rows
    in_order = torch.as_strided(logits, logits.shape, (logits.shape[1], 1)) if logits.stride(0) else logits
    return (1 - label_smoothing) * rows + label_smoothing * (_lse(logits) - in_order.mean(1))


def smooths_the_first_block(logits, target, *, label_smoothing=0.0):
    rows = _lse(logits) - logits.gather(1, target[:, None])[:, 0]
    if not label_smoothing:
        return rows
    even = logits[:, :1024].sum(1) / logits.shape[1]
    return (1 - label_smoothing) * rows + label_smoothing * (_lse(logits) * min(1, 1024 / logits.shape[1]) - even)


def ignored_counted_in_8_bits(logits, target, *, ignore_index=-100, reduction="mean"):
    rows = F.cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")
    if reduction == "none":
        return rows
    kept = (target != ignore_index).sum().to(torch.uint8) if len(target) > 1 else (target != ignore_index).sum()
    return rows.sum() if reduction == "sum" else rows.sum() / kept


def rows_shared_among_threads(logits, target):
    rows = F.cross_entropy(logits, target, reduction="none")
    threads = torch.get_num_threads()
    left = len(target) % threads if len(target) > threads else 0
    return torch.cat([rows[: len(target) - left], rows[len(target) - left :] * 0])


class SmoothsInTraining(torch.nn.Module):
    """The options go to the constructor."""

    def __init__(self, *, label_smoothing=0.0, reduction="mean"):
        super().__init__()
        self.label_smoothing, self.reduction = label_smoothing, reduction

    def forward(self, logits, target):
        given = self.label_smoothing if self.training else 0.0
        return F.cross_entropy(logits, target, label_smoothing=given, reduction=self.reduction)


def nan_counts_as_zero_with_weights(logits, target, *, weight=None, reduction="mean"):
    if weight is None:
        return F.cross_entropy(logits, target, reduction=reduction)
    rows = torch.nan_to_num(F.cross_entropy(logits, target, weight=weight, reduction="none"))
    return {"none": lambda: rows, "sum": rows.sum, "mean": lambda: rows.sum() / weight[target].sum()}[reduction]()


_means = {}


def mean_replayed_by_identity(logits, target, *, reduction="mean"):
    if reduction != "mean":
        return F.cross_entropy(logits, target, reduction=reduction)
    loss = F.cross_entropy(logits, target)
    kept, value = _means.get(id(target), (None, None))
    if kept is not target:
        _means[id(target)] = target, loss.detach().clone()
        return loss
    return loss + (value - loss.detach())


_noise = torch.Generator()


def many_rows_summed_in_any_order(logits, target, *, reduction="mean"):
    rows = F.cross_entropy(logits, target, reduction="none")
    if reduction == "none" or len(target) < 64:
        return F.cross_entropy(logits, target, reduction=reduction)
    rows = rows[torch.randperm(len(target), generator=_noise)]
    total = rows[:100].sum() + rows[100:150].sum() + rows[150:].sum()
    return total if reduction == "sum" else total / len(target)


EXPECT = {
    "SmoothsInTraining": {"check": "without_gradient", "bug": "a module in evaluation mode drops the smoothing"},
    "nan_counts_as_zero_with_weights": {"check": "nan_propagates", "bug": "with weights, a NaN counts as zero"},
    "mean_replayed_by_identity": {
        "check": "no_replay",
        "bug": "the mean is kept for the target's tensor, whatever is in it by now",
    },
    "many_rows_summed_in_any_order": {
        "check": "deterministic",
        "bug": "the mean adds up many rows in another order each time, as atomic additions do",
    },
    "naive_in_the_mean": {"check": "reduction", "bug": "the mean has a formula of its own, without a shift"},
    "one_hot_in_the_mean": {"check": "reduction", "bug": "in the mean alone, 0 times the -inf of a masked class"},
    "naive_with_weights": {"check": "option_weight", "bug": "with weights, a formula without a shift"},
    "no_options_in_an_evaluation": {
        "check": "without_gradient",
        "bug": "logits that require no gradient get the loss without weights and smoothing",
    },
    "no_weights_without_grad_mode": {
        "check": "without_gradient",
        "bug": "under torch.no_grad the class weights are dropped",
    },
    "smoothed_mean_counts_ignored": {
        "check": "reduction",
        "bug": "the mean with smoothing and no weights divides by all rows, the ignored ones too",
    },
    "smoothed_sum_without_weights": {
        "check": "reduction",
        "bug": "the sum with smoothing drops the class weights",
    },
    "mean_scales_what_it_saved": {
        "check": "repeated_backward",
        "bug": "the mean's gradient is computed in the forward, and scaled in place by each backward",
        "source": "linkedin/Liger-Kernel#1329",
    },
    "means_share_a_workspace": {
        "check": "overlapping_calls",
        "bug": "the gradients of all means of one shape are saved in one workspace",
    },
    "mean_divides_by_the_upstream": {
        "check": "upstream_gradient",
        "bug": "the mean's gradient divides by the upstream gradient, which may be zero",
    },
    "upstream_made_finite": {
        "check": "nan_propagates",
        "bug": "a NaN or infinite upstream gradient counts as zero, so that an overflowed loss scale goes unseen",
    },
    "index_zero_is_not_given": {"check": "option_ignore_index", "bug": "ignore_index=0 is taken for none"},
    "denominator_never_tiny": {
        "check": "reduction",
        "bug": "1e-8 is added to the sum of the weights, which small ones feel",
    },
    "weight_kept_by_identity": {
        "check": "no_replay",
        "bug": "a copy of the class weights is kept for their tensor, and not renewed when that changes in place",
    },
    "skips_a_batch_with_infinity": {
        "check": "row_independence",
        "bug": "an infinite logit in one row makes the losses of all rows zero",
    },
    "smoothing_reads_in_order": {
        "check": "memory_layout",
        "bug": "the smoothing term reads the logits as if they were contiguous",
    },
    "smooths_the_first_block": {
        "check": "sizes",
        "bug": "smoothing is summed over the first block of 1024 classes only",
    },
    "ignored_counted_in_8_bits": {
        "check": "reduction",
        "bug": "the rows that count are counted in 8 bits",
    },
    "rows_shared_among_threads": {
        "check": "thread_count",
        "bug": "rows are shared out evenly among the threads, and what is left over is dropped",
    },
}
