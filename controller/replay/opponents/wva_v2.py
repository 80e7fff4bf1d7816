"""llm-d workload-variant autoscaler, V2: demand and capacity of replicas in tokens.

Capacity of a replica is the lesser of a memory bound k1 (KV tokens × threshold) and a compute
bound k2, which is what was in use when its queue was last full, or else derived from the engine's
arguments. Without a fleet's `max_num_batched_tokens` in the protocol the engine's default is taken.

Source: llm-d/llm-d-workload-variant-autoscaler
`internal/engines/analyzers/saturation_v2/analyzer.go`, `constants.go`,
`internal/engines/saturation/engine_v2.go` (`applyUniversalThreshold`),
`internal/engines/pipeline/cost_aware_optimizer.go`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import ceil, floor

from controller.replay.opponents.common import current, mean
from controller.replay.opponents.hpa_rules import Behavior
from controller.replay.opponents.llmd import (
    AT_ONCE,
    CHART,
    SYNC_PERIOD_S,
    Seen,
    act,
    is_due,
    mean_lengths,
    peaks,
    publish,
    see,
    to_zero,
)
from controller.replay.opponents.peer import Peer
from controller.replay.policy import Fleet, Known, ReplicaSample, Scrape, Wish

ROLLING_AVERAGE_WINDOW = 10
SHORT_OUTPUT_TOKENS = 100
MEDIUM_OUTPUT_TOKENS = 500
"""Compute bounds are remembered by these classes of mean output."""


@dataclass(frozen=True, slots=True)
class WvaV2Settings:
    """The saturation ConfigMap with `analyzerName: saturation`, and the HPA that acts."""

    kv_cache_threshold: float = 0.80
    queue_length_threshold: float = 5.0
    scale_up_threshold: float = 0.85
    scale_down_boundary: float = 0.70
    max_num_batched_tokens: int = 8192
    """The engine's; vLLM's default on large GPUs."""
    interval_s: float = 30.0
    behavior: Behavior = CHART


@dataclass(frozen=True, slots=True)
class Bounds:
    """Compute bounds seen, tokens, by class of output length."""

    short: tuple[float, ...] = ()
    medium: tuple[float, ...] = ()
    long: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class WvaV2State:
    """What collector, analyzer and HPA remember."""

    seen: Seen
    bounds: Bounds = Bounds()


@dataclass(frozen=True, slots=True)
class Analysis:
    """Tokens of one cycle."""

    per_replica: int
    demand: float


DEFAULTS = WvaV2Settings()


class WvaV2(Peer[WvaV2State]):
    """Up to demand / 0.85 over what is and comes, down to demand / 0.70 over what is."""

    name = "wva-v2"

    def __init__(self, settings: WvaV2Settings = DEFAULTS) -> None:
        self.settings = settings
        self.interval_s = min(SYNC_PERIOD_S, settings.interval_s)

    @staticmethod
    def grid() -> tuple[WvaV2Settings, ...]:
        """Thresholds, the queue that marks a compute bound, and the HPA's windows."""
        thresholds = ((0.85, 0.70), (0.70, 0.55), (0.55, 0.40), (0.40, 0.25))
        return tuple(
            WvaV2Settings(
                queue_length_threshold=queue,
                scale_up_threshold=up,
                scale_down_boundary=down,
                behavior=behavior,
            )
            for (up, down), queue, behavior in product(thresholds, (2.0, 5.0), (CHART, AT_ONCE))
        )

    def begin(self, known: Known) -> WvaV2State:
        """Remember nothing."""
        return WvaV2State(Seen(known))

    def rule(
        self, scrape: Scrape | None, fleet: Fleet, state: WvaV2State, now_s: float
    ) -> tuple[Wish, WvaV2State]:
        """Compare demand with supply; without metrics the last word stands."""
        state = replace(state, seen=see(scrape, fleet, state.seen, now_s))
        if is_due(state.seen, now_s):
            desired, why, state = self._desired(scrape, fleet, state, now_s)
            seen = publish(desired, why, state.seen, now_s + self.settings.interval_s)
            state = replace(state, seen=seen)
        wish, seen = act(fleet, state.seen, self.settings.behavior, now_s)
        return wish, replace(state, seen=seen)

    def _desired(
        self, scrape: Scrape | None, fleet: Fleet, state: WvaV2State, now_s: float
    ) -> tuple[int, str, WvaV2State]:
        zero, replicas = to_zero(scrape, fleet, state.seen, now_s), current(fleet)
        if zero is not None:
            return zero, "scale to zero", state
        if scrape is None or not scrape.replicas:
            last = state.seen.desired
            return replicas if last is None else last, "no metrics: previous allocation", state
        analysis, state = self._analyze(scrape, state, now_s)
        count, why = self._targets(analysis, fleet)
        return count, why, state

    def _targets(self, analysis: Analysis, fleet: Fleet) -> tuple[int, str]:
        """Turn required and spare capacity into replicas; what starts counts upwards alone."""
        each, replicas = analysis.per_replica, current(fleet)
        if each <= 0:
            return replicas, "no capacity known"
        required = analysis.demand / self.settings.scale_up_threshold - replicas * each
        if required > 0:
            return replicas + ceil(required / each), "required capacity"
        spare = fleet.serving * each - analysis.demand / self.settings.scale_down_boundary
        if spare > 0 and floor(spare / each):
            return max(replicas - floor(spare / each), 1), "spare capacity"
        return replicas, "within thresholds"

    def _analyze(
        self, scrape: Scrape, state: WvaV2State, now_s: float
    ) -> tuple[Analysis, WvaV2State]:
        lengths = mean_lengths(state.seen, now_s)
        known, bounds = state.seen.known, state.bounds
        capacities, demand = [], 0.0
        for replica in peaks(scrape, state.seen, now_s):
            in_use = int(replica.kv_usage_ratio * known.kv_capacity_tokens)
            memory = int(known.kv_capacity_tokens * self.settings.kv_cache_threshold)
            compute, bounds = self._compute_bound(replica, in_use, lengths, bounds, known)
            capacities.append(min(memory, memory if compute is None else compute))
            demand += in_use + int(replica.waiting) * int(lengths[0])
        demand += scrape.gateway_waiting * (lengths[0] + lengths[1])
        return Analysis(_median(capacities), demand), replace(state, bounds=bounds)

    def _compute_bound(
        self,
        replica: ReplicaSample,
        in_use: int,
        lengths: tuple[float, float],
        bounds: Bounds,
        known: Known,
    ) -> tuple[int | None, Bounds]:
        """Give k2 as seen now, as remembered, or as derived; None leaves the memory bound."""
        if replica.waiting >= int(self.settings.queue_length_threshold) and in_use > 0:
            return in_use, _learned(bounds, lengths[1], in_use)
        past = mean(_history(bounds, lengths[1]))
        if past:
            return int(past), bounds
        return self._derived(lengths, known), bounds

    def _derived(self, lengths: tuple[float, float], known: Known) -> int | None:
        """N · (I + O/2) with N = min(B·O/(I+O), S) requests in a steady batch."""
        prompt, output = lengths
        if output <= 0:
            return None
        batch = self.settings.max_num_batched_tokens * output / (prompt + output)
        tokens = int(min(batch, known.max_num_seqs) * (prompt + output / 2))
        return tokens if tokens > 0 else None


def _history(bounds: Bounds, output_tokens: float) -> tuple[float, ...]:
    if output_tokens < SHORT_OUTPUT_TOKENS:
        return bounds.short
    return bounds.medium if output_tokens < MEDIUM_OUTPUT_TOKENS else bounds.long


def _learned(bounds: Bounds, output_tokens: float, tokens: float) -> Bounds:
    kept = (*_history(bounds, output_tokens), tokens)[-ROLLING_AVERAGE_WINDOW:]
    if output_tokens < SHORT_OUTPUT_TOKENS:
        return replace(bounds, short=kept)
    if output_tokens < MEDIUM_OUTPUT_TOKENS:
        return replace(bounds, medium=kept)
    return replace(bounds, long=kept)


def _median(values: Sequence[int]) -> int:
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) // 2
