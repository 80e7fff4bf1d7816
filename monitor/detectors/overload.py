"""Find a service whose demand exceeds what its admitted replicas carry.

Three signs, the first that holds is told: more requests than capacity, a queue that takes longer
to work off than a first token may, requests that miss the objective while there is load. Noise of
arrivals widens the first, never the objective itself.
"""

import math

from monitor.detectors.gate import Suspicion
from monitor.detectors.reading import Expectation
from monitor.detectors.trend import LOAD_S, Trend
from monitor.findings import Evidence, Finding, Kind, Severity

HOLD_S = 20.0
MISSED_HOLD_S = 60.0
"""Bursts miss the objective for a while in any service that is run at its capacity."""
_ABOVE = 1.05
_SIGMAS = 3.0
_LEAST_JUDGED = 20.0
_BUSY = 0.8
"""Share of capacity from which a missed objective speaks for overload."""
_QUEUE_S = 10.0
"""A queue may take this long where the objective bounds no first token."""


def overload(trend: Trend, admitted: int, expected: Expectation, now_s: float) -> Suspicion | None:
    """Suspect overload of the service."""
    if trend.demand_rps is None or admitted == 0 or not expected.capacity_rps > 0:
        return None
    capacity_rps = admitted * expected.capacity_rps
    queue_s = trend.waiting / expected.capacity_rps
    misses = _misses_slo(trend, expected.slo.percentile)
    cause = _cause(trend, capacity_rps, queue_s, misses, expected)
    if cause is None:
        return None
    more = max(math.ceil(trend.demand_rps / expected.capacity_rps) - admitted, 1)
    attained = trend.within / trend.judged if trend.judged > 0 else None
    evidence = [
        Evidence("demand_rps", trend.demand_rps, capacity_rps, "1/s"),
        Evidence("queue_s", queue_s, expected.slo.ttft_s, "s"),
    ]
    if attained is not None:
        evidence.append(Evidence("attained_ratio", attained, expected.slo.percentile, ""))
    return Suspicion(
        Finding(
            kind=Kind.OVERLOAD,
            cause=cause,
            subject="",
            severity=Severity.CRITICAL if misses else Severity.WARNING,
            confidence_ratio=0.95 if misses else 0.8,
            since_s=now_s,
            evidence=tuple(evidence),
            message=(
                f"{trend.demand_rps:.1f} requests a second come to {admitted} replicas that carry "
                f"{capacity_rps:.1f}, and {trend.waiting:.1f} wait at each"
            ),
            mend=f"add {more} replica{'s' if more > 1 else ''}",
        ),
        MISSED_HOLD_S if cause == "SloMissed" else HOLD_S,
    )


def _cause(
    trend: Trend, capacity_rps: float, queue_s: float, misses: bool, expected: Expectation
) -> str | None:
    demand_rps = trend.demand_rps or 0.0
    # of a rate smoothed over tau, Poisson arrivals leave a variance of rate / (2 tau)
    noise_rps = _SIGMAS * math.sqrt(capacity_rps / (2 * LOAD_S))
    if demand_rps > _ABOVE * capacity_rps + noise_rps:
        return "DemandAboveCapacity"
    if trend.waiting > 1 and queue_s > (expected.slo.ttft_s or _QUEUE_S):
        return "QueueGrows"
    if misses and (trend.waiting > 1 or demand_rps > _BUSY * capacity_rps):
        return "SloMissed"
    return None


def _misses_slo(trend: Trend, percentile: float) -> bool:
    """Whether more requests missed than chance allows."""
    if trend.judged < _LEAST_JUDGED:
        return False
    allowed = trend.judged * (1 - percentile)
    missed = trend.judged - trend.within
    return missed > allowed + _SIGMAS * math.sqrt(allowed * percentile)
