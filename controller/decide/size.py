"""Size a service: the fewest replicas with which few enough requests will miss the objective.

Reads the loads that may come, in replicas' worth (the recommender's capacity of one replica, for
requests as long as they are now), and what share was seen to miss at the load that each replica
then has: a newsvendor's choice (Arrow, Harris and Marschak, Optimal Inventory Policy, 1951). The
queue is worked off within one start-up time (15 s at least).
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from controller.decide.carried import Carried
from controller.decide.history import Floats
from controller.decide.types import Reason
from controller.observation import Demand

NORMAL_QUEUE_PER_REPLICA = 1.0
"""Requests that wait for the next step in any busy engine."""
WORK_OFF_S = 15.0
"""A queue is to be gone within this, or within one start-up time if that is longer."""
GENEROUS = 2.5
"""Misses expected over the loads that may come, over those allowed in all: what a peak brought
stays for a while, so that most of the time there is more than was asked for."""
IN_ROOM = 0.8
"""Fill of those that remain up to which one fewer is safe, with half the error budget spent."""
_UNSPENT, _HALF_SPENT = 0.1, 0.5


@dataclass(frozen=True, slots=True)
class Need:
    """What must be carried, in replicas' worth."""

    loads: tuple[float, ...]
    """Any of them may come, in replicas' worth."""
    sure: float
    """Load that comes in any case."""
    queue: float
    """What working off the queue adds."""
    carried: Carried
    allowed: float
    """Share of requests that may miss the objective."""
    before: float = 1.0
    """Load that one replica carried before the last requests ended."""
    room: float = IN_ROOM
    """Fill up to which one fewer is safe."""

    def replicas(self, fill: float = 1.0) -> int:
        """Fewest replicas that carry it all, filled so far."""
        certain = replicas_for((self.sure + self.queue) / fill, self.carried.ratio)
        return self._few_miss((np.array(self.loads) + self.queue) / fill, certain)

    def _few_miss(self, loads: Floats, least: int) -> int:
        """Fewest replicas with which few enough miss over all loads; by bisection."""
        most = self.allowed * GENEROUS * float(loads.sum())
        low, high = least - 1, max(replicas_for(float(loads[-1]), self.carried.ratio), least)
        while high - low > 1:
            replicas = (low + high) // 2
            if float(self.carried.misses(loads / replicas) @ loads) <= most:
                high = replicas
            else:
                low = replicas
        return high


def backlog(demand: Demand, serving: int) -> float:
    """Requests in queues beyond the normal."""
    if demand.waiting is None:
        return 0.0
    return max(demand.waiting - NORMAL_QUEUE_PER_REPLICA * serving, 0.0)


def work_off(queued: float, capacity_rps: float, lead_s: float) -> float:
    """Load that a queue adds while it is worked off, in replicas' worth."""
    return queued / capacity_rps / max(lead_s, WORK_OFF_S)


def in_room(spent_ratio: float) -> float:
    """Fill of the remaining replicas up to which one fewer is safe.

    `spent_ratio`: misses over those that the objective allows. A service that hardly misses may
    find out what fewer replicas carry, and learns it there.
    """
    return float(np.interp(spent_ratio, [_UNSPENT, _HALF_SPENT], [1.0, IN_ROOM]))


def replicas_for(load: float, carried: float) -> int:
    """Fewest replicas that carry a load; at least one."""
    return max(math.ceil(load / carried - 1e-9), 1)


def size(need: Need, serving: int, roomy: int) -> tuple[int, Reason]:
    """Serving replicas wanted, and why.

    More as soon as what may come and the queue exceed what serves; fewer only when those that
    remain carry it with room to spare (`roomy` do), so that the redistributed load cannot bring the
    removed replica back.
    """
    if roomy < serving:
        return roomy, Reason.DEMAND_FALLING
    needed = need.replicas()
    return (needed, _why_more(need, serving)) if needed > serving else (serving, Reason.STEADY)


def _why_more(need: Need, serving: int) -> Reason:
    most = max(need.sure, need.loads[-1])
    if replicas_for(most + need.queue, need.before) <= serving:
        return Reason.SLO_MISSED
    rising = replace(need, queue=0.0).replicas() > serving
    return Reason.DEMAND_RISING if rising else Reason.BACKLOG
