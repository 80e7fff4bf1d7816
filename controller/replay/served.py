"""What is served in a replay: one replica's engine, its objective, and what everybody is told.

Made once per trace; the twin is asked what a replica carries, as for a plan. Where not even an
idle replica keeps the objective, the fleet is sized by throughput: it serves as well as it can,
and `meets_slo` says that nobody could do better.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from controller.replay.policy import Known
from controller.replay.terms import Terms
from profiler.configuration import Configuration
from profiler.errors import Refused
from profiler.profile import EngineProfile
from profiler.scheduler import Limits, Shape
from profiler.slo import Slo
from profiler.step_cost import StepCost, step_s
from profiler.trace import Trace
from recommender import Capacity, Workload, workload_from_hints, workload_from_trace
from recommender.capacity import Station, expected_rps, find_capacity, sustained_rps
from recommender.race import part_of_one

_SUSTAINED = 0.97
"""Share of the saturated throughput at which a queue does not grow."""
_NOTHING_CAME = (512.0, 128.0)
"""Lengths to size by where a trace holds no request."""


@dataclass(frozen=True, slots=True)
class Served:
    """One replica of a service, and what it is held to."""

    profile: EngineProfile
    configuration: Configuration
    slo: Slo
    limits: Limits
    workload: Workload
    capacity: Capacity
    """Of one replica; by throughput where no replica meets the objective."""
    meets_slo: bool
    """Whether an idle replica keeps the objective at all."""
    prefill_tokens_s: float
    decode_tokens_s: float

    @classmethod
    def of(
        cls, trace: Trace, profile: EngineProfile, configuration: Configuration, slo: Slo
    ) -> "Served":
        """Ask the twin what a replica carries of a trace; a second's part.

        Raises `Refused` for a request that the engine could not take, an objective that bounds
        nothing, or data-parallel replicas.
        """
        if profile.layout.data > 1:
            raise Refused("data_parallel_size: replays know one scheduler per replica: set it to 1")
        station = Station.of(profile, configuration)
        _check_takes(trace, configuration.max_model_len or profile.max_model_len)
        workload = _workload(trace)
        capacity, meets = _capacity(station, workload, slo)
        return cls(
            profile=profile,
            configuration=configuration,
            slo=slo,
            limits=station.limits,
            workload=workload,
            capacity=capacity,
            meets_slo=meets,
            prefill_tokens_s=_prefill_tokens_s(station, workload),
            decode_tokens_s=_decode_tokens_s(station, workload, slo),
        )

    @property
    def cost(self) -> StepCost:
        """What a step takes."""
        return self.profile.cost

    @property
    def gpus(self) -> int:
        """GPUs of one replica."""
        return self.profile.layout.gpus

    def known(self, terms: Terms) -> Known:
        """What every policy is told."""
        slo = self.slo
        return Known(
            capacity_rps=self.capacity.rate_rps,
            max_num_seqs=self.limits.max_num_seqs,
            kv_capacity_tokens=self.limits.num_blocks * self.limits.block_size,
            ttft_s=np.inf if slo.ttft_s is None else slo.ttft_s,
            itl_s=np.inf if slo.itl_s is None else slo.itl_s,
            percentile=slo.percentile,
            start_up_s=terms.start_up_s,
            min_replicas=terms.min_replicas,
            max_replicas=terms.max_replicas,
            prefill_tokens_s=self.prefill_tokens_s,
            decode_tokens_s=self.decode_tokens_s,
        )


def slowed(cost: StepCost, factor: float) -> StepCost:
    """Let each step take `factor` times as long; the API's part of a request is as it was."""
    changes: dict[str, Any] = {
        name: tuple(s * factor for s in value) if name == "dense_s" else value * factor
        for name, value in cost._asdict().items()
        if name.endswith("_s") and name != "request_s"
    }
    return cost if factor == 1.0 else cost._replace(**changes)


def _check_takes(trace: Trace, longest: int) -> None:
    tokens = trace.input_tokens + trace.output_tokens
    if (tokens > longest).any():
        row = int(np.argmax(tokens > longest))
        raise Refused(
            f"row {row + 1}: input_tokens and output_tokens are {tokens[row]} together and exceed "
            f"max_model_len {longest}: raise it, or drop the row"
        )


def _workload(trace: Trace) -> Workload:
    """Read the traffic off the trace; off its lengths alone where it has no rate."""
    if len(trace) > 1 and trace.duration_s > trace.arrival_s[0]:
        return workload_from_trace(trace)
    if not len(trace):
        return workload_from_hints(1.0, *_NOTHING_CAME)
    outputs = np.maximum(trace.output_tokens, 1)
    return Workload(rate_rps=1.0, cv=1.0, input_tokens=trace.input_tokens, output_tokens=outputs)


def _capacity(station: Station, workload: Workload, slo: Slo) -> tuple[Capacity, bool]:
    """What a replica carries within the objective, else what it carries at all; which it is."""
    found = find_capacity(station, part_of_one(workload, expected_rps(station, workload, slo)), slo)
    if found is not None and found.rate_rps > 0:
        return found, True
    rate_rps = sustained_rps(station, workload) * _SUSTAINED
    best = find_capacity(station, workload, Slo(e2e_s=3600.0))
    if found is None or best is None:
        raise Refused("the twin gives no capacity for this trace: check its lengths")
    return Capacity(
        rate_rps=min(rate_rps, best.rate_rps),
        latency=found.latency,
        binds=found.binds,
        mean_input_tokens=found.mean_input_tokens,
        mean_output_tokens=found.mean_output_tokens,
        concurrency=best.concurrency,
    ), False


def _prefill_tokens_s(station: Station, workload: Workload) -> float:
    """Prompt tokens a second in steps that are full of whole prompts."""
    prompt = workload.mean_input_tokens
    budget = float(station.limits.max_num_batched_tokens)
    prompts = max(budget / prompt, 1.0)
    tokens = min(prompt * prompts, budget)
    pairs = prompts * (tokens / prompts) ** 2 / 2
    shape = Shape(
        int(tokens), int(np.ceil(prompts)), int(np.ceil(prompts)), pairs, pairs, 0.0, 0.0, tokens,
        int(min(prompt, budget)),
    )  # fmt: skip
    return tokens / float(step_s(station.cost, shape))


def _decode_tokens_s(station: Station, workload: Workload, slo: Slo) -> float:
    """Tokens a second at the largest batch whose steps keep the ITL bound; one at least."""
    limits, context = station.limits, workload.mean_input_tokens + workload.mean_output_tokens / 2
    fits = int(limits.num_blocks * limits.block_size // context)
    most = max(min(limits.max_num_seqs, limits.max_num_batched_tokens, fits), 1)
    seen = min(context, station.cost.window_tokens)
    rate = 0.0
    for batch in range(1, most + 1):
        shape = Shape(batch, batch, 0, 0.0, 0.0, batch * context, batch * seen)
        lasts_s = float(step_s(station.cost, shape))
        if batch > 1 and slo.itl_s is not None and lasts_s > slo.itl_s:
            break
        rate = batch / lasts_s
    return rate
