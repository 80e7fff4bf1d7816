"""One service: its objective, its load, its engines, its router."""

from monitor.exporters.grafana import Board, Panel, Query, floor, limits, number
from monitor.exporters.promql import (
    CHOSEN,
    SERVICE,
    highest,
    mean,
    metric,
    or_zero,
    quantile,
    rate,
    total,
)
from monitor.exporters.recordings import WINDOWS

_ATTAINED = highest("whaleflux_service_slo_attainment_ratio", *CHOSEN)
_OBJECTIVE = highest("whaleflux_service_slo_objective_ratio", *CHOSEN)
_POD = f"{SERVICE}, pod"


def _latency(title: str, name: str, histogram: str, bound: str) -> Panel:
    """Latency as clients of all replicas see it, beside the bound."""
    return Panel(
        "timeseries", title,
        f"{name}, by the engines' own histograms (`{histogram}`), over all replicas. Dashed: the "
        "SLO's bound.", "s",
        (
            *(Query(quantile(q, histogram, *CHOSEN), f"{q:.0%}") for q in (0.5, 0.95, 0.99)),
            Query(highest(bound, *CHOSEN), "bound", bound=True),
        ),
    )  # fmt: skip


_SLO = (
    number("Within the SLO", "Share of recent requests within the SLO's bounds.", "percentunit",
           _ATTAINED),
    number("Margin to the objective", "The same, less the share asked for.", "percentunit",
           f"{_ATTAINED} - on ({SERVICE}) {_OBJECTIVE}", floor(0.0)),
    number("TTFT over its bound", "Time to first token at the SLO's percentile, of the worst "
           "replica, over the bound.", "percentunit",
           metric("whaleflux:ttft_over_bound:ratio", *CHOSEN), limits(warn=0.8, bad=1.0)),
    number("ITL over its bound", "Inter-token latency likewise.", "percentunit",
           metric("whaleflux:itl_over_bound:ratio", *CHOSEN), limits(warn=0.8, bad=1.0)),
    number("Load over capacity", "Requests arriving over what the serving replicas carry.",
           "percentunit", metric("whaleflux:load:ratio", *CHOSEN), limits(warn=0.9, bad=1.0)),
    number("Error budget burnt, 3 d", "Misses over those that the objective allows.", "none",
           metric("whaleflux:slo_burn_rate:ratio_rate3d", *CHOSEN), limits(warn=0.8, bad=1.0)),
    Panel(
        "timeseries", "Within the SLO", "Share of recent requests within the bounds. Dashed: the "
        "share asked for.", "percentunit",
        (Query(_ATTAINED, "within the SLO"), Query(_OBJECTIVE, "objective", bound=True)), top=1.0,
    ),
    _latency("TTFT", "Time to first token", "vllm:time_to_first_token_seconds",
             "whaleflux_service_slo_ttft_seconds"),
    _latency("ITL", "Time between tokens", "vllm:inter_token_latency_seconds",
             "whaleflux_service_slo_itl_seconds"),
    Panel(
        "timeseries", "Error budget burnt",
        "Misses over the misses allowed, over windows of several lengths. 1 spends the budget "
        "exactly.", "none",
        tuple(Query(metric(f"whaleflux:slo_burn_rate:ratio_rate{w}", *CHOSEN), w) for w in WINDOWS),
        steps=limits(warn=1.0, bad=14.4), width=24,
    ),
)  # fmt: skip

_LOAD = (
    Panel(
        "timeseries", "Load and capacity", "Requests arriving, forecast for when a replica asked "
        "for now is up, and what the serving replicas carry (dashed).", "reqps",
        (
            Query(highest("whaleflux_service_arrival_requests_per_second", *CHOSEN), "arriving"),
            Query(highest("whaleflux_service_forecast_requests_per_second", *CHOSEN), "forecast"),
            Query(highest("whaleflux_service_capacity_requests_per_second", *CHOSEN), "capacity",
                  bound=True),
        ),
    ),
    Panel(
        "timeseries", "Replicas", "By what they do.", "short",
        (Query(total("whaleflux_service_replicas", *CHOSEN, by=f"{SERVICE}, role"), "{{role}}"),),
        stacked=True,
    ),
    Panel(
        "timeseries", "Replicas decided on", "Serving and standby, beside those that serve.",
        "short",
        (
            Query(highest("whaleflux_service_desired_replicas", *CHOSEN, by=f"{SERVICE}, role"),
                  "{{role}}, decided"),
            Query(highest("whaleflux_service_replicas", *CHOSEN, 'role="serving"'), "serving"),
        ),
    ),
)  # fmt: skip

_ENGINES = (
    Panel("timeseries", "Requests in the engines", "In the batch and in the queue, by replica.",
          "short",
          (Query(total("vllm:num_requests_running", *CHOSEN, by=_POD), "{{pod}} running"),
           Query(total("vllm:num_requests_waiting", *CHOSEN, by=_POD), "{{pod}} waiting"))),
    Panel("timeseries", "KV cache in use", "By replica; near 1 requests are preempted.",
          "percentunit", (Query(f"avg by ({_POD}) ({metric('vllm:kv_cache_usage_perc', *CHOSEN)})",
                                "{{pod}}"),),
          steps=limits(warn=0.9, bad=0.98), top=1.0),
    Panel("timeseries", "Preemptions", "Requests put back for want of KV cache, by replica.",
          "cps", (Query(rate("vllm:num_preemptions_total", *CHOSEN, by=_POD), "{{pod}}"),)),
    Panel("timeseries", "Tokens", "Read and written by all replicas.", "none",
          (Query(rate("vllm:prompt_tokens_total", *CHOSEN), "prompt tokens/s"),
           Query(rate("vllm:generation_tokens_total", *CHOSEN), "generated tokens/s"))),
    Panel("timeseries", "Prompt tokens from the prefix cache",
          "Share of the looked-up prompt tokens that were found.", "percentunit",
          (Query(metric("whaleflux:prefix_cache_hit:ratio_rate5m", *CHOSEN), "found"),), top=1.0),
    Panel("timeseries", "Requests ended", "By the engine's reason.", "reqps",
          (Query(rate("vllm:request_success_total", *CHOSEN, by=f"{SERVICE}, finished_reason"),
                 "{{finished_reason}}"),), stacked=True),
    Panel("timeseries", "Where a request's time goes", "Mean by phase, over all replicas.", "s",
          tuple(Query(mean(f"vllm:request_{phase}_time_seconds", *CHOSEN), phase)
                for phase in ("queue", "prefill", "decode")), stacked=True),
    Panel("timeseries", "Request lengths", "Mean tokens of a request.", "none",
          tuple(Query(mean(f"vllm:request_{kind}_tokens", *CHOSEN), kind)
                for kind in ("prompt", "generation"))),
    Panel("timeseries", "Request duration", "Arrival to last token, over all replicas.", "s",
          tuple(Query(quantile(q, "vllm:e2e_request_latency_seconds", *CHOSEN), f"{q:.0%}")
                for q in (0.5, 0.95, 0.99))),
)  # fmt: skip

_ROUTER = (
    Panel("timeseries", "Requests routed", "By route.", "reqps",
          (Query(rate("vllm_router_requests_total", *CHOSEN, by=f"{SERVICE}, route"),
                 "{{route}}"),)),
    Panel("timeseries", "Errors",
          "Requests that the router answered with an error; `non_retryable_error` are those that "
          "an engine refused.", "reqps",
          (Query(or_zero(rate("vllm_router_request_errors_total", *CHOSEN,
                              by=f"{SERVICE}, error_type"), *CHOSEN), "{{error_type}}"),)),
    Panel("timeseries", "Replicas in the router", "As the router sees them; `open` ones are left "
          "alone for their errors.", "short",
          (Query(highest("vllm_router_active_workers", *CHOSEN), "active"),
           Query(or_zero(f"count by ({SERVICE}) ({metric('vllm_router_cb_state', *CHOSEN)} > 0)",
                         *CHOSEN), "open"))),
    Panel("timeseries", "Share of each replica", "Requests that the router sent to each.",
          "reqps", (Query(rate("vllm_router_processed_requests_total", *CHOSEN,
                               by=f"{SERVICE}, worker"), "{{worker}}"),), width=12),
    Panel("timeseries", "Duration at the router", "Queueing and retries in the router included.",
          "s", (Query(quantile(0.5, "vllm_router_generate_duration_seconds", *CHOSEN), "50%"),
                Query(quantile(0.95, "vllm_router_generate_duration_seconds", *CHOSEN), "95%")),
          width=12),
)  # fmt: skip

SERVICE_BOARD = Board(
    uid="whaleflux-service",
    title="WhaleFlux / Service",
    description="One service: its objective, its load, its engines, its router.",
    rows=(
        ("Objective", _SLO), ("Load and replicas", _LOAD), ("Engines", _ENGINES),
        ("Router", _ROUTER),
    ),
    one_service=True,
)  # fmt: skip
