"""What a replica did between two readings: requests, tokens and their means.

Called by the observation and by the detectors. A counter that went back means that the
engine restarted, and so did all its other counters, whether they show it or not: then every
rate is unknown until the next pair of readings.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from monitor.histogram import Histogram
from monitor.signals import EngineSignals, Reading


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates are per second of `window_s`; None: unknown, which is not zero."""

    window_s: float | None = None
    requests_rps: float | None = None
    """Requests that ended."""
    arrivals_rps: float | None = None
    """Requests that came: those that ended, and what batch and queue grew by."""
    prompt_tokens_s: float | None = None
    """Prompt tokens processed per second."""
    generation_tokens_s: float | None = None
    """Tokens generated per second."""
    preemptions_s: float | None = None
    """Preemptions per second."""
    mean_input_tokens: float | None = None
    """Prompt tokens per request, over those that ended."""
    mean_output_tokens: float | None = None
    """Generated tokens per request, over those that ended."""
    prefix_hit_ratio: float | None = None
    """Prompt tokens found in the prefix cache, 0–1 of those looked up."""


COUNTERS = (
    "preemptions_total",
    "prompt_tokens_total",
    "generation_tokens_total",
    "prefix_cache_hits_total",
    "prefix_cache_queries_total",
)
"""Fields of `EngineSignals` that only grow."""


def rates_between(before: Reading, after: Reading) -> Rates:
    """Compare two readings of one replica; all None when they cannot be compared."""
    then, now = before.signals, after.signals
    if then is None or now is None or before.at_s is None or after.at_s is None:
        return Rates()
    window_s = after.at_s - before.at_s
    if window_s <= 0 or restarted(then, now):
        return Rates()
    added = {name: _difference(getattr(then, name), getattr(now, name)) for name in COUNTERS}
    finished = _difference(_finished(then), _finished(now))
    return Rates(
        window_s=window_s,
        requests_rps=_over(finished, window_s),
        arrivals_rps=_over(_arrived(then, now, finished), window_s),
        prompt_tokens_s=_over(added["prompt_tokens_total"], window_s),
        generation_tokens_s=_over(added["generation_tokens_total"], window_s),
        preemptions_s=_over(added["preemptions_total"], window_s),
        mean_input_tokens=_mean(then.prompt_length, now.prompt_length),
        mean_output_tokens=_mean(then.generation_length, now.generation_length),
        prefix_hit_ratio=_over(
            added["prefix_cache_hits_total"], added["prefix_cache_queries_total"]
        ),
    )


def restarted(before: EngineSignals, after: EngineSignals) -> bool:
    """Whether some counter went back, so that all of them began anew."""
    pairs = [(getattr(before, name), getattr(after, name)) for name in COUNTERS]
    then, now = before.requests_finished or {}, after.requests_finished or {}
    pairs += [(count, now.get(reason)) for reason, count in then.items()]
    pairs += [(_count(before.ttft), _count(after.ttft)), (_count(before.e2e), _count(after.e2e))]
    return any(a is not None and b is not None and b < a for a, b in pairs)


def _arrived(then: EngineSignals, now: EngineSignals, finished: float | None) -> float | None:
    """Requests that came; not below 0, as a page's gauges and counters may be a step apart."""
    held = _sum((then.running, then.waiting))
    holds = _sum((now.running, now.waiting))
    if finished is None or held is None or holds is None:
        return None
    return max(0.0, finished + holds - held)


def _finished(signals: EngineSignals) -> float | None:
    """Ended requests of every reason, or those with an end-to-end time."""
    if signals.requests_finished is not None:
        return sum(signals.requests_finished.values())
    return _count(signals.e2e)


def _count(histogram: Histogram | None) -> float | None:
    return None if histogram is None else histogram.count


def _mean(then: Histogram | None, now: Histogram | None) -> float | None:
    added = now.since(then) if then is not None and now is not None else None
    return None if added is None else added.mean


def _difference(then: float | None, now: float | None) -> float | None:
    return None if then is None or now is None else now - then


def _over(amount: float | None, per: float | None) -> float | None:
    return None if amount is None or per is None or per <= 0 else amount / per


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == 2 else None
