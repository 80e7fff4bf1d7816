"""The decomposition as one HTML file that needs nothing else: bars, and a roofline.

Inline SVG with text in it, so that it prints, scales and can be searched. Colours tell
operators apart and are the same in every chart; each mark has a title for the pointer.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape

from profiler.decomposition import Row, Step
from profiler.hardware import Dtype
from profiler.operators import Replica

_Axis = Callable[[float], float]

WIDTH = 860
_BAR = 22
_LEFT = 190
_COLOURS = (
    "#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5",
    "#9c6b4e", "#9498a0",
)  # fmt: skip
_STYLE = """
body{font:14px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:900px;padding:0 1rem;
color:#1b1e23;background:#fff}
h1{font-size:1.25rem}h2{font-size:1rem;margin:1.6rem 0 .3rem}
svg{width:100%;height:auto}text{font:12px system-ui,sans-serif;fill:currentColor}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.15rem .7rem .15rem 0;text-align:right}td:first-child,th:first-child{text-align:left}
th{font-weight:600;border-bottom:1px solid #c9ccd1}
.key i{display:inline-block;width:.8em;height:.8em;margin:0 .3em 0 1em}
@media(prefers-color-scheme:dark){body{color:#e6e8eb;background:#16181c}th{border-color:#4a4f57}}
"""


def as_html(about: str, replica: Replica, steps: Sequence[Step]) -> str:
    """The whole page."""
    colours = _colours(steps)
    body = [
        f"<h1>{escape(about)}</h1>",
        "<p>Time of one engine step on one GPU, all layers. Predicted from the GPU catalogue, "
        "beside measured kernels and a measured profile where they were given.</p>",
        _key(colours),
        "<h2>Time of a step</h2>",
        _bars(steps, colours),
        "<h2>Roofline</h2>",
        f"<p>Reachable on {escape(replica.gpu.name)} in 16 bits: the lower of bandwidth × "
        "intensity and peak compute. A point is an operator of a step.</p>",
        _roofline(replica, steps, colours),
        *(_table(step) for step in steps),
    ]
    head = f'<meta charset="utf-8"><title>{escape(about)}</title><style>{_STYLE}</style>'
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(body)}</body></html>\n"


def _colours(steps: Iterable[Step]) -> dict[str, str]:
    names = dict.fromkeys(row.name for step in steps for row in step.rows)
    groups = dict.fromkeys(
        name.replace("_", " ")
        for step in steps
        if step.groups
        for name, seconds in step.groups._asdict().items()
        if seconds > 0
    )
    return {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate([*names, *groups])}


def _key(colours: dict[str, str]) -> str:
    marks = (f'<i style="background:{c}"></i>{escape(name)}' for name, c in colours.items())
    return f"<p class=key>{''.join(marks)}</p>"


def _bars(steps: Sequence[Step], colours: dict[str, str]) -> str:
    """A bar per source and step, on one scale."""
    lines = [line for step in steps for line in _lines(step)]
    longest = max((sum(s for _, s in parts) for _, parts in lines), default=0.0) or 1.0
    scale = (WIDTH - _LEFT - 90) / longest
    drawn = []
    for i, (label, parts) in enumerate(lines):
        y, x = i * (_BAR + 6), float(_LEFT)
        drawn.append(f'<text x="0" y="{y + 15}">{escape(label)}</text>')
        for name, seconds in parts:
            width = seconds * scale
            title = f"<title>{escape(name)}: {seconds * 1e3:.3f} ms</title>"
            drawn.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.2f}" height="{_BAR}" '
                f'fill="{colours.get(name, "#888")}">{title}</rect>'
            )
            x += width
        total_ms = sum(s for _, s in parts) * 1e3
        drawn.append(f'<text x="{x + 6:.1f}" y="{y + 15}">{total_ms:.2f} ms</text>')
    return f'<svg viewBox="0 0 {WIDTH} {len(lines) * (_BAR + 6)}">{"".join(drawn)}</svg>'


def _lines(step: Step) -> list[tuple[str, list[tuple[str, float]]]]:
    predicted = [(r.name, r.predicted_s) for r in step.rows if r.predicted_s]
    lines = [(step.title, predicted)]
    measured = [(r.name, r.measured_s) for r in step.rows if r.measured_s]
    if measured:
        lines.append(("· kernels measured", measured))
    if step.groups is not None:
        parts = [(n.replace("_", " "), s) for n, s in step.groups._asdict().items() if s > 0]
        lines.append(("· by the profile", parts))
    return lines


_ROOF = (WIDTH, 340, 60, 30)
"""Width, height, left and lower margin."""


def _roofline(replica: Replica, steps: Sequence[Step], colours: dict[str, str]) -> str:
    """Achieved FLOP/s over FLOPs per byte, both logarithmic, below the card's roof."""
    points = [(step, row) for step in steps for row in step.rows if row.intensity]
    peak, bandwidth = replica.gpu.flops(Dtype.BF16), replica.gpu.bandwidth_bytes_s
    least = min([row.intensity or 1.0 for _, row in points] + [1.0])
    most = max([row.intensity or 1.0 for _, row in points] + [4 * peak / bandwidth])
    low, high = math.log10(least) - 0.2, math.log10(most) + 0.2
    top, bottom = math.log10(peak) + 0.3, math.log10(bandwidth * 10**low) - 0.7
    width, height, left, lower = _ROOF

    def x(intensity: float) -> float:
        return left + (math.log10(intensity) - low) / (high - low) * (width - left - 10)

    def y(flops_s: float) -> float:
        share = (math.log10(flops_s) - bottom) / (top - bottom)
        return (height - lower) * (1.0 - min(max(share, 0.0), 1.0))

    ridge = peak / bandwidth
    roof = (
        f"{x(10**low):.1f},{y(bandwidth * 10**low):.1f} {x(ridge):.1f},{y(peak):.1f} "
        f"{x(10**high):.1f},{y(peak):.1f}"
    )
    drawn = [f'<polyline points="{roof}" fill="none" stroke="currentColor" stroke-width="1.5"/>']
    for step, row in points:
        drawn += _marks(step, row, colours, x, y)
    drawn += [
        f'<text x="{left}" y="{height - 6}">FLOP per byte: {10**low:.2g} to {10**high:.2g}, '
        f"ridge at {ridge:.0f}</text>",
        f'<text x="{left}" y="14">peak {peak / 1e12:.0f} TFLOP/s, '
        f"{bandwidth / 1e9:.0f} GB/s</text>",
    ]
    return f'<svg viewBox="0 0 {width} {height}">{"".join(drawn)}</svg>'


def _marks(step: Step, row: Row, colours: dict[str, str], x: _Axis, y: _Axis) -> list[str]:
    """A dot where it is predicted, a ring where it was measured."""
    marks = []
    for seconds, fill, said in (
        (row.predicted_s, colours[row.name], "predicted"),
        (row.measured_s, "none", "measured"),
    ):
        if seconds and row.intensity:
            rate = row.flops / seconds
            title = f"{step.title}, {row.name}: {rate / 1e12:.1f} TFLOP/s {said}"
            marks.append(
                f'<circle cx="{x(row.intensity):.1f}" cy="{y(rate):.1f}" r="5" fill="{fill}" '
                f'stroke="{colours[row.name]}" stroke-width="2"><title>{escape(title)}</title>'
                "</circle>"
            )
    return marks


def _table(step: Step) -> str:
    head = ("", "predicted, ms", "share", "measured, ms", "GFLOP", "MB", "FLOP/byte", "bound")
    rows = "".join(_row(step, row) for row in step.rows)
    names = "".join(f"<th>{name}</th>" for name in head)
    return f"<h2>{escape(step.title)}</h2><table><tr>{names}</tr>{rows}</table>"


def _row(step: Step, row: Row) -> str:
    share = (row.predicted_s or 0.0) / (step.predicted_s or 1.0)
    cells = (
        escape(row.name),
        _number(row.predicted_s, 1e3, 3),
        f"{share:.0%}",
        _number(row.measured_s, 1e3, 3),
        _number(row.flops, 1e-9, 1),
        _number(row.read_bytes + row.message_bytes, 1e-6, 1),
        _number(row.intensity, 1.0, 1),
        row.bound.value,
    )
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _number(value: float | None, factor: float, digits: int) -> str:
    return "–" if not value else f"{value * factor:,.{digits}f}"
