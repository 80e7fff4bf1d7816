"""What several peers' rules share: windows of samples, quantiles, targets, bounds.

Called by the modules beside it alone. Decides nothing, and knows no peer.
"""

from collections.abc import Sequence
from math import floor, isfinite
from typing import TypeVar

from controller.replay.policy import Fleet, Known, Scrape, Wish

T = TypeVar("T")

Timed = tuple[tuple[float, T], ...]
"""Values and the moments they are of, in seconds, oldest first."""


def recent(series: Timed[T], now_s: float, window_s: float) -> Timed[T]:
    """Drop what is a window or more old."""
    return tuple(sample for sample in series if sample[0] > now_s - window_s)


def remember(series: Timed[T], at_s: float, value: T, window_s: float) -> Timed[T]:
    """Append a value and drop what is a window or more old; the same moment twice is once."""
    earlier = tuple(sample for sample in recent(series, at_s, window_s) if sample[0] != at_s)
    return (*earlier, (at_s, value))


def values_of(series: Timed[T]) -> tuple[T, ...]:
    """Give the values alone."""
    return tuple(value for _, value in series)


def is_new(scrape: Scrape, seen: Timed[T]) -> bool:
    """Whether this scrape's counts are not in the series yet: a tick may show it again."""
    return not seen or scrape.at_s > seen[-1][0]


def mean(values: Sequence[float]) -> float | None:
    """Arithmetic mean; None of nothing."""
    return sum(values) / len(values) if values else None


def quantile(values: Sequence[float], share: float) -> float | None:
    """Quantile with linear interpolation, as numpy's and Prometheus's; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def in_flight(scrape: Scrape | None, fleet: Fleet) -> float | None:
    """Requests that clients wait for: in batches, in queues, and held by the router.

    Peers that count them at a proxy see those of a replica that does not answer scrapes too, and
    Knative extrapolates from a sample: each that serves counts as the mean of those that answered.
    None where some serve and nobody answered.
    """
    if scrape is None or (fleet.serving and not scrape.replicas):
        return None
    shown = scrape.running + scrape.waiting
    unseen = max(fleet.serving / len(scrape.replicas), 1.0) if scrape.replicas else 1.0
    return shown * unseen + scrape.gateway_waiting


def concurrency(known: Known) -> float:
    """Requests in flight on one replica at its capacity, from what everybody is told.

    At the largest batch within the ITL bound each request gets a token per bound, so the batch
    is decode rate × bound; without a bound, or beyond it, the engine's own limit. Peers whose
    target has no default, or one that is a share, take it from here.
    """
    batch = known.decode_tokens_s * known.itl_s
    return max(
        1.0, min(batch, float(known.max_num_seqs)) if isfinite(batch) else known.max_num_seqs
    )


def target(known: Known, absolute: float, ratio: float | None) -> float:
    """Give a per-replica target: the peer's number, or a share of the concurrency at capacity."""
    return absolute if ratio is None else max(1.0, round(ratio * concurrency(known)))


def current(fleet: Fleet) -> int:
    """Give the replicas asked for: the `spec.replicas` that most peers start from."""
    return fleet.serving + fleet.starting


def bounded(count: float, known: Known) -> int:
    """Keep within the service's bounds."""
    return int(min(max(count, known.min_replicas), known.max_replicas))


def hold(fleet: Fleet, known: Known, reason: str) -> Wish:
    """Wish for what there is."""
    return Wish(bounded(current(fleet), known), reason)
