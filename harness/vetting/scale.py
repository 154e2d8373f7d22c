"""Scale: how large the inputs of a vetting are, and how many of them.

An interpreter takes milliseconds for what a processor does in microseconds, some hundred rows a second: it gets fewer
rows, up to a size that takes a kernel through many blocks all the same, and not what only a real device can get wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["Scale", "scale_for"]

_SIZES = (1, 2, 3, 127, 129, 1000, 4097, 32000, 65537, 131072)
_NUMBERS, _QUICK_NUMBERS = 1 << 16, 1500


@dataclass(frozen=True)
class Scale:
    """What the inputs of one vetting amount to.

    Parameters
    ----------
    sizes : tuple of int
        Numbers of classes.
    odd_sizes : tuple of (int, int)
        For each, one more number of classes in that range, drawn from the seed: nobody can have prepared for it.
    rows : tuple of int
        Numbers of rows.
    numbers : int
        So many different numbers of a family's batch are solved at most: truth takes time by them, and equal logits
        cost as one.
    family_rows, family_elements : int or None
        Rows of a family's batch at most, taken from all over it, and logits; None for all.
    fewest_rows : int
        A family of which fewer rows than this would be left is left out.
    late_calls : tuple of int
        How many calls in a row, and how often that.
    tall : tuple of (int, (int, int))
        For each batch of many rows and many classes both, its rows, and the range that its classes are drawn from.
    very_many_rows, memory : bool
        Whether to try more rows than 16 bits count, and to watch memory over many calls.
    """

    sizes: tuple[int, ...]
    odd_sizes: tuple[tuple[int, int], ...]
    rows: tuple[int, ...]
    numbers: int
    family_rows: int | None
    family_elements: int | None
    fewest_rows: int
    late_calls: tuple[int, int]
    tall: tuple[tuple[int, tuple[int, int]], ...]
    very_many_rows: bool
    memory: bool


_ODD = ((5, 120), (130, 999))
_TALL = ((300, (1100, 4500)), (10, (40000, 70000)))

_SCALES = {
    # (quick, interpreted)
    (False, False): Scale(
        sizes=_SIZES,
        odd_sizes=(*_ODD, (2000, 4000)),
        rows=(1, 257),
        numbers=_NUMBERS,
        family_rows=None,
        family_elements=None,
        fewest_rows=2,
        late_calls=(150, 3),
        tall=_TALL,
        very_many_rows=True,
        memory=True,
    ),
    (True, False): Scale(
        sizes=_SIZES[:6],
        odd_sizes=_ODD,
        rows=(1, 257),
        numbers=_QUICK_NUMBERS,
        family_rows=None,
        family_elements=None,
        fewest_rows=1,
        late_calls=(60, 1),
        tall=((96, (1100, 2600)),),
        very_many_rows=False,
        memory=False,
    ),
    (False, True): Scale(
        sizes=_SIZES[:-1],
        odd_sizes=(*_ODD, (2000, 4000)),
        rows=(1, 65),
        numbers=_NUMBERS,
        family_rows=24,
        family_elements=1 << 17,
        fewest_rows=1,
        late_calls=(40, 1),
        tall=((24, (1100, 2600)),),
        very_many_rows=False,
        memory=False,
    ),
    (True, True): Scale(
        sizes=(1, 3, 127, 1000, 4097, 32000),
        odd_sizes=_ODD,
        rows=(1, 33),
        numbers=_NUMBERS,
        family_rows=6,
        family_elements=1 << 14,
        fewest_rows=1,
        late_calls=(12, 1),
        tall=((18, (1100, 1900)),),
        very_many_rows=False,
        memory=False,
    ),
}


_BRIEF = replace(_SCALES[True, False], sizes=(1, 3, 1000), odd_sizes=((130, 999),), tall=())
"""What XLA compiles for each shape, and takes care of tiles by itself for: a quick look at few shapes."""


def scale_for(quick: bool, interpreted: bool, brief: bool = False) -> Scale:
    """The scale of a vetting: in full or quick, native or in an interpreter; `brief` where shapes are compiled for."""
    return _BRIEF if brief else _SCALES[quick, interpreted]
