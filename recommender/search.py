"""Choose the configuration that carries most requests per GPU within the SLO.

Candidates that do not fit are dropped by memory, hopeless ones by a closed-form bound; the
rest race: a candidate is run at the leader's rate first and only bisected when it holds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from profiler.architecture import load_architecture
from profiler.configuration import Configuration
from profiler.errors import DoesNotFit, Refused
from profiler.hardware import find_gpu
from profiler.layout import Layout
from profiler.profile import EngineProfile, resolve_profile
from profiler.slo import Slo
from recommender.capacity import Capacity, bound_rps, find_capacity
from recommender.workload import Workload

_SEQS = (16, 32, 64, 128, 256, 512, 1024)
_BATCHED_TOKENS = (2048, 4096, 8192, 16384)
_FIRST_SEQS = 256
_FIRST_BATCHED_TOKENS = 8192
_UTILIZATION = 0.90
_HIGH_UTILIZATION = 0.95
_WORTH = 1.02
"""A gain below this is noise; the plainer configuration stays."""


@dataclass(frozen=True, slots=True)
class Pins:
    """What the user has decided; None: left to the search."""

    tensor_parallel_size: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    gpu_memory_utilization: float | None = None
    max_model_len: int | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One configuration and what a replica of it carries."""

    configuration: Configuration
    profile: EngineProfile
    capacity: Capacity

    @property
    def rps_per_gpu(self) -> float:
        """What is maximised."""
        return self.capacity.rate_rps / self.configuration.tensor_parallel_size


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The best candidate, the runners-up and what was not possible."""

    best: Candidate
    runners_up: tuple[Candidate, ...]
    """The best of each other tensor parallel size, best first."""
    not_possible: tuple[str, ...]
    """One line per tensor parallel size that does not fit or cannot meet the SLO."""
    scored: int
    """Candidates that the twin ran."""


def recommend(
    model: str, gpu: str, workload: Workload, slo: Slo, pins: Pins | None = None
) -> Recommendation:
    """Search tensor parallel sizes and batch limits for one model on one GPU type.

    Raises `Refused` for an unknown model or GPU, `DoesNotFit` when no size fits, and
    `Refused` when none meets the SLO even idle (saying what the best one reaches).
    """
    pins = pins or Pins()
    found: list[Candidate] = []
    not_possible: list[str] = []
    scored, nothing_fits = 0, True
    for tp in _tensor_parallel_sizes(model, gpu, pins):
        try:
            profile = resolve_profile(model, gpu, Layout(tp))
            best, tried = search_batching(profile, workload, slo, pins)
        except DoesNotFit as error:
            not_possible.append(str(error))
            continue
        nothing_fits = False
        scored += tried
        if best.capacity.rate_rps > 0:
            found.append(best)
        else:
            not_possible.append(_misses(best, slo))
    if not found:  # the largest size is the last word
        raise (DoesNotFit if nothing_fits else Refused)(not_possible[-1])
    found.sort(key=lambda candidate: -candidate.rps_per_gpu)
    return Recommendation(found[0], tuple(found[1:]), tuple(not_possible), scored)


def _tensor_parallel_sizes(model: str, gpu: str, pins: Pins) -> tuple[int, ...]:
    heads, domain = load_architecture(model).heads, find_gpu(gpu).link_domain
    if pins.tensor_parallel_size is not None:
        return (pins.tensor_parallel_size,)
    return tuple(tp for tp in (1, 2, 4, 8, 16) if tp <= domain and heads % tp == 0)


def search_batching(
    profile: EngineProfile, workload: Workload, slo: Slo, pins: Pins
) -> tuple[Candidate, int]:
    """Best batch limits for one profile, and how many candidates the twin ran."""
    start = _first_that_fits(profile, workload, pins)
    best = Candidate(start, profile, _must(_carried(profile, start, workload, slo)))
    scored = 1
    for step in (_other_seqs, _other_batched_tokens, _other_utilization):
        for configuration in step(best.configuration, pins):
            challenger = _challenge(best, configuration, workload, slo)
            scored += 1
            best = challenger or best
    return best, scored


def _first(profile: EngineProfile, workload: Workload, pins: Pins) -> Configuration:
    seqs = pins.max_num_seqs or _FIRST_SEQS
    return Configuration(
        tensor_parallel_size=profile.tensor_parallel_size,
        max_num_seqs=seqs,
        max_num_batched_tokens=pins.max_num_batched_tokens or max(_FIRST_BATCHED_TOKENS, seqs),
        gpu_memory_utilization=pins.gpu_memory_utilization or _UTILIZATION,
        max_model_len=pins.max_model_len or _model_len(profile, workload),
    )


def _first_that_fits(profile: EngineProfile, workload: Workload, pins: Pins) -> Configuration:
    """Give the usual first configuration, or with smaller steps where memory is short.

    Activations grow with the largest step: on a small card they decide whether a model fits.
    Raises `DoesNotFit` for the smallest footprint when none does.
    """
    first = _first(profile, workload, pins)
    smaller = sorted(_other_batched_tokens(first, pins), key=lambda c: -c.max_num_batched_tokens)
    steps = (first, *(c for c in smaller if c.max_num_batched_tokens < _FIRST_BATCHED_TOKENS))
    last = steps[-1]
    for configuration in (*steps, *_other_utilization(last, pins)):
        try:
            profile.limits(configuration)
        except DoesNotFit as error:
            refused = error
        else:
            return configuration
    raise refused


def _model_len(profile: EngineProfile, workload: Workload) -> int:
    """Room for the longest request seen and half as much again, in steps of 1,024 tokens."""
    wanted = -(-int(1.5 * workload.longest_tokens) // 1024) * 1024
    return min(wanted, profile.max_model_len)


def _other_seqs(current: Configuration, pins: Pins) -> Iterator[Configuration]:
    if pins.max_num_seqs is None:
        for seqs in _SEQS:
            if seqs != current.max_num_seqs and seqs <= current.max_num_batched_tokens:
                yield replace(current, max_num_seqs=seqs)


def _other_batched_tokens(current: Configuration, pins: Pins) -> Iterator[Configuration]:
    if pins.max_num_batched_tokens is None:
        for tokens in _BATCHED_TOKENS:
            if tokens != current.max_num_batched_tokens and tokens >= current.max_num_seqs:
                yield replace(current, max_num_batched_tokens=tokens)


def _other_utilization(current: Configuration, pins: Pins) -> Iterator[Configuration]:
    if pins.gpu_memory_utilization is None:
        yield replace(current, gpu_memory_utilization=_HIGH_UTILIZATION)


def _challenge(
    leader: Candidate, configuration: Configuration, workload: Workload, slo: Slo
) -> Candidate | None:
    """Return the challenger when it carries clearly more than the leader."""
    rate = leader.capacity.rate_rps * _WORTH
    try:
        limits = leader.profile.limits(configuration)
        if bound_rps(leader.profile.cost, limits, workload) < rate:
            return None
        capacity = _carried(leader.profile, configuration, workload, slo, at_least_rps=rate)
    except DoesNotFit:
        return None
    if capacity is None or capacity.rate_rps <= rate:
        return None
    return Candidate(configuration, leader.profile, capacity)


def _carried(
    profile: EngineProfile,
    configuration: Configuration,
    workload: Workload,
    slo: Slo,
    at_least_rps: float = 0.0,
) -> Capacity | None:
    limits = profile.limits(configuration)
    return find_capacity(profile.cost, limits, workload, slo, at_least_rps=at_least_rps)


def _must(capacity: Capacity | None) -> Capacity:
    assert capacity is not None, "without a floor the search always answers"  # noqa: S101
    return capacity


def _misses(candidate: Candidate, slo: Slo) -> str:
    c, latency = candidate.configuration, candidate.capacity.latency
    return (
        f"slo: {c.tensor_parallel_size} × {candidate.profile.gpu} misses it even idle: "
        f"{slo.percentile:.0%} of requests within TTFT {latency.ttft_s * 1e3:.0f} ms, "
        f"ITL {latency.itl_s * 1e3:.1f} ms, end to end {latency.e2e_s:.1f} s; "
        "loosen the bound, shorten prompts, or take a faster GPU"
    )
