"""The fleet: every service at a glance, and the operator itself."""

from monitor.exporters.grafana import Board, Panel, Query, floor, limits, number
from monitor.exporters.promql import CHOSEN, SERVICE, highest, metric, quantile, rate, total

_ARRIVAL = highest("whaleflux_service_arrival_requests_per_second", *CHOSEN)
_CAPACITY = highest("whaleflux_service_capacity_requests_per_second", *CHOSEN)
_ATTAINED = highest("whaleflux_service_slo_attainment_ratio", *CHOSEN)
_OBJECTIVE = highest("whaleflux_service_slo_objective_ratio", *CHOSEN)
_SERVING = highest("whaleflux_service_replicas", *CHOSEN, 'role="serving"')
_DECIDED = highest("whaleflux_service_desired_replicas", *CHOSEN, 'role="serving"')
_CRITICAL = metric("whaleflux_service_findings", *CHOSEN, 'severity="critical"')
_LOAD = metric("whaleflux:load:ratio", *CHOSEN)
_INFO = highest("whaleflux_service_info", *CHOSEN, by=f"{SERVICE}, model, gpu")


def _process(name: str) -> str:
    """Select a figure of the operator's process: other processes publish the same names."""
    return f"{name} and on (job, instance) whaleflux_build_info"


_NOW = (
    number("Services", "Services that the operator runs.", "short", f"count({_INFO})"),
    number("Replicas that serve", "Replicas in their routers.", "short", f"sum({_SERVING})"),
    number("Requests arriving", "Of all services.", "reqps", f"sum({_ARRIVAL})"),
    number(
        "Below the objective", "Services whose recent requests meet the SLO less often than asked.",
        "short", f"count({_ATTAINED} < on ({SERVICE}) {_OBJECTIVE}) or vector(0)", limits(bad=1),
    ),
    number(
        "Nobody serves", "Services that should have a serving replica and have none.", "short",
        f"count({_SERVING} == 0 and on ({SERVICE}) {_DECIDED} > 0) or vector(0)", limits(bad=1),
    ),
    number(
        "Critical findings", "What harms users now, by the detector.", "short",
        f"sum({_CRITICAL}) or vector(0)", limits(bad=1),
    ),
)  # fmt: skip

_SERVICES = (
    Panel(
        "table", "Services", "One line per service; a click on its name opens it.", "short",
        tuple(
            Query(expr, "")
            for expr in (_INFO, _SERVING, _DECIDED, _ARRIVAL, _CAPACITY, _LOAD, _ATTAINED,
                         _OBJECTIVE)
        ),
        width=24, height=9,
        columns=(
            ("namespace", "namespace", "none"), ("service", "service", "none"),
            ("model", "model", "none"), ("gpu", "GPUs of a replica", "none"),
            ("Value #B", "serving", "none"), ("Value #C", "decided", "none"),
            ("Value #D", "arriving", "reqps"), ("Value #E", "capacity", "reqps"),
            ("Value #F", "load", "percentunit"), ("Value #G", "within SLO", "percentunit"),
            ("Value #H", "objective", "percentunit"),
        ),
    ),
    Panel(
        "timeseries", "Load over capacity",
        "Requests arriving over what the serving replicas carry within the SLO. Above 1 queues "
        "grow.", "percentunit", (Query(_LOAD),), steps=limits(warn=0.9, bad=1.0),
    ),
    Panel(
        "timeseries", "Margin to the objective",
        "Share of recent requests within the SLO, less the share asked for. Below 0 the objective "
        "is missed.", "percentunit", (Query(f"{_ATTAINED} - on ({SERVICE}) {_OBJECTIVE}"),),
        steps=floor(0.0), signed=True,
    ),
    Panel(
        "timeseries", "Error budget burnt, 1 h",
        "Misses over the misses that the objective allows. 1 spends the budget exactly; 14.4 "
        "pages.", "none", (Query(metric("whaleflux:slo_burn_rate:ratio_rate1h", *CHOSEN)),),
        steps=limits(warn=1.0, bad=14.4),
    ),
    Panel("timeseries", "Requests arriving", "By service.", "reqps", (Query(_ARRIVAL),),
          stacked=True),
    Panel("timeseries", "Replicas that serve", "By service.", "short", (Query(_SERVING),),
          stacked=True),
    Panel(
        "timeseries", "Replicas on their way or failed",
        "Pending, starting and failed ones, by service.", "short",
        (Query(total("whaleflux_service_replicas", *CHOSEN,
                     'role=~"pending|starting|failed"', by=f"{SERVICE}, role"),
               "{{namespace}}/{{service}} {{role}}"),),
    ),
)  # fmt: skip

_REQUESTS = "whaleflux_kubernetes_requests_total"
_OPERATOR = (
    number("Leaders", "Operators that lead; each watches its own namespaces.", "short",
           "sum(whaleflux_leader)", floor(1)),
    number("Services to resolve", "Specs that wait for their configuration to be searched.",
           "short", "max(whaleflux_reconcile_queue_depth)", limits(warn=10, bad=50)),
    number("Failed API requests",
           "Share of requests to the API server without an answer, refused or failed; 404 and "
           "409 are part of the work.", "percentunit",
           "max(whaleflux:kubernetes_errors:ratio_rate5m)", limits(warn=0.01, bad=0.05)),
    number("Watch restarts, 1 h", "Watches that ended in an error and began anew.", "short",
           "sum(increase(whaleflux_watch_restarts_total[1h]))", limits(warn=5, bad=20)),
    number("Memory", "Resident memory of the operator.", "bytes",
           f"max({_process('process_resident_memory_bytes')})"),
    number("CPU", "Cores that the operator uses.", "none",
           f"sum({_process('rate(process_cpu_seconds_total[5m])')})"),
    Panel(
        "timeseries", "Tick", "Time from observing a service to the end of its actions; due every "
        "second.", "s",
        (Query(quantile(0.5, "whaleflux_tick_duration_seconds", by=""), "median"),
         Query("max(whaleflux:tick_duration_seconds:p99_rate5m)", "99 %, 5 min")),
        steps=limits(bad=1.0),
    ),
    Panel("timeseries", "API requests", "To the API server, by verb and code; 0: no answer.",
          "reqps", (Query(rate(_REQUESTS, by="verb, code"), "{{verb}} {{code}}"),)),
    Panel(
        "timeseries", "API latency, 99 %", "Of requests to the API server, by verb.", "s",
        (Query(quantile(0.99, "whaleflux_kubernetes_request_duration_seconds", by="verb",
                        window="5m"), "{{verb}}"),),
        steps=limits(bad=1.0),
    ),
)  # fmt: skip

FLEET = Board(
    uid="whaleflux-fleet",
    title="WhaleFlux / Fleet",
    description="Every LLM service at a glance, and the operator itself.",
    rows=(("Now", _NOW), ("Services", _SERVICES), ("Operator", _OPERATOR)),
)
