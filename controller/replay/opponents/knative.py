"""Knative's pod autoscaler (KPA) on concurrency: a stable window, and a panic window over it.

Scale-from-zero goes through the activator in Knative; here requests held by the router count as
concurrency, which is what the activator reports. The grace before the last pod goes is not
modelled: it bounds how long networking may take, not how long the pod is kept.

Source: knative/serving `pkg/autoscaler/scaling/autoscaler.go` (`Scale`),
`pkg/autoscaler/aggregation/bucketing.go` (`TimedFloat64Buckets`),
`pkg/autoscaler/config/config.go` (defaults), `multiscaler.go` (tick 2 s).
"""

from dataclasses import dataclass, replace
from itertools import pairwise, product
from math import ceil, floor, inf

from controller.replay.opponents.common import Timed, bounded, hold, in_flight, remember, target
from controller.replay.opponents.peer import Peer
from controller.replay.policy import Fleet, Known, Scrape, Wish


@dataclass(frozen=True, slots=True)
class KnativeSettings:
    """The `config-autoscaler` map."""

    container_concurrency_target_default: float = 100.0
    """Requests in flight on a replica that count as full."""
    target_ratio: float | None = None
    """That number as a share of the concurrency at capacity, for tuning; None: as it stands."""
    container_concurrency_target_percentage: float = 70.0
    stable_window_s: float = 60.0
    panic_window_percentage: float = 10.0
    panic_threshold_percentage: float = 200.0
    max_scale_up_rate: float = 1000.0
    max_scale_down_rate: float = 2.0
    scale_down_delay_s: float = 0.0
    tick_interval_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Buckets:
    """Concurrency by time bucket; a bucket skipped between two written ones reads zero."""

    first: int | None = None
    """Bucket of the first write since the last gap of a whole window."""
    values: tuple[tuple[int, float], ...] = ()

    def record(self, bucket: int, value: float, length: int) -> "Buckets":
        """Write one bucket of a window of `length`."""
        if self.first is None or bucket - self.values[-1][0] >= length:
            return Buckets(bucket, ((bucket, value),))
        kept = tuple(item for item in self.values if bucket - length < item[0] < bucket)
        return Buckets(self.first, (*kept, (bucket, value)))

    def average(self, now: int, length: int) -> float | None:
        """Mean over the valid buckets of the last `length`; None where none was written."""
        inside = tuple(value for bucket, value in self.values if now - length < bucket)
        if self.first is None or not inside:
            return None
        last = self.values[-1][0]
        begun = last - self._begun(length) + 1
        return sum(inside) / min(begun, length - (now - last))

    def _begun(self, length: int) -> int:
        begun = self.first or 0
        for (earlier, _), (later, _) in pairwise(self.values):
            begun = later if later - earlier >= length else begun
        return begun


@dataclass(frozen=True, slots=True)
class KnativeState:
    """What one decider remembers."""

    known: Known
    buckets: Buckets = Buckets()
    panic_s: float | None = None
    """When the panic began or was last confirmed."""
    max_panic_pods: int = 0
    delayed: Timed[int] = ()
    begun: bool = False


DEFAULTS = KnativeSettings()


class KnativeKpa(Peer[KnativeState]):
    """`ceil(concurrency/target)`; in panic from the short window, and never down."""

    name = "knative-kpa"

    def __init__(self, settings: KnativeSettings = DEFAULTS) -> None:
        self.settings = settings
        self.interval_s = settings.tick_interval_s

    @staticmethod
    def grid() -> tuple[KnativeSettings, ...]:
        """Targets as shares of the concurrency at capacity, and stable windows."""
        return tuple(
            KnativeSettings(target_ratio=ratio, stable_window_s=window_s)
            for ratio, window_s in product((0.15, 0.3, 0.5, 0.75, 1.0, 1.25), (30.0, 60.0, 180.0))
        )

    def begin(self, known: Known) -> KnativeState:
        """Remember nothing."""
        return KnativeState(known)

    def rule(
        self, scrape: Scrape | None, fleet: Fleet, state: KnativeState, now_s: float
    ) -> tuple[Wish, KnativeState]:
        """Follow the windows; empty windows are no data, and change nothing."""
        state = state if state.begun else _begin(fleet, state, now_s)
        bucket, stable_length, panic_length = self._lengths(now_s)
        concurrency = in_flight(scrape, fleet)
        if concurrency is not None:
            buckets = state.buckets.record(bucket, concurrency, stable_length)
            state = replace(state, buckets=buckets)
        stable = state.buckets.average(bucket, stable_length)
        panic = state.buckets.average(bucket, panic_length)
        if stable is None:
            return hold(fleet, state.known, "no data"), state
        count, reason, state = self._scale(stable, panic or 0.0, fleet.serving, state, now_s)
        count, state = self._delayed(count, state, now_s)
        return Wish(bounded(count, state.known), reason), state

    def _lengths(self, now_s: float) -> tuple[int, int, int]:
        tick_s, stable_s = self.settings.tick_interval_s, self.settings.stable_window_s
        panic_s = stable_s * self.settings.panic_window_percentage / 100.0
        return (
            floor(now_s / tick_s),
            max(round(stable_s / tick_s), 1),
            max(round(panic_s / tick_s), 1),
        )

    def _scale(
        self, stable: float, panic: float, serving: int, state: KnativeState, now_s: float
    ) -> tuple[int, str, KnativeState]:
        """Do what `Scale` does with the two windows' values."""
        full = target(
            state.known,
            self.settings.container_concurrency_target_default,
            self.settings.target_ratio,
        )
        per_pod = full * self.settings.container_concurrency_target_percentage / 100.0
        ready = max(1, serving)
        wanted, wanted_panic = ceil(stable / per_pod), ceil(panic / per_pod)
        state = self._panicking(wanted_panic / ready, state, now_s)
        count = self._clipped(wanted, ready)
        if state.panic_s is None:
            return count, "stable", state
        highest = max(count, self._clipped(wanted_panic, ready), state.max_panic_pods)
        return highest, "panic", replace(state, max_panic_pods=highest)

    def _clipped(self, wanted: int, ready: int) -> int:
        low = floor(ready / self.settings.max_scale_down_rate)
        return min(max(wanted, low), ceil(self.settings.max_scale_up_rate * ready))

    def _panicking(self, load: float, state: KnativeState, now_s: float) -> KnativeState:
        """Begin, confirm or end the panic; it ends a stable window after it was last over."""
        if load >= self.settings.panic_threshold_percentage / 100.0:
            return replace(state, panic_s=now_s)
        since_s = -inf if state.panic_s is None else state.panic_s
        if state.panic_s is not None and since_s + self.settings.stable_window_s < now_s:
            return replace(state, panic_s=None, max_panic_pods=0)
        return state

    def _delayed(self, count: int, state: KnativeState, now_s: float) -> tuple[int, KnativeState]:
        """Take the highest of the delay, where one is set."""
        if not self.settings.scale_down_delay_s:
            return count, state
        kept = remember(state.delayed, now_s, count, self.settings.scale_down_delay_s)
        return max(wish for _, wish in kept), replace(state, delayed=kept)


def _begin(fleet: Fleet, state: KnativeState, now_s: float) -> KnativeState:
    """A decider created over several pods begins in panic, having lost its history."""
    panic_s = now_s if fleet.serving > 1 else None
    return replace(state, begun=True, panic_s=panic_s, max_panic_pods=fleet.serving)
