"""The plots, as plotly's plain data: colours tell the same thing apart in every one.

Names are text in plotly too: what would be read as its markup is escaped.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from profiler.timings import Metric
from recommender.binding import PART_NAMES
from recommender.explanation import QUANTILES, Point, title
from recommender.report.axes import (
    BOUND,
    COLOURS,
    DECADE,
    GREY,
    MARGIN,
    axis,
    finite,
    finites,
    layout,
    level,
    level_note,
    note,
    plain,
    scale,
    upright,
)
from recommender.report.draw import Figure
from recommender.report.facts import Facts
from recommender.report.wording import SHORT, UNITS, bounds, latency, number, percentile
from recommender.workload import Ints

CURVES = (Metric.TTFT, Metric.ITL, Metric.E2E)
_LIGHT, _DARK = "#ffffff", "#14171b"
PARTS = {
    part: (PART_NAMES[part], colour, ink)
    for part, colour, ink in (
        ("weights", "#2f5fc4", _LIGHT),
        ("decode_attention", "#7ba2f0", _DARK),
        ("mixed", "#3fb5b5", _DARK),
        ("compute", "#e89a45", _DARK),
        ("prefill_attention", "#b94f17", _LIGHT),
        ("link", "#8d4fd6", _LIGHT),
        ("overhead", "#666d77", _LIGHT),
        ("sequence", "#a9afb8", _DARK),
    )
}
"""Name, colour and ink: blue waits for memory, orange computes, violet sends, grey is neither."""
_LEAST_SHARE = 0.002
_BINS = 40
_WIDE = 30.0
"""A spread beyond which lengths are shown on a logarithmic axis."""
_LABEL = 44
"""Letters of a name on an axis."""


def figures(facts: Facts) -> dict[str, Figure]:
    """Every plot by the name of its place."""
    workload = facts.asked.workload
    return {
        "plot-prompts": _lengths(workload.input_tokens, "prompt tokens", COLOURS[0]),
        "plot-answers": _lengths(workload.output_tokens, "answer tokens", COLOURS[1]),
        "plot-steps": _steps(facts),
        **{
            f"plot-{metric.value}": _curve(facts, metric)
            for metric in CURVES
            if facts.distribution(metric) is not None
        },
        **({"plot-pareto": _pareto(facts)} if facts.story.pareto else {}),
    }


# --- lengths ---


def _lengths(tokens: Ints, name: str, colour: str) -> Figure:
    """Share of requests by length; counted here, for a trace has millions."""
    least, most = float(tokens.min()), float(tokens.max())
    usual = float(np.quantile(tokens, 0.05))
    logarithmic = most > _WIDE * max(usual, 1.0)
    edges = np.geomspace(max(least, 1.0), most + 1.0, _BINS + 1) if logarithmic else None
    if edges is None:
        edges = np.linspace(least, max(most, least + 1.0), _BINS + 1)
    counts, _ = np.histogram(tokens, edges)
    share = 100.0 * counts / tokens.size
    steps = {
        "type": "scatter", "mode": "lines", "fill": "tozeroy", "fillcolor": colour + "66",
        "line": {"shape": "hv", "color": colour, "width": 1.5},
        "x": np.round(edges, 1).tolist(),
        "y": [*np.round(share, 3).tolist(), 0.0],
        "hovertemplate": "from %{x:,.0f} tokens: %{y:.1f} % of requests<extra></extra>",
    }  # fmt: skip
    marks = (("mean", float(tokens.mean())), ("95%", float(np.quantile(tokens, 0.95))))
    shapes = [upright(value, GREY) for _, value in marks]
    at = [math.log10(value) if logarithmic else value for _, value in marks]
    notes = [
        note(x, f"{said} {value:.0f}", side)
        for x, (said, value), side in zip(at, marks, ("right", "left"), strict=True)
    ]
    return {
        "data": [steps],
        "layout": layout(
            235,
            axis(name, type="log" if logarithmic else "linear"),
            axis("requests, %", rangemode="tozero"),
            shapes=shapes, annotations=notes, showlegend=False,
            margin={**MARGIN, "t": 26},
        ),
    }  # fmt: skip


# --- where the time of a step goes ---


def _steps(facts: Facts) -> Figure:
    """A bar per candidate, the best on top, the same parts in the same order."""
    names = [_label(title(candidate)) for candidate in facts.candidates]
    shares = facts.shares
    rows = list(range(len(names)))
    bars = [
        {
            "type": "bar", "orientation": "h", "name": said, "y": rows,
            "x": [100.0 * getattr(each, part) for each in shares],
            "marker": {"color": colour}, "width": 0.62,
            "text": [_inside(getattr(each, part)) for each in shares],
            "textposition": "inside", "insidetextanchor": "middle", "textangle": 0,
            "textfont": {"color": ink}, "constraintext": "none",
            "hovertemplate": f"{said}: %{{x:.1f}} % of a step<extra></extra>",
        }
        for part, (said, colour, ink) in PARTS.items()
        if any(getattr(each, part) > _LEAST_SHARE for each in shares)
    ]  # fmt: skip
    labels = {"tickmode": "array", "tickvals": rows, "ticktext": names, "autorange": "reversed"}
    legend = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"}
    return {
        "data": bars,
        "layout": layout(
            130 + 46 * len(rows),
            axis("share of a mean step, %", range=[0, 100]),
            {**labels, "showgrid": False},
            barmode="stack", legend=legend,
        ),
    }  # fmt: skip


def _inside(share: float) -> str:
    return f"{share:.0%}" if share >= 0.045 else ""


def _label(name: str) -> str:
    return plain(name if len(name) <= _LABEL else f"{name[: _LABEL - 1]}…")


# --- latency ---


def nines(share: float) -> float:
    """Where a share of requests stands on an axis that gives each nine the same room."""
    return -math.log10(1.0 - share)


def _curve(facts: Facts, metric: Metric) -> Figure:
    """Quantiles of one latency, beside its bound."""
    told = facts.distribution(metric)
    assert told is not None, "asked for where there is one"  # noqa: S101
    unit, factor, _ = UNITS[metric]
    colour = COLOURS[CURVES.index(metric)]
    curve = {
        "type": "scatter", "mode": "lines+markers", "name": SHORT[metric],
        "x": [nines(q) for q in QUANTILES],
        "y": [finite(factor * value) for value in told.quantiles],
        "line": {"color": colour, "width": 2.5, "shape": "spline", "smoothing": 0.4},
        "marker": {"size": 7},
        "text": [f"{q:.0%} within {latency(metric, v)} {unit}"
                 for q, v in zip(QUANTILES, told.quantiles, strict=True)],
        "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip
    bound_s = dict(bounds(facts.asked.slo)).get(metric)
    asked_at = nines(facts.asked.slo.percentile)
    last = max(nines(0.9915), asked_at + 0.1)
    shapes = [upright(asked_at, GREY)]
    notes = []
    spread = _range(factor, told.quantiles, bound_s)
    if bound_s is not None:
        shapes.append(level(factor * bound_s))
        said = f"bound {latency(metric, bound_s)} {unit}"
        notes.append(level_note(factor * bound_s, said, spread["type"] == "log"))
    ticks = {"tickvals": [nines(q) for q in QUANTILES], "ticktext": [f"{q:.0%}" for q in QUANTILES]}
    return {
        "data": [curve],
        "layout": layout(
            260,
            axis("share of requests", range=[nines(0.46), last], **ticks),
            axis(f"{SHORT[metric]}, {unit}", **spread),
            shapes=shapes, annotations=notes, showlegend=False,
        ),
    }  # fmt: skip


def _range(factor: float, quantiles: Sequence[float], bound_s: float | None) -> dict[str, Any]:
    """From 0 to the bound; logarithmic where that would press the curve flat."""
    known = list(finites(quantiles))
    low, high = factor * min(known), factor * max(known)
    top = max(high, factor * (bound_s or 0.0))
    if top > DECADE * high and low > 0:
        return {"type": "log", "range": [math.log10(low / 2), math.log10(2 * top)]}
    return {"type": "linear", "range": [0, 1.14 * top]}


# --- cost and latency ---


def _pareto(facts: Facts) -> Figure:
    points, best, share = facts.story.pareto, facts.point, percentile(facts.asked.slo)
    names = list(dict.fromkeys([title(facts.best), *(point.name for point in points)]))
    groups = [_group(facts, name, COLOURS[i % 8]) for i, name in enumerate(names)]
    found = [group for group in groups if group["x"]]
    data = [_front([point for point in points if point.efficient]), *found]
    if best is not None:
        data.append(_ring(best))
    legend = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"}
    return {
        "data": data,
        "layout": layout(
            430,
            axis("cost per hour", **scale([point.cost_per_hour for point in points])),
            axis(f"E2E within which {share} stay, s", **scale([p.e2e_s for p in points])),
            legend=legend,
        ),
    }  # fmt: skip


def _group(facts: Facts, name: str, colour: str) -> Figure:
    """All sizes of one candidate's fleet."""
    points = [point for point in facts.story.pareto if point.name == name]
    points.sort(key=lambda point: not point.efficient)  # the legend shows the first
    return {
        "type": "scatter", "mode": "markers", "name": _label(name),
        "x": [finite(point.cost_per_hour) for point in points],
        "y": [finite(point.e2e_s) for point in points],
        "text": [_told(point) for point in points],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "color": colour, "size": 11,
            "symbol": ["circle" if point.efficient else "circle-open" for point in points],
            "line": {"width": 2, "color": colour},
        },
    }  # fmt: skip


def _told(point: Point) -> str:
    """All of a point, for the pointer."""
    lines = (
        f"{point.replicas} × {plain(point.name)}",
        f"{point.gpus} GPUs, {number(point.cost_per_hour)} per hour",
        *(
            f"{SHORT[metric]} {latency(metric, getattr(point, metric.value + '_s'))} "
            f"{UNITS[metric][0]}"
            for metric in CURVES
        ),
    )
    return "<br>".join(lines)


def _front(points: Sequence[Point]) -> Figure:
    """Steps: what is paid for, until the next fleet that is faster can be paid."""
    return {
        "type": "scatter", "mode": "lines", "name": "efficient front",
        "x": [point.cost_per_hour for point in points],
        "y": [point.e2e_s for point in points],
        "line": {"shape": "hv", "color": GREY, "width": 1.5, "dash": "dot"},
        "hoverinfo": "skip",
    }  # fmt: skip


def _ring(point: Point) -> Figure:
    return {
        "type": "scatter", "mode": "markers", "name": "recommended",
        "x": [point.cost_per_hour], "y": [point.e2e_s], "hoverinfo": "skip",
        "marker": {
            "size": 21, "symbol": "circle-open", "color": BOUND,
            "line": {"width": 2.5, "color": BOUND},
        },
    }  # fmt: skip
