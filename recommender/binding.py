"""What stops a replica from carrying more, and how sure its capacity is.

A mean step at capacity is taken apart with the closed form's steady state; the errors of step
cost and workload are carried on to the number of replicas.
"""

import math
from dataclasses import dataclass

import numpy as np

from profiler.estimate import Parts, parts, relative_error
from profiler.scheduler import Shape
from profiler.slo import Slo
from recommender.capacity import Station, expected_rps
from recommender.closed_form import Moments, steady
from recommender.race import Candidate
from recommender.workload import Workload

SURE = 1.2816
"""Standard deviations of one-sided 90 %."""
_FULL = 0.9
"""A KV cache used so far is what stops more."""


PART_NAMES = {
    "weights": "weights read",
    "decode_attention": "KV cache read",
    "mixed": "answers slowed by prompts",
    "compute": "matrix compute",
    "prefill_attention": "prompt attention",
    "link": "messages between GPUs",
    "overhead": "launch and schedule",
    "sequence": "work per sequence",
}
"""What people call the parts of a step."""


@dataclass(frozen=True, slots=True)
class Binding:
    """What stops a replica from carrying more."""

    objective: str
    """ttft, itl, e2e or throughput."""
    resource: str
    """memory, sequences, bandwidth, compute, messages or overhead."""
    shares: Parts
    """Where the time of a mean step goes at capacity; they add up to 1."""
    says: str


@dataclass(frozen=True, slots=True)
class Sureness:
    """How far to trust a capacity, as a standard deviation of its logarithm."""

    model_error: float
    """Of the step cost."""
    workload_error: float
    """Of rate and lengths."""
    replicas: int
    """Replicas that carry the rate, in expectation."""
    sure_replicas: int
    """Replicas that carry it with 90 % confidence."""


def what_binds(candidate: Candidate, workload: Workload, slo: Slo) -> Binding:
    """Take a mean step at capacity apart."""
    shape, running, room = _mean_step(candidate.station, workload, slo, candidate.capacity.rate_rps)
    spent = np.array(parts(candidate.profile.cost, shape))
    shares = Parts(*(spent / spent.sum()).tolist())
    capacity = candidate.capacity
    resource, says = _scarcest(shares)
    if capacity.kv_usage_ratio > _FULL:
        resource = "memory"
        says = f"the KV cache is {capacity.kv_usage_ratio:.0%} full"
    elif running > _FULL * room and room >= candidate.configuration.max_num_seqs:
        resource = "sequences"
        says = f"all {candidate.configuration.max_num_seqs} places of the batch are taken"
    bound = {"throughput": "a queue would grow"}.get(capacity.binds, f"{capacity.binds.upper()}")
    return Binding(capacity.binds, resource, shares, f"{bound} binds; {says}")


def _mean_step(
    station: Station, workload: Workload, slo: Slo, rate_rps: float
) -> tuple[Shape, float, float]:
    """Shape of the mean step at a rate, sequences that decode, and places for them."""
    w = Moments.of(workload, slo, station.cost.window_tokens)
    for _ in range(40):  # down to where the closed form too is steady
        at = steady(station.cost, station.limits, w, rate_rps / station.ranks)
        if math.isfinite(at.step_s):
            break
        rate_rps *= 0.95
    prefill, prompts = at.busy * at.chunk, at.busy * at.prompts
    share = prefill / max(w.prefill, 1.0)
    shape = Shape(
        round(prefill + at.decoding),
        round(at.decoding + prompts),
        1 if prefill > 0 else 0,
        w.pairs * share,
        w.window_pairs * share,
        at.decoding * w.context,
        at.decoding * w.window_context,
        prefill,
        round(at.chunk),
    )
    return shape, at.decoding, at.room


def _scarcest(shares: Parts) -> tuple[str, str]:
    """Name the resource that a step waits for most."""
    by = {
        "bandwidth": shares.weights + shares.decode_attention + shares.mixed,
        "compute": shares.compute + shares.prefill_attention,
        "messages": shares.link,
        "overhead": shares.overhead + shares.sequence,
    }
    names = {
        "bandwidth": "memory bandwidth, for weights and KV cache",
        "compute": "compute, for prompts and matrices",
        "messages": "messages between GPUs",
        "overhead": "launching and scheduling",
    }
    scarce = max(by, key=lambda name: by[name])
    return scarce, f"{by[scarce]:.0%} of a step goes to {names[scarce]}"


def how_sure(candidate: Candidate, workload: Workload, slo: Slo) -> Sureness:
    """Carry the errors of step cost and workload on to the number of replicas."""
    station, rate_rps = candidate.station, workload.sized_rps
    shape, _, _ = _mean_step(station, workload, slo, candidate.capacity.rate_rps)
    model = relative_error(candidate.profile.estimate, shape)
    errors = workload.errors
    slopes = _slopes(station, workload, slo)
    lengths = math.hypot(slopes[0] * errors.input, slopes[1] * errors.output)
    ours = math.hypot(errors.rate, lengths)
    stretched = rate_rps * math.exp(SURE * math.hypot(model, ours))
    return Sureness(model, ours, candidate.replicas(rate_rps), candidate.replicas(stretched))


def _slopes(station: Station, workload: Workload, slo: Slo) -> tuple[float, float]:
    """By how many percent the capacity falls per percent of prompt and answer length."""
    base = expected_rps(station, workload, slo)
    if base == 0:
        return 1.0, 1.0
    found = []
    for longer in ((1.1, 1.0), (1.0, 1.1)):
        other = workload.resized(
            longer[0] * workload.mean_input_tokens,
            longer[1] * workload.mean_output_tokens,
            workload.cv,
            longest_tokens=1 << 40,
        )
        other_rps = max(expected_rps(station, other, slo), 1e-3 * base)
        found.append(abs(math.log(other_rps / base)) / math.log(1.1))
    return found[0], found[1]
