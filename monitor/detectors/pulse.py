"""What one replica did between two pages, reduced to what the detectors use.

`monitor.arrivals` tells the same story for people and for demand; here it is counts, so that they
add up over replicas and fade over time, and it is lean, for it is made for every page of ten
thousand replicas. A named tuple, because a frozen dataclass of this size takes as long to make
as all the rest.
"""

from typing import NamedTuple

from monitor.arrivals import restarted
from monitor.histogram import Histogram
from monitor.signals import EngineSignals
from profiler.slo import Slo


class Pulse(NamedTuple):
    """Counts are of the window between two pages; None: not known."""

    window_s: float
    running: float | None
    """Requests in the batch, at its end; the next three too."""
    waiting: float | None
    kv_usage_ratio: float | None
    kv_capacity_tokens: float | None
    finished: float | None
    arrived: float | None
    preemptions: float | None
    prompt_tokens: float | None
    """Computed: those found in the prefix cache do not count."""
    itl_count: float | None
    itl_sum_s: float | None
    inputs: float | None
    """Requests whose prompt length was told, and the sum of those; answers next."""
    input_tokens: float | None
    outputs: float | None
    output_tokens: float | None
    judged: float
    """Requests that could be held to the SLO, by its worst kept bound."""
    within: float
    """Those within it."""


def known(value: float | None) -> float | None:
    """The value, where it is a number of 0 or more."""
    return value if value is not None and 0 <= value < float("inf") else None


def pulse(before: EngineSignals, after: EngineSignals, window_s: float, slo: Slo) -> Pulse | None:
    """Compare two pages; None where the engine began anew in between."""
    if not window_s > 0 or restarted(before, after):
        return None
    running, waiting = known(after.running), known(after.waiting)
    finished = _grown(_finished(before), _finished(after))
    gaps, gaps_s = _added(before.itl, after.itl)
    inputs, input_tokens = _added(before.prompt_length, after.prompt_length)
    outputs, output_tokens = _added(before.generation_length, after.generation_length)
    judged, within = _attained(before, after, slo)
    return Pulse(
        window_s=window_s,
        running=running,
        waiting=waiting,
        kv_usage_ratio=known(after.kv_usage_ratio),
        kv_capacity_tokens=known(after.kv_capacity_tokens),
        finished=finished,
        arrived=_arrived(before, running, waiting, finished),
        preemptions=_grown(known(before.preemptions_total), known(after.preemptions_total)),
        prompt_tokens=_computed(before, after),
        itl_count=gaps,
        itl_sum_s=gaps_s,
        inputs=inputs,
        input_tokens=input_tokens,
        outputs=outputs,
        output_tokens=output_tokens,
        judged=judged,
        within=within,
    )


def _grown(then: float | None, now: float | None) -> float | None:
    return now - then if then is not None and now is not None and now >= then else None


def _finished(signals: EngineSignals) -> float | None:
    if signals.requests_finished is not None:
        return known(sum(signals.requests_finished.values()))
    return None if signals.e2e is None else signals.e2e.count


def _arrived(
    before: EngineSignals, running: float | None, waiting: float | None, finished: float | None
) -> float | None:
    """Those that ended, and what batch and queue grew by."""
    had, queued = known(before.running), known(before.waiting)
    if finished is None or running is None or waiting is None or had is None or queued is None:
        return None
    return max(0.0, finished + running + waiting - had - queued)


def _computed(before: EngineSignals, after: EngineSignals) -> float | None:
    tokens = _grown(known(before.prompt_tokens_total), known(after.prompt_tokens_total))
    hits = _grown(known(before.prefix_cache_hits_total), known(after.prefix_cache_hits_total))
    return None if tokens is None else max(0.0, tokens - (hits or 0.0))


def _added(then: Histogram | None, now: Histogram | None) -> tuple[float | None, float | None]:
    """Values and their sum; both None where they cannot be compared."""
    if then is None or now is None:
        return None, None
    count, total = now.count - then.count, now.sum - then.sum
    return (count, total) if count >= 0 and total >= 0 else (None, None)


def _attained(before: EngineSignals, after: EngineSignals, slo: Slo) -> tuple[float, float]:
    """Requests held to the SLO, and how many were within its worst kept bound."""
    judged, share = 0.0, 1.0
    for then, now, bound_s in (
        (before.ttft, after.ttft, slo.ttft_s),
        (before.tpot, after.tpot, slo.itl_s),
        (before.e2e, after.e2e, slo.e2e_s),
    ):
        if then is None or now is None or bound_s is None or now.count <= then.count:
            continue
        count = now.count - then.count
        judged = max(judged, count)
        share = min(share, (_within(now, bound_s) - _within(then, bound_s)) / count)
    return judged, judged * min(max(share, 0.0), 1.0)


def _within(histogram: Histogram, bound_s: float) -> float:
    return (histogram.share_within(bound_s) or 0.0) * histogram.count
