"""The page of a replay: the verdict, the figures, what happened, every decision, the terms."""

import math
from collections.abc import Iterator

from controller.replay.outcome import Outcome
from controller.replay.report.decisions import decisions, style
from controller.replay.report.figures import figures
from controller.replay.report.told import OURS, Told, moves, terms_said, verdict
from recommender.report.draw import scripts
from recommender.report.frame import page
from recommender.report.markup import Html, joined, of, paragraphs, table
from recommender.report.plots import plotted
from recommender.report.wording import number, percent

_HEAD = (
    "Policy", "GPU-hours", "over the bound", "attained", "replicas, mean", "peak", "up/down",
    "TTFT p95, s", "ITL p95, ms", "outage, s", "cut", "unserved",
)  # fmt: skip


def as_html(told: Told) -> str:
    """The whole page; `Refused` where the extra `report` is missing."""
    drawing = scripts(figures(told))
    sections = (_headline, _figures, _course, _pareto, decisions, _terms, _footer)
    title = f"{told.served.profile.model}: policies on {told.source}"
    main = of("main", [section(told) for section in sections])
    return page(title, main, drawing, style(len(told.outcomes)))


def _headline(told: Told) -> Html:
    profile, first = told.served.profile, told.outcomes[0]
    shown = next((o for o in told.outcomes if o.policy == OURS), told.best or first)
    said = list(verdict(told))
    return joined(
        of("p", f"{profile.model} on {profile.gpu}", class_="kicker"),
        of("h1", f"Scaling policies on {told.source}"),
        paragraphs(*said, *(f"Note: {note}." for note in told.notes)),
        of("div", [of("div", of("b", b), of("span", s), class_="tile") for b, s in _tiles(shown)],
           class_="tiles"),
        Html("<noscript><p class=soft>Plots need scripts; tables have the same figures.</p>"
             "</noscript>"),
    )  # fmt: skip


def _tiles(outcome: Outcome) -> Iterator[tuple[str, str]]:
    yield outcome.policy, "in figures; all policies are below"
    yield percent(outcome.attained_ratio, 1), f"of {outcome.requests:,} requests attain the SLO"
    yield number(outcome.gpu_hours), "GPU-hours, starts and drains included"
    yield number(outcome.mean_replicas, 1), f"replicas on average, {outcome.peak_replicas} at most"
    yield str(outcome.scale_ups + outcome.scale_downs), f"decisions to scale: {moves(outcome)}"
    yield f"{number(outcome.longest_outage_s, 0)} s", "longest outage"


def _figures(told: Told) -> Html:
    best = told.best
    rows = [_row(o.policy, o, told) for o in told.outcomes]
    if told.known is not None:
        rows += [_row("knows the future", told.known.outcome, told), _bound_row(told)]
    if told.history is not None:
        rows.append(_real_row(told))
    return of(
        "section",
        of("h2", "Figures"),
        table(_HEAD, rows, None if best is None else told.outcomes.index(best)),
        paragraphs(
            "A replica is paid for from the moment it is asked for to the end of its drain. "
            "Marked: the cheapest that attains what was asked for. The bound holds for those who "
            "attain it; others are not compared."
        ),
        id="figures",
    )


def _row(name: str, o: Outcome, told: Told) -> tuple[str, ...]:
    return (
        name,
        number(o.gpu_hours),
        number(told.over_bound(o)),
        percent(o.attained_ratio, 2),
        number(o.mean_replicas, 1),
        str(o.peak_replicas),
        f"{o.scale_ups}/{o.scale_downs}",
        number(o.ttft_s.p95, 2),
        number(1e3 * o.itl_s.p95, 1),
        number(o.longest_outage_s, 0),
        str(o.cut),
        str(o.unserved),
    )


def _bound_row(told: Told) -> tuple[str, ...]:
    assert told.known is not None, "asked for where there is one"  # noqa: S101
    least = told.known.bound
    return ("bound", number(least.gpu_hours), "1.00", percent(least.attained_ratio, 2),
            "what no policy can pass")  # fmt: skip


def _real_row(told: Told) -> tuple[str, ...]:
    ratio = told.real_ttft_ratio
    first = "" if math.isnan(ratio) else f"; {percent(ratio, 2)} of first tokens in time"
    return ("as it was", number(told.real_gpu_hours), f"counted by the engines{first}")


def _course(told: Told) -> Html:
    bound_s = told.served.slo.ttft_s
    against = "no bound was given" if bound_s is None else f"the dashed bound is {bound_s:g} s"
    return of(
        "section",
        of("h2", "What happened"),
        plotted("plot-load", "Load", "Requests that came, minute by minute."),
        plotted(
            "plot-replicas",
            "Replicas",
            "Serving; dotted: those that start, too. Click a name to hide or show a policy.",
        ),
        plotted("plot-queue", "Queue", "Requests waiting in engines and at the gateway."),
        plotted(
            "plot-ttft",
            "Time to first token",
            f"p95 of the requests that came in a minute; {against}. A hole: nobody came, or no "
            "token did.",
        ),
        id="course",
    )


def _pareto(told: Told) -> Html:
    more = " No point with the bound's attainment lies left of the bound." if told.known else ""
    return of(
        "section",
        of("h2", "Cost and attainment"),
        plotted(
            "plot-pareto",
            "GPU-hours and requests within the objective",
            "A mark is a policy: to the left it costs less, further up more requests are served "
            "well. On the dotted line nothing as cheap attains more." + more,
        ),
        id="pareto",
    )


# --- terms ---


def _terms(told: Told) -> Html:
    return of(
        "section",
        of("h2", "On which terms"),
        table(("The same for all", ""), list(terms_said(told)), words=2),
        id="terms",
    )


def _footer(told: Told) -> Html:
    profile = told.served.profile
    return of(
        "footer",
        "Replayed by WhaleFlux in simulated time, each replica a twin of the engine stepped as its "
        f"scheduler would. Step costs of {profile.gpu}: {profile.source}. Predictions, not "
        "measurements.",
        class_="soft",
    )
