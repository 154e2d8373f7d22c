"""Wrong cross-entropies in torch: the loss is right and the gradient is not."""

import torch


class _Base(torch.autograd.Function):
    """Loss per row and the softmax minus one-hot; a subclass says what becomes of it in the backward."""

    @staticmethod
    def forward(ctx, logits, target):
        z = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logp = torch.log_softmax(z, 1)
        gradient = torch.exp(logp)
        gradient[torch.arange(len(target)), target] -= 1
        ctx.save_for_backward(gradient.to(logits.dtype))
        return -logp.gather(1, target[:, None])[:, 0].to(logits.dtype)


class _UpstreamIgnored(_Base):
    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return gradient.clone(), None


class _UpstreamAveraged(_Base):
    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.mean(), None


class _UpstreamOfFirstRow(_Base):
    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0], None


class _UpstreamTwice(_Base):
    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return gradient * (upstream * upstream)[:, None], None


class _UpstreamSign(_Base):
    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return gradient * torch.sign(upstream)[:, None], None


class _UpstreamMagnitude(_Base):
    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.abs()[:, None], None


class _ScaledInPlace(_Base):
    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(upstream[:, None]).clone(), None


class _Freed(_Base):
    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        result = gradient * upstream[:, None]
        gradient.zero_()  # "not needed any more"
        return result, None


class _Nothing(_Base):
    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return torch.zeros_like(gradient), None


class _SmallEntriesDropped(_Base):
    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return torch.where(gradient.abs() < 2.0**-12, 0.0, gradient) * upstream[:, None], None


class _FirstClassesOnly(_Base):
    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        result = gradient * upstream[:, None]
        result[:, 256:] = 0
        return result, None


class _Unshifted(_Base):
    @staticmethod
    def forward(ctx, logits, target):
        ctx.save_for_backward(logits, target)
        return torch.nn.functional.cross_entropy(logits, target, reduction="none")

    @staticmethod
    def backward(ctx, upstream):
        logits, target = ctx.saved_tensors
        e = torch.exp(logits)
        gradient = e / e.sum(1, keepdim=True)
        gradient[torch.arange(len(target)), target] -= 1
        return gradient * upstream[:, None], None


class _ReadModifyWrite(_Base):
    @staticmethod
    def forward(ctx, logits, target):
        z = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logp = torch.log_softmax(z, 1)
        ctx.save_for_backward(torch.exp(logp).to(logits.dtype), target)  # 0.999 is 1 in bfloat16
        return -logp.gather(1, target[:, None])[:, 0]

    @staticmethod
    def backward(ctx, upstream):
        p, target = ctx.saved_tensors
        gradient = p.clone()
        gradient[torch.arange(len(target)), target] -= 1
        return (gradient * upstream[:, None]).to(p.dtype), None


class _TargetEntryMissing(_Base):
    @staticmethod
    def forward(ctx, logits, target):
        logp = torch.log_softmax(logits, 1)
        ctx.save_for_backward(torch.exp(logp))
        return -logp.gather(1, target[:, None])[:, 0]

    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[:, None], None


def upstream_ignored(logits, target):
    return _UpstreamIgnored.apply(logits, target)


def upstream_averaged(logits, target):
    return _UpstreamAveraged.apply(logits, target)


def upstream_of_first_row(logits, target):
    return _UpstreamOfFirstRow.apply(logits, target)


def upstream_twice(logits, target):
    return _UpstreamTwice.apply(logits, target)


def upstream_sign(logits, target):
    return _UpstreamSign.apply(logits, target)


def upstream_magnitude(logits, target):
    return _UpstreamMagnitude.apply(logits, target)


def second_backward_scaled(logits, target):
    return _ScaledInPlace.apply(logits, target)


def second_backward_zero(logits, target):
    return _Freed.apply(logits, target)


def zero_gradient(logits, target):
    return _Nothing.apply(logits, target)


def small_entries_dropped(logits, target):
    return _SmallEntriesDropped.apply(logits, target)


def first_classes_only(logits, target):
    return _FirstClassesOnly.apply(logits, target)


def unshifted_gradient(logits, target):
    return _Unshifted.apply(logits, target)


def target_read_modify_write(logits, target):
    return _ReadModifyWrite.apply(logits, target)


def target_entry_missing(logits, target):
    return _TargetEntryMissing.apply(logits, target)


def zero_for_none(logits, target, *, reduction="mean"):
    if reduction == "none":
        return _Nothing.apply(logits, target)
    return torch.nn.functional.cross_entropy(logits, target, reduction=reduction)


class _MeanGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target, reduction):
        rows = torch.nn.functional.cross_entropy(logits, target, reduction="none")
        gradient = torch.softmax(logits, 1)
        gradient[torch.arange(len(target)), target] -= 1
        ctx.reduction = reduction
        ctx.save_for_backward(gradient)
        return {"none": rows, "mean": rows.mean(), "sum": rows.sum()}[reduction]

    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        if ctx.reduction == "none":
            return gradient * upstream[:, None], None, None
        return gradient * upstream / len(gradient), None, None


def mean_gradient_for_sum(logits, target, *, reduction="mean"):
    return _MeanGradient.apply(logits, target, reduction)


class _ScalarUpstreamDropped(_MeanGradient):
    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        if ctx.reduction == "none":
            return gradient * upstream[:, None], None, None
        return gradient / (len(gradient) if ctx.reduction == "mean" else 1), None, None


def scalar_upstream_dropped(logits, target, *, reduction="mean"):
    return _ScalarUpstreamDropped.apply(logits, target, reduction)


def detached(logits, target):
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(logits, target, reduction="none")


def gradient_through_maximum(logits, target):
    m, first = logits.max(1, keepdim=True)
    relative = logits - m
    leader = torch.arange(logits.shape[1]) == first
    rest = torch.where(leader, 0.0, torch.exp(torch.where(leader, 0.0, relative))).sum(1)
    return torch.log1p(rest) - relative.gather(1, target[:, None])[:, 0]


_SHARED = {}


class _SharedBuffer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target):
        key = (tuple(logits.shape), logits.dtype)
        logp = torch.log_softmax(logits, 1)
        buffer = _SHARED.setdefault(key, torch.empty_like(logits, memory_format=torch.contiguous_format))
        buffer.copy_(torch.exp(logp))
        buffer[torch.arange(len(target)), target] -= 1
        ctx.buffer = buffer
        return -logp.gather(1, target[:, None])[:, 0]

    @staticmethod
    def backward(ctx, upstream):
        return ctx.buffer * upstream[:, None], None


def buffer_shared_by_calls(logits, target):
    return _SharedBuffer.apply(logits, target)


def shifted_by_the_target(logits, target):
    return torch.logsumexp(logits - logits.gather(1, target[:, None]), 1)


EXPECT = {
    "shifted_by_the_target": {
        "check": "gradient_accuracy",
        "bug": "log-sum-exp of z - z_y: where the label is far below, that rounds what the gradient needs",
    },
    "upstream_ignored": {
        "check": "upstream_gradient",
        "bug": "the upstream gradient is ignored",
        "source": "NVIDIA/Megatron-LM#1750",
    },
    "upstream_averaged": {"check": "upstream_gradient", "bug": "every row gets the mean of the upstream gradient"},
    "upstream_of_first_row": {
        "check": "upstream_gradient",
        "bug": "every row gets the first row's upstream gradient",
        "source": "linkedin/Liger-Kernel#1298",
    },
    "upstream_twice": {"check": "upstream_gradient", "bug": "the upstream gradient is applied twice"},
    "upstream_sign": {"check": "upstream_gradient", "bug": "only the sign of the upstream gradient is used"},
    "upstream_magnitude": {"check": "upstream_gradient", "bug": "the sign of the upstream gradient is lost"},
    "scalar_upstream_dropped": {
        "check": "upstream_gradient",
        "bug": "a scalar upstream gradient is taken to be 1, as it is in loss.backward()",
    },
    "second_backward_scaled": {
        "check": "repeated_backward",
        "bug": "the saved gradient is scaled in place, so that a second backward scales it again",
        "source": "linkedin/Liger-Kernel#1251",
    },
    "second_backward_zero": {
        "check": "repeated_backward",
        "bug": "the saved gradient is cleared once it was used",
    },
    "buffer_shared_by_calls": {
        "check": "overlapping_calls",
        "bug": "the gradient is kept in one buffer per shape, which the next forward overwrites before the backward",
    },
    "zero_gradient": {
        "check": "gradient_accuracy",
        "bug": "the gradient is zero",
        "source": "unslothai/unsloth#5230",
    },
    "zero_for_none": {
        "check": "gradient_accuracy",
        "bug": 'the gradient is zero for reduction="none", and right otherwise',
        "source": "microsoft/DirectML#739",
    },
    "detached": {"check": "gradient_accuracy", "bug": "the loss is computed without a graph"},
    "small_entries_dropped": {
        "check": "gradient_accuracy",
        "bug": "gradient entries below 2^-12 are set to zero",
        "source": "apple/ml-cross-entropy#14",
    },
    "first_classes_only": {
        "check": "gradient_accuracy",
        "bug": "the gradient of classes from 256 on is never written",
    },
    "unshifted_gradient": {
        "check": "nonfinite",
        "bug": "the backward recomputes the softmax without a shift",
    },
    "target_read_modify_write": {
        "check": "gradient_accuracy",
        "bug": "1 is taken from a probability stored in bfloat16: the target's gradient is lost at p = .999",
        "source": "linkedin/Liger-Kernel#1329",
        "options": {"dtypes": ["bfloat16"], "grade": "absolute"},
    },
    "target_entry_missing": {
        "check": "gradient_accuracy",
        "bug": "1 is never taken from the target's probability",
    },
    "gradient_through_maximum": {
        "check": "gradient_accuracy",
        "bug": "the largest logit's gradient comes through the maximum only, as 1 minus all the others",
        "source": "jax-ml/jax#13529",
    },
    "mean_gradient_for_sum": {
        "check": "reduction",
        "bug": 'the gradient for reduction="sum" is divided by N',
    },
}
