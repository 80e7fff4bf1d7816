"""What the llm-d policies share: the peak of a minute, mean lengths, the HPA that acts for them.

Called by `wva_v1`, `wva_v2` and `slo_aware`.

The workload-variant autoscaler publishes `wva_desired_replicas`; an HPA with that external metric
and target 1 carries it out. The behaviour is its Helm chart's default (240 s windows both ways,
10 pods per 150 s); the grids also try none.

Source: llm-d/llm-d-workload-variant-autoscaler `docs/integrations/hpa-integration.md`,
`internal/collector/replica_metrics.go` (`max_over_time(...[1m])`).
"""

from dataclasses import dataclass, field, replace

from controller.replay.opponents.common import (
    Timed,
    bounded,
    current,
    in_flight,
    is_new,
    recent,
    remember,
)
from controller.replay.opponents.hpa_rules import (
    Behavior,
    Limit,
    Memory,
    Rules,
    behave,
    external_replicas,
)
from controller.replay.policy import Fleet, Known, ReplicaSample, Scrape, Wish

SYNC_PERIOD_S = 15.0
"""Of the HPA; the controller's loop is slower."""
PEAK_WINDOW_S = 60.0
LENGTHS_WINDOW_S = 300.0
RETENTION_S = 600.0
"""Without a request for so long a model that may go to zero does."""

_CHART = Rules(240.0, (Limit("Pods", 10, 150.0),))
CHART = Behavior(up=_CHART, down=_CHART)
"""The Helm chart's, for production."""

_AT_ONCE = Rules(0.0, (Limit("Pods", 10, 15.0),))
AT_ONCE = Behavior(up=_AT_ONCE, down=_AT_ONCE)
"""The sample HPA's: no windows."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the collector can query, and what the HPA remembers."""

    known: Known
    samples: Timed[tuple[ReplicaSample, ...]] = ()
    lengths: Timed[tuple[int, int, int]] = ()
    """Of finished requests: prompt tokens, output tokens, how many."""
    desired: int | None = None
    """`status.desiredOptimizedAlloc`: what the controller said last, and why."""
    why: str = ""
    next_s: float | None = None
    """When its loop turns next."""
    asked_s: float | None = None
    """When there was a request last."""
    memory: Memory = field(default_factory=Memory)


def see(scrape: Scrape | None, fleet: Fleet, seen: Seen, now_s: float) -> Seen:
    """Take a scrape in."""
    seen = replace(seen, asked_s=now_s) if seen.asked_s is None else seen
    if scrape is None:
        return seen
    busy = in_flight(scrape, fleet) != 0.0 or scrape.arrivals > 0
    tokens = (sum(scrape.input_tokens), sum(scrape.output_tokens), len(scrape.input_tokens))
    lengths = seen.lengths
    if is_new(scrape, lengths):
        lengths = remember(lengths, scrape.at_s, tokens, LENGTHS_WINDOW_S)
    return replace(
        seen,
        samples=remember(seen.samples, now_s, scrape.replicas, PEAK_WINDOW_S),
        lengths=lengths,
        asked_s=now_s if busy else seen.asked_s,
    )


def peaks(scrape: Scrape, seen: Seen, now_s: float) -> tuple[ReplicaSample, ...]:
    """Give the replicas that answer now, with KV use and queue at their highest of a minute."""
    minute = recent(seen.samples, now_s, PEAK_WINDOW_S)
    history = [sample for _, samples in minute for sample in samples]
    return tuple(_peak(now, history) for now in scrape.replicas)


def _peak(now: ReplicaSample, history: list[ReplicaSample]) -> ReplicaSample:
    own = [sample for sample in history if sample.name == now.name]
    return replace(
        now,
        waiting=max((now.waiting, *(sample.waiting for sample in own))),
        kv_usage_ratio=max((now.kv_usage_ratio, *(sample.kv_usage_ratio for sample in own))),
    )


def mean_lengths(seen: Seen, now_s: float) -> tuple[float, float]:
    """Mean prompt and output tokens of five minutes; zero, as there, where none finished."""
    rows = [row for _, row in recent(seen.lengths, now_s, LENGTHS_WINDOW_S)]
    count = sum(row[2] for row in rows)
    if not count:
        return 0.0, 0.0
    return sum(row[0] for row in rows) / count, sum(row[1] for row in rows) / count


def to_zero(scrape: Scrape | None, fleet: Fleet, seen: Seen, now_s: float) -> int | None:
    """Give zero after the retention, one where the router holds requests over none; or None."""
    if seen.known.min_replicas > 0:
        return None
    if current(fleet) == 0:
        return 1 if scrape is not None and scrape.gateway_waiting else 0
    idle_s = now_s - (now_s if seen.asked_s is None else seen.asked_s)
    return 0 if idle_s >= RETENTION_S else None


def is_due(seen: Seen, now_s: float) -> bool:
    """Whether the controller's loop turns now."""
    return seen.next_s is None or now_s >= seen.next_s


def publish(desired: int, why: str, seen: Seen, next_s: float) -> Seen:
    """Publish a desired count."""
    return replace(seen, desired=bounded(desired, seen.known), why=why, next_s=next_s)


def act(fleet: Fleet, seen: Seen, behavior: Behavior, now_s: float) -> tuple[Wish, Seen]:
    """Let the HPA act on what is published."""
    replicas = current(fleet)
    desired = replicas if seen.desired is None else seen.desired
    wanted = external_replicas(desired, 1.0, replicas, behavior.tolerance)
    wish, memory = behave(
        wanted, replicas, seen.memory, behavior=behavior, known=seen.known, now_s=now_s
    )
    reason = seen.why if wish.replicas == desired else f"{seen.why}; HPA {wish.reason}"
    return Wish(wish.replicas, reason), replace(seen, memory=memory)
