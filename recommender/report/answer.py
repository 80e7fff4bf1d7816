"""The top of the report: what to run and what it costs, then what was asked."""

import shlex
from collections.abc import Iterator
from dataclasses import fields

import numpy as np

from recommender.explanation import title
from recommender.report.facts import Facts
from recommender.report.figures import CURVES
from recommender.report.markup import Html, joined, of, paragraphs, table
from recommender.report.plots import plotted
from recommender.report.wording import (
    NAMES,
    SHORT,
    UNKNOWN,
    bounds,
    change,
    counted,
    number,
    objective,
    percent,
    percentile,
    with_unit,
)
from recommender.search import Offer
from recommender.space import Pins
from recommender.workload import Ints

_LENGTHS = (0.5, 0.95)


def headline(facts: Facts) -> Html:
    """The answer: what, how many, for how much, and how fast."""
    best, slo = facts.best, facts.asked.slo
    gpus = counted(facts.replicas * best.gpus, "GPU")
    carry = "carries" if facts.replicas == 1 else "carry"
    said = (
        f"{counted(facts.replicas, 'replica')} on {gpus} {carry} {number(facts.rate_rps)} req/s "
        f"for {number(facts.cost_per_hour)} per hour; {percent(facts.story.attained_ratio, 1)} of "
        f"requests are predicted to keep the objective ({objective(slo)})."
    )
    return joined(
        of("p", best.profile.model, class_="kicker"),
        of("h1", f"Run {facts.replicas} × {title(best)}"),
        paragraphs(said, _against(facts), _cheaper(facts), _prices(facts)),
        of("div", [of("div", of("b", b), of("span", s), class_="tile") for b, s in _tiles(facts)],
           class_="tiles"),
        of("p", "Engine flags of each replica (one click selects all):", class_="hint"),
        of("code", shlex.join(best.configuration.engine_args()), class_="flags", id="flags"),
        Html("<noscript><p class=soft>Plots need scripts; tables have the same figures.</p>"
             "</noscript>"),
    )  # fmt: skip


def _against(facts: Facts) -> str:
    """What it changes, in a sentence; empty where nothing runs yet."""
    told = facts.comparison
    if told is None:
        return ""
    if told.running is None:
        return "What runs now cannot do that: see the comparison below."
    saved = told.cost_per_hour - facts.cost_per_hour
    if not abs(saved) >= 0.005:
        return "What runs now costs as much at this rate."
    less = "less" if saved > 0 else "more"
    differs = change(told.cost_per_hour, facts.cost_per_hour)
    return f"That is {number(abs(saved))} per hour {less} than what runs now ({differs})."


def _cheaper(facts: Facts) -> str:
    """What would cost less, were it allowed; empty where nothing would."""
    pair, now = facts.story.split, facts.cost_per_hour
    ways = [(each.change, each.cost_per_hour) for each in facts.story.what_if if each.candidate]
    if pair is not None:
        ways.append(("prefill and decode apart", pair.cost_per_hour(facts.rate_rps)))
    less = [f"{way} ({number(cost)} per hour)" for way, cost in ways if cost < 0.995 * now]
    return f"What would cost less, if it may be: {', '.join(less)}." if less else ""


def _prices(facts: Facts) -> str:
    """What a cost counts where nobody gave prices; `Offer` takes 1 for them."""
    known = any(offer.price_per_hour != 1.0 for offer in facts.asked.offers)
    return "" if known else "No prices were given: costs count GPUs."


def _tiles(facts: Facts) -> Iterator[tuple[str, str]]:
    best, sure = facts.best, facts.story.sureness
    share = facts.each_rps / best.capacity.rate_rps
    price = number(best.price_per_hour)
    of_each = f"{counted(facts.replicas, 'replica')} of {counted(best.gpus, 'GPU')}"
    yield str(facts.replicas * best.gpus), f"{best.profile.gpu} in all: {of_each}"
    yield number(facts.cost_per_hour), f"per hour, {price} a GPU"
    yield (
        percent(share),
        (
            f"of capacity used: {number(facts.each_rps)} of {number(best.capacity.rate_rps)} req/s "
            "a replica"
        ),
    )
    slo = dict(bounds(facts.asked.slo))
    for metric, bound_s in slo.items():
        told = f"{SHORT[metric]} for {percentile(facts.asked.slo)} of requests"
        yield (
            with_unit(metric, facts.reached_s(metric)),
            (f"{told}; bound {with_unit(metric, bound_s)}"),
        )
    sure_cost = sure.sure_replicas * best.gpus * best.price_per_hour
    yield str(sure.sure_replicas), f"replicas to be 90% sure, {number(sure_cost)} per hour"


# --- what was asked ---


def workload_section(facts: Facts) -> Html:
    """The requests and the objective that all of it is for."""
    workload = facts.asked.workload
    return of(
        "section",
        of("h2", "What was asked for"),
        of("div",
           table(("Workload", ""), _traffic(facts)),
           table(("Objective", ""), _wanted(facts)),
           class_="pair"),
        of("div",
           plotted("plot-prompts", "Prompt lengths",
                   "Share of requests by tokens of the prompt; dotted: the mean, and what 95% "
                   "stay below."),
           plotted("plot-answers", "Answer lengths",
                   "The same by tokens of the answer. Long answers hold their place in the batch "
                   "longer."),
           class_="row"),
        table(("Lengths, tokens", "mean", "50%", "95%", "longest"),
              [("prompt", *_lengths(workload.input_tokens)),
               ("answer", *_lengths(workload.output_tokens))]),
        id="workload",
    )  # fmt: skip


def _traffic(facts: Facts) -> Iterator[tuple[str, str]]:
    workload = facts.asked.workload
    peak = workload.peak_rps
    recorded = workload.recorded
    yield "Model", facts.asked.model
    yield "Rate", f"{number(workload.rate_rps)} req/s"
    yield "Peak, sized for", f"{number(peak)} req/s" if peak > 0 else "as the mean"
    yield "Burstiness (1 is Poisson)", number(workload.cv, 1)
    yield "Found in the prefix cache", percent(workload.hit_ratio)
    yield "Requests", f"{len(recorded)} recorded" if recorded is not None else "drawn, not recorded"


def _wanted(facts: Facts) -> Iterator[tuple[str, str]]:
    slo = facts.asked.slo
    yield "Requests that must keep it", percentile(slo)
    given = dict(bounds(slo))
    for metric in CURVES:
        said = f"{SHORT[metric]}, {NAMES[metric]}"
        yield said, with_unit(metric, given[metric]) if metric in given else "no bound"
    for offer in facts.asked.offers:
        yield f"Offered: {offer.gpu}", _price(offer)
    pins = ", ".join(_pinned(facts.asked.pins))
    if pins:
        yield "Pinned", pins


def _price(offer: Offer) -> str:
    return f"{number(offer.price_per_hour)} per hour, {offer.node_gpus} a node"


def _pinned(pins: Pins) -> Iterator[str]:
    usual = Pins()
    for each in fields(pins):
        value = getattr(pins, each.name)
        if value != getattr(usual, each.name):
            told = " or ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            yield f"{each.name} {told}"


def _lengths(tokens: Ints) -> tuple[str, ...]:
    if tokens.size == 0:
        return (UNKNOWN,) * 4
    quantiles = np.quantile(tokens, _LENGTHS).tolist()
    return tuple(number(float(v), 0) for v in (tokens.mean(), *quantiles, tokens.max()))
