"""flash-attn's Triton kernels for cross-entropy, from their own file: its package cannot be imported without CUDA.

Importing any module of ``flash_attn`` imports the package, which asks for its CUDA extension. The file of these kernels
needs torch and Triton alone: it is found without importing the package, and becomes a module that only this one knows.
"""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

__all__ = ["cross_entropy_bwd_kernel", "cross_entropy_fwd_kernel", "cross_entropy_loss"]

_FILE = Path("ops", "triton", "cross_entropy.py")


def _kernels() -> ModuleType:
    package = importlib.util.find_spec("flash_attn")  # of a top-level package: nothing is imported
    folders = (package.submodule_search_locations or []) if package else []
    for folder in folders:
        spec = importlib.util.spec_from_file_location(f"{__name__}.kernels", Path(folder) / _FILE)
        if (Path(folder) / _FILE).is_file() and spec is not None and spec.loader is not None:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    where = ", ".join(folders) or "no folder"
    raise ImportError(f"flash_attn has no {_FILE} in {where}: these kernels are those of flash-attn 2.8.3")


class _Cuda:
    """torch.cuda, whose `device` takes the index of a tensor on the CPU, too, which is None, and does nothing then."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cuda, name)

    def device(self, index: int | None) -> Any:
        return contextlib.nullcontext() if index is None else torch.cuda.device(index)


class _Torch:
    """torch, with that `cuda`."""

    cuda = _Cuda()

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


_module: Any = _kernels()
_module.torch = _Torch()  # of this copy of the module, and of nobody else's
cross_entropy_loss: Any = _module.cross_entropy_loss
cross_entropy_fwd_kernel: Any = _module.cross_entropy_fwd_kernel
cross_entropy_bwd_kernel: Any = _module.cross_entropy_bwd_kernel
