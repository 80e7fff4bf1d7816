"""`kubectl whaleflux top`: all services on one screen, the worst first."""

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from controller.cli.kubectl.access import (
    Context,
    Kubeconfig,
    Namespace,
    Output,
    OutputOption,
    Where,
    ask,
)
from controller.cli.kubectl.reading import Seen, age_s, as_age, number, read_services

_WIDE = 200
"""Columns where nobody's terminal says how many there are: a pipe or a file."""
_COLUMNS = (
    "service", "ready", "serving", "standby", "load", "of", "within", "error", "GPU", "decided",
    "reason",
)  # fmt: skip
_LEFT = {"namespace", "service", "ready", "GPU", "reason"}
_LEGEND = (
    "worst first; serving, standby: there are / decided on; load: req/s forecast by the last "
    "decision, of what serves; within: requests within the objective / asked for; error: of "
    "forecasts"
)


def top(
    namespace: Namespace = None,
    everywhere: Annotated[
        bool, typer.Option("-A", "--all-namespaces", help="Services of all namespaces.")
    ] = False,
    output: OutputOption = Output.TABLE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show ready, replicas, load, objective and last decision of every service."""
    found = ask(
        Where(namespace, kubeconfig, context),
        lambda client, where: read_services(client, None if everywhere else where),
    )
    services = worst_first(found)
    if output is Output.JSON:
        typer.echo(json.dumps({"items": [as_dict(seen) for seen in services]}, indent=2))
    elif services:
        _print(services, everywhere)
    else:
        typer.echo("no LLMServices found", err=True)


def worst_first(services: Iterable[Seen]) -> list[Seen]:
    """Order by what needs a person: not ready, short of replicas, off its objective, loaded."""
    return sorted(services, key=_badness)


def _badness(seen: Seen) -> tuple[int, int, float, float, str, str]:
    ready, _ = seen.condition("Ready")
    attained, objective = number(seen.status.slo_attainment_percent), seen.objective_percent
    judged = attained is not None and objective is not None
    gap = attained - objective if judged else 0.0  # type: ignore[operator]
    used = _used_ratio(seen)
    return (
        {"False": 0, "Unknown": 1}.get(ready, 2),
        min(seen.status.replicas - seen.status.desired_replicas, 0),
        min(gap, 0.0),
        -(used if used is not None else 0.0),
        seen.namespace,
        seen.name,
    )


def _used_ratio(seen: Seen) -> float | None:
    load, capacity = seen.forecast_rps, seen.capacity_rps
    return load / capacity if load is not None and capacity else None


def as_dict(seen: Seen) -> dict[str, Any]:
    """One service for programs; what is not known is null."""
    status, decision = seen.status, seen.status.last_decision
    roles = status.replicas_by_role
    ready, reason = seen.condition("Ready")
    return {
        "namespace": seen.namespace,
        "name": seen.name,
        "ready": ready,
        "readyReason": reason,
        "serving": status.replicas,
        "servingDesired": status.desired_replicas,
        "standby": roles.standby if roles is not None else None,
        "standbyDesired": decision.standby if decision is not None else None,
        "advised": status.advised_replicas,
        "forecastRequestsPerSecond": seen.forecast_rps,
        "capacityRequestsPerSecond": seen.capacity_rps,
        "attainmentPercent": number(status.slo_attainment_percent),
        "objectivePercent": seen.objective_percent,
        "predictionErrorPercent": number(status.prediction_error_percent),
        "gpu": seen.gpu,
        "lastDecision": None
        if decision is None
        else {
            "reason": decision.reason,
            "message": decision.message,
            "time": decision.time,
            "ageSeconds": age_s(decision.time),
        },
    }


def _print(services: list[Seen], everywhere: bool) -> None:
    out = Console()
    out = out if out.is_terminal else Console(width=_WIDE)
    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=_LEGEND, caption_justify="left"
    )
    for name in ("namespace", *_COLUMNS) if everywhere else _COLUMNS:
        table.add_column(name, justify="left" if name in _LEFT else "right", no_wrap=True)
    for seen in services:
        cells = [escape(cell) for cell in _row(seen)]
        row = [escape(seen.namespace), *cells] if everywhere else cells
        table.add_row(*row, style=_STYLES[seen.condition("Ready")[0]])
    out.print(table)


_STYLES = {"False": "red", "Unknown": "yellow", "True": None}


def _row(seen: Seen) -> list[str]:
    told = as_dict(seen)
    ready = {"True": "yes", "False": f"no: {told['readyReason']}"}.get(told["ready"], "?")
    decision = told["lastDecision"]
    return [
        seen.name,
        ready,
        f"{told['serving']}/{told['servingDesired']}",
        f"{_or_dash(told['standby'])}/{_or_dash(told['standbyDesired'])}",
        _or_dash(told["forecastRequestsPerSecond"], ".2f"),
        _or_dash(told["capacityRequestsPerSecond"], ".2f"),
        f"{_percent(told['attainmentPercent'])} / {_percent(told['objectivePercent'])}",
        _percent(told["predictionErrorPercent"]),
        seen.gpu or "–",
        as_age(decision["ageSeconds"]) if decision else "–",
        decision["reason"] if decision else "–",
    ]


def _or_dash(value: float | None, how: str = "") -> str:
    return "–" if value is None else format(value, how)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} %"
