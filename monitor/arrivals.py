"""Requests that came to a replica between two readings.

Called by the observation. A counter that went back means that the engine restarted, and so did
all its other counters, whether they show it or not: then nothing is known until the next pair
of readings.
"""

from dataclasses import dataclass
from operator import attrgetter

from monitor.histogram import Histogram
from monitor.signals import EngineSignals, Reading


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Requests that came, and in how long."""

    window_s: float
    rps: float
    """Those that ended, and what batch and queue grew by; per second."""


COUNTERS = (
    "preemptions_total",
    "prompt_tokens_total",
    "generation_tokens_total",
    "prefix_cache_hits_total",
    "prefix_cache_queries_total",
)
"""Fields of `EngineSignals` that only grow."""
_counters = attrgetter(*COUNTERS)


def arrivals_between(before: Reading, after: Reading) -> Arrivals | None:
    """Compare two readings of one replica; None where they cannot be compared."""
    then, now = before.signals, after.signals
    if then is None or now is None or before.at_s is None or after.at_s is None:
        return None
    window_s = after.at_s - before.at_s
    if not window_s > 0 or restarted(then, now):
        return None
    ended, held, holds = (_finished(then), _finished(now)), _held(then), _held(now)
    if ended[0] is None or ended[1] is None or held is None or holds is None:
        return None
    came = ended[1] - ended[0] + holds - held
    return Arrivals(window_s, max(came, 0.0) / window_s)  # gauges may be a step from counters


def restarted(before: EngineSignals, after: EngineSignals) -> bool:
    """Whether some counter went back, so that all of them began anew."""
    for a, b in zip(_counters(before), _counters(after), strict=True):
        if a is not None and b is not None and b < a:
            return True
    then, now = before.requests_finished, after.requests_finished
    if then and now:
        for reason, count in then.items():
            if now.get(reason, count) < count:
                return True
    return _fell(before.ttft, after.ttft) or _fell(before.e2e, after.e2e)


def _fell(before: Histogram | None, after: Histogram | None) -> bool:
    return before is not None and after is not None and after.count < before.count


def _finished(signals: EngineSignals) -> float | None:
    """Ended requests of every reason, or those with an end-to-end time."""
    if signals.requests_finished is not None:
        return sum(signals.requests_finished.values())
    return None if signals.e2e is None else signals.e2e.count


def _held(signals: EngineSignals) -> float | None:
    """Requests in batch and queue."""
    if signals.running is None or signals.waiting is None:
        return None
    return signals.running + signals.waiting
