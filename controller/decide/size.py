"""Size a service: the serving replicas that carry the forecast within its objective.

Reads the load in replicas' worth (the recommender's capacity of one replica, for requests as
long as they are now) and what a replica was seen to carry of it. The queue is worked off within
one start-up time (15 s at least).
"""

import math
from dataclasses import dataclass

import numpy as np

from controller.decide.types import Reason
from controller.observation import Demand

NORMAL_QUEUE_PER_REPLICA = 1.0
"""Requests that wait for the next step in any busy engine."""
WORK_OFF_S = 15.0
"""A queue is to be gone within this, or within one start-up time if that is longer."""
IN_ROOM = 0.8
"""Fill of those that remain up to which one fewer is safe, with half the error budget spent."""
_UNSPENT, _HALF_SPENT = 0.1, 0.5


@dataclass(frozen=True, slots=True)
class Need:
    """What must be carried, in replicas' worth."""

    forecast: float
    queue: float
    """What working off the queue adds."""
    carried: float
    """Load that one replica carries."""
    before: float = 1.0
    """The same, before the last requests ended."""
    room: float = IN_ROOM
    """Fill up to which one fewer is safe."""

    def replicas(self, fill: float = 1.0) -> int:
        """Fewest replicas that carry it all, filled so far."""
        return replicas_for(self.forecast + self.queue, self.carried * fill)


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


def size(need: Need, serving: int) -> tuple[int, Reason]:
    """Serving replicas wanted, and why.

    More as soon as forecast and queue exceed what serves; fewer only when those that remain
    carry the forecast with room to spare, so that the redistributed load cannot bring the
    removed replica back.
    """
    needed = need.replicas()
    if needed > serving:
        return needed, _why_more(need, serving)
    roomy = need.replicas(need.room)
    return (roomy, Reason.DEMAND_FALLING) if roomy < serving else (serving, Reason.STEADY)


def _why_more(need: Need, serving: int) -> Reason:
    if replicas_for(need.forecast + need.queue, need.before) <= serving:
        return Reason.SLO_MISSED
    rising = replicas_for(need.forecast, need.carried) > serving
    return Reason.DEMAND_RISING if rising else Reason.BACKLOG
