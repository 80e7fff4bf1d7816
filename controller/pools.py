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

    def limited(
        self, seen: Observation, decision: Decision, serving: int, now_s: float
    ) -> Observation | None:
        """The same, its bounds narrowed to what pools grant; None: they grant what was decided.

        `serving`: replicas that its load needs now; what it holds beyond is free to others. Asked
        again with what came of it, it claims from the pools that were not asked yet.
        """
        service, bounds = seen.service, seen.service.bounds
        known, found = dict(bounds.granted), []
        for kind in service.kinds:
            if kind.gpu in known or kind.gpu not in self._pools:
                continue
            claim = claim_of(seen, decision, serving, kind)
            granted = self._granted(kind.gpu, claim, now_s)
            if granted < (claim.most or 0):
                found.append((kind.gpu, granted))
        if not found:
            return None
        narrowed = replace(bounds, granted=(*bounds.granted, *found))
        return replace(seen, service=replace(service, bounds=narrowed))

    def _granted(self, gpu: str, claim: Claim, now_s: float) -> int:
        """Replicas of a type that a service may have, standbys included."""
        pool = self._pools[gpu]
        known = pool.claims.get(ServiceId(claim.service))
        pool.claims[ServiceId(claim.service)] = claim
        begins = known is None or (claim.most and not known.most)
        if begins or now_s - pool.granted_s >= _EVERY_S:
            grants = share(tuple(pool.claims.values()), pool.gpus)
            pool.grants, pool.granted_s = {grant.service: grant for grant in grants}, now_s
        return pool.grants[claim.service].replicas

    def forget(self, service: ServiceId) -> None:
        """A service that is gone claims nothing."""
        for pool in self._pools.values():
            if pool.claims.pop(service, None) is not None:
                pool.granted_s = float("-inf")


def claim_of(seen: Observation, decision: Decision, serving: int, kind: Service) -> Claim:
    """What a service wants of the pool of one GPU type that it may run on."""
    service, elsewhere = seen.service, dict(decision.on_fallbacks)
    numbers, first = decision.numbers, kind is service
    forecast_rps = numbers.forecast_rps if first else None
    placed = decision.serving - sum(elsewhere.values()) if first else elsewhere.get(kind.gpu, 0)
    standby = decision.standby if first else 0
    return Claim(
        service=service.id,
        wanted=min(serving, placed) + standby if first else placed,
        most=placed + standby,
        held=seen.on("" if first else kind.gpu).count(*READY, *COMING),
        demand=None if forecast_rps is None else forecast_rps / numbers.capacity_rps,
        least=min(service.bounds.low, placed) if first else 0,
        gpus_per_replica=kind.configuration.layout.gpus,
        priority=service.priority,
    )


def read_pools(given: Iterable[str]) -> Pools:
    """Read pools as they are given on the command line: `L4=16`."""
    found: dict[str, int] = {}
    for text in given:
        name, _, count = text.partition("=")
        if not name or not count.isdigit() or int(count) < 1:
            raise Refused(f"--gpu-pool {text}: give a GPU type and a count, such as L4=16")
        found[name] = int(count)
    return Pools(found)
