"""Fixed pools of GPUs that services draw from: how many replicas each may have now.

Every loop claims what it decided on; `decide.share` grants, for all claims of a GPU type together
and once a second at most. A type without a pool is limited by nothing here: the cluster's scheduler
says what has room.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from controller.decide import Decision
from controller.decide.share import Claim, Grant, share
from controller.observation import COMING, READY, Observation
from controller.service import Service, ServiceId
from profiler.errors import Refused

_EVERY_S = 1.0


@dataclass(slots=True)
class _Pool:
    """One type's claims, and what was granted last."""

    gpus: int
    claims: dict[ServiceId, Claim]
    grants: Mapping[str, Grant]
    granted_s: float = float("-inf")


class Pools:
    """What services share, by GPU type."""

    def __init__(self, gpus: Mapping[str, int] | None = None) -> None:
        self._pools = {name: _Pool(count, {}, {}) for name, count in (gpus or {}).items()}

    def granted(
        self, seen: Observation, decision: Decision, serving: int, now_s: float
    ) -> int | None:
        """Replicas that the service may have, standbys included; None: nothing limits it.

        `serving`: those that its load needs now; what it holds beyond is free to others.
        """
        service = seen.service
        pool = self._pools.get(service.gpu)
        if pool is None:
            return None
        known = pool.claims.get(service.id)
        pool.claims[service.id] = claim_of(seen, decision, serving)
        if known is None or now_s - pool.granted_s >= _EVERY_S:
            grants = share(tuple(pool.claims.values()), pool.gpus)
            pool.grants, pool.granted_s = {grant.service: grant for grant in grants}, now_s
        return pool.grants[service.id].replicas

    def forget(self, service: ServiceId) -> None:
        """A service that is gone claims nothing."""
        for pool in self._pools.values():
            if pool.claims.pop(service, None) is not None:
                pool.granted_s = float("-inf")


def claim_of(seen: Observation, decision: Decision, serving: int) -> Claim:
    """What a service wants of its pool."""
    service, numbers = seen.service, decision.numbers
    forecast_rps = numbers.forecast_rps
    return Claim(
        service=service.id,
        wanted=serving + decision.standby,
        most=decision.serving + decision.standby,
        held=seen.count(*READY, *COMING),
        demand=None if forecast_rps is None else forecast_rps / numbers.capacity_rps,
        least=min(service.bounds.low, decision.serving),
        gpus_per_replica=service.configuration.layout.gpus,
        priority=service.priority,
    )


def within_grant(seen: Observation, replicas: int) -> Observation:
    """The same, its bounds narrowed to what was granted."""
    bounds = replace(seen.service.bounds, granted=replicas)
    service: Service = replace(seen.service, bounds=bounds)
    return replace(seen, service=service)


def read_pools(given: Iterable[str]) -> Pools:
    """Read pools as they are given on the command line: `L4=16`."""
    found: dict[str, int] = {}
    for text in given:
        name, _, count = text.partition("=")
        if not name or not count.isdigit() or int(count) < 1:
            raise Refused(f"--gpu-pool {text}: give a GPU type and a count, such as L4=16")
        found[name] = int(count)
    return Pools(found)
