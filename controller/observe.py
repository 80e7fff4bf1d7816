"""Observe one service: read its replicas, derive demand, keep what comparisons need.

The scrape fills it, the loop asks it for an `Observation`. A replica without a fresh reading
has no load; demand with a serving replica unread is not known.
"""

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from controller.capacity_book import CapacityBook
from controller.observation import (
    READY,
    Demand,
    Load,
    Observation,
    Phase,
    Replica,
    ReplicaId,
    Sighting,
)
from controller.service import Service
from monitor import (
    EngineSignals,
    Freshness,
    Histogram,
    Rates,
    Reading,
    attainment,
    merge,
    rates_between,
)
from monitor.detectors.wedged import TokenProgress
from recommender import cv_of_counts

STALE_AFTER_S = 5.0
ATTAINMENT_WINDOW_S = 30.0
_START_UPS_KEPT = 5
_COUNTS_KEPT = 300
_LEAST_ARRIVALS = 100
"""Fewer say little about burstiness."""


@dataclass(slots=True)
class _Watched:
    """Readings of one replica, oldest first, over the attainment window."""

    readings: deque[Reading] = field(default_factory=deque)
    progress: TokenProgress = field(default_factory=TokenProgress)
    wedged: bool = False

    def add(self, reading: Reading, now_s: float) -> None:
        if reading.signals is None or reading.at_s is None:
            return
        self.readings.append(reading)
        self.forget_old(now_s)
        self.progress, self.wedged = self.progress.seen(reading.signals, reading.at_s)

    def forget_old(self, now_s: float) -> None:
        """Keep the window; a replica that fell silent has no share in it after that."""
        while self.readings and now_s - float(self.readings[0].at_s or 0.0) > ATTAINMENT_WINDOW_S:
            self.readings.popleft()

    def last_rates(self) -> Rates | None:
        if len(self.readings) < 2:
            return None
        return rates_between(self.readings[-2], self.readings[-1])

    def latest(self, now_s: float) -> Reading | None:
        if not self.readings:
            return None
        last = self.readings[-1]
        return last if last.freshness(now_s, STALE_AFTER_S) is Freshness.FRESH else None


class Observer:
    """What is known of one service over time."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.book = CapacityBook(service)
        self._watched: dict[ReplicaId, _Watched] = {}
        self._start_ups_s: deque[float] = deque(maxlen=_START_UPS_KEPT)
        self._started: dict[ReplicaId, bool] = {}
        """Whether each was ever seen ready; a start is timed where it was seen to begin."""
        self._new = False
        """Whether readings came since the last observation."""
        self.arrival_rps: float | None = None
        """Arrivals at the last scrape that told them, for people."""
        self._arrived: deque[float] = deque(maxlen=_COUNTS_KEPT)
        """Requests between scrapes."""
        self._counted_s = math.nan

    def read(self, readings: Mapping[ReplicaId, Reading], now_s: float) -> None:
        """Take in the scrape of the replicas, by replica id."""
        for replica, reading in readings.items():
            self._watched.setdefault(replica, _Watched()).add(reading, now_s)
        self._new = True

    def observe(self, replicas: tuple[Replica, ...], now_s: float) -> Observation:
        """Put together what is known now; arrivals count once per scrape."""
        self._forget_gone(replicas)
        for watched in self._watched.values():
            watched.forget_old(now_s)
        self._time_start_ups(replicas)
        demand = self._demand(replicas, now_s)
        lengths = self._lengths()
        serving = sum(replica.phase is Phase.SERVING for replica in replicas)
        return Observation(
            service=self.service,
            sightings=tuple(self._sighting(replica, now_s) for replica in replicas),
            demand=demand,
            capacity_rps=self.book.rate_rps(*lengths, self._burstiness(), serving),
            start_up_s=self.start_up_s,
        )

    @property
    def start_up_s(self) -> float:
        """Median of the starts seen; the profile's until one was."""
        if self._start_ups_s:
            return statistics.median(self._start_ups_s)
        return self.service.profile.start_up_s

    def _forget_gone(self, replicas: tuple[Replica, ...]) -> None:
        here = {replica.id for replica in replicas}
        self._watched = {k: v for k, v in self._watched.items() if k in here}
        self._started = {k: v for k, v in self._started.items() if k in here}

    def _time_start_ups(self, replicas: tuple[Replica, ...]) -> None:
        for replica in replicas:
            started = self._started.get(replica.id)
            if replica.ready_s is not None and started is False:
                self._start_ups_s.append(replica.ready_s - replica.created_s)
            self._started[replica.id] = bool(started) or replica.ready_s is not None

    def _sighting(self, replica: Replica, now_s: float) -> Sighting:
        watched = self._watched.get(replica.id, _Watched())
        reading = watched.latest(now_s)
        signals = reading.signals if reading is not None else None
        if signals is None or signals.running is None or signals.waiting is None:
            return Sighting(replica)
        load = Load(
            signals.running, signals.waiting, signals.kv_usage_ratio,
            signals.generation_tokens_total,
        )  # fmt: skip
        return Sighting(replica, load, watched.wedged and replica.phase in READY)

    def _demand(self, replicas: tuple[Replica, ...], now_s: float) -> Demand:
        """Sum over replicas; None where a serving replica's part is not known."""
        arrivals, waiting = 0.0, 0.0
        known = bool(replicas)
        for replica in replicas:
            if replica.phase in (Phase.PENDING, Phase.STARTING, Phase.FAILED):
                continue
            watched = self._watched.get(replica.id, _Watched())
            rates = watched.last_rates()
            fresh = watched.latest(now_s)
            part = None if rates is None or fresh is None else rates.arrivals_rps
            queued = None if fresh is None or fresh.signals is None else fresh.signals.waiting
            if replica.phase is Phase.SERVING and (part is None or queued is None):
                known = False
            arrivals += part or 0.0
            waiting += queued or 0.0
        seen_serving = any(replica.phase is Phase.SERVING for replica in replicas)
        known = known and seen_serving
        fresh_arrivals = arrivals if known and self._new else None
        if self._new:
            self.arrival_rps = fresh_arrivals
            self._count(fresh_arrivals, now_s)
        self._new = False
        return Demand(fresh_arrivals, waiting if known else None, self._attained())

    def _count(self, arrival_rps: float | None, now_s: float) -> None:
        """Note how many came since the last scrape; a gap in the signals begins anew."""
        if arrival_rps is not None and not math.isnan(self._counted_s):
            self._arrived.append(arrival_rps * (now_s - self._counted_s))
        self._counted_s = math.nan if arrival_rps is None else now_s

    def _burstiness(self) -> float | None:
        """Coefficient of variation of the gaps between requests; None where too few came."""
        counts = np.array(self._arrived)
        return cv_of_counts(counts) if counts.sum() >= _LEAST_ARRIVALS else None

    def _windows(self) -> list[tuple[EngineSignals, EngineSignals]]:
        """First and last page of the window, per replica read twice."""
        ends = [(w.readings[0], w.readings[-1]) for w in self._watched.values() if w.readings]
        return [(a.signals, b.signals) for a, b in ends if a.signals and b.signals]

    def _attained(self) -> float | None:
        """Share of the window's requests within the SLO, over replicas."""
        slo = self.service.slo
        merged = merge(attainment(first, last, slo) for first, last in self._windows())
        return None if merged is None else merged.ratio

    def _lengths(self) -> tuple[float | None, float | None]:
        """Mean prompt and answer length of the requests that ended in the window."""
        windows = self._windows()
        return (
            _mean([(a.prompt_length, b.prompt_length) for a, b in windows]),
            _mean([(a.generation_length, b.generation_length) for a, b in windows]),
        )

    def latency(self, percentile: float) -> tuple[float | None, float | None]:
        """TTFT and mean ITL at a percentile (0 to 1) over the window, s; the worst replica's."""
        windows = self._windows()
        return (
            _worst([(a.ttft, b.ttft) for a, b in windows], percentile),
            _worst([(a.tpot, b.tpot) for a, b in windows], percentile),
        )


Pairs = list[tuple[Histogram | None, Histogram | None]]


def _increments(pairs: Pairs) -> list[Histogram]:
    added = [b.since(a) for a, b in pairs if a is not None and b is not None]
    return [histogram for histogram in added if histogram is not None and histogram.count > 0]


def _mean(pairs: Pairs) -> float | None:
    added = _increments(pairs)
    count = sum(histogram.count for histogram in added)
    return sum(histogram.sum for histogram in added) / count if count else None


def _worst(pairs: Pairs, percentile: float) -> float | None:
    values = (histogram.quantile(percentile) for histogram in _increments(pairs))
    return max((value for value in values if value is not None), default=None)
