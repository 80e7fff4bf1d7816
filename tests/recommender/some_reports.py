"""A recommendation and its story, made by hand: nothing is searched or run."""

from dataclasses import replace
from typing import Any

from profiler.configuration import Configuration
from profiler.estimate import Parts
from profiler.layout import Layout
from profiler.timings import Metric
from recommender import (
    Binding,
    Candidate,
    Comparison,
    Explanation,
    Latency,
    Offer,
    Pins,
    Question,
    Recommendation,
    Split,
    Sureness,
)
from recommender.explanation import Distribution, Point, WhatIf, title
from tests.recommender.builders import a_capacity, a_profile, a_slo, a_workload

UNKNOWN = float("nan")


def a_candidate(tensor: int = 1, **changes: Any) -> Candidate:
    """A replica of so many GPUs at 2.50 an hour each; it carries 4 requests a second."""
    profile = a_profile(layout=Layout(tensor=tensor), **changes.pop("profile", {}))
    fields: dict[str, Any] = {
        "configuration": Configuration(tensor, 16, 512, 0.9, 1024),
        "profile": profile,
        "capacity": a_capacity(rate_rps=4.0 * tensor**0.5),
        "price_per_hour": 2.5,
    }
    return Candidate(**{**fields, **changes})


def a_question(**changes: Any) -> Question:
    fields: dict[str, Any] = {
        "model": "org/tiny",
        "offers": (Offer("mine", 2.5),),
        "workload": a_workload(rate_rps=6.0),
        "slo": a_slo(),
        "pins": Pins(max_num_seqs=16),
    }
    return Question(**{**fields, **changes})


def a_recommendation(**changes: Any) -> Recommendation:
    fields: dict[str, Any] = {
        "best": a_candidate(),
        "runners_up": (a_candidate(2), a_candidate(4)),
        "not_possible": ("tensor_parallel_size: 8 does not divide the heads",),
        "priced": 107,
        "scored": 11,
    }
    return Recommendation(**{**fields, **changes})


def some_points(candidate: Candidate) -> tuple[Point, ...]:
    """Fleets of 2 and 3, the larger one the faster."""
    return tuple(
        Point(title(candidate), n, n * candidate.gpus, n * candidate.gpus * 2.5,
              0.4 / n, 0.04 / n, e2e_s=4.0 / n, efficient=candidate.gpus == 1)
        for n in (2, 3)
    )  # fmt: skip


def a_story(**changes: Any) -> Explanation:
    fields: dict[str, Any] = {
        "why": ("mine TP1 carries 4.00 req/s a replica", "ITL binds; 60% waits for memory"),
        "binding": Binding("itl", "bandwidth", Parts(0.5, 0.2, 0.05, 0.1, 0, 0, 0.1, 0.05), "ITL"),
        "sureness": Sureness(0.08, 0.42, replicas=2, sure_replicas=3),
        "distribution": (
            Distribution(Metric.TTFT, (0.05, 0.07, 0.1, 0.12, 0.2), 0.06),
            Distribution(Metric.ITL, (0.01, 0.012, 0.015, 0.0171, 0.02), 0.011),
            Distribution(Metric.E2E, (0.5, 0.7, 1.0, 1.25, 2.0), 0.6),
            Distribution(Metric.QUEUE, (0.0, 0.01, 0.02, 0.03, 0.04), 0.005),
        ),
        "attained_ratio": 0.987,
        "what_if": (
            WhatIf("10% more traffic", a_candidate(), 3, 7.5, "3 of it"),
            WhatIf("GPU other", None, 0, UNKNOWN, "gpu: other is not in the catalogue"),
        ),
        "pareto": (*some_points(a_candidate()), *some_points(a_candidate(2))),
        "split": Split(a_candidate(), a_candidate(2), transfer_s=0.0012),
        "split_says": "1 × mine TP1 for prefill and 1 × mine TP2 for decode",
    }
    return Explanation(**{**fields, **changes})


def a_comparison(**changes: Any) -> Comparison:
    fields: dict[str, Any] = {
        "running": a_candidate(4),
        "replicas": 1,
        "cost_per_hour": 10.0,
        "says": "mine TP4 carries 8.00 req/s a replica",
    }
    return Comparison(**{**fields, **changes})


def all_named(name: str) -> tuple[Question, Recommendation, Explanation, Comparison]:
    """A report in which every text that can come from a user is `name`."""
    evil = [a_candidate(n, profile={"model": name, "gpu": name}) for n in (1, 2, 4)]
    question = a_question(model=name, offers=(Offer(name, 2.5),))
    found = a_recommendation(best=evil[0], runners_up=tuple(evil[1:]), not_possible=(name,) * 9)
    story = a_story(
        why=(name,),
        binding=replace(a_story().binding, says=name),
        what_if=(WhatIf(name, evil[1], 1, 5.0, name), WhatIf(name, None, 0, UNKNOWN, name)),
        pareto=tuple(point for one in evil for point in some_points(one)),
        split=Split(evil[0], evil[1], 0.001),
        split_says=name,
    )
    return question, found, story, a_comparison(running=evil[2], says=name)


def without_answers() -> Explanation:
    """Every request makes one token: there is no gap to tell of."""
    told = a_story().distribution
    gone = Distribution(Metric.ITL, (UNKNOWN,) * 5, UNKNOWN)
    return a_story(distribution=(told[0], gone, *told[2:]))


def idle(candidate: Candidate) -> Candidate:
    """The same, with no latency known."""
    unknown = replace(candidate.capacity, latency=Latency(UNKNOWN, UNKNOWN, UNKNOWN))
    return replace(candidate, capacity=unknown)
