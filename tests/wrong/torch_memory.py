"""Wrong cross-entropies in torch: what is read and written where, and indices that are too narrow."""

import torch
import torch.nn.functional as F


def read_as_contiguous(logits, target):
    n, v = logits.shape
    flat = torch.as_strided(logits, (n, v), (v, 1))
    return F.cross_entropy(flat, target, reduction="none")


def class_stride_assumed(logits, target):
    dense = torch.as_strided(logits, logits.shape, (logits.stride(0), 1))
    return F.cross_entropy(dense, target, reduction="none")


def offset_ignored(logits, target):
    base = torch.as_strided(logits, logits.shape, logits.stride(), storage_offset=0)
    return F.cross_entropy(base, target, reduction="none")


def target_read_as_contiguous(logits, target):
    dense = torch.as_strided(target, target.shape, (1,) * target.dim(), target.storage_offset())
    return F.cross_entropy(logits, dense, reduction="none")


class _GradientLikeInput(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target):
        logp = torch.log_softmax(logits, 1)
        ctx.like = logits.detach()
        ctx.save_for_backward(torch.exp(logp), target)
        return -logp.gather(1, target[:, None])[:, 0]

    @staticmethod
    def backward(ctx, upstream):
        p, target = ctx.saved_tensors
        rows = p.clone()
        rows[torch.arange(len(target)), target] -= 1
        rows *= upstream[:, None]
        gradient = torch.empty_strided(ctx.like.shape, ctx.like.stride(), dtype=p.dtype)
        for i in range(len(rows)):
            gradient[i] = rows[i]
        return gradient, None


def gradient_in_shared_rows(logits, target):
    return _GradientLikeInput.apply(logits, target)


class _OverwritesLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target):
        logp = torch.log_softmax(logits, 1)
        gradient = torch.exp(logp)
        gradient[torch.arange(len(target)), target] -= 1
        logits.data.copy_(gradient)  # to save memory; no version counter knows
        ctx.save_for_backward(gradient)
        return -logp.gather(1, target[:, None])[:, 0]

    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[:, None], None


def logits_overwritten(logits, target):
    return _OverwritesLogits.apply(logits, target)


def logits_shifted_in_place(logits, target):
    with torch.no_grad():
        logits.data.sub_(logits.amax(1, keepdim=True))
    return F.cross_entropy(logits, target, reduction="none")


class _OverwritesUpstream(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target):
        logp = torch.log_softmax(logits, 1)
        gradient = torch.exp(logp)
        gradient[torch.arange(len(target)), target] -= 1
        ctx.save_for_backward(gradient)
        return -logp.gather(1, target[:, None])[:, 0]

    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        result = gradient * upstream[:, None]
        upstream.zero_()
        return result, None


def upstream_overwritten(logits, target):
    return _OverwritesUpstream.apply(logits, target)


def target_overwritten(logits, target, *, ignore_index=-100):
    kept = target != ignore_index
    target[~kept] = 0
    return torch.where(kept, F.cross_entropy(logits, target, reduction="none"), 0.0)


def weight_overwritten(logits, target, *, weight=None):
    if weight is None:
        return F.cross_entropy(logits, target, reduction="none")
    rows = F.cross_entropy(logits, target, reduction="none") * weight[target]
    weight /= weight.sum()
    return rows


def labels_in_16_bits(logits, target):
    label = target.to(torch.int16).to(torch.int64) % logits.shape[1]
    return F.cross_entropy(logits, label, reduction="none")


def classes_modulo_65536(logits, target):
    return F.cross_entropy(logits, target % 65536, reduction="none")


class _GridLimit(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target):
        logp = torch.log_softmax(logits, 1)
        gradient = torch.exp(logp)
        gradient[torch.arange(len(target)), target] -= 1
        gradient[65535:] = 0
        ctx.save_for_backward(gradient)
        loss = -logp.gather(1, target[:, None])[:, 0]
        loss[65535:] = 0
        return loss

    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[:, None], None


def rows_beyond_65535(logits, target):
    return _GridLimit.apply(logits, target)


EXPECT = {
    "read_as_contiguous": {
        "check": "memory_layout",
        "bug": "the pointer is read as if the logits were contiguous",
        "source": "NVIDIA/TransformerEngine#2734",
    },
    "class_stride_assumed": {
        "check": "memory_layout",
        "bug": "only the rows' stride is honoured: classes are taken to be neighbours",
        "source": "pytorch/pytorch#67167",
    },
    "offset_ignored": {"check": "memory_layout", "bug": "the start of the allocation is read, not of the view"},
    "target_read_as_contiguous": {
        "check": "memory_layout",
        "bug": "every element of a strided target is taken to follow the one before",
    },
    "gradient_in_shared_rows": {
        "check": "memory_layout",
        "bug": "the gradient of an expanded view gets the view's strides, so that all rows share one row of memory",
    },
    "logits_overwritten": {
        "check": "inputs_untouched",
        "bug": "the forward writes the gradient into the logits",
        "source": "linkedin/Liger-Kernel#1251",
    },
    "logits_shifted_in_place": {
        "check": "inputs_untouched",
        "bug": "the maximum is subtracted from the caller's logits through .data",
        "source": "NVIDIA/TransformerEngine#3193",
    },
    "upstream_overwritten": {"check": "inputs_untouched", "bug": "the backward clears the upstream gradient"},
    "target_overwritten": {"check": "inputs_untouched", "bug": "ignored labels are set to 0 in the caller's target"},
    "weight_overwritten": {"check": "inputs_untouched", "bug": "the caller's class weights are normalised in place"},
    "labels_in_16_bits": {
        "check": "sizes",
        "bug": "labels are kept in 16 bits and wrap from 32,768 classes on",
        "options": {"quick": False},
    },
    "classes_modulo_65536": {
        "check": "sizes",
        "bug": "the class index wraps at 65,536",
        "source": "pytorch/pytorch#111484",
        "options": {"quick": False},
    },
    "rows_beyond_65535": {
        "check": "sizes",
        "bug": "rows from 65,535 on, the limit of a grid's second axis, are never computed",
        "source": "pytorch/pytorch#190139",
        "options": {"quick": False},
    },
}
