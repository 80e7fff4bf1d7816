"""What engines counted in a row of intervals, all of them together; frozen values.

`controller.traffic.history` reads them off a Prometheus, `history` makes a trace of them, and the
report tells beside policies what there really was.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Buckets:
    """Values counted by their size, of all engines; those of one may lie across another's."""

    lower: Floats
    """[buckets] 0 or more, excluded."""
    upper: Floats
    """[buckets] included; may be infinite."""
    counts: Floats
    """[intervals, buckets] values that came."""
    total: Floats
    """[intervals] their sum."""

    def share_within(self, bound: float, known: Bools) -> float:
        """Share of the known intervals' values up to a bound; NaN where there are none."""
        counts = self.counts[known].sum(axis=0)
        return float(self._share(bound) @ counts / counts.sum()) if counts.sum() > 0 else np.nan

    def quantile(self, q: float) -> Floats:
        """[intervals] what a share of an interval's values stay within; NaN without values."""
        bounds = np.unique(np.concatenate([[0.0], self.upper]))
        shares = np.array([self._share(bound) for bound in bounds])
        with np.errstate(invalid="ignore"):
            reached = (self.counts @ shares.T) / self.counts.sum(axis=1, keepdims=True)
        return np.array([_crossed(row, bounds, q) for row in reached])

    def _share(self, bound: float) -> Floats:
        """[buckets] part of each that lies up to a bound, were it even inside."""
        if bound == np.inf:
            return np.ones(self.upper.size)
        width = np.maximum(self.upper - self.lower, 1e-12)
        part: Floats = np.clip((bound - self.lower) / width, 0.0, 1.0)
        return part


def _crossed(reached: Floats, bounds: Floats, q: float) -> float:
    if not np.isfinite(reached).all():
        return np.nan
    place = min(int(np.searchsorted(reached, q)), bounds.size - 1)
    if place == 0 or not np.isfinite(bounds[place]):
        return float(bounds[place])
    return float(np.interp(q, reached[place - 1 : place + 1], bounds[place - 1 : place + 1]))


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """What engines counted in a row of intervals."""

    begin_s: float
    """Of the first interval; seconds since the epoch."""
    interval_s: float
    came: Floats
    """[intervals] requests that came; NaN: unknown."""
    held: Floats
    """[intervals] requests under way when each begins."""
    engines: Floats
    """[intervals] engines that answered when each begins."""
    prompts: Buckets
    """Tokens of the requests that ended, as the next."""
    answers: Buckets
    ttft_s: Buckets | None
    """Of the first tokens that came; None: not published."""
    hit_ratio: float
    """Share of prompt tokens found in the prefix cache."""

    @property
    def known(self) -> Bools:
        """[intervals] whether it is known what came."""
        return np.isfinite(self.came)

    @property
    def known_s(self) -> float:
        """Time that the trace stands for."""
        return float(self.known.sum()) * self.interval_s

    @property
    def replica_s(self) -> float:
        """Engine seconds in the known intervals."""
        return float(self.engines[self.known].sum()) * self.interval_s

    def attained_ttft_ratio(self, bound_s: float | None) -> float:
        """Share of first tokens that really came within a bound; NaN: unknown."""
        if self.ttft_s is None or bound_s is None:
            return float("nan")
        return self.ttft_s.share_within(bound_s, self.known)
