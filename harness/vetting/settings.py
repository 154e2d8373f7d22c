"""How to vet: what may be asked for, and what is asked for where nothing is said."""

from __future__ import annotations

from dataclasses import dataclass

from harness.grades import Grade

__all__ = ["DEFAULT_DTYPES", "INTERPRETERS", "Options"]

DEFAULT_DTYPES = {
    "numpy": ("float64", "float32"),
    "torch": ("float32", "bfloat16", "float16", "float64"),
    "jax": ("float32", "bfloat16", "float16", "float64"),
}
INTERPRETERS = {"torch": "triton-interpreter", "jax": "xla-interpret", "numpy": "native"}
"""What ``--backend interpret`` means, by framework: for JAX, Pallas kernels that the candidate calls interpreted."""


@dataclass(frozen=True)
class Options:
    """How to vet.

    Parameters
    ----------
    framework : str or None
        Inferred from the file's imports where None.
    loss, target : str
        What the candidate computes, and ``"indices"`` or ``"probabilities"``.
    gradient : str or None
        Name of a NumPy candidate's gradient function.
    dtypes : tuple of str
        Those that must be supported; empty for the framework's defaults, of which a refused one is only skipped.
    grade : Grade or None
        What must be reached; by default `ABSOLUTE`, and `STORAGE` for 16-bit input.
    strict : bool
        Whether a deviation is a failure.
    quick : bool
        Leave out what takes long.
    seed : int or None
        Fresh where None.
    timeout : float
        Seconds that one call may take.
    device : str
        ``"cpu"`` or ``"cuda"``.
    backend : str
        ``"native"``, or ``"interpret"``: Triton kernels in Triton's interpreter, and smaller inputs.
    checks : tuple of str
        Only these; empty for all.
    shrink : bool
        Whether to look for the smallest input that shows a failure, which takes seconds for each.
    """

    framework: str | None = None
    loss: str = "cross_entropy"
    target: str = "indices"
    gradient: str | None = None
    dtypes: tuple[str, ...] = ()
    grade: Grade | None = None
    strict: bool = False
    quick: bool = False
    seed: int | None = None
    timeout: float = 20.0
    device: str = "cpu"
    backend: str = "native"
    checks: tuple[str, ...] = ()
    shrink: bool = True
