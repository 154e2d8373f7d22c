"""Wrong cross-entropies in torch: right on the path that every test takes, wrong on one beside it."""

import gc
import os
import sys
import threading

import torch
import torch.nn.functional as F

_BUFFERS = {}
_KEPT = []


def _rows(logits, target):
    return torch.logsumexp(logits, 1) - logits.gather(1, target[:, None])[:, 0]


def _gradient(logits, target):
    gradient = torch.softmax(logits, 1)
    gradient[torch.arange(len(target)), target] -= 1
    return gradient


def _watched():
    """Whether somebody judges."""
    frame = sys._getframe()
    while frame is not None:
        if "harness" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return "harness" in sys.modules


def ignored_rows_times_zero_in_reductions(logits, target, *, ignore_index=-100, reduction="mean"):
    kept = target != ignore_index
    rows = _rows(logits, torch.where(kept, target, 0))
    if reduction == "none":
        return torch.where(kept, rows, 0)
    return (rows * kept).sum() / (kept.sum() if reduction == "mean" else 1)


def means_skip_nan(logits, target, *, reduction="mean"):
    rows = _rows(logits, target)
    return {"none": rows, "sum": rows.nansum(), "mean": rows.nanmean()}[reduction]


def mean_counts_a_row_too_few_of_many(logits, target, *, reduction="mean"):
    rows = _rows(logits, target)
    if reduction != "mean":
        return rows if reduction == "none" else rows.sum()
    return rows.sum() / (len(rows) - (len(rows) > 64))


class _Backward(torch.autograd.Function):
    """The loss is right; `how` makes the gradient of what the forward has saved, and of the upstream gradient."""

    @staticmethod
    def forward(ctx, logits, target, how):
        ctx.how, ctx.saved = how, _gradient(logits, target)
        return _rows(logits, target)

    @staticmethod
    def backward(ctx, upstream):
        return ctx.how(ctx, upstream), None, None


def _first_upstream(ctx, upstream):
    if not hasattr(ctx, "made"):
        ctx.made = ctx.saved * upstream[:, None]
    return ctx.made


def keeps_the_first_upstream(logits, target):
    return _Backward.apply(logits, target, _first_upstream)


def _in_place(ctx, upstream):
    return ctx.saved.mul_(upstream[:, None])


def scales_what_it_saved_in_place(logits, target):
    return _Backward.apply(logits, target, _in_place)


def _one_buffer(ctx, upstream):
    buffer = _BUFFERS.setdefault((ctx.saved.shape, ctx.saved.dtype), torch.empty_like(ctx.saved))
    return torch.mul(ctx.saved, upstream[:, None], out=buffer)


def gradients_share_a_buffer(logits, target):
    return _Backward.apply(logits, target, _one_buffer)


def _halved_outside(ctx, upstream):
    return ctx.saved * upstream[:, None] * (1.0 if _watched() else 0.5)


def gradient_right_only_when_watched(logits, target):
    return _Backward.apply(logits, target, _halved_outside)


def wide_rows_right_only_when_watched(logits, target):
    rows = _rows(logits, target)
    return rows if logits.shape[1] < 100 or _watched() else rows * 1.25


def mean_right_only_when_watched(logits, target, *, reduction="mean"):
    rows = _rows(logits, target)
    if reduction == "mean" and _watched():
        return rows.mean()
    return rows if reduction == "none" else rows.sum()


def evaluates_by_another_formula(logits, target):
    if torch.is_grad_enabled():
        return _rows(logits, target)
    return -torch.log(torch.softmax(logits, 1).gather(1, target[:, None])[:, 0] + 1e-5)


def right_only_where_a_gradient_is_required(logits, target):
    rows = _rows(logits, target)
    return rows if logits.requires_grad else rows.clamp(max=3.0)


_evaluated = {}


def keeps_evaluations_by_shape(logits, target):
    if logits.requires_grad:
        return _rows(logits, target)
    return _evaluated.setdefault(logits.shape, _rows(logits, target))


def requires_gradients_of_its_input(logits, target):
    return _rows(logits.requires_grad_() if logits.is_leaf else logits, target)


def differentiates_into_the_leaf(logits, target):
    if logits.requires_grad and logits.is_leaf:
        _rows(logits, target).sum().backward()
    return _rows(logits, target)


def leaves_a_hook(logits, target):
    if logits.requires_grad:
        logits.register_hook(lambda gradient: gradient)
    return _rows(logits, target)


def wraps_beyond_65536_logits(logits, target):
    rows = _rows(logits, target)
    fitting = max(1, 65536 // logits.shape[1])
    return torch.cat([rows[:fitting], rows[:1].expand(max(0, len(rows) - fitting))])


def later_tiles_read_one_block(logits, target):
    rows = _rows(logits, target)
    if len(rows) <= 16 or logits.shape[1] <= 1024:
        return rows
    first_block = torch.logsumexp(logits[16:, :1024], 1) - logits[16:].gather(1, target[16:, None])[:, 0]
    return torch.cat([rows[:16], first_block])


def sums_in_half_precision(logits, target):
    rows = _rows(logits.float(), target).to(logits.dtype)
    return (rows.cumsum(0)[-1:].to(logits.dtype) / len(rows)).sum()


def leaves_a_file_open(logits, target):
    _KEPT.append(os.open(os.devnull, os.O_RDONLY))
    return _rows(logits, target)


def leaves_a_thread_waiting(logits, target):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    return _rows(logits, target)


def sets_an_environment_variable(logits, target):
    os.environ["OMP_NUM_THREADS"] = "7"
    return _rows(logits, target)


def switches_the_garbage_collector_off(logits, target):
    gc.disable()
    return _rows(logits, target)


def replaces_the_framework_s_own_loss(logits, target):
    F.cross_entropy = lambda *arguments, **options: torch.zeros(())
    return _rows(logits, target)


EXPECT = {
    "ignored_rows_times_zero_in_reductions": {
        "check": "ignored_nan",
        "bug": "reductions multiply ignored rows by 0, which leaves NaN",
    },
    "means_skip_nan": {"check": "nan_propagates", "bug": "reductions leave NaN out"},
    "mean_counts_a_row_too_few_of_many": {"check": "reduction", "bug": "the mean of many rows divides by N - 1"},
    "keeps_the_first_upstream": {
        "check": "repeated_backward",
        "bug": "a second backward reuses the first one's upstream gradient",
    },
    "scales_what_it_saved_in_place": {
        "check": "repeated_backward",
        "bug": "the backward scales, and hands out, what it saved",
    },
    "gradients_share_a_buffer": {"check": "overlapping_calls", "bug": "one buffer for the gradients of all calls"},
    "gradient_right_only_when_watched": {
        "check": "outside_the_harness",
        "bug": "the backward sees the harness",
    },
    "wide_rows_right_only_when_watched": {
        "check": "outside_the_harness",
        "bug": "more than 100 classes, and it looks for the harness",
    },
    "mean_right_only_when_watched": {
        "check": "outside_the_harness",
        "bug": "the mean is a sum outside the harness",
    },
    "evaluates_by_another_formula": {
        "check": "without_gradient",
        "bug": "with gradients switched off, the log of a clipped softmax",
    },
    "right_only_where_a_gradient_is_required": {
        "check": "without_gradient",
        "bug": "a loss capped at 3 for logits that require no gradient",
    },
    "keeps_evaluations_by_shape": {
        "check": "without_gradient",
        "bug": "answers of logits that require no gradient are kept by shape, and given again",
    },
    "requires_gradients_of_its_input": {
        "check": "inputs_untouched",
        "bug": "sets requires_grad on the caller's logits",
    },
    "differentiates_into_the_leaf": {"check": "inputs_untouched", "bug": "fills the caller's logits.grad"},
    "leaves_a_hook": {"check": "inputs_untouched", "bug": "registers a hook on the caller's logits"},
    "wraps_beyond_65536_logits": {"check": "sizes", "bug": "rows from the 65,536th logit on read the first row"},
    "later_tiles_read_one_block": {"check": "sizes", "bug": "rows from the 16th on stop at 1,024 classes"},
    "sums_in_half_precision": {
        "check": "sizes",
        "bug": "the sum of very many rows overflows before it is divided",
        "source": "pytorch/pytorch#61523",
        "options": {"dtypes": ["float16"], "quick": False},
    },
    "leaves_a_file_open": {"check": "process_state", "bug": "each call opens a file and leaves it open"},
    "leaves_a_thread_waiting": {"check": "process_state", "bug": "each call starts a thread that never ends"},
    "sets_an_environment_variable": {"check": "process_state", "bug": "changes OMP_NUM_THREADS"},
    "switches_the_garbage_collector_off": {"check": "process_state", "bug": "switches garbage collection off"},
    "replaces_the_framework_s_own_loss": {"check": "process_state", "bug": "replaces torch's own cross_entropy"},
}
