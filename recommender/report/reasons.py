"""The middle of the report: why this, how sure, how fast, and what more money would buy."""

from recommender.explanation import QUANTILES, Distribution, Point, title
from recommender.report.facts import Facts
from recommender.report.figures import CURVES, PARTS
from recommender.report.markup import Html, folded, joined, listed, of, paragraphs, table
from recommender.report.plots import plotted
from recommender.report.wording import (
    NAMES,
    SHORT,
    UNITS,
    UNKNOWN,
    bounds,
    counted,
    latency,
    number,
    objective,
    percent,
    percentile,
)


def why_section(facts: Facts) -> Html:
    """Why this and not another, and what stops a replica from carrying more."""
    count = len(facts.found.runners_up)
    beside = ", beside the runner-up" if count == 1 else ", beside the runners-up"
    return of(
        "section",
        of("h2", "Why this, and what binds"),
        listed([_sentence(line) for line in facts.story.why]),
        plotted(
            "plot-steps",
            "Where the time of a step goes" + (beside if count else ""),
            "A mean step at each one's capacity. Blue waits for memory, orange computes, violet "
            "sends between GPUs, grey launches and schedules: the widest is what a better GPU, "
            "or a better layout, must shorten.",
        ),
        folded("The shares in figures", _shares(facts)),
        id="why",
    )


def _shares(facts: Facts) -> Html:
    rows = [
        (title(candidate), *(percent(getattr(shares, part)) for part in PARTS))
        for candidate, shares in zip(facts.candidates, facts.shares, strict=True)
    ]
    return table(("Layout", *(name for name, *_ in PARTS.values())), rows, chosen=0)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def sureness_section(facts: Facts) -> Html:
    """How far to trust it, and what would make it surer."""
    sure, best = facts.story.sureness, facts.best
    from_workload = sure.workload_error > sure.model_error
    mend = (
        "Most of the doubt is in the workload: plan from a recorded trace to narrow it."
        if from_workload
        else "Most of the doubt is in the step cost: measure the engine with whaleflux profile to "
        "narrow it."
    )
    more = sure.sure_replicas - sure.replicas
    make = "makes" if more == 1 else "make"
    price = best.gpus * best.price_per_hour
    said = (
        f"{counted(more, 'replica')} more than expected {make} it 90% sure to carry the rate."
        if more > 0
        else "The replicas that are expected to carry the rate do so with 90% confidence too."
    )
    rows = [
        ("in expectation", sure.replicas),
        ("with 90% confidence", sure.sure_replicas),
    ]
    return of(
        "section",
        of("h2", "How sure"),
        paragraphs(said, mend),
        of("div",
           table(("Fleet", "replicas", "GPUs", "per hour"),
                 [(name, str(n), str(n * best.gpus), number(n * price)) for name, n in rows]),
           table(("Relative error (one standard deviation)", ""),
                 [("of the step cost", f"± {percent(sure.model_error)}"),
                  ("of rate and lengths", f"± {percent(sure.workload_error)}")]),
           class_="pair"),
        id="sureness",
    )  # fmt: skip


# --- latency ---


def latency_section(facts: Facts) -> Html:
    """The distribution of latencies, and the bounds."""
    slo = facts.asked.slo
    rate = (
        f"At {number(facts.each_rps)} req/s a replica, {number(facts.rate_rps)} req/s shared by "
        f"{counted(facts.replicas, 'replica')}: {percent(facts.story.attained_ratio, 1)} of "
        f"requests keep the objective ({objective(slo)})."
    )
    shown = [metric for metric in CURVES if facts.distribution(metric) is not None]
    missing = [NAMES[metric] for metric in CURVES if metric not in shown]
    at = percentile(slo)
    plots = [
        plotted(f"plot-{m.value}", f"{SHORT[m]}: {NAMES[m]}",
                f"Dotted: {at} of requests, which must stay below the dashed bound."
                if m in dict(bounds(slo)) else f"Dotted: {at} of requests. No bound was given.")
        for m in shown
    ]  # fmt: skip
    return of(
        "section",
        of("h2", "Predicted latency"),
        paragraphs(rate, f"Not known: {', '.join(missing)}." if missing else ""),
        of("div", plots, class_="row"),
        table(
            ("", *(percent(q) for q in QUANTILES), "mean", "bound"),
            [_quantiles(each, facts) for each in facts.story.distribution],
        ),
        id="latency",
    )


def _quantiles(told: Distribution, facts: Facts) -> tuple[str, ...]:
    metric = told.metric
    bound_s = dict(bounds(facts.asked.slo)).get(metric)
    return (
        f"{SHORT[metric]}, {UNITS[metric][0]}",
        *(latency(metric, value) for value in (*told.quantiles, told.mean_s)),
        UNKNOWN if bound_s is None else latency(metric, bound_s),
    )


# --- cost and latency ---


def pareto_section(facts: Facts) -> Html:
    """What more money would buy."""
    points = facts.story.pareto
    share = percentile(facts.asked.slo)
    if not points:
        body = paragraphs("No fleet was compared.")
    else:
        body = joined(
            plotted(
                "plot-pareto",
                "Cost per hour and end-to-end latency",
                f"A mark is a fleet: to the left it costs less, further down {share} of "
                "requests are answered sooner. Filled marks on the dotted line are efficient: "
                "nothing as cheap is as fast. The ring is what is recommended.",
            ),
            folded(f"The {counted(len(points), 'fleet')} in figures", _fleets(facts)),
        )
    return of("section", of("h2", "What more money would buy"), body, id="pareto")


def _fleets(facts: Facts) -> Html:
    points = facts.story.pareto
    best = facts.point
    head = ("Fleet", "GPUs", "per hour", *(f"{SHORT[m]}, {UNITS[m][0]}" for m in CURVES),
            "efficient")  # fmt: skip
    chosen = points.index(best) if best is not None else None
    return table(head, [_fleet(point) for point in points], chosen)


def _fleet(point: Point) -> tuple[str, ...]:
    return (
        f"{point.replicas} × {point.name}",
        str(point.gpus),
        number(point.cost_per_hour),
        *(latency(metric, getattr(point, f"{metric.value}_s")) for metric in CURVES),
        "yes" if point.efficient else "",
    )
