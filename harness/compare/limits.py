"""From when on a difference counts: every limit of a comparison in one place, stated in what it prints."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """From when on a difference counts.

    Parameters
    ----------
    ulp_factor : float
        An error counts as worse from this many times the old one on, which is taken as at least 1 ulp: below that the
        result is as good as correctly rounded either way. Accuracy does not vary for a seed, so this is no matter of
        noise but of what is worth waking somebody for.
    significance : float
        Level of the Mann-Whitney test of one series.
    slowdown : float
        The least change of the median that counts, as a share: 0.05 is 5 %.
    slowdown_of_runs : float
        The same between two single runs. Rounds within a run do not show how much runs differ from each other (memory
        layout, the machine's temperature and neighbours), so that it takes more.
    false_alarms : float
        Expected false alarms per comparison, over all of its series together: 0.01 is one in a hundred nights.
    recent, before, settling, fewest : int
        Nights that are compared, those that they are compared with, those in between that are left out where the
        history is long enough (a slow-down a few nights old shall not count as its own past), and the fewest before:
        with 3 against 8, no outcome reaches p < 0.005 (1 in 165); with 3 against 9 it does (1 in 220).
    """

    ulp_factor: float = 2.0
    significance: float = 0.005
    slowdown: float = 0.05
    slowdown_of_runs: float = 0.20
    false_alarms: float = 0.01
    recent: int = 3
    before: int = 20
    settling: int = 3
    fewest: int = 9
