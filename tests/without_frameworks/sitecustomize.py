"""On the path of a process, this makes it one where no numerical package but NumPy and mpmath is installed."""

from __future__ import annotations

from importlib.machinery import PathFinder

MISSING = {"torch", "jax", "jaxlib", "optax", "scipy", "ml_dtypes", "sklearn", "tensorflow", "keras", "mlx", "triton"}

_found = PathFinder.find_spec


def _find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in MISSING else _found(name, path, target)


PathFinder.find_spec = staticmethod(_find_spec)
