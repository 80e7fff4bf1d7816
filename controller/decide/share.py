"""Share a fixed pool of GPUs between services that together want more than there is.

Called once a tick with what every service wants; it sees no metrics and starts nothing. The
rules, in this order:

1. Everybody's least comes before anybody's more, the highest priority first.
2. A higher priority gets all that it wants before a lower one gets more than its least.
3. Among equals the next replica goes to whoever is the most loaded: the largest demand over
   replicas granted so far. No other division leaves the worst loaded better off (Adams'
   method of divisors; Balinski and Young, Fair Representation, 1982).
4. What nobody wants goes on in the same way to who may have more than it wants: in a pool that is
   paid for anyway, an idle GPU helps no burst that comes before the next tick.

A replica that is there counts as a little more needed than one that is not, so that noise in
the demand moves none to and fro.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from profiler.errors import Refused

KEEP_RATIO = 1.05
"""How much more loaded a service must be to take over what another one holds."""


class GrantReason(StrEnum):
    """Why a grant came out as it did; append-only."""

    FULL = "Full"
    """All that is wanted."""
    AT_BUDGET = "AtBudget"
    """The service's own budget binds."""
    POOL_SHORT = "PoolShort"
    """Others need the GPUs as much, or more."""
    SPARE = "Spare"
    """More than is wanted, as nobody else wants it."""
    GIVES_WAY = "GivesWay"
    """It has to give up replicas that it wants, for others."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one service wants of the pool."""

    service: str
    wanted: int
    """Replicas."""
    held: int = 0
    """Replicas that it has, serving or starting."""
    demand: float | None = None
    """Load in replicas that would just carry it; None: not known, so as much as it holds."""
    least: int = 1
    """Replicas that come before anybody's more."""
    most: int | None = None
    """Replicas that it may have if nobody else wants the GPUs; None: as many as it wants."""
    gpus_per_replica: int = 1
    priority: int = 0
    """The higher one first."""
    budget_gpus: int | None = None
    """GPUs that it may have at most; None: no bound but the pool's."""

    def __post_init__(self) -> None:
        """Refuse what is no claim."""
        for name, low in (("wanted", 0), ("held", 0), ("least", 0), ("gpus_per_replica", 1)):
            if getattr(self, name) < low:
                raise Refused(
                    f"{self.service}: {name} is {getattr(self, name)}: give {low} or more"
                )

    @property
    def limits(self) -> tuple[int, int, int]:
        """Replicas that come first, that are wanted, and that may be had, each paid for."""
        wanted = max(self.wanted, self.least)
        spare = wanted if self.most is None or not wanted else max(self.most, wanted)
        if self.budget_gpus is None:
            return self.least, wanted, spare
        paid = max(self.budget_gpus, 0) // self.gpus_per_replica
        return min(self.least, paid), min(wanted, paid), min(spare, paid)

    @property
    def load(self) -> float:
        """The demand, in replicas; what is held where it is not known, or no number."""
        known = self.demand is not None and math.isfinite(self.demand) and self.demand >= 0
        return self.demand if known and self.demand is not None else float(self.held)


@dataclass(frozen=True, slots=True)
class Grant:
    """How many replicas a service may have."""

    service: str
    replicas: int
    reason: GrantReason


def share(claims: Sequence[Claim], gpus: int, budget_gpus: int | None = None) -> tuple[Grant, ...]:
    """Grant replicas, in the order of the claims; never more than `gpus` in all.

    `budget_gpus`: GPUs that all services together may use. Ties go to who holds the replica
    already, then to the earlier claim. What is too large for the GPUs left is passed over.
    """
    left = max(gpus if budget_gpus is None else min(gpus, budget_gpus), 0)
    granted = [0] * len(claims)
    limits = [claim.limits for claim in claims]
    classes = sorted({claim.priority for claim in claims}, reverse=True)
    for stage in (0, 1):
        for priority in classes:
            most = [
                limit[stage] if claim.priority == priority else 0
                for claim, limit in zip(claims, limits, strict=True)
            ]
            left = _fill(claims, most, granted, left)
    _fill(claims, [spare for _, _, spare in limits], granted, left)
    return tuple(
        Grant(claim.service, count, _reason(claim, count))
        for claim, count in zip(claims, granted, strict=True)
    )


def _fill(claims: Sequence[Claim], most: list[int], granted: list[int], left: int) -> int:
    """Give one replica after the other up to the limits; how many GPUs are left."""
    queue = [(_ease(claims[i], granted[i]), i) for i in range(len(claims)) if granted[i] < most[i]]
    heapq.heapify(queue)
    while queue:
        _, i = heapq.heappop(queue)
        if claims[i].gpus_per_replica > left:
            continue
        granted[i] += 1
        left -= claims[i].gpus_per_replica
        if granted[i] < most[i]:
            heapq.heappush(queue, (_ease(claims[i], granted[i]), i))
    return left


def _ease(claim: Claim, granted: int) -> tuple[float, bool]:
    """How little it needs the next replica; the first comes before everybody's second."""
    held = granted < claim.held
    load = claim.load / granted if granted else math.inf
    return -load * (KEEP_RATIO if held else 1.0), not held


def _reason(claim: Claim, count: int) -> GrantReason:
    wanted = max(claim.wanted, claim.least)
    if count >= wanted:
        return GrantReason.SPARE if count > wanted else GrantReason.FULL
    if count >= claim.limits[1]:
        return GrantReason.AT_BUDGET
    return GrantReason.GIVES_WAY if count < claim.held else GrantReason.POOL_SHORT
