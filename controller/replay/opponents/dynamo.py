"""NVIDIA Dynamo's planner, in aggregated mode: the throughput loop, and the load loop over it.

The throughput loop forecasts requests and lengths and divides by what an engine carries within
the SLA. That rate comes from a sweep of a profile in Dynamo; here from the capacity that everybody
is told, which is of the trace's mean lengths, shifted to the forecast lengths by the profile's
costs of a prompt token and of a made token (mean lengths: those seen so far). A request of
`isl` and `osl` tokens costs `isl/prefill rate + osl/decode rate` seconds of an engine.

The load loop moves by one: up if every engine's estimate breaks the SLA, down only if N−1 engines
still keep it at 80 %; never while a change is under way; the throughput loop sets its floor. In
Dynamo 1.6 the shipped `optimization_target` is `throughput`, which replaces the estimates with
thresholds on cache use; the specification here is the SLA mode, the grid has all three.

A failed query is unknown demand and skipped; releases before PR 14575 read it as zero.

Source: ai-dynamo/dynamo `components/src/dynamo/planner/core/`: `throughput_scaling.py`,
`load_scaling.py`, `state_machine.py`, `config/defaults.py`, `monitoring/traffic_metrics.py`.
"""

from dataclasses import dataclass, field, replace
from itertools import product
from math import ceil, isfinite
from typing import Literal

from controller.replay.opponents.common import bounded, current, hold, mean
from controller.replay.opponents.dynamo_forecast import Predictor, observe, predict
from controller.replay.opponents.dynamo_model import Learned, StepTime, fit, learn
from controller.replay.opponents.peer import Peer
from controller.replay.policy import Fleet, Known, ReplicaSample, Scrape, Wish

Target = Literal["sla", "throughput", "latency"]

EASY_THRESHOLDS = {"throughput": (1.0, 0.6), "latency": (0.4, 0.1)}
"""Of cache use with queues, above which one more is asked for, and below which one may go."""


@dataclass(frozen=True, slots=True)
class DynamoSettings:
    """The planner's configuration; the SLA is the service's, and a loop may be off."""

    throughput_adjustment_interval_s: float = 180.0
    load_predictor: Predictor = "arima"
    load_adjustment_interval_s: float = 5.0
    load_scaling_down_sensitivity: float = 80.0
    """Per cent of the SLA that N−1 engines must keep."""
    load_min_observations: int = 5
    max_num_fpm_samples: int = 64
    optimization_target: Target = "sla"
    max_num_batched_tokens: int = 8192
    """The engine's; vLLM's default on large GPUs."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Sums since the last turn of the throughput loop."""

    requests: int = 0
    seconds: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    finished: int = 0
    at_s: float | None = None
    """Of the newest scrape in it."""


@dataclass(frozen=True, slots=True)
class Series:
    """Points of the three predictors, one a turn."""

    requests: tuple[float, ...] = ()
    input_tokens: tuple[float, ...] = ()
    output_tokens: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class DynamoState:
    """What the state machine remembers."""

    known: Known
    traffic: Traffic = Traffic()
    series: Series = Series()
    learned: Learned = field(default_factory=Learned)
    floor: int = 1
    """Lower bound that the throughput loop set."""
    next_throughput_s: float | None = None


DEFAULTS = DynamoSettings()


class DynamoThroughput(Peer[DynamoState]):
    """`⌈forecast rate / engine rate at the SLA⌉` every three minutes."""

    name = "dynamo-throughput"

    def __init__(self, settings: DynamoSettings = DEFAULTS) -> None:
        self.settings = settings
        # The state machine ticks for the load loop too; every scrape in between is counted.
        self.interval_s = settings.load_adjustment_interval_s

    @staticmethod
    def grid() -> tuple[DynamoSettings, ...]:
        """Predictors and intervals."""
        predictors: tuple[Predictor, ...] = ("constant", "arima", "kalman")
        return tuple(
            DynamoSettings(throughput_adjustment_interval_s=every_s, load_predictor=predictor)
            for every_s, predictor in product((30.0, 60.0, 180.0, 300.0), predictors)
        )

    def begin(self, known: Known) -> DynamoState:
        """Remember nothing."""
        return DynamoState(known)

    def rule(
        self, scrape: Scrape | None, fleet: Fleet, state: DynamoState, now_s: float
    ) -> tuple[Wish, DynamoState]:
        """Forecast and divide; unknown demand or lengths leave the count alone."""
        state = _clocked(
            replace(state, traffic=_added(state.traffic, scrape)), self.settings, now_s
        )
        if not _is_due(state, now_s):
            return hold(fleet, state.known, "not due"), state
        desired, reason, state = turn(state, self.settings, now_s)
        if desired is None:
            return hold(fleet, state.known, reason), state
        return Wish(bounded(desired, state.known), reason), state


class DynamoLoad(Peer[DynamoState]):
    """Both loops: an engine more or fewer every five seconds, above the throughput floor."""

    name = "dynamo-load"

    def __init__(self, settings: DynamoSettings = DEFAULTS) -> None:
        self.settings = settings
        self.interval_s = settings.load_adjustment_interval_s

    @staticmethod
    def grid() -> tuple[DynamoSettings, ...]:
        """Targets, sensitivities and intervals of both loops."""
        predictors: tuple[Predictor, ...] = ("arima", "constant")
        sla = tuple(
            DynamoSettings(
                throughput_adjustment_interval_s=every_s,
                load_scaling_down_sensitivity=down,
                load_predictor=predictor,
            )
            for every_s, down, predictor in product((60.0, 180.0), (60.0, 80.0), predictors)
        )
        kinds: tuple[Target, ...] = ("throughput", "latency")
        easy = tuple(
            DynamoSettings(optimization_target=kind, load_adjustment_interval_s=every_s)
            for kind, every_s in product(kinds, (5.0, 30.0))
        )
        return sla + easy

    def begin(self, known: Known) -> DynamoState:
        """Remember nothing."""
        return DynamoState(known)

    def rule(
        self, scrape: Scrape | None, fleet: Fleet, state: DynamoState, now_s: float
    ) -> tuple[Wish, DynamoState]:
        """Turn the throughput loop when it is due, then the load loop."""
        state = self._observed(scrape, state, now_s)
        if _is_due(state, now_s):
            desired, _, state = turn(state, self.settings, now_s)
            state = replace(state, floor=state.floor if desired is None else desired)
        wanted, reason = self._load(scrape, fleet, state)
        if wanted is None:
            return hold(fleet, state.known, reason), state
        floor = 1 if self._easy else state.floor
        if wanted < floor:
            capped = wanted < current(fleet) and floor <= current(fleet)
            reason = "scale_down_capped_by_throughput" if capped else "scale_up"
        return Wish(bounded(max(wanted, floor), state.known), reason), state

    @property
    def _easy(self) -> bool:
        return self.settings.optimization_target != "sla"

    def _observed(self, scrape: Scrape | None, state: DynamoState, now_s: float) -> DynamoState:
        state = _clocked(state, self.settings, now_s)
        if scrape is None or self._easy:
            return state
        fresh = state.traffic.at_s is None or scrape.at_s > state.traffic.at_s
        learned = state.learned
        if fresh:
            learned = learn(learned, scrape, state.known, self.settings.max_num_fpm_samples)
        return replace(state, traffic=_added(state.traffic, scrape), learned=learned)

    def _load(
        self, scrape: Scrape | None, fleet: Fleet, state: DynamoState
    ) -> tuple[int | None, str]:
        if scrape is None or not scrape.replicas:
            return None, "no_fpm_data"
        if fleet.starting:
            return None, "scaling_in_progress"
        if len(scrape.replicas) != fleet.serving:
            return None, "worker_count_mismatch"
        if self._easy:
            return self._thresholds(scrape, state)
        least = self.settings.load_min_observations
        model = fit(state.learned, state.known.prefill_tokens_s, least)
        if model is None or not model.input_tokens:
            return None, "insufficient_data"
        return self._estimates(scrape, model, state.known)

    def _thresholds(self, scrape: Scrape, state: DynamoState) -> tuple[int, str]:
        """Compare cache use, with what is queued, with fixed thresholds."""
        up, down = EASY_THRESHOLDS[self.settings.optimization_target]
        prompt = mean(scrape.input_tokens) or 0.0
        size, count = state.known.kv_capacity_tokens, len(scrape.replicas)
        uses = [
            replica.kv_usage_ratio + replica.waiting * prompt / size for replica in scrape.replicas
        ]
        if any(use > up for use in uses):
            return count + 1, "scale_up"
        if count > 1 and all(use < down for use in uses):
            return count - 1, "scale_down"
        return count, "no_change"

    def _estimates(self, scrape: Scrape, model: StepTime, known: Known) -> tuple[int, str]:
        """Up if all engines break one of the two bounds, down if both allow it."""
        count = len(scrape.replicas)
        ttft = [
            self._ttft(replica, model, known, 1.0) > known.ttft_s for replica in scrape.replicas
        ]
        itl = [self._itl(replica, model, known, 1.0) > known.itl_s for replica in scrape.replicas]
        if all(ttft) or all(itl):
            return count + 1, "scale_up"
        if count > 1 and all(
            self._spare(replica, model, known, count) for replica in scrape.replicas
        ):
            return count - 1, "scale_down"
        return count, "no_change"

    def _ttft(self, replica: ReplicaSample, model: StepTime, known: Known, factor: float) -> float:
        queued = replica.waiting * model.input_tokens * factor
        cached = replica.kv_usage_ratio * known.kv_capacity_tokens * factor
        return model.ttft_s(queued, cached, self.settings.max_num_batched_tokens)

    def _itl(self, replica: ReplicaSample, model: StepTime, known: Known, factor: float) -> float:
        queued = 0.0 if factor == 1.0 else replica.waiting * model.input_tokens
        cached = replica.kv_usage_ratio * known.kv_capacity_tokens + queued
        return model.itl_s(cached * factor)

    def _spare(self, replica: ReplicaSample, model: StepTime, known: Known, count: int) -> bool:
        """Whether this engine would keep the SLA's share with N−1 engines' load, and its cache."""
        factor, share = count / (count - 1), self.settings.load_scaling_down_sensitivity / 100.0
        queued = replica.waiting * model.input_tokens
        cached = replica.kv_usage_ratio * known.kv_capacity_tokens
        if (cached + queued) * factor >= known.kv_capacity_tokens:
            return False
        alone_s = model.ttft_s(0.0, cached * factor, self.settings.max_num_batched_tokens)
        budget_s = (known.ttft_s - alone_s) * share
        behind_s = self._ttft(replica, model, known, factor) - alone_s
        keeps_ttft = not isfinite(known.ttft_s) or behind_s < budget_s
        return keeps_ttft and self._itl(replica, model, known, factor) < known.itl_s * share


def _clocked(state: DynamoState, settings: DynamoSettings, now_s: float) -> DynamoState:
    """Set the throughput loop's first turn, an interval after the start."""
    if state.next_throughput_s is not None:
        return state
    return replace(state, next_throughput_s=now_s + settings.throughput_adjustment_interval_s)


def _is_due(state: DynamoState, now_s: float) -> bool:
    return state.next_throughput_s is not None and now_s >= state.next_throughput_s


def turn(
    state: DynamoState, settings: DynamoSettings, now_s: float
) -> tuple[int | None, str, DynamoState]:
    """Turn the throughput loop: take the traffic in, forecast, divide."""
    traffic, series = state.traffic, state.series
    due_s = now_s + settings.throughput_adjustment_interval_s
    state = replace(state, traffic=Traffic(at_s=traffic.at_s), next_throughput_s=due_s)
    if traffic.seconds <= 0.0 or (traffic.requests and not traffic.finished):
        return None, "no_traffic_data", state  # lengths of requests that came are unknown, not zero
    interval_s = settings.throughput_adjustment_interval_s
    series = _pointed(series, traffic, interval_s)
    state = replace(state, series=series)
    demand_rps = max(predict(series.requests, settings.load_predictor), 0.0) / interval_s
    isl = predict(series.input_tokens, settings.load_predictor)
    osl = predict(series.output_tokens, settings.load_predictor)
    if isl <= 0.0 or osl <= 0.0:
        return None, "model_not_ready", state
    rate_rps = engine_rps(state.known, isl, osl, series)
    if not rate_rps > 0.0:
        return None, "model_not_ready", state
    return max(ceil(demand_rps / rate_rps), 1), "scale", state


def engine_rps(known: Known, isl: float, osl: float, series: Series) -> float:
    """Requests a second that an engine carries within the SLA at these lengths."""
    # Idle turns have lengths of zero and say nothing of the trace's.
    pairs = zip(series.input_tokens, series.output_tokens, strict=True)
    costs = [_cost_s(known, *pair) for pair in pairs if min(pair) > 0.0]
    usual_s = mean(costs) or _cost_s(known, isl, osl)
    return known.capacity_rps * usual_s / _cost_s(known, isl, osl)


def _cost_s(known: Known, isl: float, osl: float) -> float:
    return isl / known.prefill_tokens_s + osl / known.decode_tokens_s


def _pointed(series: Series, traffic: Traffic, interval_s: float) -> Series:
    """Give the predictors their next points; an idle turn's lengths are zero, as there."""
    count = max(traffic.finished, 1)
    if not series.requests and not traffic.requests:
        return series
    return Series(
        observe(series.requests, traffic.requests / traffic.seconds * interval_s),
        observe(series.input_tokens, traffic.input_tokens / count),
        observe(series.output_tokens, traffic.output_tokens / count),
    )


def _added(traffic: Traffic, scrape: Scrape | None) -> Traffic:
    if scrape is None or (traffic.at_s is not None and scrape.at_s <= traffic.at_s):
        return traffic
    return Traffic(
        requests=traffic.requests + scrape.arrivals,
        seconds=traffic.seconds + scrape.since_s,
        input_tokens=traffic.input_tokens + sum(scrape.input_tokens),
        output_tokens=traffic.output_tokens + sum(scrape.output_tokens),
        finished=traffic.finished + len(scrape.input_tokens),
        at_s=scrape.at_s,
    )
