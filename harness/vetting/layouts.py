"""Memory layouts that a batch is presented in: the same numbers, elsewhere in memory."""

from __future__ import annotations

import mmap
import sys
from typing import Any

__all__ = ["FAR", "LAYOUTS", "SPREAD", "layout_of", "numpy_view", "torch_view"]

LAYOUTS = ("contiguous", "transposed", "strided", "offset", "expanded", "read_only", "far")
"""Names of the layouts.

transposed: the logits' classes are the slow axis. strided: every second element of a larger array. offset: a slice that
starts inside an allocation, unaligned. expanded: all rows share one row of memory (stride 0); the batch's rows must be
equal. read_only: a NumPy array that may not be written to. far: the rows of 16-bit logits on the CPU are `FAR` elements
apart, so that an offset that is computed in 32 bits wraps around; the memory between them is never touched.
"""
SPREAD = "spread"
"""How the upstream gradient of the expanded layout lies in memory: one number for all, as a sum hands it down."""


FAR = (1 << 30) + 8
_BEFORE_FAR = 1 << 31
"""Elements before the first row: where an offset that has wrapped once points, there is memory, and it holds zeros."""
_NORESERVE = 0x4000
"""Linux's MAP_NORESERVE, which Python does not name: address space that counts as memory once it is touched."""


def layout_of(name: str, axes: int, layout: str) -> str:
    """The layout of one of the arrays of a call in a layout.

    `name` is ``"logits"``, ``"target"``, ``"upstream"`` or an option. The rows of an expanded batch are equal, but not
    their labels. What has one axis only cannot be transposed, and is offset.
    """
    if layout == "expanded":
        if name == "upstream":
            return SPREAD
        return layout if name in ("logits", "target") and axes == 2 else "contiguous"
    if layout == "far":
        return layout if name == "logits" else "contiguous"
    return "offset" if layout == "transposed" and axes == 1 else layout


def torch_view(torch: Any, array: Any, layout: str) -> Any:
    """A tensor of the same values in a layout; `array` is contiguous."""
    if layout in ("contiguous", "read_only") or array.ndim == 0 or array.numel() == 0:
        return array
    if layout == "transposed":
        return array.t().contiguous().t()
    if layout == "expanded":
        return array[:1].clone().expand(array.shape[0], -1)
    if layout == SPREAD:
        return array.flatten()[0].clone().expand(array.shape)
    if layout == "strided":
        larger = torch.full((*array.shape[:-1], 2 * array.shape[-1]), 77, dtype=array.dtype, device=array.device)
        larger[..., ::2] = array
        return larger[..., ::2]
    if layout == "far":
        return _far_apart(torch, array)
    larger = torch.full((array.numel() + 3,), 77, dtype=array.dtype, device=array.device)
    larger[3:] = array.reshape(-1)
    return larger[3:].view(array.shape)


def _far_apart(torch: Any, array: Any) -> Any:
    rows, classes = array.shape
    elements = _BEFORE_FAR + (rows - 1) * FAR + classes
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (_NORESERVE if sys.platform == "linux" else 0)
    memory = mmap.mmap(-1, elements * array.itemsize, flags=flags)
    view = torch.frombuffer(memory, dtype=array.dtype).as_strided((rows, classes), (FAR, 1), _BEFORE_FAR)
    view.copy_(array)
    return view


def numpy_view(np: Any, array: Any, layout: str) -> Any:
    """An array of the same values in a layout; `array` is contiguous."""
    if layout == "contiguous" or array.ndim == 0 or array.size == 0:
        return array
    if layout == "read_only":
        array.flags.writeable = False
        return array
    if layout == "transposed":
        return np.asfortranarray(array)
    if layout == "expanded":
        return np.broadcast_to(array[:1].copy(), array.shape)
    if layout == SPREAD:
        return np.broadcast_to(array.flat[0], array.shape)
    if layout == "strided":
        larger = np.full((*array.shape[:-1], 2 * array.shape[-1]), 77).astype(array.dtype)
        larger[..., ::2] = array
        return larger[..., ::2]
    larger = np.full(array.size + 3, 77).astype(array.dtype)
    larger[3:] = array.reshape(-1)
    return larger[3:].reshape(array.shape)
