"""llm-d workload-variant autoscaler, V1: saturation by KV use and queue, a replica at a time.

A fleet here is one variant, so that the cheapest to grow and the dearest to shrink are it.

Source: llm-d/llm-d-workload-variant-autoscaler `docs/user-guide/saturation-analyzer.md`,
`docs/saturation-scaling-config.md`, `internal/saturation/analyzer.go`,
`internal/config/saturation_scaling.go` (defaults); deprecated in September 2026.
"""

from dataclasses import dataclass
from itertools import product

from controller.replay.opponents.common import current
from controller.replay.opponents.hpa_rules import Behavior
from controller.replay.opponents.llmd import (
    AT_ONCE,
    CHART,
    SYNC_PERIOD_S,
    Seen,
    act,
    is_due,
    peaks,
    publish,
    see,
    to_zero,
)
from controller.replay.opponents.peer import Peer
from controller.replay.policy import Fleet, Known, ReplicaSample, Scrape, Wish


@dataclass(frozen=True, slots=True)
class WvaV1Settings:
    """The saturation ConfigMap, and the HPA that acts."""

    kv_cache_threshold: float = 0.80
    queue_length_threshold: float = 5.0
    kv_spare_trigger: float = 0.10
    queue_spare_trigger: float = 3.0
    interval_s: float = 30.0
    behavior: Behavior = CHART


DEFAULTS = WvaV1Settings()


class WvaV1(Peer[Seen]):
    """+1 where the spare of the unsaturated is small, −1 where N−1 would keep enough."""

    name = "wva-v1"

    def __init__(self, settings: WvaV1Settings = DEFAULTS) -> None:
        self.settings = settings
        self.interval_s = min(SYNC_PERIOD_S, settings.interval_s)

    @staticmethod
    def grid() -> tuple[WvaV1Settings, ...]:
        """The three profiles of its guide, triggers, and the HPA with and without windows."""
        profiles = ((0.80, 5.0), (0.90, 15.0), (0.70, 3.5))
        triggers = ((0.10, 3.0), (0.20, 2.0), (0.30, 1.0))
        return tuple(
            WvaV1Settings(kv, queue, spare_kv, spare_queue, behavior=behavior)
            for (kv, queue), (spare_kv, spare_queue), behavior in product(
                profiles, triggers, (CHART, AT_ONCE)
            )
        )

    def begin(self, known: Known) -> Seen:
        """Remember nothing."""
        return Seen(known)

    def rule(
        self, scrape: Scrape | None, fleet: Fleet, state: Seen, now_s: float
    ) -> tuple[Wish, Seen]:
        """Judge a fleet that stands still; one in transition keeps what it was told."""
        state = see(scrape, fleet, state, now_s)
        if is_due(state, now_s):
            desired, why = self._desired(scrape, fleet, state, now_s)
            state = publish(desired, why, state, now_s + self.settings.interval_s)
        return act(fleet, state, self.settings.behavior, now_s)

    def _desired(
        self, scrape: Scrape | None, fleet: Fleet, state: Seen, now_s: float
    ) -> tuple[int, str]:
        zero = to_zero(scrape, fleet, state, now_s)
        if zero is not None:
            return zero, "scale to zero"
        replicas = current(fleet)
        if state.desired not in (None, 0, replicas):
            return state.desired or replicas, "model transitioning: desired not reached"
        if scrape is None or len(scrape.replicas) != replicas:
            return replicas, "model transitioning: metrics incomplete"
        return self._judge(peaks(scrape, state, now_s))

    def _judge(self, replicas: tuple[ReplicaSample, ...]) -> tuple[int, str]:
        """Decide on the average spare of the unsaturated replicas."""
        rules, count = self.settings, len(replicas)
        spare = [
            (
                rules.kv_cache_threshold - replica.kv_usage_ratio,
                rules.queue_length_threshold - replica.waiting,
            )
            for replica in replicas
            if replica.kv_usage_ratio < rules.kv_cache_threshold
            and replica.waiting < rules.queue_length_threshold
        ]
        # All saturated leaves an average of zero, which is under both triggers.
        healthy = len(spare)
        kv = sum(row[0] for row in spare) / max(healthy, 1)
        queue = sum(row[1] for row in spare) / max(healthy, 1)
        if kv < rules.kv_spare_trigger:
            return count + 1, "KV spare capacity low"
        if queue < rules.queue_spare_trigger:
            return count + 1, "queue spare capacity low"
        if self._safe_without_one(healthy, kv, queue):
            return count - 1, "scale-down safe"
        return count, "no capacity action needed"

    def _safe_without_one(self, healthy: int, kv: float, queue: float) -> bool:
        """Whether the spare holds when the load spreads over one replica fewer."""
        if healthy < 2:
            return False
        rules, factor = self.settings, healthy / (healthy - 1)
        spare_kv = rules.kv_cache_threshold - (rules.kv_cache_threshold - kv) * factor
        load = rules.queue_length_threshold - queue
        spare_queue = rules.queue_length_threshold - load * factor
        return spare_kv >= rules.kv_spare_trigger and spare_queue >= rules.queue_spare_trigger
