"""KubeAI: mean active requests over ten minutes, divided by a target.

Its average begins as a window of zeros, so that the first ten minutes under-read; it keeps no
capacity for a burst. Requests are counted at its proxy, those that wait for a first replica too.

Source: substratusai/kubeai `internal/modelautoscaler/autoscaler.go`,
`internal/movingaverage/simple.go`, `internal/modelclient/scale.go`, `internal/config/system.go`
(interval 10 s, window 10 min), Model CRD (`targetRequests` 100, `scaleDownDelaySeconds` 30).
"""

from dataclasses import dataclass, replace
from itertools import product
from math import ceil

from controller.replay.opponents.common import bounded, current, hold, in_flight, target
from controller.replay.opponents.peer import Peer
from controller.replay.policy import Fleet, Known, Scrape, Wish


@dataclass(frozen=True, slots=True)
class KubeAiSettings:
    """`modelAutoscaling` and the fields of a Model."""

    target_requests: float = 100.0
    target_ratio: float | None = None
    """That target as a share of the concurrency at capacity, for tuning; None: as it stands."""
    scale_down_delay_s: float = 30.0
    time_window_s: float = 600.0
    interval_s: float = 10.0


@dataclass(frozen=True, slots=True)
class KubeAiState:
    """What the autoscaler remembers of a model."""

    known: Known
    history: tuple[float, ...]
    """Active requests by tick, oldest first."""
    consecutive_scale_downs: int = 0


DEFAULTS = KubeAiSettings()


class KubeAi(Peer[KubeAiState]):
    """`ceil(mean active / targetRequests)`, down after three ticks in a row that say so."""

    name = "kubeai"

    def __init__(self, settings: KubeAiSettings = DEFAULTS) -> None:
        self.settings = settings
        self.interval_s = settings.interval_s

    @staticmethod
    def grid() -> tuple[KubeAiSettings, ...]:
        """Targets as shares of the concurrency at capacity, windows, and delays."""
        return tuple(
            KubeAiSettings(target_ratio=ratio, time_window_s=window_s, scale_down_delay_s=delay_s)
            for ratio, window_s, delay_s in product(
                (0.1, 0.25, 0.5, 0.8), (60.0, 180.0, 600.0), (30.0, 300.0)
            )
        )

    def begin(self, known: Known) -> KubeAiState:
        """Begin with zeros."""
        count = ceil(self.settings.time_window_s / self.settings.interval_s)
        return KubeAiState(known, (0.0,) * count)

    def rule(
        self, scrape: Scrape | None, fleet: Fleet, state: KubeAiState, now_s: float
    ) -> tuple[Wish, KubeAiState]:
        """Average and divide; without metrics or endpoints the tick is skipped."""
        active = in_flight(scrape, fleet)
        if active is None:
            return hold(fleet, state.known, "no metrics found, skipping"), state
        if fleet.serving == 0:
            # The request path alone scales from zero, to one.
            first = current(fleet) or int(active > 0)
            return Wish(bounded(first, state.known), "no endpoints found, skipping"), state
        state = replace(state, history=(*state.history[1:], active))
        full = target(state.known, self.settings.target_requests, self.settings.target_ratio)
        wanted = ceil(sum(state.history) / len(state.history) / full)
        return self._scale(bounded(wanted, state.known), fleet, state)

    def _scale(self, wanted: int, fleet: Fleet, state: KubeAiState) -> tuple[Wish, KubeAiState]:
        needed = ceil(self.settings.scale_down_delay_s / self.settings.interval_s)
        if wanted >= current(fleet):
            return Wish(wanted, "target replicas"), replace(state, consecutive_scale_downs=0)
        # The count is not reset by a scale-down, only by a tick that does not want one.
        if state.consecutive_scale_downs < needed:
            state = replace(state, consecutive_scale_downs=state.consecutive_scale_downs + 1)
            return hold(fleet, state.known, "not scaling down yet"), state
        return Wish(wanted, "target replicas"), state
