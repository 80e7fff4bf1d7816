"""Size a service: the serving replicas that carry the forecast within its SLO.

Reads the capacity that the recommender found for one replica, never a rule of thumb. The
queue is worked off within one start-up time (15 s at least); a miss of the SLO asks for one more.
"""

import math

from controller.decide.types import Reason
from controller.observation import Demand, Observation, Phase

NORMAL_QUEUE_PER_REPLICA = 1.0
"""Requests that wait for the next step in any busy engine."""
WORK_OFF_S = 15.0
"""A queue is to be gone within this, or within one start-up time if that is longer."""
SETTLE_S = 45.0
"""After a rise, requests that were late before it still show in the attainment."""
BUSY_RATIO = 0.5
"""Below this fill a miss has other causes than load, and more replicas would not mend it."""
IN_ROOM = 0.85
"""Fill of the remaining replicas up to which one fewer is safe."""


def backlog(demand: Demand, serving: int) -> float:
    """Requests in queues beyond the normal."""
    if demand.waiting is None:
        return 0.0
    return max(demand.waiting - NORMAL_QUEUE_PER_REPLICA * serving, 0.0)


def replicas_for(rate_rps: float, capacity_rps: float) -> int:
    """Fewest replicas that carry a rate; at least one."""
    return max(math.ceil(rate_rps / capacity_rps - 1e-9), 1)


def size(
    forecast_rps: float, queued: float, capacity_rps: float, serving: int, lead_s: float
) -> tuple[int, Reason]:
    """Serving replicas wanted, and why.

    More as soon as forecast and queue exceed what serves; fewer only when those that remain
    carry the forecast with room to spare, so that the redistributed load cannot bring the
    removed replica back.
    """
    work_off_rps = queued / max(lead_s, WORK_OFF_S)
    needed = replicas_for(forecast_rps + work_off_rps, capacity_rps)
    if needed > serving:
        rising = replicas_for(forecast_rps, capacity_rps) > serving
        return needed, Reason.DEMAND_RISING if rising else Reason.BACKLOG
    roomy = replicas_for(forecast_rps + work_off_rps, capacity_rps * IN_ROOM)
    if roomy < serving:
        return roomy, Reason.DEMAND_FALLING
    return serving, Reason.STEADY


def misses_slo(seen: Observation, forecast_rps: float, since_rise_s: float) -> bool:
    """Whether one more replica is due although the model sees room: it may be wrong."""
    attained = seen.demand.attained_ratio
    serving = seen.count(Phase.SERVING)
    busy = forecast_rps > BUSY_RATIO * seen.capacity_rps * serving
    missed = attained is not None and attained < seen.service.slo.percentile
    return missed and busy and since_rise_s > max(seen.start_up_s, SETTLE_S)
