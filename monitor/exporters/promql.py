"""Expressions in PromQL that dashboards and rules share.

The operator's own series carry `namespace` and `service` of what they tell about. Engines and
routers carry none: the scrape gives them `namespace`, `service` and `pod` (docs/monitor.md).
Everything is aggregated to these labels, so that a restarted operator continues its series.
"""

SERVICE = "namespace, service"
CHOSEN = ('namespace=~"$namespace"', 'service=~"$service"')
"""Matchers of a dashboard's variables."""
RATE = "$__rate_interval"
"""Grafana's window: at least four scrapes, and no less than a pixel."""


def metric(name: str, *matchers: str) -> str:
    """Select series by name and matchers."""
    return f"{name}{{{', '.join(matchers)}}}" if matchers else name


def highest(name: str, *matchers: str, by: str = SERVICE) -> str:
    """Take a gauge's value: of several operators only the leader tells one."""
    return f"max by ({by}) ({metric(name, *matchers)})"


def total(name: str, *matchers: str, by: str = SERVICE) -> str:
    """Add up a gauge."""
    return f"sum by ({by}) ({metric(name, *matchers)})"


def rate(name: str, *matchers: str, by: str = SERVICE, window: str = RATE) -> str:
    """Sum of a counter's rate per second."""
    return f"sum by ({by}) (rate({metric(name, *matchers)}[{window}]))"


def ratio(part: str, whole: str) -> str:
    """One over the other, service by service; absent where the other is 0."""
    return f"{part} / on ({SERVICE}) ({whole} > 0)"


def mean(histogram: str, *matchers: str, by: str = SERVICE, window: str = RATE) -> str:
    """Mean of what a histogram observed; absent where it observed nothing."""
    sums = rate(f"{histogram}_sum", *matchers, by=by, window=window)
    counts = rate(f"{histogram}_count", *matchers, by=by, window=window)
    return f"{sums} / ({counts} > 0)"


def quantile(
    of: float, histogram: str, *matchers: str, by: str = SERVICE, window: str = RATE
) -> str:
    """Estimate a quantile over all series of a histogram."""
    grouped = f"{by}, le" if by else "le"
    buckets = rate(f"{histogram}_bucket", *matchers, by=grouped, window=window)
    return f"histogram_quantile({of:g}, {buckets})"


def or_zero(expression: str, *matchers: str) -> str:
    """Give 0 for services of which a counter has nothing yet: it is born with its first event."""
    known = highest("whaleflux_service_info", *matchers)
    return f"{expression} or on ({SERVICE}) 0 * {known}"


def bits(expression: str, *values: int) -> str:
    """Give 1 where any of these bits is set in a mask, else 0; PromQL has no bitwise operators."""
    tests = " + ".join(f"floor({expression} / {value}) % 2" for value in values)
    return f"({tests}) > bool 0"
