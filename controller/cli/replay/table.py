"""A replay for people, as a table that fits a terminal, and for programs, as JSON."""

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from controller.replay.outcome import Outcome
from controller.replay.report import Told, terms_said, verdict
from recommender.report.wording import number, objective, percent

_COLUMNS = (
    "policy", "GPU h", "attained", "mean", "peak", "moves", "TTFT", "ITL", "outage",
)  # fmt: skip
_LEGEND = "mean, peak: replicas paid for; moves: up/down; TTFT, ITL: p95, s and ms; outage: s"


def print_told(told: Told) -> None:
    """Print figures, and what they say."""
    out = Console()
    profile = told.served.profile
    out.print(
        f"[bold]{escape(profile.model)}[/] on {escape(profile.gpu)}, {escape(told.source)}: "
        f"{told.outcomes[0].requests:,} requests; {escape(objective(told.served.slo))}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name == "policy" else "right", no_wrap=True)
    for outcome in told.outcomes:
        table.add_row(*_row(outcome), style="bold" if outcome is told.best else None)
    if told.known is not None:
        _, *figures = _row(told.known.outcome)
        table.add_row("knows the future", *figures)
        least = told.known.bound
        table.add_row("bound", number(least.gpu_hours), percent(least.attained_ratio, 1))
    out.print(table)
    for line in (_LEGEND, *_lines(told)):
        out.print(line, highlight=False, soft_wrap=True, markup=False)


def _row(o: Outcome) -> list[str]:
    return [
        o.policy,
        number(o.gpu_hours),
        percent(o.attained_ratio, 1),
        number(o.mean_replicas, 1),
        str(o.peak_replicas),
        f"{o.scale_ups}/{o.scale_downs}",
        number(o.ttft_s.p95, 2),
        number(1e3 * o.itl_s.p95, 1),
        number(o.longest_outage_s, 0),
    ]


def _lines(told: Told) -> Iterator[str]:
    yield from verdict(told)
    for name, said in terms_said(told):
        if name != "Objective":
            yield f"{name.lower()}: {said}"
    for note in told.notes:
        yield f"note: {note}"


def as_dict(told: Told) -> dict[str, Any]:
    """Give it all as JSON takes it; what is not known, or never came, is null."""
    profile, known, history = told.served.profile, told.known, told.history
    content = {
        "source": told.source,
        "model": profile.model,
        "gpu": profile.gpu,
        "flags": list(told.served.configuration.engine_args()),
        "slo": asdict(told.served.slo),
        "meetsSlo": told.served.meets_slo,
        "capacityRequestsPerSecond": told.served.capacity.rate_rps,
        "terms": asdict(told.terms),
        "policies": [_policy(told, outcome) for outcome in told.outcomes],
        "best": None if told.best is None else told.best.policy,
        "bound": None if known is None else asdict(known.bound),
        "knowsTheFuture": None if known is None else _policy(told, known.outcome),
        "asItWas": None if history is None else {
            "beginS": history.begin_s,
            "knownS": history.known_s,
            "gpuHours": told.real_gpu_hours,
            "ttftAttainedRatio": told.real_ttft_ratio,
        },
        "says": list(verdict(told)),
        "notes": list(told.notes),
    }  # fmt: skip
    plain: dict[str, Any] = _plain(content)
    return plain


def _policy(told: Told, o: Outcome) -> dict[str, Any]:
    return {
        "policy": o.policy,
        "requests": o.requests,
        "attainedRatio": o.attained_ratio,
        "cut": o.cut,
        "unserved": o.unserved,
        "gpuHours": o.gpu_hours,
        "gpuHoursOverBound": told.over_bound(o),
        "meanReplicas": o.mean_replicas,
        "peakReplicas": o.peak_replicas,
        "scaleUps": o.scale_ups,
        "scaleDowns": o.scale_downs,
        "longestOutageS": o.longest_outage_s,
        "ttftS": asdict(o.ttft_s),
        "itlS": asdict(o.itl_s),
        "e2eS": asdict(o.e2e_s),
        "decisions": [asdict(change) for change in o.changes],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_camel(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _camel(name: str) -> str:
    """`at_s` as `atS`, as the other commands name their fields."""
    first, *others = name.split("_")
    return first + "".join(part.capitalize() for part in others)
