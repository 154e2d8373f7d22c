"""Wrong cross-entropies in Triton: one kernel, forward and backward, and in each candidate one of its usual bugs."""

import torch
import triton
import triton.language as tl

EXPECT = {
    "missing_rescale": {
        "check": "accuracy",
        "bug": "The running sum is not rescaled when a later block has a larger maximum.",
        "options": {"backend": "interpret"},
    },
    "masked_first_block": {
        "check": "masked_classes",
        "bug": "A first block that is masked as a whole gives exp(-inf - -inf), and NaN for the row.",
        "source": "google-deepmind/optax#896",
        "options": {"backend": "interpret"},
    },
    "dropped_tail": {
        "check": "sizes",
        "bug": "The classes after the last whole block are left out of the sum.",
        "options": {"backend": "interpret"},
    },
    "read_modify_write": {
        "check": "gradient_accuracy",
        "bug": "The target's entry is read back in bfloat16, and 1 is taken from what was rounded to 1.",
        "source": "linkedin/Liger-Kernel#1329",
        "options": {"backend": "interpret", "dtypes": ["bfloat16"], "grade": "absolute"},
    },
    "upstream_ignored": {
        "check": "upstream_gradient",
        "bug": "The backward does not multiply by the upstream gradient.",
        "options": {"backend": "interpret"},
    },
    "padding_counted": {
        "check": "accuracy",
        "bug": "Elements beyond the last class are loaded as 0 and counted as classes.",
        "options": {"backend": "interpret"},
    },
    "offsets_in_32_bits": {
        "check": "memory_layout",
        "bug": "Row times stride is computed in 32 bits, and wraps around for the last rows of large logits.",
        "options": {"backend": "interpret", "dtypes": ["float16"]},
    },
}

BLOCK = 128


@triton.jit
def _kernel(
    logits,
    target,
    upstream,
    loss,
    gradient,
    n_classes,
    stride,
    BUG: tl.constexpr,
    BACKWARD: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0)
    if BUG == "offsets_in_32_bits":
        here = logits + row * stride
    else:
        here = logits + row.to(tl.int64) * stride
    padding = float("-inf")
    if BUG == "padding_counted":
        padding = 0.0
    end = n_classes
    if BUG == "dropped_tail":
        end = tl.maximum(n_classes // BLOCK * BLOCK, 1)
    m = tl.full([1], float("-inf"), WIDE)
    s = tl.zeros([1], WIDE)
    for start in range(0, end, BLOCK):
        column = start + tl.arange(0, BLOCK)
        z = tl.load(here + column, mask=column < n_classes, other=padding).to(WIDE)
        new = tl.maximum(m, tl.max(z, axis=0))
        safe = new
        if BUG != "masked_first_block":
            safe = tl.where(new == float("-inf"), 0.0, new)
        if BUG != "missing_rescale":
            s = s * tl.exp(m - safe)
        s += tl.sum(tl.exp(z - safe), axis=0)
        m = new
    y = tl.load(target + row + tl.arange(0, 1))
    if not BACKWARD:
        z_y = tl.load(here + y).to(WIDE)
        tl.store(loss + row + tl.arange(0, 1), (m - z_y) + tl.log(s))
        return
    outer = tl.full([1], 1.0, WIDE)
    if BUG != "upstream_ignored":
        outer = tl.load(upstream + row + tl.arange(0, 1)).to(WIDE)
    there = gradient + row.to(tl.int64) * n_classes
    for start in range(0, n_classes, BLOCK):
        column = start + tl.arange(0, BLOCK)
        z = tl.load(here + column, mask=column < n_classes, other=float("-inf")).to(WIDE)
        slope = tl.exp(z - m) / s
        if BUG != "read_modify_write":
            slope = slope - tl.where(column == y, 1.0, 0.0)
        tl.store(there + column, (slope * outer).to(gradient.dtype.element_ty), mask=column < n_classes)
    if BUG == "read_modify_write":
        tl.debug_barrier()
        p = tl.load(there + y).to(WIDE)
        tl.store(there + y, (p - outer).to(gradient.dtype.element_ty))


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target, bug):
        z, y = logits if logits.stride(1) == 1 else logits.contiguous(), target.contiguous()
        ctx.save_for_backward(z, y)
        ctx.bug = bug
        return _launched(z, y, None, bug)

    @staticmethod
    def backward(ctx, upstream):
        return _launched(*ctx.saved_tensors, upstream.contiguous(), ctx.bug), None, None


def _launched(logits, target, upstream, bug):
    n, v = logits.shape
    wide = torch.promote_types(logits.dtype, torch.float32)
    like = {"device": logits.device}
    loss = torch.empty(n, dtype=wide, **like)
    gradient = torch.empty(n, v, dtype=logits.dtype, **like) if upstream is not None else loss
    if n:
        _kernel[(n,)](
            logits,
            target,
            loss if upstream is None else upstream,
            loss,
            gradient,
            v,
            logits.stride(0),
            BUG=bug,
            BACKWARD=upstream is not None,
            WIDE=tl.float64 if wide == torch.float64 else tl.float32,
            BLOCK=BLOCK,
        )
    return loss if upstream is None else gradient


def missing_rescale(logits, target):
    return _Loss.apply(logits, target, "missing_rescale")


def masked_first_block(logits, target):
    return _Loss.apply(logits, target, "masked_first_block")


def dropped_tail(logits, target):
    return _Loss.apply(logits, target, "dropped_tail")


def read_modify_write(logits, target):
    return _Loss.apply(logits, target, "read_modify_write")


def upstream_ignored(logits, target):
    return _Loss.apply(logits, target, "upstream_ignored")


def padding_counted(logits, target):
    return _Loss.apply(logits, target, "padding_counted")


def offsets_in_32_bits(logits, target):
    return _Loss.apply(logits, target, "offsets_in_32_bits")
