"""AIBrix's two strategies, KPA and APA, on an engine metric of the pods.

The metric defaults to AIBrix's own example, `gpu_cache_usage_perc` at 0.5. Kept faults: the
cooldown takes the LOWEST recommendation of its window on the way down, so that it speeds up what
it is meant to slow; KPA forgets its panic from tick to tick.

KPA sums the metric over the pods, as it did up to v0.3 and as its formula needs. Later clients
average over the pods and leave the formula as it is, which pins a fleet at its minimum (issue
1713); `aggregate="average"` replays that.

Source: vllm-project/aibrix `pkg/controller/podautoscaler/`: `algorithm/kpa.go`, `algorithm/apa.go`,
`context/context.go` (defaults), `metrics/client.go` (windows), `autoscaler.go`
(`applyPendingReplicaGuard`), `podautoscaler_controller.go` (`stabilizeRecommendation`, resync).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import ceil, floor
from typing import Literal

from controller.replay.opponents.common import (
    Timed,
    bounded,
    concurrency,
    current,
    hold,
    mean,
    recent,
    remember,
    values_of,
)
from controller.replay.opponents.peer import Peer
from controller.replay.policy import Fleet, Known, Scrape, Wish

Metric = Literal["gpu_cache_usage_perc", "requests"]


@dataclass(frozen=True, slots=True)
class AibrixSettings:
    """One PodAutoscaler and its annotations; the defaults are the scaling context's."""

    target_metric: Metric = "gpu_cache_usage_perc"
    """`requests`: in flight per pod, its target a share of the concurrency at capacity."""
    target_value: float = 0.5
    stable_window_s: float = 180.0
    panic_window_s: float = 60.0
    panic_threshold: float = 2.0
    """Of panic value over stable value; KPA only."""
    max_scale_up_rate: float = 2.0
    max_scale_down_rate: float = 2.0
    up_fluctuation_tolerance: float = 0.1
    """APA only, as the next."""
    down_fluctuation_tolerance: float = 0.1
    scale_up_cooldown_window_s: float = 0.0
    scale_down_cooldown_window_s: float = 300.0
    aggregate: Literal["sum", "average"] = "sum"
    """Over the pods; KPA only: APA has always averaged."""
    resync_interval_s: float = 10.0


@dataclass(frozen=True, slots=True)
class AibrixState:
    """What the metrics client and the controller remember of one PodAutoscaler."""

    known: Known
    window: Timed[float] = ()
    recommendations: Timed[int] = ()


DEFAULTS = AibrixSettings()


class AibrixKpa(Peer[AibrixState]):
    """`ceil(value/target)` within a rate, from the panic window while it is twice the stable."""

    name = "aibrix-kpa"

    def __init__(self, settings: AibrixSettings = DEFAULTS) -> None:
        self.settings = settings
        self.interval_s = settings.resync_interval_s

    @staticmethod
    def grid() -> tuple[AibrixSettings, ...]:
        """Both metrics, targets, stable windows."""
        return _grid()

    def begin(self, known: Known) -> AibrixState:
        """Remember nothing."""
        return AibrixState(known)

    def rule(
        self, scrape: Scrape | None, fleet: Fleet, state: AibrixState, now_s: float
    ) -> tuple[Wish, AibrixState]:
        """Follow the windows; a failed collection is an error, and nothing changes."""
        usage = _usage(scrape, self.settings.target_metric)
        if not usage:
            return hold(fleet, state.known, "failed to collect metrics"), state
        value = sum(usage) / (len(usage) if self.settings.aggregate == "average" else 1)
        window = remember(state.window, now_s, value, self.settings.stable_window_s)
        count, mode = self._scale(window, current(fleet), state.known, now_s)
        state = replace(state, window=window)
        count, state = _cooled(count, current(fleet), state, self.settings, now_s)
        return Wish(count, f"{mode} mode scaling"), state

    def _scale(
        self, window: Timed[float], pods: int, known: Known, now_s: float
    ) -> tuple[int, str]:
        full = _target(known, self.settings)
        stable = mean(values_of(window)) or 0.0
        panic = mean(values_of(recent(window, now_s, self.settings.panic_window_s))) or 0.0
        wanted = self._clipped(ceil(stable / full), pods)
        if stable > 0.0 and panic / stable <= self.settings.panic_threshold:
            return wanted, "stable"
        return max(wanted, self._clipped(ceil(panic / full), pods)), "panic"

    def _clipped(self, wanted: int, pods: int) -> int:
        low = floor(pods / self.settings.max_scale_down_rate)
        return min(max(wanted, low), max(1, ceil(self.settings.max_scale_up_rate * pods)))


class AibrixApa(Peer[AibrixState]):
    """`ceil(N · use/target)` outside a fluctuation band, within a rate."""

    name = "aibrix-apa"

    def __init__(self, settings: AibrixSettings = DEFAULTS) -> None:
        self.settings = settings
        self.interval_s = settings.resync_interval_s

    @staticmethod
    def grid() -> tuple[AibrixSettings, ...]:
        """Both metrics, targets, windows."""
        return _grid()

    def begin(self, known: Known) -> AibrixState:
        """Remember nothing."""
        return AibrixState(known)

    def rule(
        self, scrape: Scrape | None, fleet: Fleet, state: AibrixState, now_s: float
    ) -> tuple[Wish, AibrixState]:
        """Follow the window's mean use per pod; a failed collection changes nothing."""
        use = mean(_usage(scrape, self.settings.target_metric))
        if use is None:
            return hold(fleet, state.known, "failed to collect metrics"), state
        window = remember(state.window, now_s, use, self.settings.stable_window_s)
        ratio = (mean(values_of(window)) or 0.0) / _target(state.known, self.settings)
        count = guarded(self._scale(ratio, current(fleet)), ratio, fleet)
        state = replace(state, window=window)
        count, state = _cooled(count, current(fleet), state, self.settings, now_s)
        return Wish(count, "apa scaling based on current metrics"), state

    def _scale(self, ratio: float, pods: int) -> int:
        """Replicas for a ratio of use per pod to target."""
        if ratio > 1.0 + self.settings.up_fluctuation_tolerance:
            return min(ceil(pods * ratio), ceil(self.settings.max_scale_up_rate * pods))
        if ratio < 1.0 - self.settings.down_fluctuation_tolerance:
            return max(ceil(pods * ratio), floor(pods / self.settings.max_scale_down_rate))
        return pods


def guarded(count: int, ratio: float, fleet: Fleet) -> int:
    """Count pending replicas as idle on the way up, as at the target on the way down."""
    pods, ready, pending = current(fleet), fleet.serving, fleet.starting
    if not pending or count == pods:
        return count
    if count > pods:
        return min(max(ceil(ratio * ready), pods), count)
    return max(min(ceil(ratio * ready + pending), pods), count)


def _usage(scrape: Scrape | None, metric: Metric) -> Sequence[float]:
    if scrape is None:
        return ()
    if metric == "gpu_cache_usage_perc":
        return tuple(replica.kv_usage_ratio for replica in scrape.replicas)
    return tuple(replica.running + replica.waiting for replica in scrape.replicas)


def _target(known: Known, settings: AibrixSettings) -> float:
    full = concurrency(known) if settings.target_metric == "requests" else 1.0
    return settings.target_value * full


def _cooled(
    count: int, pods: int, state: AibrixState, settings: AibrixSettings, now_s: float
) -> tuple[int, AibrixState]:
    """Apply bounds, then the cooldown: highest of its window upwards, LOWEST downwards."""
    count = bounded(count, state.known)
    up_s, down_s = settings.scale_up_cooldown_window_s, settings.scale_down_cooldown_window_s
    kept = remember(state.recommendations, now_s, count, max(up_s, down_s, 1.0))
    if count > pods:
        count = max((count, *values_of(recent(kept, now_s, up_s))))
    elif count < pods:
        count = min((count, *values_of(recent(kept, now_s, down_s))))
    return bounded(count, state.known), replace(state, recommendations=kept)


def _grid() -> tuple[AibrixSettings, ...]:
    targets: tuple[tuple[Metric, float], ...] = (
        *(("gpu_cache_usage_perc", value) for value in (0.3, 0.5, 0.7, 0.9)),
        *(("requests", value) for value in (0.1, 0.25, 0.5, 0.8)),
    )
    return tuple(
        AibrixSettings(metric, value, window_s, panic_window_s=min(window_s, 60.0))
        for (metric, value), window_s in product(targets, (30.0, 60.0, 180.0))
    )
