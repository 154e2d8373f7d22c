"""Memory layouts that a batch is presented in: the same numbers, elsewhere in memory."""

from __future__ import annotations

from typing import Any

__all__ = ["LAYOUTS", "numpy_view", "torch_view"]

LAYOUTS = ("contiguous", "transposed", "strided", "offset", "expanded", "read_only")
"""Names of the layouts.

transposed: the logits' classes are the slow axis. strided: every second element of a larger array. offset: a slice that
starts inside an allocation, unaligned. expanded: all rows share one row of memory (stride 0); the batch's rows must be
equal. read_only: a NumPy array that may not be written to.
"""


def torch_view(torch: Any, array: Any, layout: str) -> Any:
    """A tensor of the same values in a layout; `array` is contiguous."""
    if layout in ("contiguous", "read_only") or array.ndim == 0 or array.numel() == 0:
        return array
    if layout == "transposed" and array.ndim == 2:
        return array.t().contiguous().t()
    if layout == "expanded" and array.ndim == 2:
        return array[:1].clone().expand(array.shape[0], -1)
    if layout == "strided":
        larger = torch.full((*array.shape[:-1], 2 * array.shape[-1]), 77, dtype=array.dtype)
        larger[..., ::2] = array
        return larger[..., ::2]
    larger = torch.full((array.numel() + 3,), 77, dtype=array.dtype)
    larger[3:] = array.reshape(-1)
    return larger[3:].view(array.shape)


def numpy_view(np: Any, array: Any, layout: str) -> Any:
    """An array of the same values in a layout; `array` is contiguous."""
    if layout == "contiguous" or array.ndim == 0 or array.size == 0:
        return array
    if layout == "read_only":
        array.flags.writeable = False
        return array
    if layout == "transposed" and array.ndim == 2:
        return np.asfortranarray(array)
    if layout == "expanded" and array.ndim == 2:
        return np.broadcast_to(array[:1].copy(), array.shape)
    if layout == "strided":
        larger = np.full((*array.shape[:-1], 2 * array.shape[-1]), 77).astype(array.dtype)
        larger[..., ::2] = array
        return larger[..., ::2]
    larger = np.full(array.size + 3, 77).astype(array.dtype)
    larger[3:] = array.reshape(-1)
    return larger[3:].reshape(array.shape)
