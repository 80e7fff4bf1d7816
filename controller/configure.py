"""Choose a service's configuration: what the manifest pins, and the cheapest of the rest.

Called when a service is resolved, at start-up and at every change of its spec. What is in
force stays unless the spec forbids it or another is clearly better: replicas are replaced for a
reason, never for noise. The choice comes with that reason, for status and events.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from controller.api.llmservice import (
    EngineSpec,
    EngineType,
    KvCacheChoice,
    LLMServiceSpec,
    PlacementSpec,
    QuantizationChoice,
    Switch,
)
from profiler.configuration import Configuration, Quantization
from profiler.errors import MissesObjective, Refused
from profiler.operators import KvDtype
from profiler.profile import EngineProfile
from profiler.slo import Slo
from recommender import (
    Candidate,
    Offer,
    Pins,
    Question,
    Workload,
    fitted,
    judge,
    search,
    search_batching,
    title,
    what_binds,
)

CLEARLY = 1.1
"""A rollout must be worth so much goodput for the price."""


class Origin(StrEnum):
    """Why a configuration is in force; CamelCase, append-only."""

    RECOMMENDED = "Recommended"
    KEPT = "Kept"


@dataclass(frozen=True, slots=True)
class InForce:
    """A configuration that replicas run already, and on what."""

    gpu: str
    configuration: Configuration


@dataclass(frozen=True, slots=True)
class Choice:
    """The configuration to run, and why."""

    candidate: Candidate
    origin: Origin
    message: str
    fallbacks: tuple[Candidate, ...] = ()
    """The best on each other GPU type offered, what carries most for its price first."""


def choose(
    spec: LLMServiceSpec,
    profiles: Mapping[str, EngineProfile],
    workload: Workload,
    slo: Slo,
    in_force: InForce | None = None,
) -> Choice:
    """Choose; raises `Refused` for what cannot be served, saying what would mend it."""
    pins, offers = pins_of(spec.engine), offers_of(spec.placement)
    profile = _profile(spec.placement, pins, profiles)
    longest = pins.max_model_len or (profile and profile.max_model_len)
    workload = workload.within(longest) if longest else fitted(spec.model.uri, workload, pins)
    asked = Question(spec.model.uri, offers, workload, slo, pins)
    if profile is None:
        best = search(spec.model.uri, offers, workload, slo, pins).best
    else:
        best, _ = search_batching(profile, workload, slo, pins)
        if best.capacity.rate_rps == 0:
            name = spec.placement.profile
            raise MissesObjective(f"spec.slo: profile {name!r} misses it even when idle")
    running = _running(asked, profile, in_force)
    if running is not None and not _clearly_better(best, running, workload):
        chosen, origin = running, Origin.KEPT
    else:
        chosen, origin = best, Origin.RECOMMENDED
    return Choice(chosen, origin, _story(chosen, workload, slo), _fallbacks(asked, chosen))


def _fallbacks(asked: Question, chosen: Candidate) -> tuple[Candidate, ...]:
    """Search every other type by itself; those that cannot serve it are left out."""
    found = []
    for offer in asked.offers:
        if offer.gpu == chosen.profile.gpu:
            continue
        with contextlib.suppress(Refused):
            found.append(search(asked.model, (offer,), asked.workload, asked.slo, asked.pins).best)
    return tuple(sorted(found, key=lambda other: other.standing(asked.workload.sized_rps)[1]))


def _story(candidate: Candidate, workload: Workload, slo: Slo) -> str:
    """Tell in a sentence what it carries and what binds."""
    binding = what_binds(candidate, workload, slo)
    return (
        f"{title(candidate)} carries {candidate.capacity.rate_rps:.2f} req/s a replica within the "
        f"objective for {workload.mean_input_tokens:.0f} tokens in and "
        f"{workload.mean_output_tokens:.0f} out; {binding.says}"
    )


def _running(
    asked: Question, profile: EngineProfile | None, in_force: InForce | None
) -> Candidate | None:
    """What runs, with what it carries; None where the spec or the objective forbids it."""
    if in_force is None or not asked.pins.allow(in_force.configuration):
        return None
    offer = next((offer for offer in asked.offers if offer.gpu == in_force.gpu), None)
    if offer is None:
        return None
    try:
        found = judge(asked, offer, in_force.configuration, profile)
    except Refused:
        return None
    return found if found.capacity.rate_rps > 0 else None


def _clearly_better(best: Candidate, running: Candidate, workload: Workload) -> bool:
    """Whether a rollout pays: fewer replicas' cost, or clearly more for the price."""
    rate_rps = workload.sized_rps
    ours, theirs = best.standing(rate_rps), running.standing(rate_rps)
    return theirs[0] > CLEARLY * ours[0] or ours[1] < CLEARLY * theirs[1]


def offers_of(placement: PlacementSpec) -> tuple[Offer, ...]:
    """Read the GPU types to choose from."""
    if placement.gpu is not None:
        return (Offer(placement.gpu, node_gpus=placement.node_gpus),)
    return tuple(
        Offer(offer.gpu, float(offer.price_per_hour), placement.node_gpus)
        for offer in placement.gpus or ()
    )


def _profile(
    placement: PlacementSpec, pins: Pins, profiles: Mapping[str, EngineProfile]
) -> EngineProfile | None:
    """Find the profile that is named; its layout and formats are what the engine runs."""
    if not placement.profile:
        return None
    profile = profiles.get(placement.profile)
    if profile is None:
        known = ", ".join(sorted(profiles)) or "none is given"
        raise Refused(f"spec.placement.profile: no EngineProfile {placement.profile!r} ({known})")
    if not pins.layout_is(profile.layout):
        raise Refused(
            f"spec.engine: its parallel sizes are not those of profile {placement.profile!r} "
            f"({profile.layout}): drop one of them"
        )
    return profile


def pins_of(engine: EngineSpec) -> Pins:
    """Read what the manifest pins."""
    percent, data = engine.gpu_memory_utilization_percent, engine.data_parallel_size
    if engine.type is EngineType.EMULATED and data is None:
        data = 1  # the emulated engine has one scheduler
    return Pins(
        tensor_parallel_size=engine.tensor_parallel_size,
        pipeline_parallel_size=engine.pipeline_parallel_size,
        data_parallel_size=data,
        enable_expert_parallel=_flag(engine.expert_parallel),
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        gpu_memory_utilization=None if percent is None else percent / 100,
        max_model_len=engine.max_model_len,
        enable_chunked_prefill=_flag(engine.chunked_prefill),
        enable_prefix_caching=_flag(engine.prefix_caching),
        kv_cache_dtypes=_KV[engine.kv_cache_dtype],
        quantizations=_QUANTIZATIONS[engine.quantization],
    )


_KV = {
    KvCacheChoice.AUTO: (KvDtype.AUTO,),
    KvCacheChoice.FP8: (KvDtype.FP8,),
    KvCacheChoice.ANY: tuple(KvDtype),
}
_QUANTIZATIONS = {
    QuantizationChoice.NONE: (Quantization.NONE,),
    QuantizationChoice.FP8: (Quantization.FP8,),
    QuantizationChoice.ANY: tuple(Quantization),
}


def _flag(switch: Switch | None) -> bool | None:
    return None if switch is None else switch is Switch.ENABLED
