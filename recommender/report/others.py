"""The end of the report: what else there is, what would change it, and what runs now."""

import shlex
from collections.abc import Iterator

from recommender.explanation import Comparison, WhatIf, title
from recommender.race import Candidate
from recommender.report.facts import Facts
from recommender.report.figures import CURVES
from recommender.report.markup import Html, folded, joined, listed, of, paragraphs, table
from recommender.report.wording import (
    SHORT,
    UNITS,
    change,
    counted,
    latency,
    number,
    percent,
    percentile,
)

_LATENCIES = tuple(f"{SHORT[metric]}, {UNITS[metric][0]}" for metric in CURVES)
_MANY = 6
"""Lines beyond which a list is folded."""


def runners_up_section(facts: Facts) -> Html:
    """The best and the next layouts."""
    head = (
        "Layout", "seqs", "tokens", "memory", "req/s", "per GPU", "N", "GPUs", "per hour",
        *_LATENCIES, "binds",
    )  # fmt: skip
    rows = [_candidate(candidate, facts.rate_rps) for candidate in facts.candidates]
    alone = "" if facts.found.runners_up else "No other layout fits and keeps the objective."
    return of(
        "section",
        of("h2", "Runners-up"),
        paragraphs(alone),
        of("p", "req/s: what a replica carries at most; N: replicas; latencies: within which "
           f"{percentile(facts.asked.slo)} of requests stay at that rate.", class_="hint"),
        table(head, rows, chosen=0),
        id="runners-up",
    )  # fmt: skip


def _candidate(candidate: Candidate, rate_rps: float) -> tuple[str, ...]:
    c, capacity = candidate.configuration, candidate.capacity
    replicas = candidate.replicas(rate_rps)
    return (
        title(candidate),
        str(c.max_num_seqs),
        str(c.max_num_batched_tokens),
        percent(c.gpu_memory_utilization),
        number(capacity.rate_rps),
        number(candidate.rps_per_gpu),
        str(replicas),
        str(replicas * candidate.gpus),
        number(candidate.cost_per_hour(rate_rps)),
        *_latencies(candidate),
        capacity.binds.upper() if capacity.binds != "throughput" else capacity.binds,
    )


def _latencies(candidate: Candidate) -> tuple[str, ...]:
    """Those of a replica at its capacity."""
    told = candidate.capacity.latency
    return tuple(latency(metric, getattr(told, f"{metric.value}_s")) for metric in CURVES)


# --- what if ---


def what_if_section(facts: Facts) -> Html:
    """One change at a time, searched anew."""
    head = ("If", "then run", "N", "GPUs", "per hour", "change", "req/s per GPU", "change")
    rows = [
        ("as it is", *_fleet(facts, facts.best, facts.replicas, facts.cost_per_hour)),
        *(_changed(facts, each) for each in facts.story.what_if),
    ]
    none = "" if facts.story.what_if else "Nothing else was tried."
    return of(
        "section",
        of("h2", "What would change it"),
        of("p", "Each line is a search of its own with that one change. Formats other than the "
           "checkpoint's change what the model answers: judge quality first.", class_="hint"),
        paragraphs(none),
        table(head, rows, chosen=0, words=2),
        id="what-if",
    )  # fmt: skip


def _changed(facts: Facts, told: WhatIf) -> tuple[str, ...]:
    if told.candidate is None:
        return told.change, told.says
    return told.change, *_fleet(facts, told.candidate, told.replicas, told.cost_per_hour)


def _fleet(facts: Facts, candidate: Candidate, replicas: int, cost: float) -> tuple[str, ...]:
    """A fleet, and by how much its cost and goodput differ from the recommended."""
    mine = candidate is facts.best
    return (
        title(candidate),
        str(replicas),
        str(replicas * candidate.gpus),
        number(cost),
        "" if mine else change(facts.cost_per_hour, cost),
        number(candidate.rps_per_gpu),
        "" if mine else change(facts.best.rps_per_gpu, candidate.rps_per_gpu),
    )


# --- prefill and decode apart ---


def split_section(facts: Facts) -> Html:
    """Whether prefill and decode on replicas of their own would pay."""
    pair, rate_rps = facts.story.split, facts.rate_rps
    body: list[Html] = []
    if pair is None:
        body = [paragraphs(f"Not to be had: {facts.story.split_says}")]
    else:
        cheaper = pair.cost_per_hour(rate_rps) < facts.cost_per_hour
        halves = (("prefill", pair.prefill), ("decode", pair.decode))
        rows = [(name, *_fleet_of(half, rate_rps)) for name, half in halves]
        rows.append(("as recommended", *_fleet_of(facts.best, rate_rps)))
        body = [
            paragraphs(
                "It would cost less at this rate." if cheaper else "It does not pay at this rate.",
                facts.story.split_says + ".",
                f"Moving the KV cache of a long prompt takes {number(pair.transfer_s * 1e3, 1)} ms "
                "and is counted in the TTFT.",
            ),
            table(("Half", *_FLEET), rows, chosen=2, words=2),
        ]
    return of("section", of("h2", "Prefill and decode apart"), body, id="split")


_FLEET = ("layout", "req/s a replica", "per GPU", "N", "GPUs", "per hour")


def _fleet_of(candidate: Candidate, rate_rps: float) -> tuple[str, ...]:
    replicas = candidate.replicas(rate_rps)
    return (
        title(candidate),
        number(candidate.capacity.rate_rps),
        number(candidate.rps_per_gpu),
        str(replicas),
        str(replicas * candidate.gpus),
        number(candidate.cost_per_hour(rate_rps)),
    )


# --- what runs now ---


def comparison_section(facts: Facts) -> Html:
    """What runs now beside what is recommended."""
    told = facts.comparison
    if told is None:
        flag = of("code", "whaleflux plan --compare")
        body = of("p", "What runs now was not given: ", flag, " holds it against this.")
    elif told.running is None:
        body = paragraphs(f"{told.says[:1].upper()}{told.says[1:]}.")
    else:
        body = _compared(facts, told, told.running)
    return of("section", of("h2", "Beside what runs now"), body, id="comparison")


def _compared(facts: Facts, told: Comparison, running: Candidate) -> Html:
    rate_rps = facts.rate_rps
    rows = [
        ("now", *_fleet_of(running, rate_rps), *_latencies(running)),
        ("recommended", *_fleet_of(facts.best, rate_rps), *_latencies(facts.best)),
    ]
    return joined(
        paragraphs(f"{told.says}."),
        table(("", *_FLEET, *_LATENCIES), rows, chosen=1, words=2),
        [of("p", of("span", f"{name} "), of("code", shlex.join(flags)))
         for name, flags in _flags(running, facts.best) if flags],
    )  # fmt: skip


def _flags(running: Candidate, best: Candidate) -> Iterator[tuple[str, list[str]]]:
    """Flags that go and that come."""
    now, then = running.configuration.engine_args(), best.configuration.engine_args()
    yield "Flags to drop:", [flag for flag in now if flag not in then]
    yield "Flags to set:", [flag for flag in then if flag not in now]


# --- what is not possible ---


def not_possible_section(facts: Facts) -> Html:
    """What was left out, and why."""
    lines = facts.found.not_possible
    if not lines:
        body = paragraphs("Every layout within a node fits and would start.")
    elif len(lines) > _MANY:
        body = folded(f"{counted(len(lines), 'layout')} left out, and why", listed(lines))
    else:
        body = listed(lines)
    return of("section", of("h2", "Not possible"), body, id="not-possible")


def footer(facts: Facts) -> Html:
    """How it was found."""
    found, profile = facts.found, facts.best.profile
    return of(
        "footer",
        f"WhaleFlux priced {counted(found.priced, 'candidate')} in closed form and ran "
        f"{found.scored} through the twin of the engine's scheduler. Step costs of "
        f"{profile.gpu}: {profile.source}. Predictions, not measurements.",
        class_="soft",
    )
