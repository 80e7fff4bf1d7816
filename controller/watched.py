"""What the observation keeps of one replica: its pages over a window, and what they add up to.

Used by `controller.observe` alone. A page that came twice or late is not taken in; a probe of our
own is nobody's request.
"""

import math
from collections import deque
from dataclasses import dataclass, field

from monitor import Arrivals, Freshness, Histogram, Reading, arrivals_between

STALE_AFTER_S = 5.0
_STALE_PERIODS = 2.5
ATTAINMENT_WINDOW_S = 60.0
_THINNED_S = 5.0
"""Readings before the last two are kept so far apart."""
PROBE_SLACK_S = 0.5
"""Between sending a probe and what a page shows of it: a service that sees nothing else is idle."""


def stale_after_s(period_s: float) -> float:
    """How old a page may be of a replica that is read so often: one page may fail."""
    return max(STALE_AFTER_S, _STALE_PERIODS * period_s)


@dataclass(slots=True)
class Watched:
    """Readings of one replica, oldest first, over the attainment window."""

    readings: deque[Reading] = field(default_factory=deque)
    arrivals: Arrivals | None = None
    """Between the last two, our own probe left out."""
    probe_s: tuple[float, float] = (-math.inf, -math.inf)
    """When our last probe was sent, and when it ended."""

    def add(self, reading: Reading, now_s: float) -> bool:
        """Take it in, or say False: it came twice, or late."""
        if reading.signals is None or reading.at_s is None:
            return True
        if self.readings and reading.at_s <= float(self.readings[-1].at_s or 0.0):
            return False
        self.readings.append(reading)
        self._thin()
        self.forget_old(now_s)
        last_two = list(self.readings)[-2:]
        self.arrivals = arrivals_between(*last_two) if len(last_two) == 2 else None
        came, sent_s = self.arrivals, self.probe_s[0]
        if (
            came is not None
            and -PROBE_SLACK_S < reading.at_s - sent_s < came.window_s + PROBE_SLACK_S
        ):
            users = max(came.rps * came.window_s - 1.0, 0.0)
            self.arrivals = Arrivals(came.window_s, users / came.window_s)
        return True

    def ends(self, window_s: float) -> tuple[Reading, Reading]:
        """First and last reading of the latest window; there must be one."""
        last = self.readings[-1]
        since_s = float(last.at_s or 0.0) - window_s
        return next(r for r in self.readings if float(r.at_s or 0.0) >= since_s), last

    def own(self, at_s: float) -> float:
        """Requests of our own that a page of that moment shows."""
        sent_s, ended_s = self.probe_s
        return float(sent_s - PROBE_SLACK_S < at_s < ended_s + PROBE_SLACK_S)

    def _thin(self) -> None:
        if len(self.readings) < 4:
            return
        older, old = self.readings[-4].at_s or 0.0, self.readings[-3].at_s or 0.0
        if old - older < _THINNED_S:
            del self.readings[-3]

    def forget_old(self, now_s: float) -> bool:
        """Keep the window; a replica that fell silent has no share in it after that.

        Whether something was forgotten.
        """
        before = len(self.readings)
        while self.readings and now_s - float(self.readings[0].at_s or 0.0) > ATTAINMENT_WINDOW_S:
            self.readings.popleft()
        return len(self.readings) < before

    def latest(self, now_s: float, stale_s: float = STALE_AFTER_S) -> Reading | None:
        """Its last page, where that is fresh."""
        if not self.readings:
            return None
        last = self.readings[-1]
        return last if last.freshness(now_s, stale_s) is Freshness.FRESH else None


Pairs = list[tuple[Histogram | None, Histogram | None]]


def _increments(pairs: Pairs) -> list[Histogram]:
    added = [b.since(a) for a, b in pairs if a is not None and b is not None]
    return [histogram for histogram in added if histogram is not None and histogram.count > 0]


def summed(pairs: Pairs) -> tuple[float, float]:
    """How many values were added, and their sum; an engine that began anew in between is left
    out."""
    count, total = 0.0, 0.0
    for before, after in pairs:
        if before is None or after is None or before.bounds != after.bounds:
            continue
        came, more = after.count - before.count, after.sum - before.sum
        if came > 0 and more >= 0:
            count, total = count + came, total + more
    return count, total


def worst(pairs: Pairs, percentile: float) -> float | None:
    """The highest of the replicas' quantiles (0 to 1) of what was added; None without any."""
    values = (histogram.quantile(percentile) for histogram in _increments(pairs))
    return max((value for value in values if value is not None), default=None)
