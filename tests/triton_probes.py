"""What Triton kernels make of some inputs in the interpreter, as JSON: run by test_triton.py in a process of its own.

    python tests/triton_probes.py mended|plain PROBE...

``plain`` leaves the interpreter as it is, as for a version that the mend does not know.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from harness.bridges import triton_interpreter

if __name__ == "__main__" and sys.argv[1] == "plain":
    triton_interpreter.version = lambda: "0.0.0"
triton_interpreter.mend()

import torch  # noqa: E402
import triton  # noqa: E402
import triton.language as tl  # noqa: E402
from triton.language.extra import libdevice  # noqa: E402

from harness.vetting.layouts import torch_view  # noqa: E402
from implementations._triton_kernel import fused_cross_entropy  # noqa: E402

PROBES: dict[str, Callable[[], Any]] = {}


def probe(function: Callable[[], Any]) -> Callable[[], Any]:
    PROBES[function.__name__] = function
    return function


# ---------------------------------------------------------------------------------------------------------- interpreter


@triton.jit
def _arithmetic(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a = tl.load(x + i, mask=i < n, other=0.0)
    b = tl.load(y + i, mask=i < n, other=0.0)
    tl.store(out + i, a * b + 1.5, mask=i < n)


@triton.jit
def _copy(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n, other=0.0).to(out.dtype.element_ty), mask=i < n)


@triton.jit
def _reduce(x, total, top, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a = tl.load(x + i, mask=i < n, other=0.0)
    tl.store(total, tl.sum(a, 0))
    tl.store(top, tl.max(a, 0))


@triton.jit
def _dot(a, b, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    at = i[:, None] * BLOCK + i[None, :]
    tl.store(out + at, tl.dot(tl.load(a + at), tl.load(b + at)))


@triton.jit
def _functions(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, libdevice.log1p(libdevice.tanh(tl.load(x + i, mask=i < n, other=0.0))), mask=i < n)


@triton.autotune(configs=[triton.Config({"BLOCK": size}) for size in (16, 32)], key=["n"])
@triton.jit
def _tuned(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n, other=0.0) * BLOCK, mask=i < n)


@triton.jit
def _scale(x, out, factor):
    tl.store(out, tl.load(x) * factor.to(tl.float32))


@triton.jit
def _add_atomically(out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.atomic_add(out + i, tl.full([BLOCK], 1.0, tl.bfloat16))


def _bfloat16(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@probe
def arithmetic() -> Any:
    x, y, out = _bfloat16(13), _bfloat16(13, seed=1), torch.zeros(13).bfloat16()
    _arithmetic[(1,)](x, y, out, 13, BLOCK=16)
    return bool((out == x * y + 1.5).all())


@probe
def scalars() -> Any:
    out = torch.zeros(1)
    _scale[(1,)](torch.full([1], 3.0), out, 0.1)  # in float32: 0.3000000119 as one product of float32 numbers
    return bool(out[0] == torch.tensor(3.0) * torch.tensor(0.1))


@probe
def rounding() -> Any:
    x = torch.randn(64, generator=torch.Generator().manual_seed(0))
    out = torch.zeros(64).bfloat16()
    _copy[(1,)](x, out, 64, BLOCK=64)
    return bool((out == x.bfloat16()).all())


@probe
def subnormals() -> Any:
    x = torch.tensor([9.2e-41, -3e-39, 0.0, -0.0, 1e-38]).bfloat16()
    out = torch.zeros(5)
    _copy[(1,)](x, out, 5, BLOCK=8)
    return out.tolist() == x.float().tolist()


@probe
def reductions() -> Any:
    x, total, top = _bfloat16(16), torch.zeros(1).bfloat16(), torch.zeros(1).bfloat16()
    _reduce[(1,)](x, total, top, 16, BLOCK=16)
    tree = x
    while len(tree) > 1:
        tree = tree[::2] + tree[1::2]
    return total.item() == tree.item() and top.item() == x.max().item()


@probe
def products() -> Any:
    a, b, out = _bfloat16(16, 16), _bfloat16(16, 16, seed=1), torch.zeros(16, 16)
    _dot[(1,)](a, b, out, BLOCK=16)
    return float((out - a.float() @ b.float()).abs().max())


@probe
def functions() -> Any:
    x, out = torch.tensor([1e-6, 0.5, 3.0]), torch.zeros(3)
    _functions[(1,)](x, out, 3, BLOCK=4)
    return float((out / torch.log1p(torch.tanh(x)) - 1).abs().max())


@probe
def wrong_dtype_of_a_function() -> Any:
    _functions[(1,)](_bfloat16(3), torch.zeros(3), 3, BLOCK=4)


@probe
def autotuning() -> Any:
    out = torch.zeros(2)
    _tuned[(1,)](torch.ones(2), out, 2)
    return out.tolist()


@probe
def atomics() -> Any:
    _add_atomically[(1,)](torch.zeros(4).bfloat16(), BLOCK=4)


# --------------------------------------------------------------------------------------------------------------- kernel


def _drawn(n: int, v: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, target with an ignored row, weight with a zero, upstream: float64."""
    draw = torch.Generator().manual_seed(seed)
    target = torch.randint(0, v, (n,), generator=draw)
    target[1] = -100
    weight = torch.rand(v, generator=draw, dtype=torch.float64) + 0.25
    weight[int(target[0])] = 0.0
    logits = 8.0 * torch.randn(n, v, generator=draw, dtype=torch.float64)
    return logits, target, weight, torch.randn(n, generator=draw, dtype=torch.float64)


def _like_torch(softcap: float, z_loss: float, block: int | None, **options: Any) -> float:
    """How far loss and gradient in float64 are from torch's, at most."""
    logits, target, weight, upstream = _drawn(6, 300)
    if options.pop("weighted", False):
        options["weight"] = weight
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    got = fused_cross_entropy(
        ours, target, reduction="none", softcap=softcap, z_loss=z_loss, block_size=block, **options
    )
    bent = softcap * torch.tanh(theirs / softcap) if softcap else theirs
    want = torch.nn.functional.cross_entropy(bent, target, reduction="none", **options)
    want = want + z_loss * torch.logsumexp(bent, 1) ** 2 * (target != -100)
    got_slope, want_slope = (torch.autograd.grad(x, z, upstream)[0] for x, z in ((got, ours), (want, theirs)))
    return max(float((got - want).detach().abs().max()), float((got_slope - want_slope).abs().max()))


@probe
def options() -> Any:
    return [
        _like_torch(softcap, z_loss, block, weighted=weighted, label_smoothing=smoothing)
        for softcap, z_loss in ((0.0, 0.0), (5.0, 0.0), (0.0, 0.01), (5.0, 0.01))
        for weighted, smoothing in ((False, 0.0), (True, 0.0), (False, 0.125), (True, 0.125))
        for block in (None, 32)
    ]


@probe
def small_losses() -> Any:
    """Gaps of 20 and 60 to the only other class, float32: loss and gradient, each relative to log1p(exp(-gap))."""
    z = torch.tensor([[20.0, 0.0], [60.0, 0.0]], requires_grad=True)
    loss = fused_cross_entropy(z, torch.tensor([0, 0]), reduction="none")
    (slope,) = torch.autograd.grad(loss.sum(), z)
    want = np.log1p(np.exp([-20.0, -60.0]))
    return [*(loss.detach().numpy() / want - 1).tolist(), *(-slope[:, 0].numpy() / want - 1).tolist()]


@probe
def blocks_agree() -> Any:
    """A maximum that grows from block to block, blocks that are masked, and mass in the last class: float32."""
    z = torch.linspace(0.0, 40.0, 1000).repeat(3, 1)
    z[1, :512] = -torch.inf
    z[2] = z[2].flip(0)
    target = torch.tensor([999, 700, 999])
    whole = fused_cross_entropy(z, target, reduction="none")
    ratios = [fused_cross_entropy(z, target, reduction="none", block_size=b) / whole for b in (16, 64)]
    return [float((ratio - 1).abs().max()) for ratio in ratios]


@probe
def layouts() -> Any:
    """Transposed, strided, expanded and offset views against the same numbers without gaps: must agree to the bit."""
    logits, target, weight, upstream = (t.float() if t.is_floating_point() else t for t in _drawn(6, 300))

    def run(z: torch.Tensor, w: torch.Tensor, up: torch.Tensor) -> list[torch.Tensor]:
        z = z.detach().requires_grad_()
        loss = fused_cross_entropy(z, target, weight=w, reduction="none")
        return [loss.detach(), torch.autograd.grad(loss, z, up)[0]]

    plain = run(logits, weight, upstream)
    views = (
        run(logits.t().contiguous().t(), weight, upstream),
        run(torch.stack([logits, logits + 1], -1)[..., 0], torch.stack([weight, -weight], -1)[:, 0], upstream),
        run(torch.cat([logits[:1] + 9, logits])[1:], weight, torch.stack([upstream, upstream], -1)[:, 1]),
    )
    same = [all(torch.equal(a, b) for a, b in zip(plain, view, strict=True)) for view in views]
    one = run(logits[:1].expand(6, -1), weight, upstream[:1].expand(6))
    repeated = run(logits[:1].repeat(6, 1), weight, upstream[:1].repeat(6))
    return [*same, all(torch.equal(a, b) for a, b in zip(one, repeated, strict=True))]


@probe
def in_place() -> Any:
    logits, target, _, upstream = _drawn(6, 40)
    before = logits.clone()
    kept = logits.clone().requires_grad_()
    loss = fused_cross_entropy(kept, target, reduction="none")
    slope = torch.autograd.grad(loss, kept, upstream)[0]
    given = logits.clone()
    leaf = given.requires_grad_()
    written = fused_cross_entropy(leaf, target, reduction="none", inplace=True)
    over = torch.autograd.grad(written, leaf, upstream, retain_graph=True)[0]
    try:
        torch.autograd.grad(written, leaf, upstream)
        second = ""
    except RuntimeError as error:
        second = str(error)
    return {
        "untouched": torch.equal(kept.detach(), before),
        "same_memory": over.data_ptr() == given.data_ptr(),
        "same_gradient": torch.equal(over, slope),
        "second": second,
    }


@probe
def far() -> Any:
    """Rows 2^30 elements apart, read forward and written backward: an offset in 32 bits wraps around on the way."""
    logits, target, _, upstream = (t.half() if t.is_floating_point() else t for t in _drawn(5, 40))
    near = logits.clone().requires_grad_()
    want = fused_cross_entropy(near, target, reduction="none")
    slope = torch.autograd.grad(want, near, upstream.float())[0]
    leaf = torch_view(torch, logits, "far").requires_grad_()
    loss = fused_cross_entropy(leaf, target, reduction="none", inplace=True)
    over = torch.autograd.grad(loss, leaf, upstream.float())[0]
    return {
        "beyond": over.stride(0) * (len(over) - 1) > 2**31 and over.data_ptr() == leaf.data_ptr(),
        "same_loss": torch.equal(loss, want),
        "same_gradient": torch.equal(over, slope),
    }


@probe
def invalid() -> Any:
    """What each mistake is told, and what a label out of range gives."""
    z, y = torch.zeros(3, 4), torch.tensor([0, 1, 2])
    mistakes: list[tuple[tuple[Any, Any], dict[str, Any]]] = [
        ((z[0], y), {}),
        ((z.int(), y), {}),
        ((z, y[:2]), {}),
        ((z, y.float()), {}),
        ((z, y), {"weight": torch.ones(3)}),
        ((z, y), {"label_smoothing": 1.5}),
        ((z, y), {"reduction": "max"}),
        ((z, y), {"softcap": -1.0}),
        ((z[:1].expand(3, 4), y), {"inplace": True}),
    ]
    told = []
    for arguments, options in mistakes:
        try:
            fused_cross_entropy(*arguments, **options)
            told.append("")
        except ValueError as error:
            told.append(str(error))
    leaf = z.clone().requires_grad_()
    loss = fused_cross_entropy(leaf, torch.tensor([0, 4, -1]), reduction="none")
    slope = torch.autograd.grad(loss.sum(), leaf)[0]
    return {"told": told, "loss": torch.isnan(loss).tolist(), "gradient": torch.isnan(slope).all(1).tolist()}


@probe
def reduced_and_empty() -> Any:
    nothing = torch.zeros(0, 4, requires_grad=True), torch.zeros(0, dtype=torch.int64)
    empty = fused_cross_entropy(*nothing, reduction="none")
    ignored = fused_cross_entropy(torch.zeros(2, 4), torch.tensor([-100, -100]))
    sixteen = fused_cross_entropy(torch.zeros(2, 4).half(), torch.tensor([1, 2]), reduction="sum")
    return [list(empty.shape), bool(torch.isnan(ignored)), str(sixteen.dtype), sixteen.item()]


@probe
def beyond_32_bits() -> Any:
    """Rows 2^30 + 8 elements apart, in memory that is never touched between them: N·V of 5·10^9."""
    from harness.vetting.layouts import torch_view

    near = 4.0 * torch.randn(5, 50, generator=torch.Generator().manual_seed(0)).half()
    far, target = torch_view(torch, near, "far"), torch.tensor([3, 1, 4, 1, 5])
    results = []
    for z in (near, far):
        leaf = z.detach().requires_grad_()
        loss = fused_cross_entropy(leaf, target, reduction="none")
        results.append((loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]))
    return [far.stride(0) * 4, *(bool(torch.equal(a, b)) for a, b in zip(*results, strict=True))]


def main(names: list[str]) -> None:
    """Print what each probe gives, or the error that it ends with."""
    found = {}
    with np.errstate(all="ignore"):
        for name in names:
            try:
                found[name] = PROBES[name]()
            except Exception as error:
                found[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[2:] or list(PROBES))
