"""The detector of one service: everything it remembers, and what it finds.

A value: `seen` answers its successor and the findings that hold now. Whoever watches calls it at
every look, often or seldom, with pages that are new or known already; each page counts once.
Memory is bounded: a fixed record per replica and GPU there is, one for the service, and the
suspicions that hold.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from monitor.detectors.degraded import degraded, wrong_profile
from monitor.detectors.drift import drift
from monitor.detectors.gate import Gate, Suspicion
from monitor.detectors.gpu import gpu_faults
from monitor.detectors.missing import is_missing, missing, stale_after_s
from monitor.detectors.overload import overload
from monitor.detectors.reading import Expectation, FleetReading, ReplicaReading
from monitor.detectors.settings import settings
from monitor.detectors.track import Track, charted, followed, lengths_now
from monitor.detectors.trend import Trend
from monitor.detectors.unusual import Unusual, unusual
from monitor.detectors.waste import waste
from monitor.detectors.wedged import wedged
from monitor.findings import Finding, Kind, Severity

_INCIDENTS = (Kind.DEGRADED_REPLICA, Kind.WEDGED_ENGINE, Kind.GPU_FAULT)
"""Nothing is learned while these hold. Overload is none: residuals are of a replica's own load."""


@dataclass(frozen=True, slots=True)
class Watch:
    """The state of one service's detector."""

    tracks: Mapping[str, Track] = field(default_factory=lambda: MappingProxyType({}))
    trend: Trend = field(default_factory=Trend)
    gate: Gate = field(default_factory=Gate)
    wants_canary: tuple[str, ...] = ()
    """Replicas to be probed, unless a probe of theirs is under way; a later reading carries what
    came of it."""
    incident: bool = False
    """Whether something harmful holds, so that nothing is learned."""
    seen_s: float | None = None
    unusual: Unusual = field(default_factory=Unusual)

    def seen(
        self, reading: FleetReading, expected: Expectation, now_s: float
    ) -> tuple["Watch", tuple[Finding, ...]]:
        """Take in one look at the service: the successor, and the findings that hold."""
        stale_s = stale_after_s(expected)
        tracks = {
            r.id: followed(r, self.tracks.get(r.id), expected, now_s) for r in reading.replicas
        }
        trend = self._trend(reading, tracks, now_s, stale_s)
        quiet = not self.incident and not reading.rolling_out
        tracks = charted(reading.replicas, tracks, lengths_now(trend, expected), expected, quiet)
        admitted = sum(replica.admitted for replica in reading.replicas)
        odd = self.unusual.seen(trend, admitted, quiet, now_s)
        look = _Look(reading, tracks, trend, odd, expected, now_s, stale_s)
        linger_s = max(stale_s, 2 * expected.scrape_s)
        gate, findings = self.gate.passed(look.suspicions(), now_s, linger_s)
        successor = Watch(
            tracks=tracks,
            trend=trend,
            gate=gate,
            wants_canary=tuple(
                r.id
                for r in reading.replicas
                if not (r.signals is not None and r.signals.asleep)
                and tracks[r.id].vitals.wants_canary(r.admitted, now_s, stale_s)
            ),
            incident=any(
                f.kind in _INCIDENTS and f.severity is not Severity.INFO for f in findings
            ),
            seen_s=now_s,
            unusual=odd,
        )
        return successor, findings

    def _trend(
        self, reading: FleetReading, tracks: Mapping[str, Track], now_s: float, stale_s: float
    ) -> Trend:
        admitted = [r for r in reading.replicas if r.admitted]
        there = [tracks[r.id] for r in admitted if not is_missing(r, now_s, stale_s)]
        # the queue of a wedged engine is not the service's
        alive = [t for t in there if t.vitals.wedged(now_s, stale_s) is None]
        latest = [t.pulse for t in alive if t.pulse is not None]
        new = [t.pulse for t in alive if t.pulse is not None and t.fresh]
        passed_s = 0.0 if self.seen_s is None else max(now_s - self.seen_s, 0.0)
        trend = self.trend.seen(new, latest, len(admitted), now_s)
        if reading.rejected_total is None and not trend.rejected:
            return trend
        return trend.refused(reading.rejected_total, passed_s)


@dataclass(frozen=True, slots=True)
class _Look:
    """One look, for all detectors."""

    reading: FleetReading
    tracks: Mapping[str, Track]
    trend: Trend
    odd: Unusual
    expected: Expectation
    now_s: float
    stale_s: float

    def suspicions(self) -> Iterator[Suspicion]:
        """Ask every detector."""
        yield from missing(self.reading.replicas, self.expected, self.now_s)
        for replica in self.reading.replicas:
            yield from self._of(replica)
        yield from self._of_service()

    def _of(self, replica: ReplicaReading) -> Iterator[Suspicion]:
        kept, now_s = self.tracks[replica.id], self.now_s
        for suspicion in (
            wedged(replica, kept.vitals, now_s, self.stale_s),
            degraded(replica.id, kept.chart),
        ):
            if suspicion is not None:
                yield suspicion
        for gpu in replica.gpus:
            yield from gpu_faults(replica.id, gpu, kept.gpus[gpu.index], now_s)

    def _of_service(self) -> Iterator[Suspicion]:
        trend, expected, now_s = self.trend, self.expected, self.now_s
        admitted = sum(replica.admitted for replica in self.reading.replicas)
        charts = [kept.chart for kept in self.tracks.values()]
        for suspicion in (
            overload(trend, admitted, expected, now_s),
            waste(trend, admitted, expected, now_s),
            wrong_profile(charts, now_s),
            unusual(self.odd, now_s),
        ):
            if suspicion is not None:
                yield suspicion
        yield from settings(trend, admitted, expected, now_s)
        yield from drift(trend, expected, now_s)
