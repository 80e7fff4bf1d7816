"""What a service's load has been: one sample every few seconds, for an hour.

The load is in replicas' worth: arrivals over what one replica carries of requests as long as
they were then. So a mix of other lengths is not taken for more or less work than it is.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

KEPT_S = 3600.0
BIN_S = 5.0
"""Scrapes that are closer together share a sample."""

_AT, _OVER, _LOAD, _EACH = range(4)


def _nothing() -> Floats:
    return np.zeros((4, 0))


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """Samples in order of time; the arrays must not be written to."""

    table: Floats = field(default_factory=_nothing)
    """[4, samples]: when it ended (s), how long it is of (s), the load (replicas' worth), and the
    load of each replica that served."""

    def __eq__(self, other: object) -> bool:
        """Whether all samples are alike."""
        return isinstance(other, History) and np.array_equal(self.table, other.table)

    __hash__ = None  # type: ignore[assignment]  # arrays have none

    @property
    def at_s(self) -> Floats:
        """[samples] when each ended."""
        row: Floats = self.table[_AT]
        return row

    @property
    def over_s(self) -> Floats:
        """[samples] how long each is of."""
        row: Floats = self.table[_OVER]
        return row

    @property
    def load(self) -> Floats:
        """[samples] in replicas' worth."""
        row: Floats = self.table[_LOAD]
        return row

    @property
    def spans_s(self) -> float:
        """From the first sample's end to the last one's."""
        return float(self.at_s[-1] - self.at_s[0]) if self.at_s.size else 0.0

    @property
    def cadence_s(self) -> float:
        """How long samples are of lately: the last one may still be filling; 0 without any."""
        return float(self.over_s[-2:].max()) if self.over_s.size else 0.0

    def seen(self, load: float, over_s: float, serving: float, now_s: float) -> "History":
        """Take in the load of the last `over_s` that `serving` replicas' worth carried.

        The oldest samples are dropped.

        Where the clock went back all samples are moved with it, lest they lie in the future.
        """
        new = np.array([now_s, over_s, load, load / max(serving, 1)])
        table = self.table
        if table.shape[1] and now_s < table[_AT, -1]:
            table = table.copy()
            table[_AT] -= table[_AT, -1] - (now_s - over_s)
        if table.shape[1] and int(table[_AT, -1] // BIN_S) == int(now_s // BIN_S):
            new = _together(table[:, -1], new)
            table = table[:, :-1]
        first = int(table[_AT].searchsorted(now_s - KEPT_S, side="right"))
        return History(np.concatenate([table[:, first:], new[:, None]], axis=1))

    def mean(self, from_s: float, to_s: float) -> float | None:
        """Mean load of the samples that ended in (from_s, to_s]; None without any."""
        return self._mean(_LOAD, from_s, to_s)

    def each(self, from_s: float, to_s: float) -> float | None:
        """Mean load of each replica then."""
        return self._mean(_EACH, from_s, to_s)

    def known_s(self, from_s: float) -> float:
        """How much of the time since then is known."""
        return float(self.over_s[self._place(from_s) :].sum())

    def _place(self, at_s: float) -> int:
        return int(self.at_s.searchsorted(at_s, side="right"))

    def _mean(self, row: int, from_s: float, to_s: float) -> float | None:
        part = slice(self._place(from_s), self._place(to_s))
        weight = self.over_s[part]
        total = float(weight.sum())
        return float((self.table[row, part] * weight).sum()) / total if total > 0 else None


def _together(one: Floats, other: Floats) -> Floats:
    """One sample of two that follow each other."""
    over_s = one[_OVER] + other[_OVER]
    mean = (one * one[_OVER] + other * other[_OVER]) / max(over_s, 1e-9)
    return np.array([other[_AT], over_s, mean[_LOAD], mean[_EACH]])
