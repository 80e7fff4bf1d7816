"""WhaleFlux's own metrics: what the services are doing and what the controller did about it.

Gauges are rendered from the service views at scrape time, so that nothing is left behind by
a service that went; what is not known is absent, never 0. Counters are fed by the loops.
`controller.console` serves them. Labels are bounded: services, phases, reasons; no replicas.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from threading import Lock
from typing import TypeGuard

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from controller.loop import Outcome, Publish
from controller.observation import Phase
from controller.service import Service
from controller.view import ServiceView

Views = Callable[[], tuple[ServiceView, ...]]

_SERVICE = ("namespace", "service")
_TICK_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""A tick is due every second; an action on a cluster may take seconds."""

_GAUGES: tuple[tuple[str, str, Callable[[ServiceView], float | None]], ...] = (
    ("arrival_requests_per_second", "Requests arriving.", lambda view: view.arrival_rps),
    ("forecast_requests_per_second", "Requests forecast for when a replica asked for now is up.",
     lambda view: view.forecast_rps),
    ("capacity_requests_per_second", "Requests that the serving replicas carry within the SLO.",
     lambda view: view.capacity_rps),
    ("slo_attainment_ratio", "Share of recent requests within the SLO.",
     lambda view: view.attained_ratio),
    ("slo_objective_ratio", "Share of requests that the SLO asks for.",
     lambda view: view.slo_ratio),
    ("slo_ttft_seconds", "Time to first token that the SLO allows.",
     lambda view: view.slo_ttft_s),
    ("slo_itl_seconds", "Inter-token latency that the SLO allows.", lambda view: view.slo_itl_s),
    ("advised_replicas", "Serving replicas advised, where the service asks for advice only.",
     lambda view: view.serving_advised),
    ("prediction_error_ratio", "Mean error of the forecasts of the load over the last hour.",
     lambda view: view.prediction_error_ratio),
    ("carried_ratio", "Load that a replica carries within the SLO, over what the twin says.",
     lambda view: view.carried_ratio),
    ("faulted", "1 where the last tick could not carry out its actions, else 0.",
     lambda view: float(view.fault is not None)),
)  # fmt: skip

_LATENCIES: tuple[tuple[str, str, Callable[[ServiceView], float | None]], ...] = (
    ("ttft_seconds", "Time to first token at the SLO's percentile, of the worst replica.",
     lambda view: view.ttft_s),
    ("itl_seconds", "Inter-token latency at the SLO's percentile, of the worst replica.",
     lambda view: view.itl_s),
)  # fmt: skip


class ServiceCounter(Collector):
    """A counter by service, with at most one more label."""

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self._name, self._text, self._labels = name, text, (*_SERVICE, *labels)
        self._counts: dict[tuple[str, ...], int] = {}
        self._lock = Lock()

    def add(self, *values: str) -> None:
        """Count one more; values in the order of the labels."""
        with self._lock:
            self._counts[values] = self._counts.get(values, 0) + 1

    def forget(self, namespace: str, service: str) -> None:
        """Drop the counts of a service that is gone."""
        with self._lock:
            self._counts = {
                key: count for key, count in self._counts.items() if key[:2] != (namespace, service)
            }

    def collect(self) -> Iterator[Metric]:
        """Give the counts as they are."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        with self._lock:
            for values, count in sorted(self._counts.items()):
                family.add_metric(values, count)
        yield family


class DecisionCounter(ServiceCounter):
    """Counts decisions by the reason they give."""

    def __init__(self) -> None:
        super().__init__("whaleflux_decisions", "Decisions made, by their main reason.", "reason")

    def count(self, service_namespace: str, service_name: str, reason: str) -> None:
        """Count a decision; `reason` is one of `controller.decide.Reason`."""
        self.add(service_namespace, service_name, str(reason))


class Metrics:
    """Everything on `/metrics`, on a registry of its own."""

    def __init__(self, views: Views) -> None:
        self.decisions = DecisionCounter()
        self._errors = ServiceCounter(
            "whaleflux_action_errors", "Ticks whose actions could not be carried out."
        )
        self._registry = CollectorRegistry()
        self._ticks = Histogram(
            "whaleflux_tick_duration_seconds",
            "Time from observing a service to the end of its actions.",
            buckets=_TICK_BUCKETS_S,
            registry=None,
        )
        for collector in (ViewCollector(views), self.decisions, self._errors, _Plain(self._ticks)):
            self._registry.register(collector)
        ProcessCollector(registry=self._registry)

    def add(self, instrument: Collector) -> None:
        """Show one more instrument, which must be on no other registry."""
        self._registry.register(_Plain(instrument))

    def watching(self, service: Service, now_s: Callable[[], float]) -> Publish:
        """Make what a loop publishes its outcomes to; `now_s` is the loop's own clock."""

        def publish(outcome: Outcome) -> None:
            self.decisions.count(service.namespace, service.name, outcome.decision.reason)
            if outcome.fault is not None:
                self.action_failed(service.namespace, service.name)
            self.ticked(now_s() - outcome.at_s)

        return publish

    def ticked(self, duration_s: float) -> None:
        """Time one tick of any service."""
        self._ticks.observe(duration_s)

    def action_failed(self, service_namespace: str, service_name: str) -> None:
        """Count a tick that ended in a fault."""
        self._errors.add(service_namespace, service_name)

    def forget(self, service_namespace: str, service_name: str) -> None:
        """Drop the counts of a service that is gone."""
        self.decisions.forget(service_namespace, service_name)
        self._errors.forget(service_namespace, service_name)

    def render(self) -> bytes:
        """Give the page in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)


class ViewCollector(Collector):
    """Renders the views at scrape time."""

    def __init__(self, views: Views) -> None:
        self._views = views

    def describe(self) -> Iterator[Metric]:
        """Name nothing: registering must not read the views."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Give one family after another, each over all services."""
        views = self._views()
        yield _build_info()
        yield _service_info(views)
        yield _by_role("replicas", "Replicas there are.", views, _present)
        yield _by_role("desired_replicas", "Replicas decided on.", views, _desired)
        yield _findings(views)
        for name, text, value_of in _GAUGES:
            yield _gauge(name, text, views, value_of)
        for name, text, value_of in _LATENCIES:
            yield _quantile(name, text, views, value_of)


class _Plain(Collector):
    """A library instrument without its `_created` gauges, which text format 0.0.4 lacks."""

    def __init__(self, instrument: Collector) -> None:
        self._instrument = instrument

    def collect(self) -> Iterator[Metric]:
        for family in self._instrument.collect():
            family.samples = [s for s in family.samples if not s.name.endswith("_created")]
            yield family


def _build_info() -> Metric:
    try:
        version = metadata.version("whaleflux")
    except metadata.PackageNotFoundError:
        version = "unknown"
    return InfoMetricFamily("whaleflux_build", "The running version.", {"version": version})


def _service_info(views: Iterable[ServiceView]) -> Metric:
    family = InfoMetricFamily("whaleflux_service", "What a service runs.", labels=_SERVICE)
    for view in views:
        family.add_metric((view.namespace, view.name), {"model": view.model, "gpu": view.gpu})
    return family


def _by_role(
    name: str,
    text: str,
    views: Iterable[ServiceView],
    counts_of: Callable[[ServiceView], dict[Phase, int]],
) -> Metric:
    family = GaugeMetricFamily(f"whaleflux_service_{name}", text, labels=(*_SERVICE, "role"))
    for view in views:
        for phase, count in counts_of(view).items():
            family.add_metric((view.namespace, view.name, phase.lower()), count)
    return family


def _present(view: ServiceView) -> dict[Phase, int]:
    phases = [replica.phase for replica in view.replicas]
    return {phase: phases.count(phase) for phase in Phase}


def _desired(view: ServiceView) -> dict[Phase, int]:
    return {Phase.SERVING: view.serving_wanted, Phase.STANDBY: view.standby_wanted}


def _findings(views: Iterable[ServiceView]) -> Metric:
    """How many hold; a cause is one of a fixed set, and which replica it is stays out of labels."""
    family = GaugeMetricFamily(
        "whaleflux_service_findings",
        "What the detector finds wrong now.",
        labels=(*_SERVICE, "kind", "cause", "severity"),
    )
    for view in views:
        counts = Counter((f.kind, f.cause, f.severity.lower()) for f in view.findings)
        for of, count in sorted(counts.items()):
            family.add_metric((view.namespace, view.name, *of), count)
    return family


def _gauge(
    name: str,
    text: str,
    views: Iterable[ServiceView],
    value_of: Callable[[ServiceView], float | None],
) -> Metric:
    family = GaugeMetricFamily(f"whaleflux_service_{name}", text, labels=_SERVICE)
    for view in views:
        value = value_of(view)
        if _known(value):
            family.add_metric((view.namespace, view.name), value)
    return family


def _quantile(
    name: str,
    text: str,
    views: Iterable[ServiceView],
    value_of: Callable[[ServiceView], float | None],
) -> Metric:
    """Make a summary of one quantile: Prometheus keeps the label `quantile` for summaries."""
    family = Metric(f"whaleflux_service_{name}", text, "summary")
    for view in views:
        value = value_of(view)
        if _known(value):
            labels = dict(zip(_SERVICE, (view.namespace, view.name), strict=True))
            family.add_sample(family.name, {**labels, "quantile": f"{view.slo_ratio:g}"}, value)
    return family


def _known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
