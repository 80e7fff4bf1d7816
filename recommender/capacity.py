"""The request rate one replica carries within the SLO, found with the twin.

Not a rule of thumb: the workload's own requests are run through the engine's scheduling
rules at rising rates until too many of them miss the SLO.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profiler.errors import Refused
from profiler.scheduler import Limits
from profiler.slo import Slo
from profiler.step_cost import StepCost, dense_at_s
from profiler.twin import Timings, simulate
from recommender.workload import Workload

_TOLERANCE = 0.02
_HORIZON_S = 120.0
_LEAST_REQUESTS = 400
_MOST_REQUESTS = 4000
_IDLE_RPS = 1e-3
"""A rate at which requests never meet: what the replica can do at best."""


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
    """What stops a higher rate: ttft, itl, e2e, or nothing while the search's end held."""
    mean_input_tokens: float
    mean_output_tokens: float
    concurrency: float
    """Requests in flight at that rate (Little's law)."""

    @property
    def output_tokens_s(self) -> float:
        """Generated tokens a second at that rate."""
        return self.rate_rps * self.mean_output_tokens


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of the twin at one rate."""

    rate_rps: float
    timings: Timings
    attained_ratio: float

    def holds(self, slo: Slo) -> bool:
        """Whether enough requests kept within the SLO."""
        return self.attained_ratio >= slo.percentile


def try_rate(
    cost: StepCost, limits: Limits, workload: Workload, slo: Slo, rate_rps: float
) -> Trial:
    """Run the workload at one rate, long enough for a queue to show."""
    horizon_s = max(_HORIZON_S, 20 * (slo.ttft_s or 0), 5 * (slo.e2e_s or 0))
    requests = int(np.clip(rate_rps * horizon_s, _LEAST_REQUESTS, _MOST_REQUESTS))
    timings = simulate(workload.at_rate(rate_rps).trace(requests), cost, limits)
    return Trial(rate_rps, timings, float(timings.attained(slo).mean()))


def bound_rps(cost: StepCost, limits: Limits, workload: Workload) -> float:
    """Rate that no scheduling can pass: compute, weight reads and KV memory in closed form."""
    tokens = workload.mean_input_tokens + workload.mean_output_tokens
    largest = limits.max_num_batched_tokens
    compute_s = tokens * max(dense_at_s(cost, largest) / largest + cost.token_link_s, 1e-9)
    context = workload.mean_input_tokens + workload.mean_output_tokens / 2
    held = min(limits.max_num_seqs, max(limits.num_blocks * limits.block_size / context, 1.0))
    fixed_s = cost.step_overhead_s + dense_at_s(cost, held)
    decode_s = (
        fixed_s + held * (cost.sequence_s + cost.kv_token_s * context)
    ) * workload.mean_output_tokens
    return min(1.0 / compute_s, held / max(decode_s, 1e-9))


def find_capacity(
    cost: StepCost, limits: Limits, workload: Workload, slo: Slo, *, at_least_rps: float = 0.0
) -> Capacity | None:
    """Bisect the rate; None when the replica does not carry `at_least_rps` (a race lost).

    Raises `Refused` when the SLO bounds nothing or the KV cache cannot hold a request.
    """
    if slo.ttft_s is None and slo.itl_s is None and slo.e2e_s is None:
        raise Refused("slo: give at least one of ttft, itl, e2e; without one no rate is too high")
    low = None
    if at_least_rps > 0:
        low = try_rate(cost, limits, workload, slo, at_least_rps)
        if not low.holds(slo):
            return None
    high_rps = 1.1 * bound_rps(cost, limits, workload)
    if low is None:
        low = try_rate(cost, limits, workload, slo, min(_IDLE_RPS, high_rps))
        if not low.holds(slo):
            return _summary(low, workload, slo, failed=low, rate_rps=0.0)
    low, failed = _bisect(cost, limits, workload, slo, (low, high_rps))
    return _summary(low, workload, slo, failed)


def _bisect(
    cost: StepCost, limits: Limits, workload: Workload, slo: Slo, span: tuple[Trial, float]
) -> tuple[Trial, Trial | None]:
    """Narrow (a trial that holds, a rate above) down; the best trial and the one past it."""
    low, high_rps = span
    failed: Trial | None = None
    while high_rps > low.rate_rps * (1 + _TOLERANCE):
        far_apart = high_rps > 8 * low.rate_rps
        middle = high_rps / 4 if far_apart and failed is None else (low.rate_rps * high_rps) ** 0.5
        trial = try_rate(cost, limits, workload, slo, middle)
        if trial.holds(slo):
            low = trial
        else:
            failed, high_rps = trial, middle
    return low, failed


def _summary(
    trial: Trial,
    workload: Workload,
    slo: Slo,
    failed: Trial | None,
    rate_rps: float | None = None,
) -> Capacity:
    rate = trial.rate_rps if rate_rps is None else rate_rps
    timings = trial.timings
    return Capacity(
        rate_rps=rate,
        latency=Latency(
            ttft_s=_quantile(timings.ttft_s, slo.percentile),
            itl_s=_quantile(timings.itl_s, slo.percentile),
            e2e_s=_quantile(timings.e2e_s, slo.percentile),
        ),
        binds=_binding(failed, slo),
        mean_input_tokens=workload.mean_input_tokens,
        mean_output_tokens=workload.mean_output_tokens,
        concurrency=rate * float(timings.e2e_s.mean()),
    )


def _quantile(values: NDArray[np.float64], q: float) -> float:
    finite = values[np.isfinite(values)]
    return float(np.quantile(finite, q)) if finite.size else float("nan")


def _binding(failed: Trial | None, slo: Slo) -> str:
    """Name the bound that most requests missed at the first rate too high."""
    if failed is None:
        return "nothing"
    t = failed.timings
    bounds = (
        ("ttft", t.ttft_s, slo.ttft_s),
        ("itl", t.itl_s, slo.itl_s),
        ("e2e", t.e2e_s, slo.e2e_s),
    )
    missed = {name: int((values > bound).sum()) for name, values, bound in bounds if bound}
    return max(missed, key=lambda name: missed[name])
