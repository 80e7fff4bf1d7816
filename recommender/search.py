"""Choose the configuration that costs least within the SLO.

Every layout, number format and batch limit that the engine would start with is priced in closed
form; `recommender.race` runs the promising ones through the twin.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from profiler.architecture import Architecture, load_architecture
from profiler.configuration import Configuration
from profiler.errors import DoesNotFit, MissesObjective, Refused
from profiler.hardware import find_gpu
from profiler.profile import EngineProfile, profile_of
from profiler.slo import Slo
from profiler.timings import Metric
from recommender.capacity import IDLE_RPS, Station, expected_rps, run_at
from recommender.race import LEAST_RUN, Candidate, Entrant, best_batching, measured, race
from recommender.space import NODE_GPUS, Pins, Variant, batchings, plain, variants
from recommender.workload import Workload

_SMALL_STEP = 1024


@dataclass(frozen=True, slots=True)
class Offer:
    """A GPU type that may be used, and what it costs."""

    gpu: str
    price_per_hour: float = 1.0
    """Of one GPU; 1 counts GPUs where no price is known."""
    node_gpus: int = NODE_GPUS

    def __post_init__(self) -> None:
        """Refuse prices and nodes that are none."""
        if not (math.isfinite(self.price_per_hour) and self.price_per_hour >= 0):
            raise Refused(f"price of {self.gpu}: give 0 or more an hour, got {self.price_per_hour}")
        if self.node_gpus < 1:
            raise Refused(f"node GPUs of {self.gpu}: give at least 1, got {self.node_gpus}")


Offers = str | Sequence[Offer]
"""GPU types to choose from; a name alone is one type without a price."""


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome of a search."""

    best: Candidate
    others: tuple[Entrant, ...]
    """The other layouts with their usual batch limits, the most promising first."""
    not_possible: tuple[str, ...]
    """A line for each layout that does not fit or is refused."""
    priced: int
    """Candidates that were priced in closed form."""
    scored: int
    """Candidates that the twin ran."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The best candidate, the runners-up and what was not possible."""

    best: Candidate
    runners_up: tuple[Candidate, ...]
    """The next layouts, best first."""
    not_possible: tuple[str, ...]
    priced: int
    scored: int


def recommend(
    model: str, offers: Offers, workload: Workload, slo: Slo, pins: Pins | None = None
) -> Recommendation:
    """Search, and find the rates of the next best layouts too, with their best batch limits."""
    workload = fitted(model, workload, pins or Pins())
    found = search(model, offers, workload, slo, pins)
    runners_up = [measured(entrant, workload, slo) for entrant in found.others[:LEAST_RUN]]
    able = [
        best_batching(candidate, workload, slo, pins or Pins()).best
        for candidate in runners_up
        if candidate.capacity.rate_rps > 0
    ]
    able.sort(key=lambda candidate: candidate.standing(workload.sized_rps))
    return Recommendation(found.best, tuple(able), found.not_possible, found.priced, found.scored)


def fitted(model: str, workload: Workload, pins: Pins) -> Workload:
    """Return the workload as the engine takes it; see `Workload.within`."""
    return workload.within(pins.max_model_len or load_architecture(model).max_model_len)


def search(
    model: str, offers: Offers, workload: Workload, slo: Slo, pins: Pins | None = None
) -> Found:
    """Search layouts, formats and batch limits of one model on the GPU types offered.

    Raises `Refused` for an unknown model or GPU, `DoesNotFit` when nothing fits, and `Refused`
    when nothing meets the SLO even idle (saying what the best reaches).
    """
    asked = (Offer(offers),) if isinstance(offers, str) else tuple(offers)
    if not asked:
        raise Refused("gpu: give at least one type to choose from")
    pins = pins or Pins()
    workload = fitted(model, workload, pins)
    entrants, not_possible = _entrants(load_architecture(model), asked, workload, slo, pins)
    if not entrants:
        fits_nowhere = any("does not fit" in line for line in not_possible)
        raise (DoesNotFit if fits_nowhere else Refused)(not_possible[-1])
    outcome = race(entrants, workload, slo, pins)
    if outcome.best.capacity.rate_rps == 0:
        raise MissesObjective(_best_that_can_be_had(entrants, workload, slo))
    ordered = sorted(entrants, key=lambda entrant: entrant.promise, reverse=True)
    others = {id(entrant.profile): entrant for entrant in ordered}  # the best of each layout
    del others[id(outcome.best.profile)]
    runners_up = tuple(reversed(others.values()))
    told = tuple(dict.fromkeys(not_possible))
    return Found(outcome.best, runners_up, told, outcome.priced, outcome.scored)


def search_batching(
    profile: EngineProfile, workload: Workload, slo: Slo, pins: Pins
) -> tuple[Candidate, int]:
    """Best batch limits for one profile, and how many candidates the twin ran.

    Its capacity is 0 where not even an idle replica meets the SLO.
    """
    workload = workload.within(pins.max_model_len or profile.max_model_len)
    leader = measured(_entrant(profile, 1.0, (workload, slo), pins), workload, slo)
    if leader.capacity.rate_rps == 0:
        return leader, 1
    outcome = best_batching(leader, workload, slo, pins)
    return outcome.best, 1 + outcome.scored


def _entrants(
    architecture: Architecture, offers: Sequence[Offer], workload: Workload, slo: Slo, pins: Pins
) -> tuple[list[Entrant], list[str]]:
    """Price every way to load the model, and tell what is not possible."""
    entrants: list[Entrant] = []
    not_possible: list[str] = []
    for offer in offers:
        ways, refused = variants(architecture, find_gpu(offer.gpu), pins, offer.node_gpus)
        not_possible += refused
        for way in ways:
            profile = _profile(architecture, offer, way)
            try:
                usual = _entrant(profile, offer.price_per_hour, (workload, slo), pins)
            except DoesNotFit as error:
                not_possible.append(str(error))
                continue
            entrants += [usual, *_with_small_steps(usual, workload, slo, pins)]
    return entrants, not_possible


def _with_small_steps(
    usual: Entrant, workload: Workload, slo: Slo, pins: Pins
) -> Iterator[Entrant]:
    """Enter the layout once more with small steps: pipeline stages and tight ITLs want them."""
    for configuration in batchings(usual.configuration, pins):
        tokens = configuration.max_num_batched_tokens
        if tokens == _SMALL_STEP and configuration == replace(
            usual.configuration, max_num_batched_tokens=tokens
        ):
            expected = expected_rps(Station.of(usual.profile, configuration), workload, slo)
            yield replace(usual, configuration=configuration, expected_rps=expected)


def _profile(architecture: Architecture, offer: Offer, way: Variant) -> EngineProfile:
    card = find_gpu(offer.gpu)
    return profile_of(architecture, card, way.layout, way.kv_dtype, way.quantization)


def _entrant(
    profile: EngineProfile, price_per_hour: float, wanted: tuple[Workload, Slo], pins: Pins
) -> Entrant:
    """Price one way to load the model, with the usual batch limits or smaller ones."""
    start = _first_that_fits(profile, wanted[0], pins)
    expected = expected_rps(Station.of(profile, start), *wanted)
    return Entrant(start, profile, price_per_hour, expected)


def _first_that_fits(profile: EngineProfile, workload: Workload, pins: Pins) -> Configuration:
    """Give the usual first configuration, or with smaller steps where memory is short.

    Activations grow with the largest step: on a small card they decide whether a model fits.
    Raises `DoesNotFit` for the smallest footprint when none does.
    """
    first = plain(profile, workload, pins)
    try:
        profile.limits(first)
    except DoesNotFit as error:
        refused = error
    else:
        return first
    smaller = [one for one in batchings(first, pins) if _is_smaller(one, first)]
    smaller.sort(key=lambda c: (c.gpu_memory_utilization, -c.max_num_batched_tokens))
    for configuration in smaller:
        try:
            profile.limits(configuration)
        except DoesNotFit as error:
            refused = error
        else:
            return configuration
    raise refused


def _is_smaller(one: Configuration, first: Configuration) -> bool:
    return (
        one.max_num_batched_tokens <= first.max_num_batched_tokens
        and one.max_num_seqs <= first.max_num_seqs
        and one.enable_chunked_prefill == first.enable_chunked_prefill
    )


def _best_that_can_be_had(entrants: Sequence[Entrant], workload: Workload, slo: Slo) -> str:
    """Say which layout comes nearest to an objective that none meets, and what it would take."""
    idle = [(run_at(e.station, workload, slo, IDLE_RPS), e) for e in entrants]
    trial, nearest = min(idle, key=lambda pair: pair[0].score)
    reached = {
        metric: trial.timings.quantile_s(metric, slo.percentile)
        for metric in (Metric.TTFT, Metric.ITL, Metric.E2E)
    }
    bounds = {Metric.TTFT: slo.ttft_s, Metric.ITL: slo.itl_s, Metric.E2E: slo.e2e_s}
    broken = [
        f"{metric.upper()} to at least {math.ceil(1.05 * reached[metric] * 1e3)} ms"
        for metric, bound_s in bounds.items()
        if bound_s is not None and reached[metric] > bound_s
    ]
    return (
        f"slo: nothing meets it, even idle; nearest is {nearest.gpus} × {nearest.profile.gpu} "
        f"({nearest.profile.layout}): {slo.percentile:.0%} of requests within "
        f"TTFT {reached[Metric.TTFT] * 1e3:.0f} ms, ITL {reached[Metric.ITL] * 1e3:.1f} ms, end "
        f"to end {reached[Metric.E2E]:.1f} s; loosen {' and '.join(broken) or 'the percentile'}, "
        "shorten prompts, or take a faster GPU"
    )
