"""Routing weights for replicas of one service that differ: GPU types, layouts, batch limits.

Weights in proportion to capacity keep every replica within the SLO up to the highest rate that
all of them carry together. Below it there is a choice: here each replica is loaded up to the
same latency, so that no request is worse off for where it went. A replica that is slower even
idle than the others are under load gets nothing until they need it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profiler.errors import Refused
from profiler.slo import Slo
from recommender.capacity import run_at
from recommender.race import Candidate
from recommender.workload import Workload

_POINTS = 8
_ROUNDS = 60
PARTS = 1000
"""Weights are whole numbers that add up to it, as HTTPRoute and Service meshes take them."""


@dataclass(frozen=True, slots=True)
class Curve:
    """What a replica's load does to its latency."""

    name: str
    rates_rps: tuple[float, ...]
    """Ascending."""
    scores: tuple[float, ...]
    """Latency over its bound at the SLO's percentile, never falling; 1 at capacity."""

    def rate_rps(self, score: float) -> float:
        """Load at which it is reached; 0 where an idle replica has passed it already."""
        if score < self.scores[0]:
            return 0.0
        return float(np.interp(score, self.scores, self.rates_rps))


@dataclass(frozen=True, slots=True)
class Weights:
    """How requests are shared out."""

    parts: tuple[int, ...]
    """In the order of the replicas; whole numbers that add up to `PARTS`."""
    score: float
    """Latency over its bound that every replica in use then has; above 1 the SLO is missed."""


def latency_curve(name: str, candidate: Candidate, workload: Workload, slo: Slo) -> Curve:
    """Run a replica at several loads up to its capacity; raises `Refused` where it has none."""
    most_rps = candidate.capacity.rate_rps
    if most_rps == 0:
        raise Refused(f"routing: {name} misses the SLO even idle: leave it out")
    rates = most_rps * np.linspace(0.05, 1.0, _POINTS)
    scores = [run_at(candidate.station, workload, slo, rate).score for rate in rates.tolist()]
    rising = np.maximum.accumulate(scores)
    return Curve(name, tuple(rates.tolist()), tuple(rising.tolist()))


def weigh(curves: Sequence[Curve], rate_rps: float) -> Weights:
    """Share a rate out over one replica per curve, all at the same latency.

    Beyond what they carry together the shares are those of their capacities, and `score` is
    how many times too high the rate is.
    """
    if not curves:
        raise Refused("routing: give at least one replica")
    if not (rate_rps > 0 and np.isfinite(rate_rps)):
        raise Refused(f"routing: the rate must be a positive number, got {rate_rps}")
    capacities = np.array([curve.rates_rps[-1] for curve in curves])
    if rate_rps >= capacities.sum():
        over = rate_rps / float(capacities.sum())
        return Weights(_whole(capacities), max(over, *(c.scores[-1] for c in curves)))
    low, high = min(c.scores[0] for c in curves), max(c.scores[-1] for c in curves)
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        carried = sum(curve.rate_rps(middle) for curve in curves)
        low, high = (low, middle) if carried >= rate_rps else (middle, high)
    return Weights(_whole(np.array([curve.rate_rps(high) for curve in curves])), high)


def _whole(shares: NDArray[np.float64]) -> tuple[int, ...]:
    """Whole numbers in proportion that add up (largest remainder)."""
    exact = PARTS * shares / shares.sum()
    whole = np.floor(exact).astype(int)
    left = PARTS - int(whole.sum())
    for i in np.argsort(-(exact - whole), kind="stable")[:left]:
        whole[i] += 1
    return tuple(int(part) for part in whole)
