"""The declaration of a built-in implementation: the only thing of the harness that ``implementations/`` imports.

A claim stands beside the code and is read by machine: a grade per dtype, and the known failures with their reasons.
Claims are tested both ways: one that no longer holds fails a run, and a known failure that passes fails it too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from harness.formats import DTYPES
from harness.grades import Grade

__all__ = ["Declaration", "Implementation", "Kernel", "KnownFailure", "implementation"]

OPTIONS = ("linear_bias", "weight", "pos_weight", "ignore_index", "label_smoothing", "reduction")
# What each framework that there is a bridge for has.
_DEFAULT_DTYPES = {
    "numpy": ("float64", "float32"),
    "torch": DTYPES,
    "triton": DTYPES,
    "jax": DTYPES,
    "pallas": DTYPES,
    "tensorflow": DTYPES,
    "mlx": ("float32", "bfloat16", "float16"),  # its float64 has the exponential of float32
}


@dataclass(frozen=True)
class KnownFailure:
    """Where an implementation is known to miss its grade, and why.

    Parameters
    ----------
    families : tuple of str
        Names of families; ``fnmatch`` patterns such as ``"recorded/*"`` are allowed.
    reason : str
        One sentence on the cause.
    thread : str
        Where it is discussed upstream (``"pytorch/pytorch#11752"``), or ``""``.
    dtypes : tuple of str
        The dtypes concerned; empty for all.
    what : tuple of str
        ``"loss"``, ``"gradient"``, or both.
    """

    families: tuple[str, ...]
    reason: str
    thread: str = ""
    dtypes: tuple[str, ...] = ()
    what: tuple[str, ...] = ("loss", "gradient")


@dataclass(frozen=True)
class Kernel:
    """A Triton kernel that can be compiled without a GPU, with what its arguments are at a launch: plain data.

    Parameters
    ----------
    name : str
        What to call it: ``"forward float32"``.
    function : str
        Where it is, ``"module:name"``: in a package of one's own or of another's.
    arguments : mapping of str to value
        For each parameter a type, as Triton's own tools write it (``"*fp32:16"``, a pointer that 16 divides;
        ``"i32"``), or a constant: a number, True, False, None, ``"tl.float32"``, or any other text, which is a text.
    options : mapping of str to value
        ``num_warps`` and what else the launch sets.
    targets : tuple of str
        Names of the targets on which it is launched so; empty for all.
    """

    name: str
    function: str
    arguments: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Declaration:
    """What an implementation says of itself: plain data, so that it can cross a process boundary as JSON.

    Parameters
    ----------
    name : str
        The function's name, unique among the implementations.
    framework : str
        ``"numpy"``, ``"torch"``, ``"jax"``, … : which bridge and which worker process.
    loss : str
        Name of the loss.
    grades : mapping of str to Grade
        The claimed grade per dtype; a dtype that is absent is not supported.
    devices, targets : tuple of str
        Where it runs, and the kinds of target that it takes (``"indices"``, ``"probabilities"``).
    options : tuple of str
        The claimed options: the keywords of the signature that have a meaning in the contract.
    has_gradient : bool
        Whether a gradient can be had: by differentiation, or from the declared function for NumPy.
    requires : mapping of str to str
        Importable module → the pip requirement that provides it, or the whole command, where more is needed.
    known_failures : tuple of KnownFailure
        Where the claim does not hold.
    slow : bool
        Left out by ``--quick`` (a compiler runs first, say).
    summary : str
        First line of the function's docstring.
    backend, device : str
        How and where it runs in the process that has read it: ``"native"`` or an interpreter's name; ``"cpu"`` or
        ``"cuda"``.
    kernels : tuple of Kernel
        What it launches, for ``xent compile``.
    """

    name: str
    framework: str
    loss: str
    grades: Mapping[str, Grade]
    devices: tuple[str, ...] = ("cpu",)
    targets: tuple[str, ...] = ("indices",)
    options: tuple[str, ...] = ()
    has_gradient: bool = True
    requires: Mapping[str, str] = field(default_factory=dict)
    known_failures: tuple[KnownFailure, ...] = ()
    slow: bool = False
    summary: str = ""
    backend: str = "native"
    device: str = "cpu"
    kernels: tuple[Kernel, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The declaration as JSON-ready data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Declaration:
        """The inverse of `to_json`."""
        known = tuple(KnownFailure(**_with_tuples(entry)) for entry in data["known_failures"])
        fields = _with_tuples(data)
        grades = {name: Grade(grade) for name, grade in data["grades"].items()}
        kernels = tuple(Kernel(**_with_tuples(entry)) for entry in data.get("kernels", ()))
        return cls(**{**fields, "known_failures": known, "grades": grades, "kernels": kernels})


def _with_tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with every list, which is what JSON makes of a tuple, as a tuple again."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}


@dataclass(frozen=True)
class Implementation:
    """A declaration with its code: exists only in the process that runs it.

    ``function(logits, target, **options)`` returns the loss; ``gradient(logits, target, upstream, **options)``, where
    given, returns the gradient [N, V] for a framework that does not differentiate (NumPy). For ``linear_cross_entropy``
    it is ``function(hidden, projection, target, **options)``, and ``gradient`` returns the two gradients.
    """

    declaration: Declaration
    function: Callable[..., Any]
    gradient: Callable[..., Any] | None


def implementation(
    *,
    framework: str,
    loss: str,
    grade: str | Mapping[str, str],
    dtypes: tuple[str, ...] | None = None,
    devices: tuple[str, ...] = ("cpu",),
    targets: tuple[str, ...] = ("indices",),
    gradient: Callable[..., Any] | None = None,
    requires: Mapping[str, str] | None = None,
    known_failures: tuple[KnownFailure, ...] = (),
    slow: bool = False,
    kernels: tuple[Kernel, ...] = (),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a function as an implementation of a loss; the function itself is returned unchanged.

    `grade` is one grade for every dtype or a mapping from dtype to grade; 16-bit dtypes may claim ``"storage"``.
    `dtypes` defaults to what the framework has (float64 and float32 for NumPy; the 16-bit ones too for the others).

    Raises
    ------
    ValueError
        For an unknown grade, dtype or framework.

    Examples
    --------
    >>> @implementation(framework="numpy", loss="cross_entropy", grade="absolute")
    ... def my_loss(logits, target): ...
    """
    if framework not in _DEFAULT_DTYPES:
        raise ValueError(f"unknown framework {framework!r}: choose from {', '.join(_DEFAULT_DTYPES)}")
    if isinstance(grade, str):
        claims = dict.fromkeys(dtypes or _DEFAULT_DTYPES[framework], grade)
    else:
        claims = dict(grade)
    unknown = set(claims) - set(DTYPES)
    if unknown:
        raise ValueError(f"unknown dtype {sorted(unknown)[0]!r}: choose from {', '.join(DTYPES)}")
    grades = {name: Grade(claims[name]) for name in DTYPES if name in claims}

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        doc = inspect.getdoc(function) or ""
        keywords = list(inspect.signature(function).parameters)[2:]
        declaration = Declaration(
            name=function.__name__,
            framework=framework,
            loss=loss,
            grades=grades,
            devices=devices,
            targets=targets,
            options=tuple(name for name in keywords if name in OPTIONS),
            has_gradient=framework != "numpy" or gradient is not None,
            requires=dict(requires or {}),
            known_failures=known_failures,
            slow=slow,
            summary=doc.splitlines()[0] if doc else "",
            kernels=kernels,
        )
        declared = Implementation(declaration, function, gradient)
        function.__xent_implementation__ = declared  # type: ignore[attr-defined]
        return function

    return declare
