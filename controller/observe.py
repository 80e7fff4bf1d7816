"""Observe one service: read its replicas, derive demand, keep what comparisons need.

The scrape fills it, the loop asks it for an `Observation`. A replica without a fresh reading
has no load; demand with a serving replica unread is not known.
"""

import math
import statistics
from collections import deque
from collections.abc import Mapping
from zlib import crc32

import numpy as np

from controller.capacity_book import ENOUGH_REQUESTS, CapacityBook, Lengths
from controller.detect import SCRAPE_S, Detecting, unfit, wedged
from controller.observation import (
    Demand,
    Load,
    Observation,
    Phase,
    Replica,
    ReplicaId,
    Sighting,
)
from controller.service import Service
from controller.watched import Watched, stale_after_s, summed, worst
from monitor import (
    EngineSignals,
    Reading,
    attainment,
    merge,
)
from monitor.detectors.reading import Canary, GpuReading
from recommender import cv_of_counts

_SUMMED_EVERY_S = 5.0
"""What a window of a minute says changes little from one second to the next."""
_SHORTER_S = (15.0, 30.0)
"""Windows of lengths, where so many requests end that a minute is not needed."""
_START_UPS_KEPT = 5
_COUNTS_KEPT = 300
_LEAST_ARRIVALS = 100
"""Fewer say little about burstiness."""


class Observer:
    """What is known of one service over time."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._books = {kind.gpu: CapacityBook(kind) for kind in service.kinds}
        self._worths = tuple((k.gpu, k.worth_of(service)) for k in service.fallbacks)
        self._watched: dict[ReplicaId, Watched] = {}
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
        self._attained_ratio: float | None = None
        self._sum_up_s = -math.inf
        """When the window is summed up next."""
        self._standing_by: set[ReplicaId] = set()
        """Their windows hold nothing but our own probes."""
        self._capacity_rps = service.capacity.rate_rps
        """As of the last scrape, as the one above."""
        self._detecting = Detecting(service)
        self._gpus: Mapping[ReplicaId, tuple[GpuReading, ...]] = {}
        self._held: float | None = None
        self._asked_s = -math.inf
        """When it was last read or asked."""
        self._stale_s = stale_after_s(SCRAPE_S)

    @property
    def wants_canary(self) -> tuple[ReplicaId, ...]:
        """Replicas that the detector wants probed."""
        return self._detecting.wants_canary

    def probing(self, replica: ReplicaId, now_s: float) -> None:
        """A probe is sent: its request is nobody's."""
        if replica in self._watched:
            self._watched[replica].probe_s = (now_s, math.inf)

    def probed(self, replica: ReplicaId, canary: Canary | None, now_s: float) -> None:
        """Take in what came of it; None: nothing that tells of the engine."""
        if replica in self._watched:
            self._watched[replica].probe_s = (self._watched[replica].probe_s[0], now_s)
        if canary is not None:
            self._detecting.probed(replica, canary)

    def held_at_router(self, requests: float | None) -> None:
        """Take in how many requests the router holds because nobody serves."""
        self._held = requests

    def every(self, period_s: float) -> None:
        """Take in how often replicas are read from now on."""
        self._stale_s = stale_after_s(period_s)
        self._detecting.every(period_s)

    def see_gpus(self, gpus: Mapping[ReplicaId, tuple[GpuReading, ...]]) -> None:
        """Take in the health of the replicas' GPUs."""
        self._gpus = gpus

    def read(self, readings: Mapping[ReplicaId, Reading], now_s: float) -> None:
        """Take in the scrape of the replicas, by replica id."""
        self._follow_clock(now_s)
        new = [
            self._watched.setdefault(replica, Watched()).add(reading, now_s)
            for replica, reading in readings.items()
        ]
        self._new = self._new or any(new) or not new

    def observe(self, replicas: tuple[Replica, ...], now_s: float) -> Observation:
        """Put together what is known now; arrivals count once per scrape."""
        self._follow_clock(now_s)
        self._forget_gone(replicas)
        aged = [watched.forget_old(now_s) for watched in self._watched.values()]
        if (self._new or any(aged)) and now_s >= self._sum_up_s:
            self._sum_up(replicas)
            self._sum_up_s = self._next_sum_up_s(now_s)
        self._time_start_ups(replicas)
        last = {name: w.readings[-1] for name, w in self._watched.items() if w.readings}
        findings = self._detecting.look(replicas, last, self._gpus, now_s)
        lost, bad = wedged(findings), unfit(findings)
        demand = self._demand(replicas, now_s)
        return Observation(
            service=self.service,
            sightings=tuple(
                Sighting(r, self._load(r.id, now_s), r.id in lost, r.id in bad) for r in replicas
            ),
            demand=demand,
            capacity_rps=self._capacity_rps,
            start_up_s=self.start_up_s,
            findings=findings,
            worths=self._worths,
        )

    @property
    def start_up_s(self) -> float:
        """Median of the starts seen; the profile's until one was."""
        if self._start_ups_s:
            return statistics.median(self._start_ups_s)
        return self.service.profile.start_up_s

    def _next_sum_up_s(self, now_s: float) -> float:
        """Not all services at the same tick; at every scrape until something is known."""
        if self._attained_ratio is None:
            return now_s
        part_s = crc32(self.service.id.encode()) % 100 / 100.0 * _SUMMED_EVERY_S
        return ((now_s - part_s) // _SUMMED_EVERY_S + 1.0) * _SUMMED_EVERY_S + part_s

    def _follow_clock(self, now_s: float) -> None:
        """Begin anew where the clock went back: what was read before would lie in the future."""
        if now_s < self._asked_s:
            self._watched, self._counted_s, self._sum_up_s = {}, math.nan, -math.inf
            self._detecting = Detecting(self.service)
        self._asked_s = now_s

    def _forget_gone(self, replicas: tuple[Replica, ...]) -> None:
        here = {replica.id for replica in replicas}
        self._watched = {k: v for k, v in self._watched.items() if k in here}
        self._started = {k: v for k, v in self._started.items() if k in here}

    def _time_start_ups(self, replicas: tuple[Replica, ...]) -> None:
        for replica in replicas:
            started = self._started.get(replica.id)
            lasted_s = (replica.ready_s or -math.inf) - replica.created_s
            if started is False and lasted_s > 0:  # else the clock went back
                self._start_ups_s.append(lasted_s)
            self._started[replica.id] = bool(started) or replica.ready_s is not None

    def _load(self, replica: ReplicaId, now_s: float) -> Load | None:
        """What its fresh page says; None without one."""
        watched = self._watched.get(replica)
        reading = None if watched is None else watched.latest(now_s, self._stale_s)
        signals = None if reading is None else reading.signals
        if watched is None or reading is None or signals is None:
            return None
        if signals.running is None or signals.waiting is None:
            return None
        running = max(signals.running - watched.own(reading.at_s or 0.0), 0.0)
        return Load(
            running, signals.waiting, signals.kv_usage_ratio, signals.generation_tokens_total
        )

    def _demand(self, replicas: tuple[Replica, ...], now_s: float) -> Demand:
        """Sum over replicas; None where a serving replica's part is not known."""
        arrivals, waiting, over_s = 0.0, 0.0, 0.0
        known = bool(replicas)
        for replica in replicas:
            if replica.phase in (Phase.PENDING, Phase.STARTING, Phase.FAILED):
                continue
            watched = self._watched.get(replica.id)
            came = None if watched is None else watched.arrivals
            fresh = None if watched is None else watched.latest(now_s, self._stale_s)
            part = None if came is None or fresh is None else came.rps
            queued = None if fresh is None or fresh.signals is None else fresh.signals.waiting
            if replica.phase is Phase.SERVING and (part is None or queued is None):
                known = False
            over_s = max(over_s, 0.0 if came is None else came.window_s)
            arrivals += part or 0.0
            waiting += queued or 0.0
        seen_serving = any(replica.phase is Phase.SERVING for replica in replicas)
        known = known and seen_serving
        fresh_arrivals = arrivals if known and self._new else None
        ended, missed = self._detecting.judged if known and self._new else (0.0, 0.0)
        if self._new:
            self.arrival_rps = fresh_arrivals
            self._count(fresh_arrivals, now_s)
        self._new = False
        return Demand(
            arrival_rps=fresh_arrivals,
            waiting=waiting if known else None,
            attained_ratio=self._attained_ratio,
            over_s=over_s or 1.0,
            ended=ended,
            held=self._held,
            missed=missed,
        )

    def _sum_up(self, replicas: tuple[Replica, ...]) -> None:
        """What the window says, once for each change of it."""
        serving = sum(replica.phase is Phase.SERVING for replica in replicas)
        self._standing_by = {r.id for r in replicas if r.phase is Phase.STANDBY}
        self._attained_ratio = self._attained()
        lengths, burstiness = self._lengths(), self._burstiness()
        rates = {
            gpu: book.rate_rps(lengths, burstiness, serving) for gpu, book in self._books.items()
        }
        self._capacity_rps = rates[self.service.gpu]
        self._worths = tuple(
            (k.gpu, rates[k.gpu] / self._capacity_rps) for k in self.service.fallbacks
        )

    def _count(self, arrival_rps: float | None, now_s: float) -> None:
        """Note how many came since the last scrape; a gap in the signals begins anew."""
        if arrival_rps is not None and not math.isnan(self._counted_s):
            self._arrived.append(arrival_rps * (now_s - self._counted_s))
        self._counted_s = math.nan if arrival_rps is None else now_s

    def _burstiness(self) -> float | None:
        """Coefficient of variation of the gaps between requests; None where too few came."""
        counts = np.array(self._arrived)
        return cv_of_counts(counts) if counts.sum() >= _LEAST_ARRIVALS else None

    def _windows(self, window_s: float = math.inf) -> list[tuple[EngineSignals, EngineSignals]]:
        """First and last page of the window, per replica read twice that requests are sent to."""
        used = [w for name, w in self._watched.items() if name not in self._standing_by]
        ends = [w.ends(window_s) for w in used if w.readings]
        return [(a.signals, b.signals) for a, b in ends if a.signals and b.signals]

    def _attained(self) -> float | None:
        """Share of the window's requests within the SLO, over replicas."""
        slo = self.service.slo
        merged = merge(attainment(first, last, slo) for first, last in self._windows())
        return None if merged is None else merged.ratio

    def _lengths(self) -> Lengths | None:
        """Mean lengths over the shortest window in which enough requests ended, else over all."""
        lengths = self._lengths_of(self._windows())
        if lengths is None or lengths.requests < ENOUGH_REQUESTS:
            return lengths
        shorter = (self._lengths_of(self._windows(each_s)) for each_s in _SHORTER_S)
        return next((s for s in shorter if s and s.requests >= ENOUGH_REQUESTS), lengths)

    @staticmethod
    def _lengths_of(windows: list[tuple[EngineSignals, EngineSignals]]) -> Lengths | None:
        """Mean prompt and answer length of the requests that ended."""
        prompts = summed([(a.prompt_length, b.prompt_length) for a, b in windows])
        answers = summed([(a.generation_length, b.generation_length) for a, b in windows])
        if not prompts[0] or not answers[0]:
            return None
        return Lengths(prompts[0], prompts[1] / prompts[0], answers[1] / answers[0])

    def latency(self, percentile: float) -> tuple[float | None, float | None]:
        """TTFT and mean ITL at a percentile (0 to 1) over the window, s; the worst replica's."""
        windows = self._windows()
        return (
            worst([(a.ttft, b.ttft) for a, b in windows], percentile),
            worst([(a.tpot, b.tpot) for a, b in windows], percentile),
        )
