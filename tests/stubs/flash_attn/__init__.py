"""Stands in for flash-attn built without CUDA: importing the package fails, as there."""

raise ImportError("flash_attn_2_cuda: a stub has no extension, and importing the package is what must not happen")
