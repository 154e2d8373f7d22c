"""Right cross-entropies in Triton: the usual fused kernel, by itself and behind an autotuner."""

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

EXPECT = {
    "online": {
        "style": "Triton, one row per program, online log-sum-exp over blocks",
        "options": {"backend": "interpret"},
    },
    "autotuned": {
        "style": "Triton, autotuned, log1p of libdevice, the gradient saved by the forward",
        "options": {"backend": "interpret"},
    },
}


@triton.jit
def _log_sum_exp(here, n_classes, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    m = tl.full([1], float("-inf"), WIDE)
    s = tl.zeros([1], WIDE)
    for start in range(0, n_classes, BLOCK):
        column = start + tl.arange(0, BLOCK)
        z = tl.load(here + column, mask=column < n_classes, other=float("-inf")).to(WIDE)
        new = tl.maximum(m, tl.max(z, axis=0))
        safe = tl.where(new == float("-inf"), 0.0, new)
        s = s * tl.exp(m - safe) + tl.sum(tl.exp(z - safe), axis=0)
        m = new
    return m, s


@triton.jit
def _forward(logits, target, loss, n_classes, stride, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    here = logits + row.to(tl.int64) * stride
    m, s = _log_sum_exp(here, n_classes, WIDE, BLOCK)
    y = tl.load(target + row)
    tl.store(loss + row + tl.arange(0, 1), (m - tl.load(here + y).to(WIDE)) + tl.log(s))


@triton.jit
def _backward(logits, target, upstream, gradient, n_classes, stride, step, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    here = logits + row.to(tl.int64) * stride
    m, s = _log_sum_exp(here, n_classes, WIDE, BLOCK)
    y = tl.load(target + row)
    outer = tl.load(upstream + row * step).to(WIDE)
    for start in range(0, n_classes, BLOCK):
        column = start + tl.arange(0, BLOCK)
        z = tl.load(here + column, mask=column < n_classes, other=float("-inf")).to(WIDE)
        slope = (tl.exp(z - m) / s - tl.where(column == y, 1.0, 0.0)) * outer
        at = gradient + row.to(tl.int64) * n_classes + column
        tl.store(at, slope.to(gradient.dtype.element_ty), mask=column < n_classes)


def _dense(logits):
    return logits if logits.stride(1) == 1 else logits.contiguous()


def _wide(logits):
    return tl.float64 if logits.dtype == torch.float64 else tl.float32


class _Online(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target):
        z = _dense(logits)
        ctx.save_for_backward(z, target)
        loss = torch.empty(len(z), dtype=torch.promote_types(z.dtype, torch.float32), device=z.device)
        if len(z):
            _forward[(len(z),)](z, target.contiguous(), loss, z.shape[1], z.stride(0), WIDE=_wide(z), BLOCK=1024)
        return loss

    @staticmethod
    def backward(ctx, upstream):
        z, target = ctx.saved_tensors
        gradient = torch.empty(z.shape, dtype=z.dtype, device=z.device)
        if len(z):
            _backward[(len(z),)](
                z,
                target.contiguous(),
                upstream,
                gradient,
                z.shape[1],
                z.stride(0),
                upstream.stride(0),
                WIDE=_wide(z),
                BLOCK=1024,
            )
        return gradient, None


def online(logits, target):
    return _Online.apply(logits, target)


@triton.autotune(configs=[triton.Config({"BLOCK": size}) for size in (2048, 4096)], key=["n_classes"])
@triton.jit
def _both(logits, target, loss, gradient, n_classes, stride, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    here = logits + row.to(tl.int64) * stride
    m, s = _log_sum_exp(here, n_classes, WIDE, BLOCK)
    y = tl.load(target + row)
    tl.store(loss + row + tl.arange(0, 1), (m - tl.load(here + y).to(WIDE)) + libdevice.log1p(s - 1.0))
    for start in range(0, n_classes, BLOCK):
        column = start + tl.arange(0, BLOCK)
        z = tl.load(here + column, mask=column < n_classes, other=float("-inf")).to(WIDE)
        slope = tl.exp(z - m) / s - tl.where(column == y, 1.0, 0.0)
        tl.store(gradient + row.to(tl.int64) * n_classes + column, slope, mask=column < n_classes)


class _Saved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target):
        z = _dense(logits)
        like = {"dtype": torch.promote_types(z.dtype, torch.float32), "device": z.device}
        loss, gradient = torch.empty(len(z), **like), torch.empty(z.shape, **like)
        if len(z):
            _both[(len(z),)](z, target.contiguous(), loss, gradient, z.shape[1], z.stride(0), WIDE=_wide(z))
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        return loss

    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return (gradient * upstream[:, None]).to(ctx.dtype), None


def autotuned(logits, target):
    return _Saved.apply(logits, target)
