"""llm-d's SLO-aware autoscaling: latency over its bound as saturation, KEDA's formula, an HPA.

WVA's successor for latency targets. The endpoint picker's predicted latencies are not modelled:
its recording rules fall back to the measured ones, which are used here, with exact quantiles
instead of histogram buckets. No traffic in the last minute, or no scrape, reads as saturation
zero: "without it the signal is empty and the pool sits at minReplicas".

Source: llm-d/llm-d `docs/architecture/autoscaling/slo-aware-keda.md` (the control law) and
`guides/workload-autoscaling/README.slo-aware.md` (tunables).
"""

from dataclasses import dataclass, field, replace
from itertools import product
from math import ceil, floor, isfinite

from controller.replay.opponents.common import (
    Timed,
    current,
    is_new,
    mean,
    quantile,
    recent,
    remember,
    values_of,
)
from controller.replay.opponents.hpa_rules import (
    Behavior,
    Limit,
    Memory,
    Rules,
    behave,
    external_replicas,
)
from controller.replay.opponents.peer import Peer
from controller.replay.policy import Fleet, Known, Scrape, Wish

GUIDE = Behavior(
    up=Rules(30.0, (Limit("Percent", 100, 60.0), Limit("Pods", 4, 60.0))),
    down=Rules(180.0, (Limit("Pods", 1, 120.0),)),
)
"""Burst up, drain slowly."""

RATE_WINDOW_S = 60.0


@dataclass(frozen=True, slots=True)
class SloAwareSettings:
    """Recording rules and ScaledObject of the guide; the SLOs are the service's."""

    latency_quantile: float = 0.90
    clamp: float = 2.0
    smoothing_window_s: float = 45.0
    threshold_up: float = 0.55
    threshold_down: float = 0.40
    interval_s: float = 15.0
    """Of the recording rules and of the HPA."""
    behavior: Behavior = GUIDE


Latencies = tuple[tuple[float, ...], tuple[float, ...]]
"""TTFT of first tokens and TPOT of requests that finished, seconds."""


@dataclass(frozen=True, slots=True)
class SloAwareState:
    """What Prometheus and the HPA remember."""

    known: Known
    latencies: Timed[Latencies] = ()
    saturation: Timed[float] = ()
    memory: Memory = field(default_factory=Memory)


DEFAULTS = SloAwareSettings()


class SloAware(Peer[SloAwareState]):
    """`n + ⌈n·(s·ready/n/0.55 − 1)⌉` above 0.55, `n − ⌊n·(1 − s/0.40)⌋` below 0.40."""

    name = "slo-aware"

    def __init__(self, settings: SloAwareSettings = DEFAULTS) -> None:
        self.settings = settings
        self.interval_s = settings.interval_s

    @staticmethod
    def grid() -> tuple[SloAwareSettings, ...]:
        """Bands, smoothing windows and clamps."""
        bands = ((0.55, 0.40), (0.40, 0.25), (0.70, 0.50), (0.85, 0.60), (1.0, 0.70))
        return tuple(
            SloAwareSettings(
                threshold_up=up, threshold_down=down, smoothing_window_s=window_s, clamp=clamp
            )
            for (up, down), window_s, clamp in product(bands, (15.0, 45.0), (2.0, 4.0))
        )

    def begin(self, known: Known) -> SloAwareState:
        """Remember nothing."""
        return SloAwareState(known)

    def rule(
        self, scrape: Scrape | None, fleet: Fleet, state: SloAwareState, now_s: float
    ) -> tuple[Wish, SloAwareState]:
        """Follow the smoothed saturation."""
        state, saturation = self._observe(scrape, state, now_s)
        replicas = current(fleet)
        asked = self.formula(saturation, replicas, fleet.serving)
        behavior = self.settings.behavior
        wanted = external_replicas(asked, 1.0, replicas, behavior.tolerance)
        wish, memory = behave(
            wanted, replicas, state.memory, behavior=behavior, known=state.known, now_s=now_s
        )
        reason = f"saturation {saturation:.2f}: {wish.reason}"
        return replace(wish, reason=reason), replace(state, memory=memory)

    def formula(self, saturation: float, replicas: int, ready: int) -> int:
        """Desired replicas; those in flight are credited on the way up alone.

        The credit never sheds: so says the page, while its formula as printed could go below n.
        """
        up, down = self.settings.threshold_up, self.settings.threshold_down
        if saturation > up:
            credit = ready / replicas if 0 < ready < replicas else 1.0
            return replicas + max(ceil(replicas * (saturation * credit / up - 1.0)), 0)
        if saturation < down:
            return replicas - floor(replicas * (1.0 - saturation / down))
        return replicas

    def _observe(
        self, scrape: Scrape | None, state: SloAwareState, now_s: float
    ) -> tuple[SloAwareState, float]:
        latencies = recent(state.latencies, now_s, RATE_WINDOW_S)
        if scrape is not None and is_new(scrape, state.latencies):
            row = (scrape.ttft_s, scrape.itl_s)
            latencies = remember(latencies, scrape.at_s, row, RATE_WINDOW_S)
        raw = self._raw(latencies, state.known)
        window_s = self.settings.smoothing_window_s
        kept = remember(state.saturation, now_s, min(raw, self.settings.clamp), window_s)
        smoothed = mean(values_of(kept)) or 0.0
        return replace(state, latencies=latencies, saturation=kept), smoothed

    def _raw(self, latencies: Timed[Latencies], known: Known) -> float:
        """Worse of the two latencies over their bounds; nothing measured is zero."""
        ttft = [value for row in values_of(latencies) for value in row[0]]
        tpot = [value for row in values_of(latencies) for value in row[1]]
        worst = 0.0
        for seen, bound_s in ((ttft, known.ttft_s), (tpot, known.itl_s)):
            latency_s = quantile(seen, self.settings.latency_quantile)
            if latency_s is not None and isfinite(bound_s):
                worst = max(worst, latency_s / bound_s)
        return worst
