"""Find a service with more admitted replicas than even its recent peak needs.

One spare is no waste: it carries the load of one that fails. Said only where every replica was
read for all of the peak's window.
"""

import math

from monitor.detectors.gate import Suspicion
from monitor.detectors.reading import Expectation
from monitor.detectors.trend import PEAK_S, Trend
from monitor.findings import Evidence, Finding, Kind, Severity

HOLD_S = 60.0
_HEADROOM = 1.2
"""Demand may grow by a fifth over the peak seen."""


def waste(trend: Trend, admitted: int, expected: Expectation, now_s: float) -> Suspicion | None:
    """Suspect replicas that nobody needs."""
    watched_s = now_s - trend.began_s
    if trend.demand_rps is None or not trend.whole or watched_s < PEAK_S:
        return None
    if not expected.capacity_rps > 0:
        return None
    peak_rps = trend.demand_peak.value
    needed = max(math.ceil(_HEADROOM * peak_rps / expected.capacity_rps), 1) + 1
    surplus = admitted - needed
    if surplus < 1 or surplus < admitted / 3:
        return None
    return Suspicion(
        Finding(
            kind=Kind.WASTE,
            cause="TooManyReplicas",
            subject="",
            severity=Severity.INFO,
            confidence_ratio=0.9,
            since_s=now_s,
            evidence=(
                Evidence("demand_peak_rps", peak_rps, admitted * expected.capacity_rps, "1/s"),
                Evidence("replicas", float(admitted), float(needed), ""),
            ),
            message=(
                f"{admitted} replicas serve where {needed} carry the peak of {peak_rps:.1f} "
                "requests a second, one to spare"
            ),
            mend=f"serve with {surplus} fewer",
        ),
        HOLD_S,
    )
