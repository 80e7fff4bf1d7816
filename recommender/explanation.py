"""Why this configuration: what binds it, how sure it is, what would change it.

Everything told here comes from the same closed form and twin that chose. Called where a person
reads, not in the loop: it runs a few more searches.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from profiler.architecture import PUBLISHED, load_architecture
from profiler.configuration import Configuration, Quantization
from profiler.errors import Refused
from profiler.estimate import Parts
from profiler.hardware import find_gpu
from profiler.operators import KvDtype
from profiler.profile import EngineProfile, profile_of
from profiler.slo import Slo
from profiler.timings import Metric
from recommender.binding import PART_NAMES, Binding, Sureness, how_sure, what_binds
from recommender.capacity import Station, Trial, expected_rps, find_capacity, run_at
from recommender.race import Candidate, part_of_one
from recommender.search import Offer, Recommendation, fitted, search
from recommender.space import Pins
from recommender.split import Split, split
from recommender.workload import Workload

QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.99)
_LOOSER = 1.25
_MORE_TRAFFIC = 1.1
_MORE_REPLICAS = (1.0, 1.25, 1.5, 2.0)
"""Sizes of the fleet for the Pareto picture, relative to the least."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """Latency of one metric at the rate that each replica gets, seconds."""

    metric: Metric
    quantiles: tuple[float, ...]
    """At `QUANTILES`."""
    mean_s: float


@dataclass(frozen=True, slots=True)
class WhatIf:
    """One change, and the cheapest configuration under it."""

    change: str
    candidate: Candidate | None
    replicas: int
    cost_per_hour: float
    says: str
    """The difference in a sentence, or why it cannot be had."""


@dataclass(frozen=True, slots=True)
class Point:
    """A fleet that keeps the SLO: what it costs, and how fast it is."""

    name: str
    replicas: int
    gpus: int
    cost_per_hour: float
    ttft_s: float
    itl_s: float
    e2e_s: float
    """At the SLO's percentile."""
    efficient: bool
    """No other point costs as little and answers as fast."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What runs now beside what is recommended."""

    running: Candidate | None
    """None where it does not fit or misses the SLO idle; `says` tells which."""
    replicas: int
    cost_per_hour: float
    says: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """The whole story of one recommendation."""

    why: tuple[str, ...]
    binding: Binding
    sureness: Sureness
    distribution: tuple[Distribution, ...]
    attained_ratio: float
    """Share of requests within the SLO at the rate that each replica gets."""
    what_if: tuple[WhatIf, ...]
    pareto: tuple[Point, ...]
    split: Split | None
    split_says: str


@dataclass(frozen=True, slots=True)
class Question:
    """What a recommendation answered."""

    model: str
    offers: tuple[Offer, ...]
    workload: Workload
    slo: Slo
    pins: Pins = field(default_factory=Pins)


def explain(asked: Question, found: Recommendation, also: Sequence[Offer] = ()) -> Explanation:
    """Tell the story; `also` are GPU types to hold against those that were offered."""
    asked = replace(asked, workload=fitted(asked.model, asked.workload, asked.pins))
    best, rate_rps = found.best, asked.workload.sized_rps
    replicas = best.replicas(rate_rps)
    part = asked.workload.shared(replicas)
    trial = run_at(best.station, part, asked.slo, rate_rps / replicas)
    binding = what_binds(best, asked.workload, asked.slo)
    pair, says = _split(asked, best)
    return Explanation(
        why=tuple(_why(found, binding, asked)),
        binding=binding,
        sureness=how_sure(best, asked.workload, asked.slo),
        distribution=distributions(trial),
        attained_ratio=float(trial.timings.attained(asked.slo).mean()),
        what_if=tuple(_what_ifs(asked, best, binding, also)),
        pareto=pareto(asked, (best, *found.runners_up)),
        split=pair,
        split_says=says,
    )


def distributions(trial: Trial) -> tuple[Distribution, ...]:
    """Latencies of one run at `QUANTILES`."""
    timings = trial.timings
    return tuple(
        Distribution(
            metric,
            tuple(timings.quantile_s(metric, q) for q in QUANTILES),
            float(np.nanmean(timings.latency_s(metric))),
        )
        for metric in (Metric.TTFT, Metric.ITL, Metric.E2E, Metric.QUEUE)
    )


# --- why, and what if ---


def title(candidate: Candidate) -> str:
    """Name a candidate as people do: `H100-SXM TP2, FP8 KV`."""
    c = candidate.configuration
    extra = [
        *(["FP8 weights"] if c.quantization is Quantization.FP8 else []),
        *(["FP8 KV"] if c.kv_cache_dtype is KvDtype.FP8 else []),
    ]
    return ", ".join([f"{candidate.profile.gpu} {candidate.profile.layout}", *extra])


def _why(found: Recommendation, binding: Binding, asked: Question) -> Iterator[str]:
    best, rate_rps = found.best, asked.workload.sized_rps
    replicas = best.replicas(rate_rps)
    yield (
        f"{title(best)} carries {best.capacity.rate_rps:.2f} req/s a replica, "
        f"{best.rps_per_gpu:.2f} a GPU: {replicas} of it for {rate_rps:.2f} req/s, enough up to "
        f"{replicas * best.capacity.rate_rps:.2f}"
    )
    yield binding.says
    if not found.runners_up:
        yield "no other layout fits and keeps the objective"
        return
    second = found.runners_up[0]
    yield f"not {title(second)}: {_drawback(best, second, asked)}"


def _drawback(best: Candidate, second: Candidate, asked: Question) -> str:
    """What the runner-up costs more, and where its time goes."""
    rate_rps = asked.workload.sized_rps
    ours, theirs = best.cost_per_hour(rate_rps), second.cost_per_hour(rate_rps)
    less = 1.0 - second.rps_per_gpu / best.rps_per_gpu
    cost = f"{theirs:.2f} an hour instead of {ours:.2f}, " if theirs > ours else ""
    compared = f"{less:.0%} less" if less >= 0 else f"{-less:.0%} more"
    mine = what_binds(best, asked.workload, asked.slo).shares
    other = what_binds(second, asked.workload, asked.slo).shares
    grown = {name: getattr(other, name) - getattr(mine, name) for name in Parts._fields}
    most = max(grown, key=lambda name: grown[name])
    told = f"; {PART_NAMES[most]} takes {getattr(other, most):.0%} of its steps"
    return f"{cost}{compared} goodput a GPU{told}"


def _what_ifs(
    asked: Question, best: Candidate, binding: Binding, also: Sequence[Offer]
) -> Iterator[WhatIf]:
    more = asked.workload.at_rate(asked.workload.rate_rps * _MORE_TRAFFIC)
    yield _what_if("10 % more traffic", replace(asked, workload=more), asked, best)
    looser = _looser(asked.slo, binding.objective)
    if looser is not None:
        name = f"{binding.objective.upper()} bound 25 % looser"
        yield _what_if(name, replace(asked, slo=looser), asked, best)
    for name, pins in _other_formats(asked.pins, best.configuration):
        yield _what_if(name, replace(asked, pins=pins), asked, best)
    for checkpoint in _other_checkpoints(asked.model):
        yield _what_if(
            f"the checkpoint {checkpoint}", replace(asked, model=checkpoint), asked, best
        )
    offered = {offer.gpu for offer in asked.offers}
    for offer in also:
        if offer.gpu not in offered:
            yield _what_if(f"GPU {offer.gpu}", replace(asked, offers=(offer,)), asked, best)


def _what_if(change: str, then: Question, now: Question, best: Candidate) -> WhatIf:
    try:
        other = search(then.model, then.offers, then.workload, then.slo, then.pins).best
    except Refused as error:
        return WhatIf(change, None, 0, math.nan, str(error))
    rate_rps, before = then.workload.sized_rps, now.workload.sized_rps
    replicas, cost = other.replicas(rate_rps), other.cost_per_hour(rate_rps)
    gain = other.rps_per_gpu / best.rps_per_gpu - 1.0
    was = best.cost_per_hour(before)
    says = (
        f"{replicas} × {title(other)}, {other.rps_per_gpu:.2f} req/s a GPU ({gain:+.0%}), "
        f"{cost:.2f} an hour instead of {was:.2f}"
    )
    return WhatIf(change, other, replicas, cost, says)


def _looser(slo: Slo, objective: str) -> Slo | None:
    bound_s = getattr(slo, f"{objective}_s", None)
    return None if bound_s is None else replace(slo, **{f"{objective}_s": bound_s * _LOOSER})


def _other_formats(pins: Pins, best: Configuration) -> Iterator[tuple[str, Pins]]:
    """Formats that change what the model answers, where they were not allowed."""
    if KvDtype.FP8 not in pins.kv_cache_dtypes:
        yield "FP8 KV cache", replace(pins, kv_cache_dtypes=(KvDtype.FP8,))
    if Quantization.FP8 not in pins.quantizations and best.quantization is Quantization.NONE:
        yield "FP8 weights", replace(pins, quantizations=(Quantization.FP8,))


def _other_checkpoints(model: str) -> Iterator[str]:
    name = load_architecture(model).name
    for (published, _), checkpoint in PUBLISHED.items():
        if published == name:
            yield checkpoint


def _split(asked: Question, best: Candidate) -> tuple[Split | None, str]:
    """Prefill and decode apart, and what that would change."""
    try:
        pair = split(asked.model, asked.offers, asked.workload, asked.slo, asked.pins)
    except Refused as error:
        return None, str(error)
    rate_rps = asked.workload.sized_rps
    prefill, decode = pair.replicas(rate_rps)
    gain = pair.rps_per_gpu / best.rps_per_gpu - 1.0
    return pair, (
        f"{prefill} × {title(pair.prefill)} for prefill and {decode} × {title(pair.decode)} for "
        f"decode, {pair.rps_per_gpu:.2f} req/s a GPU at scale ({gain:+.0%}), "
        f"{pair.cost_per_hour(rate_rps):.2f} an hour instead of {best.cost_per_hour(rate_rps):.2f}"
    )


# --- cost and latency ---


def pareto(asked: Question, candidates: Sequence[Candidate]) -> tuple[Point, ...]:
    """Fleets of growing size of each candidate; the efficient ones are marked."""
    rate_rps, points = asked.workload.sized_rps, []
    for candidate in candidates:
        least = candidate.replicas(rate_rps)
        sizes = sorted({math.ceil(least * more) for more in _MORE_REPLICAS})
        points += [_point(asked, candidate, replicas) for replicas in sizes]
    points.sort(key=lambda point: (point.cost_per_hour, point.e2e_s))
    fastest, marked = math.inf, []
    for point in points:
        marked.append(replace(point, efficient=point.e2e_s < fastest))
        fastest = min(fastest, point.e2e_s)
    return tuple(marked)


def _point(asked: Question, candidate: Candidate, replicas: int) -> Point:
    rate_rps = asked.workload.sized_rps / replicas
    part = asked.workload.shared(replicas)
    timings = run_at(candidate.station, part, asked.slo, rate_rps).timings
    gpus, q = replicas * candidate.gpus, asked.slo.percentile
    return Point(
        name=title(candidate),
        replicas=replicas,
        gpus=gpus,
        cost_per_hour=gpus * candidate.price_per_hour,
        ttft_s=timings.quantile_s(Metric.TTFT, q),
        itl_s=timings.quantile_s(Metric.ITL, q),
        e2e_s=timings.quantile_s(Metric.E2E, q),
        efficient=False,
    )


# --- what runs now ---


def judge(
    asked: Question,
    offer: Offer,
    configuration: Configuration,
    profile: EngineProfile | None = None,
) -> Candidate:
    """Find what a configuration carries that somebody runs; `Refused` where it would not start.

    `profile`: what was measured; computed without. Its capacity is 0 where it misses the SLO
    even idle.
    """
    known = profile or profile_of(
        load_architecture(asked.model),
        find_gpu(offer.gpu),
        configuration.layout,
        configuration.kv_cache_dtype,
        configuration.quantization,
    )
    known.check_layout(configuration)
    workload = asked.workload.within(configuration.max_model_len or known.max_model_len)
    station = Station.of(known, configuration)
    part = part_of_one(workload, expected_rps(station, workload, asked.slo))
    capacity = find_capacity(station, part, asked.slo)
    assert capacity is not None, "without a floor the search always answers"  # noqa: S101
    return Candidate(configuration, known, capacity, offer.price_per_hour)


def compare(
    asked: Question, best: Candidate, offer: Offer, configuration: Configuration
) -> Comparison:
    """Hold what runs now against the recommendation."""
    rate_rps = asked.workload.sized_rps
    try:
        running = judge(asked, offer, configuration)
    except Refused as error:
        return Comparison(None, 0, math.nan, f"what runs now would not start: {error}")
    if running.capacity.rate_rps == 0:
        latency = running.capacity.latency
        return Comparison(
            None, 0, math.nan,
            f"what runs now misses the objective even idle: TTFT {latency.ttft_s * 1e3:.0f} ms, "
            f"ITL {latency.itl_s * 1e3:.1f} ms, end to end {latency.e2e_s:.1f} s",
        )  # fmt: skip
    cost, ours = running.cost_per_hour(rate_rps), best.cost_per_hour(rate_rps)
    gain = best.rps_per_gpu / running.rps_per_gpu - 1.0
    says = (
        f"{title(running)} carries {running.capacity.rate_rps:.2f} req/s a replica; what is "
        f"recommended, {gain:+.0%} a GPU, costs {ours:.2f} an hour instead of {cost:.2f}"
    )
    return Comparison(running, running.replicas(rate_rps), cost, says)
