"""A Prometheus histogram as a value: increments, shares and quantiles.

Made by `monitor.signals` from a page; judged by `monitor.slo`, `monitor.arrivals` and the
detectors. Inside a bucket the values are taken to lie evenly, as PromQL's
`histogram_quantile` takes them, so that ours and a dashboard's figure agree.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from operator import add, le, lt, sub
from typing import Self


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of values at most each bound. Units are those of the signal (s, or tokens)."""

    bounds: tuple[float, ...]
    """Upper bounds, ascending; the last is infinite."""
    cumulative: tuple[float, ...]
    """Values at or below each bound; never descending."""
    sum: float

    def __post_init__(self) -> None:
        """Reject what is no histogram; a page that holds one is the reader's to refuse."""
        if not self.bounds or self.bounds[-1] != math.inf:
            raise ValueError("a histogram's last bound must be infinite")
        if len(self.bounds) != len(self.cumulative):
            raise ValueError("a histogram needs one count per bound")
        if not all(map(lt, self.bounds, self.bounds[1:])):
            raise ValueError("a histogram's bounds must ascend")
        if not _ascends(self.cumulative):
            raise ValueError("a histogram's counts must not descend")
        if not math.isfinite(self.sum):
            raise ValueError("a histogram's sum must be finite")

    @property
    def count(self) -> float:
        """How many values were observed."""
        return self.cumulative[-1]

    @property
    def mean(self) -> float | None:
        """The mean value, None when nothing was observed."""
        return self.sum / self.count if self.count > 0 else None

    def since(self, earlier: Self) -> Self | None:
        """What was added after `earlier`; None after a restart or with other bounds."""
        if self.bounds != earlier.bounds:
            return None
        added = tuple(map(sub, self.cumulative, earlier.cumulative))
        if not _ascends(added):
            return None
        return self._with(added, self.sum - earlier.sum)

    def _with(self, cumulative: tuple[float, ...], total: float) -> Self:
        """Counts known to be sound over the same bounds: checked once, where pages are read."""
        made = object.__new__(type(self))
        for name, value in (("bounds", self.bounds), ("cumulative", cumulative), ("sum", total)):
            object.__setattr__(made, name, value)
        return made

    def plus(self, other: Self) -> Self | None:
        """The values of both together; None with other bounds."""
        if self.bounds != other.bounds:
            return None
        both = tuple(map(add, self.cumulative, other.cumulative))
        return type(self)(self.bounds, both, self.sum + other.sum)

    def share_within(self, x: float) -> float | None:
        """The share (0–1) of values at or below `x`; None when nothing was observed.

        Values beyond the last finite bound may lie anywhere, so they are within no `x`
        but infinity.
        """
        if not self.count > 0:
            return None
        if x == math.inf:
            return 1.0
        i = bisect_left(self.bounds, x)
        below = self.cumulative[i - 1] if i else 0.0
        low, high = self._edges(i)
        if high == math.inf or x <= low:
            inside = self.cumulative[i] if x == high else 0.0
            return max(below, inside) / self.count
        part = (x - low) / (high - low)
        return (below + part * (self.cumulative[i] - below)) / self.count

    def quantile(self, q: float) -> float | None:
        """The `q`-quantile (0–1) as PromQL's `histogram_quantile`; None when empty.

        A rank beyond the last finite bound answers that bound: the least it can be. Where
        PromQL says NaN, for q = 0 over an empty first bucket, this is the bucket's beginning.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"a quantile lies in 0–1, got {q}")
        if not self.count > 0 or len(self.bounds) < 2:
            return None
        rank = q * self.count
        i = bisect_left(self.cumulative, rank)
        low, high = self._edges(i)
        if high == math.inf:
            return self.bounds[-2]
        if high <= low:
            return high
        below = self.cumulative[i - 1] if i else 0.0
        inside = self.cumulative[i] - below
        return low + (high - low) * (rank - below) / inside if inside > 0 else low

    def _edges(self, i: int) -> tuple[float, float]:
        """The bounds of bucket `i`; the first begins at 0, unless it ends at or below 0."""
        high = self.bounds[i]
        return (self.bounds[i - 1] if i else min(0.0, high)), high


def _ascends(counts: tuple[float, ...]) -> bool:
    """Whether `counts` start at 0 or above and never descend; NaN does neither."""
    return all(map(le, (0.0, *counts), counts))
