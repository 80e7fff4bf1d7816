"""Alerting rules. Each says what is wrong with which service, and what to do first.

A name is the heading of its section in `docs/runbooks.md`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from monitor.exporters.decisions_board import CAPACITY_OFF, LOAD_ERRATIC
from monitor.exporters.promql import SERVICE, highest, metric, rate, total

CRITICAL, WARNING = "critical", "warning"
"""Wakes a person; waits for office hours."""
OF = "{{ $labels.namespace }}/{{ $labels.service }}"
LEAST_REQUESTS = 100
"""In the long window of an alert that wakes: fewer say little about a share."""
MOST_MISSED = 0.9
"""A share of misses that alerts however loose the objective: 14.4 times a budget of 0.1 would need
more misses than there are requests."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert; `for_` as Prometheus writes durations."""

    name: str
    severity: str
    expr: str
    for_: str
    summary: str
    description: str


def of_objective() -> Iterator[Alert]:
    """Multi-window, multi-burn-rate (Beyer et al., The Site Reliability Workbook, chapter 5)."""
    page = f"{OF} misses its objective: {{{{ $value | humanize }}}} times the misses allowed"
    look = (
        "See the service's dashboard: load above capacity wants more replicas (scaling.max, GPUs); "
        "load below it, a slow replica or a wrong EngineProfile."
    )
    yield Alert(
        "WhaleFluxSLOBurnFast", CRITICAL, f"{_burns('1h', '5m', 14.4)} and {_enough('1h')}", "2m",
        page, f"In an hour 2 % of a month's error budget went. {look}",
    )  # fmt: skip
    yield Alert(
        "WhaleFluxSLOBurnSteady", CRITICAL, f"{_burns('6h', '30m', 6)} and {_enough('6h')}", "15m",
        page, f"In six hours 5 % of a month's error budget went. {look}",
    )  # fmt: skip
    yield Alert(
        "WhaleFluxSLOBurnSlow", WARNING,
        f"({_burns('1d', '2h', 3)}) or ({_burns('3d', '6h', 1)})", "1h", page,
        f"In three days 10 % of a month's error budget goes, or went. {look}",
    )  # fmt: skip


def _burns(long: str, short: str, times: float) -> str:
    """Burn above a multiple in both windows; the short one ends the alert soon after the cause."""
    budget = f"clamp_max({MOST_MISSED} / whaleflux:slo_error_budget:ratio, {times:g})"
    sides = (
        f"whaleflux:slo_burn_rate:ratio_rate{w} > on ({SERVICE}) {budget}" for w in (long, short)
    )
    return f" and on ({SERVICE}) ".join(sides)


def _enough(window: str) -> str:
    seconds = {"1h": 3600, "6h": 21600}[window]
    judged = f"avg_over_time(whaleflux:judged_requests:per_second[{window}])"
    return f"on ({SERVICE}) {seconds} * {judged} >= {LEAST_REQUESTS}"


def of_services() -> Iterator[Alert]:
    """What is wrong with a service apart from how often it misses."""
    serving = total("whaleflux_service_replicas", 'role="serving"')
    decided = total("whaleflux_service_desired_replicas", 'role="serving"')
    missing = total("whaleflux_service_findings", 'kind="MissingData"')
    arrival = highest("whaleflux_service_arrival_requests_per_second")
    attained = highest("whaleflux_service_slo_attainment_ratio")
    objective = highest("whaleflux_service_slo_objective_ratio")
    limited = rate(
        "whaleflux_decisions_total", 'reason=~"AtMaximum|AtBudget|PoolShort"', window="5m"
    )
    yield Alert(
        "WhaleFluxNoReplicaServes", CRITICAL,
        f"{serving} == 0 and on ({SERVICE}) {decided} > 0", "5m",
        f"{OF}: no replica serves",
        "The condition Available ends with the first complaint of a replica: an exit code, a pull "
        "error, no node that fits. Mend what it names.",
    )  # fmt: skip
    yield Alert(
        "WhaleFluxReplicasFailing", WARNING,
        f"{_decisions('ReplicaFailed|BackingOff')} > 0 or on ({SERVICE}) {_failed()} > 0",
        "10m", f"{OF}: replicas fail again and again",
        "Read the last log lines of a failed replica's Pod; mend image, model, memory or node.",
    )  # fmt: skip
    yield Alert(
        "WhaleFluxReplicasShort", WARNING, "whaleflux:serving_shortfall:replicas > 0", "20m",
        f"{OF}: {{{{ $value }}}} replicas fewer serve than decided on",
        "Look for Pods that are Pending: GPUs, quota or a node selector are lacking.",
    )  # fmt: skip
    yield Alert(
        "WhaleFluxSignalsMissing", WARNING,
        f"{missing} > 0 or on ({SERVICE}) ({serving} > 0 unless on ({SERVICE}) {arrival})", "3m",
        f"{OF}: replicas serve and their metrics cannot be read; scaling holds",
        "The operator's Pod must reach port 8000 of the engines' Pods: mend the NetworkPolicy or "
        "the engine.",
    )  # fmt: skip
    yield Alert(
        "WhaleFluxActionErrors", WARNING,
        f"{_errors()} > 0 or on ({SERVICE}) {highest('whaleflux_service_faulted')} > 0", "5m",
        f"{OF}: decisions cannot be carried out",
        "The operator's log names the request that was refused: rights, a quota, a webhook.",
    )  # fmt: skip
    yield Alert(
        "WhaleFluxCriticalFinding", CRITICAL,
        f"{_critical()} > 0", "5m",
        f"{OF}: {{{{ $labels.kind }}}}, {{{{ $labels.cause }}}}",
        "The condition Healthy and the console say which replica, and what to change.",
    )  # fmt: skip
    yield Alert(
        "WhaleFluxAtMaximum", WARNING,
        f"{limited} / on ({SERVICE}) {rate('whaleflux_decisions_total', window='5m')} > 0.5 "
        f"and on ({SERVICE}) {attained} < on ({SERVICE}) {objective}", "5m",
        f"{OF} misses its objective and may not grow",
        "Raise scaling.max or the budget, add GPUs to the pool, or take a faster GPU.",
    )  # fmt: skip
    yield Alert(
        "WhaleFluxRouterErrors", CRITICAL, "whaleflux:router_errors:ratio_rate5m > 0.05", "5m",
        f"{OF}: {{{{ $value | humanizePercentage }}}} of requests fail in the router",
        "A replica must be admitted, and the router's Pods must reach port 8000 of the engines'.",
    )  # fmt: skip


def of_predictions() -> Iterator[Alert]:
    """What was predicted and did not come."""
    error = highest("whaleflux_service_prediction_error_ratio")
    carried = highest("whaleflux_service_carried_ratio")
    residual = total("whaleflux_service_findings", 'cause="ProfileResidual"')
    low, high = CAPACITY_OFF
    yield Alert(
        "WhaleFluxPredictionErrorHigh", WARNING, f"{error} > {LOAD_ERRATIC:g}", "1h",
        f"{OF}: forecasts of the load are off by {{{{ $value | humanizePercentage }}}}",
        "The load is erratic: headroom is wide. Standbys (resilience.standbys) help more.",
    )  # fmt: skip
    yield Alert(
        "WhaleFluxEngineProfileWrong", WARNING,
        f"{carried} < {low:g} or {carried} > {high:g} or on ({SERVICE}) {residual} > 0", "30m",
        f"{OF}: replicas carry something else than the EngineProfile says",
        "Run `whaleflux profile recalibrate`, or compare the profile with the engine's flags.",
    )  # fmt: skip


def of_operator() -> Iterator[Alert]:
    """What is wrong with the operator itself."""
    yield Alert(
        "WhaleFluxOperatorDown", CRITICAL, "absent(whaleflux_build_info)", "5m",
        "No WhaleFlux operator is scraped",
        "Services go on as they are; nothing is scaled or replaced. See its Pod, then the scrape.",
    )  # fmt: skip
    yield Alert(
        "WhaleFluxNoLeader", CRITICAL, "sum by (job) (whaleflux_leader) == 0", "2m",
        "No WhaleFlux operator leads", "Nothing is scaled or replaced. See its Lease and its log.",
    )  # fmt: skip
    yield Alert(
        "WhaleFluxTickSlow", WARNING, "whaleflux:tick_duration_seconds:p99_rate5m > 1", "10m",
        "Ticks take {{ $value | humanizeDuration }}; one is due every second",
        "Give the operator more CPU, or mend the slow API server.",
    )  # fmt: skip
    yield Alert(
        "WhaleFluxKubernetesErrors", WARNING, "whaleflux:kubernetes_errors:ratio_rate5m > 0.05",
        "10m", "{{ $value | humanizePercentage }} of requests to the API server fail",
        "Codes 401 and 403 want rights, 429 fewer clients, 5xx and 0 a sound API server.",
    )  # fmt: skip
    yield Alert(
        "WhaleFluxWatchRestarts", WARNING,
        "sum by (resource) (increase(whaleflux_watch_restarts_total[15m])) > 10", "5m",
        "Watches of {{ $labels.resource }} end again and again",
        "See the operator's log and the API server's; a proxy between them may cut them.",
    )  # fmt: skip
    yield Alert(
        "WhaleFluxReconcileErrors", WARNING,
        f"sum by ({SERVICE}, reason) (increase(whaleflux_reconcile_errors_total[10m])) > 0", "10m",
        f"{OF}: the spec is refused or not applied ({{{{ $labels.reason }}}})",
        "The condition Accepted names the field and the mend.",
    )  # fmt: skip
    yield Alert(
        "WhaleFluxReconcileQueueStuck", WARNING,
        "max(min_over_time(whaleflux_reconcile_queue_depth[10m])) > 0", "5m",
        "{{ $value }} services wait to be resolved and the queue does not empty",
        "Give the operator more CPU; a search takes seconds of a core.",
    )  # fmt: skip


def _decisions(reasons: str) -> str:
    return rate("whaleflux_decisions_total", f'reason=~"{reasons}"', window="5m")


def _failed() -> str:
    """A failed replica is soon taken away: look back a little."""
    failed = metric("whaleflux_service_replicas", 'role="failed"')
    return f"sum by ({SERVICE}) (max_over_time({failed}[5m]))"


def _errors() -> str:
    return rate("whaleflux_action_errors_total", window="5m")


def _critical() -> str:
    """MissingData has an alert of its own."""
    series = metric("whaleflux_service_findings", 'severity="critical"', 'kind!="MissingData"')
    return f"sum by ({SERVICE}, kind, cause) ({series})"
