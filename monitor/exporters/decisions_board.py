"""What was decided and why, how right the predictions were, and what is found wrong."""

from monitor.exporters.grafana import Board, Panel, Query, Step, limits
from monitor.exporters.promql import CHOSEN, RATE, SERVICE, highest, metric, or_zero, rate, total

CAPACITY_OFF = (0.65, 2.0)
"""What replicas carry over what the twin says, at either end of which the profile is wrong; the
controller believes nothing below 0.6 and above 3."""
LOAD_ERRATIC = 0.5
"""Mean error of the forecasts from which they are no guide; as of the condition `Predicted`."""

_STEADY, _CHANGED = 'reason="Steady"', 'reason!="Steady"'
_SERVING = highest("whaleflux_service_desired_replicas", *CHOSEN, 'role="serving"')
_ALL = rate("whaleflux_decisions_total", *CHOSEN)
_BY_REASON = f"{SERVICE}, reason"

_DECISIONS = (
    Panel(
        "timeseries", "Decisions by reason", "Decisions a minute, of all chosen services. One is "
        "made each second; `Steady` is left out.", "none",
        (Query(f"60 * {rate('whaleflux_decisions_total', *CHOSEN, _CHANGED, by='reason')}"
               " or vector(0)", "{{reason}}"),),
        stacked=True, width=12,
    ),
    Panel(
        "timeseries", "Share of steady decisions", "Of each service; the rest changed something or "
        "was held back.", "percentunit",
        (Query(or_zero(
            f"{rate('whaleflux_decisions_total', *CHOSEN, _STEADY)} / on ({SERVICE}) {_ALL}",
            *CHOSEN)),),
        top=1.0, width=12,
    ),
    Panel("timeseries", "Serving replicas decided on", "By service.", "short",
          (Query(_SERVING),)),
    Panel(
        "timeseries", "Serving replicas advised", "Where a service asks for advice only; elsewhere "
        "what was decided.", "short",
        (Query(f"{highest('whaleflux_service_advised_replicas', *CHOSEN)} or on ({SERVICE}) "
               f"{_SERVING}"),),
    ),
    Panel("timeseries", "Replicas short", "Decided on to serve, less those that do.", "short",
          (Query(metric("whaleflux:serving_shortfall:replicas", *CHOSEN)),)),
)  # fmt: skip

_ACCURACY = (
    Panel(
        "timeseries", "Error of the load's forecasts",
        "Mean over the last hour. From 0.5 on the load is seldom what was forecast: standbys help "
        "more than forecasts.", "percentunit",
        (Query(highest("whaleflux_service_prediction_error_ratio", *CHOSEN)),),
        steps=limits(bad=LOAD_ERRATIC),
    ),
    Panel(
        "timeseries", "Carried over predicted",
        "What a replica carries within the SLO, over what the twin says. Far from 1 the "
        "EngineProfile is wrong: recalibrate it.", "none",
        (Query(highest("whaleflux_service_carried_ratio", *CHOSEN)),),
        steps=(Step(None, "red"), Step(CAPACITY_OFF[0], "green"), Step(CAPACITY_OFF[1], "red")),
    ),
    Panel(
        "timeseries", "Forecast over capacity",
        "Load forecast for when a replica asked for now is up, over what the serving replicas "
        "carry.", "percentunit",
        (Query(f'{highest("whaleflux_service_forecast_requests_per_second", *CHOSEN)} / on '
               f'({SERVICE}) ({highest("whaleflux_service_capacity_requests_per_second", *CHOSEN)}'
               " > 0)"),),
        steps=limits(warn=0.9, bad=1.0),
    ),
)  # fmt: skip

_FINDING = f"{SERVICE}, kind, cause, severity"
_FINDINGS = (
    Panel(
        "table", "Findings now", "What the detector finds wrong; the console and the condition "
        "`Healthy` say what to change. A line without a kind: nothing.", "short",
        (Query(or_zero(total("whaleflux_service_findings", *CHOSEN, by=_FINDING), *CHOSEN), ""),),
        width=12,
        columns=(("namespace", "namespace", "none"), ("service", "service", "none"),
                 ("kind", "kind", "none"), ("cause", "cause", "none"),
                 ("severity", "severity", "none"), ("Value", "findings", "short")),
    ),
    Panel(
        "timeseries", "Findings", "By kind and cause.", "short",
        (Query(or_zero(total("whaleflux_service_findings", *CHOSEN, by=_FINDING), *CHOSEN),
               "{{namespace}}/{{service}} {{kind}} {{cause}}"),),
        stacked=True, width=12,
    ),
)  # fmt: skip

_CARRIED_OUT = (
    Panel("timeseries", "Ticks that failed", "Ticks a second whose actions failed.",
          "cps", (Query(or_zero(rate("whaleflux_action_errors_total", *CHOSEN), *CHOSEN)),)),
    Panel("timeseries", "Services at fault", "1 while the last tick could not act.", "short",
          (Query(highest("whaleflux_service_faulted", *CHOSEN)),), steps=limits(bad=1), top=1.0),
    Panel("timeseries", "Specs refused or not applied", "By service and reason.", "cps",
          (Query(or_zero(rate("whaleflux_reconcile_errors_total", *CHOSEN, by=_BY_REASON), *CHOSEN),
                 "{{namespace}}/{{service}} {{reason}}"),)),
    Panel("timeseries", "Search behind a spec",
          "Mean time of resolving a spec and applying its objects; 10 minutes.", "s",
          (Query("sum(rate(whaleflux_reconcile_duration_seconds_sum[10m])) / "
                 "sum(rate(whaleflux_reconcile_duration_seconds_count[10m]))", "mean"),)),
    Panel("timeseries", "Services that wait to be resolved", "The queue's length.", "short",
          (Query("max(whaleflux_reconcile_queue_depth)", "waiting"),)),
    Panel("heatmap", "Ticks", "Time from observing a service to the end of its actions.", "short",
          (Query(f"sum by (le) (increase(whaleflux_tick_duration_seconds_bucket[{RATE}]))",
                 "{{le}}"),)),
)  # fmt: skip

DECISIONS = Board(
    uid="whaleflux-decisions",
    title="WhaleFlux / Decisions and accuracy",
    description="What was decided and why, how right the predictions were, what is found wrong.",
    rows=(
        ("Decisions", _DECISIONS), ("Accuracy", _ACCURACY), ("Findings", _FINDINGS),
        ("Carrying out", _CARRIED_OUT),
    ),
)  # fmt: skip
