"""Ray Serve's autoscaler: on ongoing requests, and Ray Serve LLM's on time to first token.

Both run behind the same delays, factors and bounds. Kept fault: where nothing reports, the
ongoing requests are zero, so that an outage longer than the look-back drains the deployment.
The control loop turns every 0.1 s on reports that come every 10 s; here it turns on each report.

Source: ray-project/ray `python/ray/serve/autoscaling_policy.py` (`_apply_scaling_factors`,
`_apply_delay_logic`, `_core_replica_queue_length_policy`), its unit tests for delays on the wall
clock, `python/ray/serve/llm/autoscaling.py` (`TTFTAutoscalingPolicy`), the guide
"Advanced Ray Serve Autoscaling" (defaults).
"""

from dataclasses import dataclass, replace
from itertools import product
from math import ceil

from controller.replay.opponents.common import (
    Timed,
    bounded,
    current,
    in_flight,
    is_new,
    mean,
    quantile,
    recent,
    remember,
    target,
    values_of,
)
from controller.replay.opponents.peer import Peer
from controller.replay.policy import Fleet, Known, Scrape, Wish


@dataclass(frozen=True, slots=True)
class Delays:
    """What wraps every policy: the `AutoscalingConfig` but for the policy's own fields."""

    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    downscale_to_zero_delay_s: float | None = None
    """None: as `downscale_delay_s`."""
    upscaling_factor: float = 1.0
    downscaling_factor: float = 1.0
    metrics_interval_s: float = 10.0


@dataclass(frozen=True, slots=True)
class RayServeSettings:
    """The default policy's configuration."""

    target_ongoing_requests: float = 2.0
    target_ratio: float | None = None
    """That target as a share of the concurrency at capacity, for tuning; None: as it stands."""
    look_back_period_s: float = 30.0
    delays: Delays = Delays()


@dataclass(frozen=True, slots=True)
class RayServeLlmSettings:
    """`TTFTAutoscalingPolicy`."""

    ttft_target_s: float = 2.0
    """p99 over it asks for one more."""
    idle_threshold: float = 1.0
    """Requests per replica, under which one may go."""
    rate_window_s: float = 60.0
    """Of the quantile's query."""
    look_back_period_s: float = 30.0
    delays: Delays = Delays()


@dataclass(frozen=True, slots=True)
class Pending:
    """Since when decisions point one way."""

    up: bool
    since_s: float


@dataclass(frozen=True, slots=True)
class RayState:
    """What the controller remembers of a deployment."""

    known: Known
    ongoing: Timed[float] = ()
    ttft: Timed[tuple[float, ...]] = ()
    pending: Pending | None = None


RAY_DEFAULTS = RayServeSettings()
LLM_DEFAULTS = RayServeLlmSettings()


class RayServe(Peer[RayState]):
    """`ongoing / target`, once it has pointed the same way for the delay."""

    name = "ray-serve"

    def __init__(self, settings: RayServeSettings = RAY_DEFAULTS) -> None:
        self.settings = settings
        self.interval_s = settings.delays.metrics_interval_s

    @staticmethod
    def grid() -> tuple[RayServeSettings, ...]:
        """Targets as shares of the concurrency at capacity, and both delays."""
        delays = (Delays(), Delays(0.0, 120.0), Delays(10.0, 300.0), Delays(0.0, 600.0))
        return tuple(
            RayServeSettings(target_ratio=ratio, delays=delay)
            for ratio, delay in product((0.1, 0.2, 0.35, 0.5, 0.8), delays)
        )

    def begin(self, known: Known) -> RayState:
        """Remember nothing."""
        return RayState(known)

    def rule(
        self, scrape: Scrape | None, fleet: Fleet, state: RayState, now_s: float
    ) -> tuple[Wish, RayState]:
        """Follow the mean of ongoing requests over the look-back."""
        ongoing_now = in_flight(scrape, fleet)
        state, ongoing = _ongoing(ongoing_now, state, self.settings.look_back_period_s, now_s)
        full = target(
            state.known, self.settings.target_ongoing_requests, self.settings.target_ratio
        )
        # N · (ongoing / (target · N)): the running replicas cancel.
        return _wrapped(ongoing / full, ongoing, fleet, state, self.settings.delays, now_s)


class RayServeLlm(Peer[RayState]):
    """+1 while p99 TTFT is over its target, −1 below it and idle, behind the same delays."""

    name = "ray-serve-llm"

    def __init__(self, settings: RayServeLlmSettings = LLM_DEFAULTS) -> None:
        self.settings = settings
        self.interval_s = settings.delays.metrics_interval_s

    @staticmethod
    def grid() -> tuple[RayServeLlmSettings, ...]:
        """Targets, what counts as idle, and both delays."""
        delays = (Delays(), Delays(0.0, 120.0))
        return tuple(
            RayServeLlmSettings(ttft_target_s=ttft_s, idle_threshold=idle, delays=delay)
            for ttft_s, idle, delay in product((0.25, 0.5, 1.0, 2.0), (1.0, 4.0, 16.0), delays)
        )

    def begin(self, known: Known) -> RayState:
        """Remember nothing."""
        return RayState(known)

    def rule(
        self, scrape: Scrape | None, fleet: Fleet, state: RayState, now_s: float
    ) -> tuple[Wish, RayState]:
        """Follow the p99 of a minute; without one, hold."""
        settings = self.settings
        ongoing_now = in_flight(scrape, fleet)
        state, ongoing = _ongoing(ongoing_now, state, settings.look_back_period_s, now_s)
        ttft = recent(state.ttft, now_s, settings.rate_window_s)
        if scrape is not None and is_new(scrape, state.ttft):
            ttft = remember(ttft, scrape.at_s, scrape.ttft_s, settings.rate_window_s)
        state = replace(state, ttft=ttft)
        p99_s = quantile([value for row in values_of(ttft) for value in row], 0.99)
        desired, signal = self._signal(p99_s, ongoing, fleet.serving)
        wish, state = _wrapped(desired, ongoing, fleet, state, settings.delays, now_s)
        return replace(wish, reason=f"{signal}: {wish.reason}"), state

    def _signal(self, p99_s: float | None, ongoing: float, running: int) -> tuple[float, str]:
        if p99_s is None:
            return float(running), "no_data"
        if p99_s > self.settings.ttft_target_s:
            return float(running + 1), "scale_up"
        if running and ongoing / running >= self.settings.idle_threshold:
            return float(running), "steady"
        return float(max(1, running - 1)), "scale_down"


def _ongoing(
    ongoing_now: float | None, state: RayState, look_back_s: float, now_s: float
) -> tuple[RayState, float]:
    """Mean of ongoing requests over the look-back; ZERO where nothing reported, as there."""
    ongoing = recent(state.ongoing, now_s, look_back_s)
    if ongoing_now is not None:
        ongoing = remember(ongoing, now_s, ongoing_now, look_back_s)
    return replace(state, ongoing=ongoing), mean(values_of(ongoing)) or 0.0


def _wrapped(
    desired: float,
    ongoing: float,
    fleet: Fleet,
    state: RayState,
    delays: Delays,
    now_s: float,
) -> tuple[Wish, RayState]:
    """Apply the cold start, factors, bounds and delays to a policy's float."""
    asked = current(fleet)
    if fleet.serving == 0:
        count = max(ceil(delays.upscaling_factor), asked) if ongoing > 0 else asked
        return Wish(bounded(count, state.known), "cold start"), state
    wanted = bounded(scaled(desired, fleet.serving, delays), state.known)
    count, reason, pending = delayed(wanted, asked, delays, state.pending, now_s)
    return Wish(bounded(count, state.known), reason), replace(state, pending=pending)


def scaled(desired: float, running: int, delays: Delays) -> int:
    """Amplify the difference to the running replicas; a small factor never gets stuck."""
    change = desired - running
    factor = delays.upscaling_factor if change > 0 else delays.downscaling_factor
    count = ceil(running + factor * change)
    return count - 1 if ceil(desired) < running and count == running else count


def delayed(
    wanted: int, asked: int, delays: Delays, pending: Pending | None, now_s: float
) -> tuple[int, str, Pending | None]:
    """Act once a decision has pointed the same way for its delay; one to zero is a step apart."""
    if wanted == asked:
        return asked, "no change", None
    up = wanted > asked
    if pending is None or pending.up != up:
        pending = Pending(up, now_s)
    if now_s - pending.since_s < _delay_s(up, asked, delays):
        return asked, "upscale delay" if up else "downscale delay", pending
    count = wanted if up or asked == 1 else max(1, wanted)
    return count, "upscale" if up else "downscale", None


def _delay_s(up: bool, asked: int, delays: Delays) -> float:
    if up:
        return delays.upscale_delay_s
    if asked == 1 and delays.downscale_to_zero_delay_s is not None:
        return delays.downscale_to_zero_delay_s
    return delays.downscale_delay_s
