"""The detector beside the loop: readings go in, findings and wishes for probes come out.

`controller.observe` asks it at every observation, `controller.loop` carries the probes out. It
judges nothing itself: `monitor.detectors` does, with the twin that sizes the service.
"""

from collections.abc import Mapping
from dataclasses import replace
from zlib import crc32

from controller.observation import READY, Phase, Replica, ReplicaId
from controller.service import Service
from monitor import Reading
from monitor.detectors.reading import (
    Canary,
    Expectation,
    FleetReading,
    GpuReading,
    ReplicaReading,
)
from monitor.detectors.unusual import Unusual
from monitor.detectors.watch import Watch
from monitor.findings import Finding, Kind, Severity

SCRAPE_S = 1.0
_SURE_RATIO = 0.9
"""Confidence from which a warning is acted on."""


def expectation_of(service: Service) -> Expectation:
    """What the service was planned for."""
    return Expectation(
        slo=service.slo,
        cost=service.profile.cost,
        limits=service.profile.limits(service.configuration),
        capacity_rps=service.capacity.rate_rps,
        mean_input_tokens=service.capacity.mean_input_tokens,
        mean_output_tokens=service.capacity.mean_output_tokens,
        scrape_s=SCRAPE_S,
        start_up_s=service.profile.start_up_s,
        kinds=tuple(
            (other.gpu, other.profile.cost, other.profile.limits(other.configuration))
            for other in service.fallbacks
        ),
    )


class Detecting:
    """What is found wrong with one service, over time."""

    def __init__(self, service: Service) -> None:
        self._expected = expectation_of(service)
        offset_ratio = crc32(service.id.encode()) % 1000 / 1000.0
        self._watch = Watch(unusual=Unusual(offset_ratio))
        self._canaries: dict[ReplicaId, Canary] = {}
        self.findings: tuple[Finding, ...] = ()

    @property
    def wants_canary(self) -> tuple[ReplicaId, ...]:
        """Replicas to be probed."""
        return tuple(ReplicaId(name) for name in self._watch.wants_canary)

    def every(self, period_s: float) -> None:
        """Take in how often replicas are read from now on."""
        if period_s != self._expected.scrape_s:
            self._expected = replace(self._expected, scrape_s=period_s)

    @property
    def judged(self) -> tuple[float, float]:
        """Requests that ended between the last two pages, where the last one is new; and of them,
        those that missed the objective."""
        pulses = [kept.pulse for kept in self._watch.tracks.values() if kept.fresh]
        known = [pulse for pulse in pulses if pulse is not None]
        ended = sum(pulse.judged for pulse in known)
        return ended, ended - sum(pulse.within for pulse in known)

    def probed(self, replica: ReplicaId, canary: Canary) -> None:
        """Take in what came of a probe."""
        self._canaries[replica] = canary

    def look(
        self,
        replicas: tuple[Replica, ...],
        readings: Mapping[ReplicaId, Reading],
        gpus: Mapping[ReplicaId, tuple[GpuReading, ...]],
        now_s: float,
    ) -> tuple[Finding, ...]:
        """Look at the replicas that are ready; what holds now."""
        ready = [replica for replica in replicas if replica.phase in READY]
        here = {replica.id for replica in ready}
        self._canaries = {k: v for k, v in self._canaries.items() if k in here}
        reading = FleetReading(
            tuple(
                _reading(r, readings.get(r.id), self._canaries.get(r.id), gpus.get(r.id, ()))
                for r in ready
            ),
            rolling_out=any(replica.stale for replica in replicas),
        )
        self._watch, self.findings = self._watch.seen(reading, self._expected, now_s)
        return self.findings


def _reading(
    replica: Replica,
    last: Reading | None,
    canary: Canary | None,
    gpus: tuple[GpuReading, ...],
) -> ReplicaReading:
    return ReplicaReading(
        id=replica.id,
        admitted=replica.phase is Phase.SERVING,
        ready_s=replica.ready_s,
        signals=None if last is None else last.signals,
        at_s=None if last is None else last.at_s,
        canary=canary,
        gpus=gpus,
        kind=replica.gpu,
    )


def wedged(findings: tuple[Finding, ...]) -> frozenset[str]:
    """Replicas that answer and make no tokens."""
    return frozenset(f.subject for f in findings if f.kind is Kind.WEDGED_ENGINE)


def unfit(findings: tuple[Finding, ...]) -> frozenset[str]:
    """Replicas that are better replaced: slow for sure, or on a GPU that fails."""
    kinds = (Kind.DEGRADED_REPLICA, Kind.GPU_FAULT)
    return frozenset(
        f.subject
        for f in findings
        if f.kind in kinds
        and f.subject
        and f.severity is Severity.CRITICAL
        and f.confidence_ratio >= _SURE_RATIO
    )
