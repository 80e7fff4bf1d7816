"""The plots of a replay, as plotly's plain data: a policy has one colour in all of them.

Time is in minutes of the trace. What is not known, or never came, leaves a hole in a line.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.replay.outcome import MINUTE_S, Outcome
from controller.replay.report.told import Told
from recommender.report.axes import (
    COLOURS,
    GREY,
    axis,
    finite,
    layout,
    level,
    level_note,
    plain,
    scale,
)
from recommender.report.draw import Figure
from recommender.report.wording import number, percent

Floats = NDArray[np.float64]
Merge = Callable[[Floats], Floats]

_POINTS = 1440
"""Of a line, at most: a day of minutes; of longer times neighbours are put together."""
_SHOWN = 5
"""Policies that are drawn at once; the legend shows the others."""
_LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"}


def figures(told: Told) -> dict[str, Figure]:
    """Every plot by the name of its place."""
    load = told.outcomes[0].series.arrivals.astype(np.float64)
    return {
        "plot-load": _plot([_line("requests", load, COLOURS[0])], "requests a minute", 200),
        "plot-replicas": _plot([*_replicas(told), *_real_engines(told)], "replicas"),
        "plot-queue": _plot(
            _lines(told, lambda o: o.series.queue, np.fmax.reduce), "requests waiting"
        ),
        "plot-ttft": _ttft(told),
        "plot-pareto": _pareto(told),
    }


def _plot(lines: Sequence[Figure], name: str, height: int = 320, **more: Any) -> Figure:
    rising = {"rangemode": "tozero", **more.pop("scale", {})}
    return {
        "data": list(lines),
        "layout": layout(
            height, axis("minutes"), axis(name, **rising), legend=_LEGEND,
            showlegend=len(lines) > 1, **more,
        ),
    }  # fmt: skip


def _lines(told: Told, of: Callable[[Outcome], Floats], merge: Merge) -> list[Figure]:
    return [
        _line(o.policy, of(o), colour, merge=merge, visible=_visible(place), dash=_dash(place))
        for place, (o, colour) in enumerate(_coloured(told))
    ]


def _coloured(told: Told) -> Iterator[tuple[Outcome, str]]:
    return ((o, COLOURS[i % len(COLOURS)]) for i, o in enumerate(told.outcomes))


def _dash(place: int) -> str:
    """Those that share a colour are told apart."""
    return "solid" if place < len(COLOURS) else "dash"


def _visible(place: int) -> bool | str:
    return True if place < _SHOWN else "legendonly"


def _mean(values: Floats) -> Floats:
    known = np.isfinite(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    mean: Floats = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    return mean


def _line(
    name: str, values: Floats, colour: str, *, step_s: float = MINUTE_S, merge: Merge = _mean,
    dash: str = "solid", **more: Any,
) -> Figure:  # fmt: skip
    """A value per `step_s`, thinned."""
    width = -(-values.size // _POINTS)
    padded = np.concatenate([values, np.full(-values.size % width, np.nan)])
    merged = merge(padded.reshape(-1, width).T)
    return {
        "type": "scatter", "mode": "lines", "name": plain(name),
        "x": np.round(np.arange(merged.size) * width * step_s / 60.0, 3).tolist(),
        "y": [finite(round(float(value), 4)) for value in merged],
        "line": {"shape": "hv", "color": colour, "width": 1.8, "dash": dash},
        "hovertemplate": f"{plain(name)}: %{{y:.4~g}} at %{{x:.4~g}} min<extra></extra>",
        **more,
    }  # fmt: skip


def _replicas(told: Told) -> Iterator[Figure]:
    """Serving, and above it thinly what starts too."""
    for place, (outcome, colour) in enumerate(_coloured(told)):
        series, shown = outcome.series, _visible(place)
        group: Figure = {"legendgroup": plain(outcome.policy), "visible": shown}
        yield _line(outcome.policy, series.serving, colour, dash=_dash(place), **group)
        paid = _line(f"{outcome.policy}, with starts", series.serving + series.starting, colour,
                     showlegend=False, **group)  # fmt: skip
        yield {**paid, "line": {**paid["line"], "width": 0.8, "dash": "dot"}}


def _real_engines(told: Told) -> Iterator[Figure]:
    """How many engines answered."""
    if told.history is not None:
        engines = told.history.engines[told.history.known]
        yield _line("as it was", engines, GREY, step_s=told.history.interval_s)


def _ttft(told: Told) -> Figure:
    lines = _lines(told, lambda o: 1e3 * o.series.ttft_p95_s, np.fmax.reduce)
    history = told.history
    if history is not None and history.ttft_s is not None:
        real_ms = 1e3 * history.ttft_s.quantile(0.95)[history.known]
        lines.append(_line("as it was", real_ms, GREY, step_s=history.interval_s, merge=_mean))
    values = [value for line in lines for value in line["y"] if value is not None]
    spread = scale(values)
    if spread["type"] == "log":
        spread["dtick"] = 1
    bound_s = told.served.slo.ttft_s
    if bound_s is None:
        return _plot(lines, "TTFT p95, ms", scale=spread)
    said = level_note(1e3 * bound_s, f"bound {1e3 * bound_s:.0f} ms", spread["type"] == "log")
    return _plot(
        lines, "TTFT p95, ms", scale=spread, shapes=[level(1e3 * bound_s)], annotations=[said]
    )


# --- cost and attainment ---


def _pareto(told: Told) -> Figure:
    """GPU-hours against the share attained: to the left and up is better."""
    data = [
        _point(
            o.policy,
            o.gpu_hours,
            o.attained_ratio,
            colour,
            "circle" if _dash(i) == "solid" else "square",
        )
        for i, (o, colour) in enumerate(_coloured(told))
    ]
    data.insert(0, _front(told.outcomes))
    if told.known is not None:
        best, least = told.known.outcome, told.known.bound
        data += [
            _point("knows the future", best.gpu_hours, best.attained_ratio, GREY, "diamond"),
            _point("bound", least.gpu_hours, least.attained_ratio, GREY, "line-ns-open"),
        ]
    asked = 100.0 * told.target_ratio
    return {
        "data": data,
        "layout": layout(
            430,
            axis("GPU-hours", rangemode="tozero"),
            axis("requests within the objective, %"),
            legend=_LEGEND, shapes=[level(asked)],
            annotations=[level_note(asked, f"asked for: {percent(told.target_ratio)}", False)],
        ),
    }  # fmt: skip


def _point(name: str, hours: float, ratio: float, colour: str, symbol: str = "circle") -> Figure:
    said = f"{plain(name)}: {number(hours)} GPU-hours, {percent(ratio, 2)}"
    return {
        "type": "scatter", "mode": "markers", "name": plain(name),
        "x": [finite(hours)], "y": [finite(100.0 * ratio)],
        "text": [said], "hovertemplate": "%{text}<extra></extra>",
        "marker": {"color": colour, "size": 12, "symbol": symbol, "line": {"width": 2}},
    }  # fmt: skip


def _front(outcomes: Sequence[Outcome]) -> Figure:
    """Those than which nothing as cheap attains more."""
    front: list[Outcome] = []
    for outcome in sorted(outcomes, key=lambda o: (o.gpu_hours, -o.attained_ratio)):
        if not front or outcome.attained_ratio > front[-1].attained_ratio:
            front.append(outcome)
    return {
        "type": "scatter", "mode": "lines", "name": "efficient front",
        "x": [o.gpu_hours for o in front], "y": [finite(100.0 * o.attained_ratio) for o in front],
        "line": {"shape": "hv", "color": GREY, "width": 1.5, "dash": "dot"}, "hoverinfo": "skip",
    }  # fmt: skip
