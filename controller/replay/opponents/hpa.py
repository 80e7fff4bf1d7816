"""Kubernetes HPA (autoscaling/v2) on requests in flight per pod.

An HPA has no metric of its own. The one that vLLM's own charts and most guides take is running
plus waiting requests as a Pods metric, averaged; its target here is a share of the concurrency
at capacity (`common.concurrency`), because 0.8 of the knee is what a careful user writes: ours,
no default of Kubernetes, and the grid varies it. All else is the controller's.

Source: see `hpa_rules`.
"""

from dataclasses import dataclass, field, replace
from itertools import product

from controller.replay.opponents.common import bounded, current, hold, target
from controller.replay.opponents.hpa_rules import (
    DEFAULT,
    Behavior,
    Memory,
    Pods,
    behave,
    pods_replicas,
)
from controller.replay.opponents.peer import Peer
from controller.replay.policy import Fleet, Known, Scrape, Wish


@dataclass(frozen=True, slots=True)
class HpaSettings:
    """One HPA object and its controller's flags."""

    target_ratio: float | None = 0.8
    """Target average value as a share of the concurrency at capacity; ours."""
    target_average_value: float = 1.0
    """Requests in flight per pod, where the share is None."""
    sync_period_s: float = 15.0
    """`--horizontal-pod-autoscaler-sync-period`."""
    behavior: Behavior = DEFAULT


@dataclass(frozen=True, slots=True)
class HpaState:
    """What the controller remembers."""

    known: Known
    memory: Memory = field(default_factory=Memory)


DEFAULTS = HpaSettings()


class Hpa(Peer[HpaState]):
    """`ceil(N · metric/target)` outside the tolerance, behind windows and rates."""

    name = "hpa"

    def __init__(self, settings: HpaSettings = DEFAULTS) -> None:
        self.settings = settings
        self.interval_s = settings.sync_period_s

    @staticmethod
    def grid() -> tuple[HpaSettings, ...]:
        """Targets and scale-down windows to tune over."""
        return tuple(
            HpaSettings(target_ratio=ratio, behavior=_down_window(window_s))
            for ratio, window_s in product((0.1, 0.2, 0.35, 0.5, 0.65, 0.8), (60.0, 300.0, 900.0))
        )

    def begin(self, known: Known) -> HpaState:
        """Remember nothing."""
        return HpaState(known)

    def rule(
        self, scrape: Scrape | None, fleet: Fleet, state: HpaState, now_s: float
    ) -> tuple[Wish, HpaState]:
        """Follow the metric; without one, hold: the controller leaves the scale alone."""
        replicas = current(fleet)
        if bounded(replicas, state.known) != replicas:
            return hold(fleet, state.known, "outside of bounds"), state
        desired = None if scrape is None else self._desired(scrape, fleet, state.known)
        if desired is None:
            return hold(fleet, state.known, "FailedGetPodsMetric"), state
        wish, memory = behave(
            desired,
            replicas,
            state.memory,
            behavior=self.settings.behavior,
            known=state.known,
            now_s=now_s,
        )
        return wish, replace(state, memory=memory)

    def _desired(self, scrape: Scrape, fleet: Fleet, known: Known) -> int | None:
        usage = tuple(replica.running + replica.waiting for replica in scrape.replicas)
        # An engine that loads its weights runs in the eyes of Kubernetes, and gives no metrics.
        silent = max(current(fleet) - len(usage), 0)
        value = target(known, self.settings.target_average_value, self.settings.target_ratio)
        pods = Pods(usage, missing=silent, spec_replicas=current(fleet))
        return pods_replicas(pods, value, self.settings.behavior.tolerance)


def _down_window(window_s: float) -> Behavior:
    return replace(DEFAULT, down=replace(DEFAULT.down, stabilization_window_s=window_s))
