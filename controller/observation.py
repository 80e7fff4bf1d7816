"""What is known of one service at one moment: replicas, their readings, demand.

Frozen values only; made by `controller.loop`, read by `controller.decide`. What is not known
is None: a missing reading is never a zero.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NewType

from controller.service import Service
from monitor.findings import Finding

ReplicaId = NewType("ReplicaId", str)


class Phase(StrEnum):
    """Where a replica stands in its life."""

    PENDING = "Pending"
    """Asked for; no machine runs it yet."""
    STARTING = "Starting"
    STANDBY = "Standby"
    """Ready and outside the router."""
    SERVING = "Serving"
    DRAINING = "Draining"
    """Out of the router; finishing what it has."""
    FAILED = "Failed"


COMING = (Phase.PENDING, Phase.STARTING)
READY = (Phase.STANDBY, Phase.SERVING)


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica as its runtime sees it; moments on the controller's clock."""

    id: ReplicaId
    phase: Phase
    created_s: float
    ready_s: float | None = None
    """When it became ready; None before."""
    url: str | None = None
    """Where its API listens; None until it has an address."""
    message: str = ""
    """Why it failed, or what it waits for."""
    stale: bool = False
    """It runs an older configuration: to be replaced, never to be started again."""
    gpu: str = ""
    """Its GPU type where it is not the service's own: a fallback's."""
    node: str = ""
    """The machine that runs it; empty where it is not known."""


@dataclass(frozen=True, slots=True)
class Load:
    """A replica's fresh reading, reduced to what decisions need."""

    running: float
    waiting: float
    kv_usage_ratio: float | None
    generation_tokens_total: float | None


@dataclass(frozen=True, slots=True)
class Sighting:
    """A replica and its load; None: no fresh reading."""

    replica: Replica
    load: Load | None = None
    wedged: bool = False
    """The engine answers, holds requests, and makes no tokens."""
    unfit: bool = False
    """It serves, and is better replaced: slow beyond its load, or on a GPU that fails."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What arrives at the service; None: not known."""

    arrival_rps: float | None
    """Over the last reading interval."""
    waiting: float | None
    """Requests in the engines' queues."""
    attained_ratio: float | None
    """Share of recent requests within the SLO; None when none ended."""
    over_s: float = 1.0
    """How long the reading interval was that the arrivals are of."""
    ended: float = 0.0
    """Requests judged since the observation before."""
    missed: float = 0.0
    """Of them, the SLO."""
    held: float | None = None
    """Requests that the router holds because nobody serves; None: it does not say."""


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything one decision is made from."""

    service: Service
    sightings: tuple[Sighting, ...]
    demand: Demand
    capacity_rps: float
    """One replica's, for the lengths of requests seen lately."""
    start_up_s: float
    """Measured where a replica was seen starting, else the profile's."""
    findings: tuple[Finding, ...] = ()
    """What the detector says."""
    worths: tuple[tuple[str, float], ...] = ()
    """What a replica on each fallback GPU carries, in replicas of the service's own."""

    def ids(self, *phases: Phase, stale: bool | None = None) -> tuple[ReplicaId, ...]:
        """Replicas in any of the phases, oldest first; only (not) stale ones if asked."""
        chosen = (
            s.replica
            for s in self.sightings
            if s.replica.phase in phases and stale in (None, s.replica.stale)
        )
        return tuple(r.id for r in sorted(chosen, key=lambda r: (r.created_s, r.id)))

    def count(self, *phases: Phase) -> int:
        """Replicas in any of the phases."""
        return sum(s.replica.phase in phases for s in self.sightings)

    def worth(self, *phases: Phase) -> float:
        """The same, in replicas on the service's own GPU type."""
        if not self.worths:
            return float(self.count(*phases))
        each, inside = dict(self.worths), (s.replica for s in self.sightings)
        return sum(each.get(replica.gpu, 1.0) for replica in inside if replica.phase in phases)

    def on(self, gpu: str) -> "Observation":
        """Only the replicas on one GPU type; whatever is no fallback's is the service's own."""
        if not self.worths:
            return self
        known = dict(self.worths)
        kind = gpu if gpu in known else ""
        sightings = tuple(
            s for s in self.sightings if (s.replica.gpu if s.replica.gpu in known else "") == kind
        )
        return replace(self, sightings=sightings)
