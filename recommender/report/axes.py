"""What all plots are made of, as plotly's plain data: layouts, axes, lines across, notes.

Read by this report and by that of `whaleflux replay`.
"""

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

COLOURS = ("#4269d0", "#e0892b", "#3ca951", "#a463f2", "#d6538c", "#2a9d9d", "#9c6b4e", "#8a9099")
BOUND = "#d64545"
GREY = "#8a9099"
MARGIN = {"l": 56, "r": 16, "t": 14, "b": 44}
DECADE = 10.0


def plain(name: str) -> str:
    """A name that plotly shows as it is."""
    return escape(name, quote=False)


def layout(height: int, x: dict[str, Any], y: dict[str, Any], **more: Any) -> dict[str, Any]:
    """How a plot of that many pixels looks; `more`: of plotly's own."""
    usual = {"automargin": True, "gridcolor": "#d5d8dd", "zeroline": False, "fixedrange": True,
             "ticklabelstandoff": 5}  # fmt: skip
    return {
        "template": "none",
        "height": height,
        "margin": MARGIN,
        "font": {"family": "system-ui, sans-serif", "size": 12},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"bgcolor": "#1b1e23", "font": {"color": "#ffffff"}, "align": "left"},
        "xaxis": {**usual, **x},
        "yaxis": {**usual, **y},
        **more,
    }


def axis(text: str, **more: Any) -> dict[str, Any]:
    """An axis and what it shows, with the unit."""
    return {"title": {"text": text, "standoff": 8, "font": {"size": 13}}, **more}


def upright(x: float, colour: str) -> dict[str, Any]:
    """A dotted line from bottom to top."""
    line = {"color": colour, "width": 1.5, "dash": "dot"}
    return {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": x, "x1": x, "line": line}


def note(x: float, text: str, anchor: str) -> dict[str, Any]:
    """Text above an upright line, to one side of it."""
    place = {"x": x, "xref": "x", "y": 1, "yref": "paper", "xanchor": anchor, "yanchor": "bottom"}
    shift = 3 if anchor == "left" else -3
    return {"text": text, "showarrow": False, "font": {"size": 12}, "xshift": shift, **place}


def finite(value: float) -> float | None:
    """A number as plotly takes it: what is none is left out."""
    return value if math.isfinite(value) else None


def level(y: float) -> dict[str, Any]:
    """A dashed line across: a bound."""
    line = {"color": BOUND, "width": 1.5, "dash": "dash"}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": line}


def level_note(y: float, text: str, logarithmic: bool) -> dict[str, Any]:
    """Text on such a line."""
    at = math.log10(y) if logarithmic else y
    place = {"x": 0, "xref": "paper", "y": at, "xanchor": "left", "yanchor": "bottom"}
    return {"text": text, "showarrow": False, "font": {"size": 12}, **place}


def scale(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis where a decade is spanned, else one that begins at 0."""
    numbers = list(finites(values))
    if numbers and min(numbers) > 0 and max(numbers) > DECADE * min(numbers):
        return {"type": "log"}
    return {"type": "linear", "rangemode": "tozero"}


def finites(values: Sequence[float]) -> Iterator[float]:
    """Those that are numbers."""
    return (value for value in values if math.isfinite(value))
