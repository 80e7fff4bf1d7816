"""The rule file that Prometheus loads; the chart makes a PrometheusRule of the same groups."""

from collections.abc import Iterable
from itertools import chain

from monitor.exporters import alerts, recordings
from monitor.exporters.alerts import Alert
from monitor.exporters.grafana import Json
from monitor.exporters.recordings import Recording

RUNBOOKS = "docs/runbooks.md"
"""Where the runbooks are, as a link may begin; the chart puts its own in its place."""


def rules(runbooks: str = RUNBOOKS) -> Json:
    """Give every group; `runbooks`: address of the page that has a section per alert."""
    recorded = {
        # in one group, for a group's rules are evaluated in order: windows end with the newest
        "whaleflux.objective": chain(recordings.load(), recordings.burn_rates()),
        "whaleflux.engines": recordings.engines(),
        "whaleflux.hardware": recordings.hardware(),
        "whaleflux.operator": recordings.operator(),
    }
    alerting = {
        "whaleflux.alerts.objective": alerts.of_objective(),
        "whaleflux.alerts.services": alerts.of_services(),
        "whaleflux.alerts.predictions": alerts.of_predictions(),
        "whaleflux.alerts.operator": alerts.of_operator(),
    }
    groups = [_group(name, map(_recording, found)) for name, found in recorded.items()]
    for name, found in alerting.items():
        groups.append(_group(name, (_alert(alert, runbooks) for alert in found)))
    return {"groups": groups}


def _group(name: str, made: Iterable[Json]) -> Json:
    return {"name": name, "rules": list(made)}


def _recording(recording: Recording) -> Json:
    return {"record": recording.name, "expr": recording.expr}


def _alert(alert: Alert, runbooks: str) -> Json:
    return {
        "alert": alert.name,
        "expr": alert.expr,
        "for": alert.for_,
        "labels": {"severity": alert.severity},
        "annotations": {
            "summary": alert.summary,
            "description": alert.description,
            "runbook_url": f"{runbooks}#{alert.name.lower()}",
        },
    }
