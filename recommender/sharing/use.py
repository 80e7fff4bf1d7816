"""What a replica takes of a GPU, and what its neighbour's steps cost without that.

The model: processes share a GPU spatially (MPS) and each resource is work-conserving. A neighbour
that takes a share u of one for its own work leaves 1 − u, so what is bound by it takes 1/(1 − u) as
long. That is the mean of processor sharing, whatever the neighbour's steps look like: in a time T
in which it completes work u·T, the other gets T − u·T. The two resources are not apart: a prefill's
matrices fill every multiprocessor, so what is bound by bandwidth hardly runs beside them
(`COMPUTE_KEEPS_OUT`), while a prefill loses less to a neighbour's reads (`BANDWIDTH_KEEPS_OUT`).
Launching, scheduling and messages are not shared.

Ignored: L2 (a neighbour evicts what would have been read twice), how multiprocessors are
partitioned, clocks under a common power limit, that short chunks read weights for a good part of
their time, and how work bunches inside a second: a single prefill may meet a neighbour's prefill
and take twice as long. `HEADROOM_RATIO` is kept for these. Without MPS processes take turns, a busy
neighbour then blocks both resources, and nothing here holds.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from profiler.estimate import GROUPS, compute_share, scaled
from profiler.scheduler import Limits
from profiler.slo import Slo
from profiler.step_cost import GRID_TOKENS, StepCost, dense_at_s
from profiler.timings import Finished, Metric, Steps, Timings
from profiler.twin import Simulation
from recommender.capacity import Latency
from recommender.sharing.tenant import Tenant
from recommender.workload import Workload

Floats = NDArray[np.float64]

HEADROOM_RATIO = 0.1
"""Share of each bound of an objective kept free for what the model ignores. Published pairs
under MPS: Qwen3-4B-FP8 on an A100, decode 19.5 % slower, first token 1.4 %
(gopebble.com, "MPS vs dedicated GPU allocation"); the twin's own error is about 10 %."""
COMPUTE_KEEPS_OUT, BANDWIDTH_KEEPS_OUT = 0.885, 0.5
"""Share of its speed that work bound by bandwidth loses while a neighbour's prefill runs, and a
prefill to each share of the bandwidth that a neighbour's decodes take. Measured on an H100 under
MPS with bf16 matrices (`benchmarks.interference`): beside prefills without a pause a decode's step
takes 8.7 × as long, and these then 1.06 ×."""
_MOST = 0.95
"""A neighbour never takes more than this, so that steps stay finite."""
_HORIZON_S = 120.0
_LEAST_REQUESTS, _MOST_REQUESTS = 400, 4000
_IDLE_RPS = 1e-3
"""A rate at which requests never meet."""
_BUILT_UP = 0.1
"""First part of a run, left out of averages: batches build up."""
_HELD_QUANTILE = 0.99
_QUEUED = 0.1


@dataclass(frozen=True, slots=True)
class Use:
    """Average shares of one GPU, 0 to 1, at the speed that kernels reach on a GPU of their own."""

    compute_ratio: float = 0.0
    bandwidth_ratio: float = 0.0
    busy_ratio: float = 0.0
    """Share of the time in which a step is under way, host part included."""


NO_USE = Use()


def together(uses: Iterable[Use]) -> Use:
    """Add uses up; the order makes no difference. May exceed 1: more than there is."""
    uses = tuple(uses)
    return Use(
        compute_ratio=math.fsum(u.compute_ratio for u in uses),
        bandwidth_ratio=math.fsum(u.bandwidth_ratio for u in uses),
        busy_ratio=min(math.fsum(u.busy_ratio for u in uses), 1.0),
    )


def stretched(cost: StepCost, bandwidth_factor: float, compute_factor: float) -> StepCost:
    """Multiply what is bound by bandwidth and what is bound by compute, each by its factor.

    Bandwidth: weights, decode attention and its surplus beside a prefill. Compute: the rising
    part of the dense curve, prefill attention, attention grids padded to the longest chunk.
    """
    if bandwidth_factor == compute_factor == 1.0:
        return cost
    factors = {
        "weights": bandwidth_factor, "decode_attention": bandwidth_factor,
        "compute": compute_factor, "prefill_attention": compute_factor,
    }  # fmt: skip
    logs = np.log(np.array([factors.get(group, 1.0) for group in GROUPS]))
    # the surplus of mixed steps multiplies `kv_token_s`, which is stretched already
    return scaled(cost, logs)._replace(
        mixed_sequence_s=cost.mixed_sequence_s * compute_factor,
        padded_query_s=cost.padded_query_s * compute_factor,
    )


def factors(neighbour: Use) -> tuple[float, float]:
    """How much longer work takes beside a neighbour: bound by bandwidth, bound by compute."""
    compute, bandwidth = neighbour.compute_ratio, neighbour.bandwidth_ratio
    taken = (
        bandwidth + COMPUTE_KEEPS_OUT * compute,
        compute + BANDWIDTH_KEEPS_OUT * bandwidth,
    )
    to_bandwidth, to_compute = (1.0 / (1.0 - min(ratio, _MOST)) for ratio in taken)
    return to_bandwidth, to_compute


def slowed(cost: StepCost, neighbour: Use) -> StepCost:
    """Step cost with the neighbour's share taken away."""
    return stretched(cost, *factors(neighbour))


def least_use(tenant: Tenant) -> Use:
    """Closed form of what no batching can go below; for pruning.

    Each token's attention and multiplications, and the weights read once for every
    `max_num_seqs` tokens decoded.
    """
    cost, workload, configuration = tenant.profile.cost, tenant.workload, tenant.configuration
    largest = float(configuration.max_num_batched_tokens)
    share = float(np.interp(largest, GRID_TOKENS, compute_share(cost)))
    prompts, answers = workload.input_tokens, workload.output_tokens
    if workload.hit_ratio > 0:
        prompts = np.maximum(prompts * (1.0 - workload.hit_ratio), 1.0).astype(np.int64)
    token_s = share * dense_at_s(cost, largest) / largest
    compute_s = token_s * float(np.mean(prompts + answers)) + float(
        np.mean(_prefill_s(cost, prompts, np.zeros_like(prompts)))
    )
    reads = float(np.mean(answers - 1)) / configuration.max_num_seqs
    bandwidth_s = reads * dense_at_s(cost, 1.0) + float(
        np.mean(_decode_s(cost, workload.input_tokens, answers))
    )
    return Use(workload.rate_rps * compute_s, workload.rate_rps * bandwidth_s)


@dataclass(frozen=True, slots=True)
class Run:
    """What the twin made of a tenant beside some neighbour."""

    use: Use
    latency: Latency
    """At the objective's percentile."""
    attained_ratio: float
    """Share of requests within every bound."""
    attained_with_headroom_ratio: float
    """The same with `HEADROOM_RATIO` of each bound kept free."""
    queued_ratio: float
    """Share of all requests that wait when the last comes."""
    held_blocks: int
    """KV blocks that suffice for all but a hundredth of the steps."""

    @property
    def keeps_up(self) -> bool:
        """Whether its queue does not grow for ever; what a bound on ITL alone would not show."""
        return self.queued_ratio < _QUEUED

    def keeps(self, slo: Slo) -> bool:
        """Whether the objective is attained with the headroom, and will be."""
        return self.keeps_up and self.attained_with_headroom_ratio >= slo.percentile


def run_beside(tenant: Tenant, limits: Limits, neighbour: Use) -> Run:
    """Run a tenant's traffic with the neighbour's share taken away.

    One run of the twin that records every step: the dense part of a step is split by its
    tokens as `profiler.estimate.parts` does; attention depends on the lengths, not on how
    the scheduler chunks and batches (but for sliding windows and `prefill_kv_s`, taken as if
    prompts came in one chunk), and is spread over the steps by their tokens. Use is work, at
    the price of an own GPU: who is slowed takes longer for it, and for its weights less
    often, as its batches grow.
    """
    slo, rate_rps = tenant.slo, tenant.workload.rate_rps
    simulation = Simulation(slowed(tenant.profile.cost, neighbour), limits, step_interval_s=0.0)
    simulation.feed(_traffic(tenant.workload).trace(_requests(rate_rps, slo)))
    finished, steps = simulation.run()
    timings = Timings.of(finished, simulation.gaps, simulation.usage)
    use = use_of(tenant.profile.cost, finished, steps) if rate_rps > 0 else NO_USE
    return Run(
        use=use,
        latency=Latency(*(timings.quantile_s(m, slo.percentile) for m in _LATENCIES)),
        attained_ratio=float(timings.attained(slo).mean()),
        attained_with_headroom_ratio=float(timings.attained(with_headroom(slo)).mean()),
        queued_ratio=_queued(finished, steps) / len(finished.request),
        held_blocks=int(np.quantile(steps.kv_blocks, _HELD_QUANTILE)),
    )


_LATENCIES = (Metric.TTFT, Metric.ITL, Metric.E2E)


def _queued(finished: Finished, steps: Steps) -> int:
    """Requests that wait after the last has come."""
    first = int(np.searchsorted(steps.time_s, finished.arrival_s.max()))
    return int(steps.waiting[first:].max(initial=0))


def with_headroom(slo: Slo) -> Slo:
    """Tighten each bound."""
    ttft_s, itl_s, e2e_s = (
        None if bound is None else bound * (1.0 - HEADROOM_RATIO)
        for bound in (slo.ttft_s, slo.itl_s, slo.e2e_s)
    )
    return Slo(ttft_s, itl_s, e2e_s, slo.percentile)


def _traffic(workload: Workload) -> Workload:
    """What is run: a service without traffic is asked now and then."""
    return workload if workload.rate_rps > _IDLE_RPS else replace(workload, rate_rps=_IDLE_RPS)


def _requests(rate_rps: float, slo: Slo) -> int:
    """Long enough for a queue to show."""
    horizon_s = max(_HORIZON_S, 20 * (slo.ttft_s or 0), 5 * (slo.e2e_s or 0))
    return int(np.clip(rate_rps * horizon_s, _LEAST_REQUESTS, _MOST_REQUESTS))


def use_of(cost: StepCost, finished: Finished, steps: Steps) -> Use:
    """Average use over a run, at the prices of `cost`: from the steps and the lengths."""
    last_s = float(finished.arrival_s.max())
    end_s = max(last_s, float(finished.last_token_s.max()) / 2.0)  # a queue being worked off
    begin_s = _BUILT_UP * end_s
    inside = (steps.time_s >= begin_s) & (steps.time_s <= end_s)
    busy_s = float(steps.duration_s[inside].sum())
    spent_s = (*_spent_s(cost, finished, steps, inside), busy_s)
    return Use(*(min(seconds / (end_s - begin_s), 1.0) for seconds in spent_s))


def _spent_s(
    cost: StepCost, finished: Finished, steps: Steps, inside: NDArray[np.bool_]
) -> tuple[float, float]:
    """Seconds of compute and of bandwidth in the steps of a mask."""
    decoded = steps.tokens - steps.prefill_tokens
    mixed = steps.prefill_tokens > 0
    beside = np.where(mixed, decoded, 0)
    padded = beside * (cost.mixed_sequence_s + cost.padded_query_s * steps.prefill_tokens)
    prefill_s = _prefill_s(cost, finished.input_tokens, finished.hit_tokens).sum()
    decode_s = _decode_s(cost, finished.input_tokens, finished.output_tokens).sum()
    decode_token_s = decode_s / max(int(decoded.sum()), 1)
    prefill_token_s = prefill_s / max(int(steps.prefill_tokens.sum()), 1)
    surplus = cost.mixed_kv_ratio - 1.0
    weights, compute = _dense_s(cost, steps.tokens)
    compute = compute + padded + prefill_token_s * steps.prefill_tokens
    bandwidth = weights + decode_token_s * (decoded + surplus * beside)
    return float(compute[inside].sum()), float(bandwidth[inside].sum())


def _dense_s(cost: StepCost, tokens: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """[steps] the dense part of each step: reading weights, computing."""
    kinds, place = np.unique(np.maximum(tokens, 1), return_inverse=True)
    dense = np.array([dense_at_s(cost, float(t)) for t in kinds])
    share = np.interp(kinds, GRID_TOKENS, compute_share(cost))
    return (dense * (1.0 - share))[place], (dense * share)[place]


def _prefill_s(cost: StepCost, prompts: NDArray[np.int64], hits: NDArray[np.int64]) -> Floats:
    """[requests] attention of a prompt's prefill after so many tokens found in the cache."""
    new = prompts - hits
    seen = hits + 0.5 * new
    windowed = np.minimum(seen, float(cost.window_tokens))
    pairs = cost.prefill_pair_s * new * seen + cost.prefill_window_pair_s * new * windowed
    seconds: Floats = pairs + cost.prefill_kv_s * prompts
    return seconds


def _decode_s(cost: StepCost, prompts: NDArray[np.int64], answers: NDArray[np.int64]) -> Floats:
    """[requests] attention of all tokens of an answer but the first, at contexts p + 1 and on."""
    steps = np.maximum(answers - 1, 0).astype(np.float64)
    context = steps * (prompts + 0.5 * (steps + 1.0))
    over = np.clip(prompts + steps - cost.window_tokens, 0.0, steps)  # steps past the window
    below = steps - over
    windowed = below * (prompts + 0.5 * (below + 1.0)) + over * float(cost.window_tokens)
    seconds: Floats = cost.kv_token_s * context + cost.kv_window_token_s * windowed
    return seconds
