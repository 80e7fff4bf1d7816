"""Figures as `whaleflux plan` prints them; what is unknown is a dash and never zero."""

import math
from collections.abc import Iterator

from profiler.slo import Slo
from profiler.timings import Metric

UNKNOWN = "–"
NAMES = {
    Metric.TTFT: "time to first token",
    Metric.ITL: "inter-token latency",
    Metric.E2E: "end to end",
    Metric.QUEUE: "waiting in the queue",
}
SHORT = {Metric.TTFT: "TTFT", Metric.ITL: "ITL", Metric.E2E: "E2E", Metric.QUEUE: "queue"}
UNITS = {
    Metric.TTFT: ("ms", 1e3, 0),
    Metric.ITL: ("ms", 1e3, 1),
    Metric.E2E: ("s", 1.0, 2),
    Metric.QUEUE: ("ms", 1e3, 0),
}
"""Unit of each metric, how many of it are a second, and the digits shown."""


def number(value: float | None, digits: int = 2) -> str:
    """A figure of so many digits."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def percent(ratio: float | None, digits: int = 0) -> str:
    """A share."""
    return UNKNOWN if ratio is None or not math.isfinite(ratio) else f"{ratio:.{digits}%}"


def change(now: float, then: float) -> str:
    """By how much something grows, signed."""
    if not (math.isfinite(now) and math.isfinite(then) and now > 0):
        return UNKNOWN
    ratio = then / now - 1.0
    return "±0%" if abs(ratio) < 0.005 else f"{ratio:+.0%}"


def latency(metric: Metric, seconds: float | None) -> str:
    """A latency in the unit of its metric, without it."""
    _, factor, digits = UNITS[metric]
    return number(None if seconds is None else seconds * factor, digits)


def with_unit(metric: Metric, seconds: float | None) -> str:
    """A latency and its unit."""
    told = latency(metric, seconds)
    return told if told == UNKNOWN else f"{told} {UNITS[metric][0]}"


def counted(count: int, name: str) -> str:
    """`1 replica`, `2 replicas`."""
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def bounds(slo: Slo) -> Iterator[tuple[Metric, float]]:
    """The bounds that there are."""
    for metric, bound_s in (
        (Metric.TTFT, slo.ttft_s), (Metric.ITL, slo.itl_s), (Metric.E2E, slo.e2e_s)
    ):  # fmt: skip
        if bound_s is not None:
            yield metric, bound_s


def percentile(slo: Slo) -> str:
    """Share of requests that must keep the objective, with all of its nines."""
    return f"{round(100.0 * slo.percentile, 6):g}%"


def objective(slo: Slo) -> str:
    """The whole objective in a line."""
    told = ", ".join(f"{SHORT[metric]} {with_unit(metric, bound)}" for metric, bound in bounds(slo))
    return f"{percentile(slo)} of requests within {told}" if told else "no latency bound"
