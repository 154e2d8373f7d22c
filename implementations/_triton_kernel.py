"""A fused cross-entropy in Triton: forward and backward, one pass over the logits each, and nothing that cancels.

Two things set it apart from the usual fused kernels. The largest term of Σ exp(z_j − m), which is exactly 1, stays out
of the running sum and meets it in log1p, so that a small loss is not lost in it. And the gradient of the target's class
is minus the sum of the *other* probabilities, never p_y − 1, which has no digits left where p_y is close to 1.

Memory traffic: the forward reads the logits once and writes O(N), which is the floor; the backward reads them once more
and writes the gradient. Together two reads and one write of [N, V]; the floor is one read and one write, which only a
kernel reaches that keeps a whole row on the chip and knows the upstream gradient beforehand. The logits are never
written to unless `inplace` asks for it, and then no second [N, V] exists.

This file imports torch and Triton alone, and can be copied. On a machine without a GPU set ``TRITON_INTERPRET=1``
before Triton is imported; for bfloat16, see docs/gpu.md.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

__all__ = ["fused_cross_entropy"]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
LARGEST_BLOCK = 1 << 16 if INTERPRETED else 8192
"""Classes that one program looks at together: 32 KiB of float32, an eighth of a processor's registers. The interpreter
takes its time by the operation, whatever its size, so that there blocks are larger."""
LARGEST_WIDE_BACKWARD = LARGEST_BLOCK if INTERPRETED else LARGEST_BLOCK // 2
"""The same, in the backward of float64: of 8192, not all fit into sm_120's registers."""
TILE = 1 << 16 if INTERPRETED else 4096
"""Elements of a tile where V is small: several rows then share a program."""
WARPS = 8


@triton.jit
def _log1p(x):
    """log(1 + x) for x ≥ 0: Kahan's form, as good as the logarithm is, with no function of a device's library."""
    u = 1.0 + x
    d = u - 1.0
    return tl.where((d == 0.0) | (u == float("inf")), x, tl.log(u) * (x / tl.where(d == 0.0, 1.0, d)))


@triton.jit
def _expm1_negative(x):
    """exp(x) − 1 for x ≤ 0, by the same device."""
    u = tl.exp(x)
    d = u - 1.0
    inner = (u > 0.0) & (d != 0.0)
    kahan = d * (x / tl.where(inner, tl.log(tl.where(inner, u, 0.5)), 1.0))
    return tl.where(d == 0.0, x, tl.where(u > 0.0, kahan, -1.0))


@triton.jit
def _capped(z, CAP: tl.constexpr):
    """cap · tanh(z / cap); a masked class, −inf, stays one."""
    t = _expm1_negative(-2.0 * tl.abs(z) / CAP)
    bent = CAP * (-t / (2.0 + t))
    return tl.where(z == float("-inf"), z, tl.where(z < 0.0, -bent, bent))


@triton.jit
def _slope(z, CAP: tl.constexpr):
    """The derivative of `_capped`: 1 − tanh² as 4 e / (1 + e)² with e = exp(−2 |z| / cap), in which nothing cancels."""
    e = tl.exp(-2.0 * tl.abs(z) / CAP)
    return 4.0 * e / ((1.0 + e) * (1.0 + e))


@triton.jit
def _forward_kernel(
    logits,
    target,
    weight,
    loss,
    top,
    rest,
    n_rows,
    n_classes,
    ignored,
    stride_n,
    stride_v,
    stride_target,
    stride_weight,
    SMOOTHING: tl.constexpr,
    CAP: tl.constexpr,
    Z_LOSS: tl.constexpr,
    WEIGHTED: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)  # N·V may exceed 2^31
    inside = row < n_rows
    y = tl.load(target + row * stride_target, mask=inside, other=0).to(tl.int64)
    counted = inside & (y != ignored)
    valid = counted & (y >= 0) & (y < n_classes)
    m = tl.full([ROWS], float("-inf"), WIDE)  # the largest logit so far,
    ties = tl.zeros([ROWS], WIDE)  # how many there are of it,
    s = tl.zeros([ROWS], WIDE)  # and the sum of the others' exp(z_j − m)
    gaps = tl.zeros([ROWS], WIDE)  # Σ w_j (m − z_j): no term is negative, whatever the logits' common offset
    mass = tl.zeros([ROWS], WIDE)  # Σ w_j
    for start in range(0, n_classes, BLOCK):
        column = start + tl.arange(0, BLOCK).to(tl.int64)
        there = column < n_classes
        where = logits + row[:, None] * stride_n + column[None, :] * stride_v
        z = tl.load(where, mask=counted[:, None] & there[None, :], other=float("-inf")).to(WIDE)
        if CAP != 0.0:
            z = _capped(z, CAP)
        new = tl.maximum(m, tl.max(z, axis=1))
        safe = tl.where(new == float("-inf"), 0.0, new)  # so far everything is masked: −inf − −inf is NaN
        equal = z == new[:, None]
        s = tl.where(new > m, (s + ties) * tl.exp(m - safe), s)
        ties = tl.where(new > m, 0.0, ties) + tl.sum(tl.where(equal, 1.0, 0.0).to(WIDE), axis=1)
        s += tl.sum(tl.where(equal, 0.0, tl.exp(z - safe[:, None])), axis=1)  # a NaN is equal to nothing: it stays
        if SMOOTHING != 0.0:
            if WEIGHTED:
                w = tl.load(weight + column * stride_weight, mask=there, other=0.0).to(WIDE)
            else:
                w = tl.where(there, 1.0, 0.0).to(WIDE)
            gaps += mass * (safe - tl.where(m == float("-inf"), 0.0, m))
            weighted = tl.where(w[None, :] == 0.0, 0.0, w[None, :] * (safe[:, None] - z))
            gaps += tl.sum(weighted, axis=1)
            mass += tl.sum(w, axis=0)
        m = new
    others = s + (ties - 1.0)
    others = tl.where(tl.abs(m) < float("inf"), others, float("nan"))  # all masked, or +inf among them: as torch
    tl.store(top + row, m, mask=inside)
    tl.store(rest + row, others, mask=inside)

    z_y = tl.load(logits + row * stride_n + y * stride_v, mask=valid, other=0.0).to(WIDE)
    if CAP != 0.0:
        z_y = _capped(z_y, CAP)
    beyond = _log1p(others)
    of_target = (m - z_y) + beyond
    share = tl.full([ROWS], 1.0 - SMOOTHING, WIDE)
    if WEIGHTED:
        share *= tl.load(weight + y * stride_weight, mask=valid, other=0.0).to(WIDE)
    value = tl.where((share == 0.0) & (of_target == float("inf")), 0.0, share * of_target)
    if SMOOTHING != 0.0:
        value += (tl.full([ROWS], SMOOTHING, WIDE) / n_classes) * (gaps + mass * beyond)
    if Z_LOSS != 0.0:
        value += tl.full([ROWS], Z_LOSS, WIDE) * (m + beyond) * (m + beyond)
    value = tl.where(valid, value, tl.where(counted, float("nan"), 0.0))
    tl.store(loss + row, value, mask=inside)


@triton.jit
def _backward_kernel(
    logits,
    target,
    weight,
    mass,
    upstream,
    top,
    rest,
    gradient,
    n_rows,
    n_classes,
    ignored,
    stride_n,
    stride_v,
    stride_target,
    stride_weight,
    stride_upstream,
    stride_gradient_n,
    stride_gradient_v,
    SMOOTHING: tl.constexpr,
    CAP: tl.constexpr,
    Z_LOSS: tl.constexpr,
    WEIGHTED: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK).to(tl.int64)
    inside = row < n_rows
    there = column < n_classes
    y = tl.load(target + row * stride_target, mask=inside, other=0).to(tl.int64)
    counted = inside & (y != ignored)
    valid = counted & (y >= 0) & (y < n_classes)
    m = tl.load(top + row, mask=inside, other=0.0)[:, None]
    others = tl.load(rest + row, mask=inside, other=0.0)[:, None]
    outer = tl.load(upstream + row * stride_upstream, mask=inside, other=0.0).to(WIDE)[:, None]
    share = tl.full([ROWS], 1.0 - SMOOTHING, WIDE)
    if WEIGHTED:
        share *= tl.load(weight + y * stride_weight, mask=valid, other=0.0).to(WIDE)
    where = logits + row[:, None] * stride_n + column[None, :] * stride_v
    raw = tl.load(where, mask=counted[:, None] & there[None, :], other=float("-inf")).to(WIDE)
    z = raw
    if CAP != 0.0:
        z = _capped(raw, CAP)
    e = tl.exp(z - m)
    total = 1.0 + others
    p = e / total
    # Of the target's class: minus what all others have. Where it is the largest, that is the sum that left it out.
    not_it = tl.where(z == m, others, total - e) / total
    slope = tl.where(column[None, :] == y[:, None], -share[:, None] * not_it, share[:, None] * p)
    if SMOOTHING != 0.0:
        even = tl.full([1, 1], SMOOTHING, WIDE) / n_classes
        if WEIGHTED:
            w = tl.load(weight + column * stride_weight, mask=there, other=0.0).to(WIDE)
            slope += even * (tl.load(mass) * p - w[None, :])
        else:
            slope += even * (n_classes * p - 1.0)
    if Z_LOSS != 0.0:
        slope += (2.0 * tl.full([1, 1], Z_LOSS, WIDE)) * (m + _log1p(others)) * p
    if CAP != 0.0:
        slope = tl.where(raw == float("-inf"), 0.0, slope * _slope(raw, CAP))
    slope = tl.where(valid[:, None], slope * outer, tl.where(counted, float("nan"), 0.0)[:, None])
    out = gradient + row[:, None] * stride_gradient_n + column[None, :] * stride_gradient_v
    tl.store(out, slope.to(gradient.dtype.element_ty), mask=inside[:, None] & there[None, :])


class _FusedCrossEntropy(torch.autograd.Function):
    """The losses [N], and their gradient with respect to the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Any, target: Any, weight: Any, settings: dict[str, Any]) -> Any:
        n, v = logits.shape
        wide = torch.promote_types(logits.dtype, torch.float32)
        loss, top, rest = (torch.empty(n, dtype=wide, device=logits.device) for _ in range(3))
        launch = _Launch(n, v, wide, weight is not None, settings, LARGEST_BLOCK)
        if n:
            with _on(logits.device):
                _forward_kernel[(launch.row_programs,)](
                    logits,
                    target,
                    weight if weight is not None else logits,
                    loss,
                    top,
                    rest,
                    n,
                    v,
                    settings["ignore_index"],
                    *logits.stride(),
                    target.stride(0),
                    weight.stride(0) if weight is not None else 0,
                    **launch.constants,
                )
        ctx.save_for_backward(logits, target, weight, top, rest)
        largest = LARGEST_WIDE_BACKWARD if wide == torch.float64 else LARGEST_BLOCK
        ctx.launch = _Launch(n, v, wide, weight is not None, settings, largest)
        ctx.settings, ctx.spent = settings, False
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Any) -> Any:
        logits, target, weight, top, rest = ctx.saved_tensors
        if ctx.spent:
            raise RuntimeError("the logits hold the gradient by now: leave inplace=True out to differentiate twice")
        ctx.spent = ctx.settings["inplace"]
        gradient = logits if ctx.spent else torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        mass = weight.to(top.dtype).sum() if weight is not None else top
        launch = ctx.launch
        if gradient.numel():
            with _on(logits.device):
                _backward_kernel[(launch.row_programs, launch.column_programs)](
                    logits,
                    target,
                    weight if weight is not None else logits,
                    mass,
                    upstream,
                    top,
                    rest,
                    gradient,
                    *logits.shape,
                    ctx.settings["ignore_index"],
                    *logits.stride(),
                    target.stride(0),
                    weight.stride(0) if weight is not None else 0,
                    upstream.stride(0),
                    *gradient.stride(),
                    **launch.constants,
                )
        return gradient, None, None, None


class _Launch:
    """How a kernel is launched on a shape: the tile, the grid, and what is compiled in."""

    def __init__(self, n: int, v: int, wide: Any, weighted: bool, settings: dict[str, Any], largest: int) -> None:
        block = settings["block_size"] or min(largest, triton.next_power_of_2(v))
        block = max(16, block)
        rows = min(max(1, TILE // block), triton.next_power_of_2(max(n, 1)))
        self.row_programs, self.column_programs = triton.cdiv(n, rows), triton.cdiv(v, block)
        self.constants = {
            "SMOOTHING": float(settings["label_smoothing"]),
            "CAP": float(settings["softcap"]),
            "Z_LOSS": float(settings["z_loss"]),
            "WEIGHTED": weighted,
            "WIDE": tl.float64 if wide == torch.float64 else tl.float32,
            "ROWS": rows,
            "BLOCK": block,
            "num_warps": WARPS,
        }


def _on(device: Any) -> Any:
    """Launches go to the current device: make it the tensors'."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def fused_cross_entropy(
    logits: Any,
    target: Any,
    *,
    weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    softcap: float = 0.0,
    z_loss: float = 0.0,
    inplace: bool = False,
    block_size: int | None = None,
) -> Any:
    """Cross-entropy of class indices, as ``torch.nn.functional.cross_entropy`` defines it, in one kernel each way.

    Parameters
    ----------
    logits : Tensor [N, V]
        float16, bfloat16, float32 or float64, in any layout; N·V may exceed 2^31.
    target : Tensor [N]
        Class indices. A label outside [0, V) that is not `ignore_index` gives NaN, loss and gradient.
    weight : Tensor [V], optional
        Class weights, ≥ 0.
    ignore_index : int
        Rows with this label have loss 0 and gradient 0, whatever their logits hold.
    label_smoothing : float
        In [0, 1].
    reduction : str
        ``"none"``, ``"mean"`` or ``"sum"``.
    softcap : float
        Where not 0, the logits are cap · tanh(z / cap); a logit of −inf stays a masked class.
    z_loss : float
        Added to each row that counts: this times the square of its log-sum-exp, in nats². No class weight enters.
    inplace : bool
        Let the backward write the gradient over the logits, which saves an array [N, V]: they are lost then, and a
        second backward raises.
    block_size : int, optional
        Classes per block, a power of two; chosen by V where None.

    Returns
    -------
    Tensor [N] or []
        In nats, in float32 for 16-bit logits, else in their dtype. Sums are accumulated in float32, for float64 logits
        in float64.

    Raises
    ------
    ValueError
        For shapes, dtypes or options that make no sense, or `inplace` on logits whose elements share memory.
    """
    _check(logits, target, weight, label_smoothing, reduction, softcap, inplace)
    settings = {
        "ignore_index": int(ignore_index),
        "label_smoothing": label_smoothing,
        "softcap": softcap,
        "z_loss": z_loss,
        "inplace": inplace,
        "block_size": block_size,
    }
    losses = _FusedCrossEntropy.apply(logits, target, weight, settings)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    counted = target != ignore_index
    if weight is None:
        return losses.sum() / counted.sum()
    of_target = weight.to(losses.dtype)[target.clamp(0, logits.shape[1] - 1)]
    return losses.sum() / torch.where(counted, of_target, 0).sum()


def _check(
    logits: Any, target: Any, weight: Any, label_smoothing: float, reduction: str, softcap: float, inplace: bool
) -> None:
    floating = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if logits.ndim != 2 or logits.dtype not in floating or logits.shape[1] == 0:
        raise ValueError(f"logits: {list(logits.shape)} of {logits.dtype}, but [N, V] of a floating-point dtype, V ≥ 1")
    if target.shape != logits.shape[:1] or target.is_floating_point():
        raise ValueError(f"target: {list(target.shape)} of {target.dtype}, but [{logits.shape[0]}] of class indices")
    if weight is not None and weight.shape != logits.shape[1:]:
        raise ValueError(f"weight: {list(weight.shape)}, but [{logits.shape[1]}]")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing is {label_smoothing}, which is not in [0, 1]")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f'reduction {reduction!r} is unknown: choose from "none", "mean", "sum"')
    if softcap < 0.0:
        raise ValueError(f"softcap is {softcap}: it must be positive, or 0 for none")
    if inplace and any(step == 0 and size > 1 for step, size in zip(logits.stride(), logits.shape, strict=True)):
        raise ValueError("inplace: rows of these logits share memory, so that no gradient can be written over them")
