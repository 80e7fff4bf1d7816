"""The request rate one replica carries within the SLO, found with the twin.

Not a rule of thumb: the workload's own requests are run through the engine's scheduling
rules at several rates, until the highest is known at which enough of them keep the SLO. The
closed form says where to begin; nothing but the twin says where to end.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from profiler.configuration import Configuration
from profiler.errors import Refused
from profiler.profile import EngineProfile
from profiler.scheduler import Limits
from profiler.slo import Slo
from profiler.step_cost import StepCost, dense_at_s
from profiler.timings import Floats, Metric, Timings
from profiler.trace import Trace
from profiler.twin import simulate, simulate_within
from recommender.closed_form import Moments, Objective, carried_rps
from recommender.workload import Workload

_TOLERANCE = 0.02
_HORIZON_S = 120.0
_LEAST_REQUESTS = 400
_MOST_REQUESTS = 4000
IDLE_RPS = 1e-3
"""A rate at which requests never meet: what the replica can do at best."""
_STRIDE = 1.2
"""From a rate that holds to the next, while none is known that fails."""
_JUDGED = 4.0
"""A queue shows in a run that is so many times as long as the bound that it must break."""
_MOST_IN_ROUND = 64
"""Beyond, a replica's arrivals grow no calmer that it would show."""
_SUSTAINED = 0.97
"""Share of the saturated throughput at which a queue does not grow."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Predicted latency at the SLO's percentile, seconds."""

    ttft_s: float
    itl_s: float
    e2e_s: float


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one replica carries of a workload within an SLO."""

    rate_rps: float
    """0 when even an idle replica misses the SLO."""
    latency: Latency
    """At that rate."""
    binds: str
    """What stops a higher rate: ttft, itl, e2e, or throughput where a queue would grow."""
    mean_input_tokens: float
    mean_output_tokens: float
    concurrency: float
    """Requests in flight at that rate (Little's law)."""
    kv_usage_ratio: float = float("nan")
    """Share of the KV cache in use at that rate, on average."""

    @property
    def output_tokens_s(self) -> float:
        """Generated tokens a second at that rate."""
        return self.rate_rps * self.mean_output_tokens


@dataclass(frozen=True, slots=True)
class Station:
    """A replica as the twin runs it: what a step costs, what bounds it, how many schedulers."""

    cost: StepCost
    limits: Limits
    ranks: int = 1
    """Data-parallel schedulers, each with its own requests."""

    @classmethod
    def of(cls, profile: EngineProfile, configuration: Configuration) -> "Station":
        """Take a profile under a configuration; `DoesNotFit` where there is no room."""
        return cls(profile.cost, profile.limits(configuration), profile.layout.data)


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of the twin at one rate."""

    rate_rps: float
    timings: Timings
    score: float
    """Latency over its bound, the worst bound's, at the SLO's percentile; holds up to 1."""


def trace_at(station: Station, workload: Workload, slo: Slo, rate_rps: float) -> Trace:
    """Give the requests of one scheduler, for long enough for a queue to show."""
    horizon_s = max(_HORIZON_S, 20 * (slo.ttft_s or 0), 5 * (slo.e2e_s or 0))
    wanted = rate_rps / station.ranks * horizon_s
    requests = int(np.clip(wanted, _LEAST_REQUESTS, _MOST_REQUESTS))
    return workload.at_rate(rate_rps).trace(requests * station.ranks).rank(0, station.ranks)


def try_rate(station: Station, workload: Workload, slo: Slo, rate_rps: float) -> Trial | None:
    """Run the workload at one rate; None when too many requests miss the SLO."""
    trace = trace_at(station, workload, slo, rate_rps)
    timings = simulate_within(trace, station.cost, station.limits, slo)
    return None if timings is None else Trial(rate_rps, timings, _score(timings, slo))


def run_at(station: Station, workload: Workload, slo: Slo, rate_rps: float) -> Trial:
    """Run the workload at one rate to its end, whatever it misses."""
    timings = simulate(trace_at(station, workload, slo, rate_rps), station.cost, station.limits)
    return Trial(rate_rps, timings, _score(timings, slo))


def _shares(timings: Timings, slo: Slo) -> Iterator[tuple[str, Floats]]:
    """Latency over its bound, bound by bound; [requests] each."""
    bounds = ((Metric.TTFT, slo.ttft_s), (Metric.ITL, slo.itl_s), (Metric.E2E, slo.e2e_s))
    for metric, bound_s in bounds:
        if bound_s is not None:
            yield metric.value, np.nan_to_num(timings.latency_s(metric) / bound_s)


def _score(timings: Timings, slo: Slo) -> float:
    return _quantile(np.max([share for _, share in _shares(timings, slo)], axis=0), slo)


def _quantile(share: Floats, slo: Slo) -> float:
    """What as many requests stay within as the SLO asks for."""
    place = int(np.ceil(round(slo.percentile * share.size, 6))) - 1
    return float(np.partition(share, place)[place])


def bound_rps(station: Station, workload: Workload) -> float:
    """Rate that no scheduling can pass: compute, weight reads and KV memory in closed form."""
    cost, limits = station.cost, station.limits
    new = workload.mean_input_tokens * (1.0 - workload.hit_ratio)
    largest = limits.max_num_batched_tokens
    token_s = dense_at_s(cost, largest) / largest + cost.token_link_s
    compute_s = (new + workload.mean_output_tokens) * max(token_s, 1e-9)
    context = workload.mean_input_tokens + workload.mean_output_tokens / 2
    held = min(limits.max_num_seqs, max(limits.num_blocks * limits.block_size / context, 1.0))
    fixed_s = cost.step_overhead_s + dense_at_s(cost, held)
    decode_s = (
        fixed_s + held * (cost.sequence_s + cost.kv_token_s * context)
    ) * workload.mean_output_tokens
    return station.ranks * min(1.0 / compute_s, held / max(decode_s, 1e-9))


@lru_cache(maxsize=64)
def _moments(workload: Workload, slo: Slo, window_tokens: int) -> Moments:
    """Take them once for the hundred candidates of a search."""
    return Moments.of(workload, slo, window_tokens)


def expected_rps(station: Station, workload: Workload, slo: Slo) -> float:
    """What the closed form says that one of the replicas that share a workload carries.

    0 where it misses the SLO idle.
    """
    moments = _moments(workload, slo, station.cost.window_tokens)
    bounds = Objective.of(slo)
    alone = station.ranks * float(carried_rps(station.cost, station.limits, moments, bounds))
    replicas = replicas_in_round(workload, alone)
    if replicas == 1:
        return alone
    calmer = moments._replace(cv=workload.shared_cv(replicas))
    return station.ranks * float(carried_rps(station.cost, station.limits, calmer, bounds))


def replicas_in_round(workload: Workload, carried_rps: float) -> int:
    """Replicas that requests go round, where one carries so much."""
    if carried_rps <= 0:
        return 1
    return max(min(round(workload.sized_rps / carried_rps), _MOST_IN_ROUND), 1)


def sustained_rps(station: Station, workload: Workload) -> float:
    """Throughput of a replica that always has a queue: above it the queue grows for ever."""
    requests = int(np.clip(3 * station.limits.max_num_seqs, _LEAST_REQUESTS, _MOST_REQUESTS))
    trace = workload.trace(requests)
    at_once = replace(trace, arrival_s=np.zeros(len(trace)))
    done_s = np.sort(simulate(at_once, station.cost, station.limits).e2e_s)
    first, last = len(trace) // 4, 3 * len(trace) // 4
    return station.ranks * float((last - first) / (done_s[last] - done_s[first]))


def check_bounded(slo: Slo) -> None:
    """Refuse an objective that bounds nothing."""
    if slo.ttft_s is None and slo.itl_s is None and slo.e2e_s is None:
        raise Refused("slo: give at least one of ttft, itl, e2e; without one no rate is too high")


def find_capacity(
    station: Station,
    workload: Workload,
    slo: Slo,
    *,
    at_least_rps: float = 0.0,
    near_rps: float | None = None,
) -> Capacity | None:
    """Find the rate to 2 %; None when the replica does not carry `at_least_rps` (a race lost).

    `near_rps`: where to begin; the closed form's answer without. Raises `Refused` when the SLO
    bounds nothing or the KV cache cannot hold a request.
    """
    check_bounded(slo)
    most_rps = 1.1 * bound_rps(station, workload)
    first_rps = at_least_rps or min(IDLE_RPS, most_rps)
    low = try_rate(station, workload, slo, first_rps)
    if low is None:
        return None if at_least_rps > 0 else _nothing(station, workload, slo, first_rps)
    start_rps = expected_rps(station, workload, slo) if near_rps is None else near_rps
    low, failed_rps = _climb(station, workload, slo, low, (start_rps, most_rps))
    low, failed_rps = _close_in(station, workload, slo, low, failed_rps)
    throughput = _queue_shows_late(low, slo) and sustained_rps(station, workload) * _SUSTAINED
    if throughput and throughput < low.rate_rps:
        if throughput < at_least_rps:
            return None
        at_most = run_at(station, workload, slo, throughput)
        return replace(_summary(at_most, station, workload, slo), binds="throughput")
    found = _summary(low, station, workload, slo)
    return found if failed_rps < most_rps else replace(found, binds="throughput")


def _climb(
    station: Station, workload: Workload, slo: Slo, low: Trial, span: tuple[float, float]
) -> tuple[Trial, float]:
    """From where it is expected upwards or down: a rate that holds, and one that fails."""
    start_rps, most_rps = span
    failed_rps, stride = most_rps, _STRIDE
    rate_rps = min(max(start_rps, low.rate_rps * (1 + 2 * _TOLERANCE)), most_rps)
    while low.rate_rps * (1 + _TOLERANCE) < rate_rps < failed_rps:
        trial = try_rate(station, workload, slo, rate_rps)
        if trial is None:
            failed_rps, rate_rps = rate_rps, max(rate_rps / stride, low.rate_rps)
        elif failed_rps < most_rps:
            return trial, failed_rps
        else:
            low, rate_rps = trial, rate_rps * stride
        stride **= 1.5
    return low, failed_rps


def _close_in(
    station: Station, workload: Workload, slo: Slo, low: Trial, failed_rps: float
) -> tuple[Trial, float]:
    """Halve the distance between a rate that holds and one that fails, down to the tolerance."""
    while failed_rps > low.rate_rps * (1 + _TOLERANCE):
        middle_rps = (low.rate_rps * failed_rps) ** 0.5
        trial = try_rate(station, workload, slo, middle_rps)
        if trial is None:
            failed_rps = middle_rps
        else:
            low = trial
    return low, failed_rps


def _queue_shows_late(trial: Trial, slo: Slo) -> bool:
    """Whether the run was too short for a growing queue to break a bound."""
    if slo.ttft_s is None and slo.e2e_s is None:
        return True
    lasted_s = trial.timings.ttft_s.size / trial.rate_rps
    return lasted_s < _JUDGED * min(b for b in (slo.ttft_s, slo.e2e_s) if b is not None)


def _nothing(station: Station, workload: Workload, slo: Slo, rate_rps: float) -> Capacity:
    """Say what an idle replica reaches where that is not enough."""
    idle = run_at(station, workload, slo, rate_rps)
    return replace(_summary(idle, station, workload, slo), rate_rps=0.0)


def _summary(trial: Trial, station: Station, workload: Workload, slo: Slo) -> Capacity:
    timings, q = trial.timings, slo.percentile
    usage = timings.usage
    return Capacity(
        rate_rps=trial.rate_rps,
        latency=Latency(*(timings.quantile_s(m, q) for m in (Metric.TTFT, Metric.ITL, Metric.E2E))),
        binds=_nearest(timings, slo),
        mean_input_tokens=workload.mean_input_tokens,
        mean_output_tokens=workload.mean_output_tokens,
        concurrency=trial.rate_rps * float(timings.e2e_s.mean()),
        kv_usage_ratio=usage.kv_block_s / (station.limits.num_blocks * max(usage.end_s, 1e-9)),
    )


def _nearest(timings: Timings, slo: Slo) -> str:
    """Name the bound that is nearest to being broken, or is broken most."""
    reached = {name: _quantile(share, slo) for name, share in _shares(timings, slo)}
    return max(reached, key=lambda name: reached[name])
