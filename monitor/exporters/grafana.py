"""Grafana's dashboard model (schema 39, Grafana 11), as far as our dashboards need it.

A board flows its panels from left to right over 24 columns, row by row, and numbers them. Every
panel takes its data from the board's data source variable.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

SCHEMA_VERSION = 39
TAG = "whaleflux"
COLUMNS = 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
OF_SERVICE = "{{namespace}}/{{service}}"
"""Legend of a series per service."""


@dataclass(frozen=True, slots=True)
class Query:
    """One expression of a panel."""

    expr: str
    legend: str = OF_SERVICE
    bound: bool = False
    """A limit to compare with: drawn dashed and red."""


@dataclass(frozen=True, slots=True)
class Step:
    """From `value` on, a panel shows `color`."""

    value: float | None
    """None: from the lowest value on."""
    color: str


GOOD = (Step(None, "green"),)


def limits(*, warn: float | None = None, bad: float) -> tuple[Step, ...]:
    """Green, yellow from `warn` on, red from `bad` on."""
    middle = () if warn is None else (Step(warn, "yellow"),)
    return (*GOOD, *middle, Step(bad, "red"))


def floor(bad_below: float) -> tuple[Step, ...]:
    """Red below, green from there on."""
    return Step(None, "red"), Step(bad_below, "green")


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel; `kind` is Grafana's type."""

    kind: str
    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    steps: tuple[Step, ...] = GOOD
    width: int = 8
    height: int = 7
    top: float | None = None
    """Upper end of the axis; None: as the data has it."""
    stacked: bool = False
    signed: bool = False
    """May fall below 0; else the axis begins there."""
    columns: tuple[tuple[str, str, str], ...] = ()
    """Of a table: the field, its heading, its unit."""

    def render(self, number: int, x: int, y: int) -> Json:
        """Give the panel at its place."""
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": SOURCE,
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "targets": [self._target(i, query) for i, query in enumerate(self.queries)],
            "fieldConfig": {"defaults": self._defaults(), "overrides": list(self._overrides())},
            "options": _OPTIONS[self.kind],
            **({"transformations": self._transformations()} if self.columns else {}),
        }

    def _target(self, index: int, query: Query) -> Json:
        now = self.kind in ("stat", "table")
        return {
            "refId": ref_id(index),
            "datasource": SOURCE,
            "expr": query.expr,
            "legendFormat": query.legend,
            "editorMode": "code",
            "instant": now,
            "range": not now,
            "format": {"table": "table", "heatmap": "heatmap"}.get(self.kind, "time_series"),
        }

    def _defaults(self) -> Json:
        steps = [{"color": step.color, "value": step.value} for step in self.steps]
        found: Json = {
            "unit": self.unit,
            "thresholds": {"mode": "absolute", "steps": steps},
            "color": {"mode": "palette-classic" if self.kind == "timeseries" else "thresholds"},
            "custom": self._custom() if self.kind == "timeseries" else {},
        }
        if self.kind == "timeseries" and not self.signed:
            found["min"] = 0
        if self.top is not None:
            found["max"] = self.top
        return found

    def _custom(self) -> Json:
        return {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 20 if self.stacked else 0,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if self.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if len(self.steps) > 1 else "off"},
        }

    def _overrides(self) -> Iterator[Json]:
        for index, query in enumerate(self.queries):
            if query.bound:
                yield _override("byFrameRefID", ref_id(index), {
                    "color": {"mode": "fixed", "fixedColor": "red"},
                    "custom.lineStyle": {"fill": "dash", "dash": [10, 10]},
                })  # fmt: skip
        for _, heading, unit in self.columns:
            yield _override("byName", heading, {"unit": unit})
        if self.columns:
            yield _override("byName", "service", {"links": [SERVICE_LINK]})

    def _transformations(self) -> list[Json]:
        """One row per service: the queries' columns side by side, named, the rest left out."""
        names = {field: heading for field, heading, _ in self.columns}
        hidden = {"Time": True, **dict.fromkeys(self._unnamed(), True)}
        return [
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": hidden, "renameByName": names}},
        ]

    def _unnamed(self) -> Iterator[str]:
        named = {field for field, _, _ in self.columns}
        several = len(self.queries) > 1
        values = (f"Value #{ref_id(i)}" if several else "Value" for i in range(len(self.queries)))
        return (value for value in values if value not in named)


def number(
    title: str, description: str, unit: str, expr: str, steps: tuple[Step, ...] = GOOD
) -> Panel:
    """A single figure of now."""
    return Panel("stat", title, description, unit, (Query(expr, ""),), steps, width=4, height=4)


def ref_id(index: int) -> str:
    """Name of a panel's query."""
    return chr(ord("A") + index)


def _override(matcher: str, options: str, properties: Json) -> Json:
    values = [{"id": key, "value": value} for key, value in properties.items()]
    return {"matcher": {"id": matcher, "options": options}, "properties": values}


SERVICE_LINK = {
    "title": "Open the service",
    "url": "/d/whaleflux-service?${datasource:queryparam}&${__url_time_range}"
    "&var-namespace=${__data.fields.namespace}&var-service=${__data.fields.service}",
}

_LEGEND = {"displayMode": "table", "placement": "bottom", "showLegend": True,
           "calcs": ["lastNotNull", "max"]}  # fmt: skip
_REDUCE = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_OPTIONS: dict[str, Json] = {
    "timeseries": {"legend": _LEGEND, "tooltip": {"mode": "multi", "sort": "desc"}},
    "stat": {"reduceOptions": _REDUCE, "colorMode": "value", "graphMode": "none",
             "textMode": "auto"},
    "table": {"showHeader": True, "cellHeight": "sm", "footer": {"show": False}},
    "heatmap": {"calculate": False, "yAxis": {"unit": "s"}, "cellGap": 1,
                "color": {"mode": "scheme", "scheme": "Blues", "steps": 64}},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard: rows of panels, each under a heading."""

    uid: str
    title: str
    description: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]
    one_service: bool = False
    """Shows one service at a time; else any number."""

    def render(self) -> Json:
        """Give the JSON that Grafana imports."""
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": [TAG],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"},
            "timezone": "",
            "annotations": {"list": []},
            "links": [_LINKS],
            "templating": {"list": _variables(several=not self.one_service)},
            "panels": list(self._panels()),
        }

    def _panels(self) -> Iterator[Json]:
        number = y = 0
        for title, panels in self.rows:
            number += 1
            yield _row(number, title, y)
            y += 1
            for panel, x, top in _flow(panels, y):
                number += 1
                yield panel.render(number, x, top)
                y = max(y, top + panel.height)


def _flow(panels: Iterable[Panel], y: int) -> Iterator[tuple[Panel, int, int]]:
    """Place panels from left to right; a new line where one does not fit."""
    x = height = 0
    for panel in panels:
        if x + panel.width > COLUMNS:
            x, y, height = 0, y + height, 0
        yield panel, x, y
        x, height = x + panel.width, max(height, panel.height)


def _row(number: int, title: str, y: int) -> Json:
    place = {"h": 1, "w": COLUMNS, "x": 0, "y": y}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place,
            "panels": []}  # fmt: skip


_LINKS = {
    "type": "dashboards", "title": "WhaleFlux", "tags": [TAG], "asDropdown": False,
    "includeVars": True, "keepTime": True, "targetBlank": False,
}  # fmt: skip


def _variables(*, several: bool) -> list[Json]:
    source = {
        "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
        "refresh": 1, "hide": 0, "current": {},
    }  # fmt: skip
    chosen = 'whaleflux_service_info{namespace=~"$namespace"}'
    return [
        source,
        _variable("namespace", "label_values(whaleflux_service_info, namespace)", several),
        _variable("service", f"label_values({chosen}, service)", several),
    ]


def _variable(name: str, query: str, several: bool) -> Json:
    everything = {"selected": True, "text": ["All"], "value": ["$__all"]}
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"qryType": 1, "query": query, "refId": "Variable"},
        "refresh": 2,  # at every change of the time range: services come and go
        "sort": 1,
        "multi": several,
        "includeAll": several,
        "allValue": ".*" if several else None,
        "current": everything if several else {},
        "hide": 0,
    }
