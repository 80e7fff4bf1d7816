"""To none and back: when nobody has asked for a while, and when somebody asks again.

While none serves the router holds what comes and tries again until a replica is admitted, so no
request is lost; that it holds some is the signal to wake up.
"""

from controller.observation import COMING, Observation, Phase


def remember_busy(seen: Observation, busy_s: float | None, now_s: float) -> float:
    """When a request was last known, or could have been, under way.

    Unknown is not idle: a moment that nothing is known of counts as busy.
    """
    demand = seen.demand
    held = demand.held or 0.0
    loads = [s.load for s in seen.sightings if s.replica.phase is Phase.SERVING]
    quiet = all(load is not None and load.running + load.waiting == 0 for load in loads)
    known_quiet = bool(loads) and quiet and demand.waiting is not None
    nobody_came = not demand.arrival_rps and held == 0
    if known_quiet and nobody_came and busy_s is not None:
        return busy_s
    slept = busy_s is not None and is_idle(seen, busy_s, now_s)  # what starts is on its way out
    asleep = not loads and held == 0 and (slept or seen.count(*COMING) == 0)
    return busy_s if asleep and busy_s is not None else now_s


def is_idle(seen: Observation, busy_s: float | None, now_s: float) -> bool:
    """Whether nobody has asked for as long as the service says, and nobody waits now."""
    after_s = seen.service.bounds.zero_after_s
    return after_s is not None and busy_s is not None and now_s - busy_s >= after_s


def is_woken(seen: Observation) -> bool:
    """Whether somebody waits at the router although nobody serves."""
    return seen.count(Phase.SERVING) == 0 and (seen.demand.held or 0.0) > 0
