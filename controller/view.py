"""What people see of a service: the same figures for console, metrics and status."""

from dataclasses import dataclass

from controller.loop import Logged, ServiceLoop
from controller.observation import Observation, Phase
from monitor.findings import by_severity


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """One replica for people."""

    id: str
    phase: str
    gpu: str
    age_s: float
    running: float | None
    waiting: float | None
    kv_usage_ratio: float | None
    message: str


@dataclass(frozen=True, slots=True)
class DecisionView:
    """One logged decision for people."""

    ago_s: float
    serving: int
    standby: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class FindingView:
    """Something that is wrong now, for people."""

    kind: str
    cause: str
    subject: str
    """A replica; empty: the service."""
    severity: str
    confidence_ratio: float
    for_s: float
    message: str
    mend: str


@dataclass(frozen=True, slots=True)
class ServiceView:
    """One service for people; None: not known."""

    name: str
    namespace: str
    model: str
    gpu: str
    endpoint: str | None
    configuration: str
    replicas: tuple[ReplicaView, ...]
    serving: int
    serving_wanted: int
    standby: int
    standby_wanted: int
    arrival_rps: float | None
    forecast_rps: float | None
    capacity_rps: float
    """Of all serving replicas together."""
    attained_ratio: float | None
    slo_ratio: float
    slo_ttft_s: float | None
    slo_itl_s: float | None
    ttft_s: float | None
    """At the SLO's percentile, over the last half minute."""
    itl_s: float | None
    reason: str
    message: str
    fault: str | None
    decisions: tuple[DecisionView, ...]
    """Newest first."""
    findings: tuple[FindingView, ...] = ()
    """The most severe first."""
    serving_advised: int | None = None
    """Where the service asks for advice only."""
    prediction_error_ratio: float | None = None
    """Of forecasts of the load, over the last hour."""
    carried_ratio: float = 1.0
    """What a replica carries over what the twin says."""


def view_service(loop: ServiceLoop, endpoint: str | None, now_s: float) -> ServiceView | None:
    """Make the view of a loop; None before its first tick."""
    outcome = loop.outcome
    if outcome is None:
        return None
    seen, decision, service = outcome.seen, outcome.decision, loop.service
    latency = loop.observer.latency(service.slo.percentile)
    serving = seen.count(Phase.SERVING)
    return ServiceView(
        name=service.name,
        namespace=service.namespace,
        model=service.served_name,
        gpu=f"{service.configuration.layout.gpus} × {service.gpu}",
        endpoint=endpoint,
        configuration=" ".join(service.configuration.engine_args()),
        replicas=_replicas(seen, now_s),
        serving=serving,
        serving_wanted=decision.serving,
        standby=seen.count(Phase.STANDBY),
        standby_wanted=decision.standby,
        arrival_rps=loop.observer.arrival_rps,
        forecast_rps=decision.numbers.forecast_rps,
        capacity_rps=decision.numbers.capacity_rps * seen.worth(Phase.SERVING),
        attained_ratio=seen.demand.attained_ratio,
        slo_ratio=service.slo.percentile,
        slo_ttft_s=service.slo.ttft_s,
        slo_itl_s=service.slo.itl_s,
        ttft_s=latency[0],
        itl_s=latency[1],
        reason=str(decision.reason),
        message=decision.message,
        fault=outcome.fault,
        decisions=tuple(_decision(logged, now_s) for logged in reversed(loop.decisions)),
        findings=_findings(seen, now_s),
        serving_advised=decision.advised,
        prediction_error_ratio=decision.numbers.prediction_error_ratio,
        carried_ratio=decision.numbers.carried_ratio,
    )


def _replicas(seen: Observation, now_s: float) -> tuple[ReplicaView, ...]:
    views = []
    for sighting in seen.sightings:
        replica, load = sighting.replica, sighting.load
        views.append(
            ReplicaView(
                id=replica.id,
                phase=str(replica.phase),
                gpu=replica.gpu or seen.service.gpu,
                age_s=now_s - replica.created_s,
                running=None if load is None else load.running,
                waiting=None if load is None else load.waiting,
                kv_usage_ratio=None if load is None else load.kv_usage_ratio,
                message="holds requests, makes no tokens" if sighting.wedged else replica.message,
            )
        )
    return tuple(views)


def _findings(seen: Observation, now_s: float) -> tuple[FindingView, ...]:
    return tuple(
        FindingView(
            kind=str(f.kind),
            cause=f.cause,
            subject=f.subject,
            severity=str(f.severity),
            confidence_ratio=f.confidence_ratio,
            for_s=max(now_s - f.since_s, 0.0),
            message=f.message,
            mend=f.mend,
        )
        for f in by_severity(seen.findings)
    )


def _decision(logged: Logged, now_s: float) -> DecisionView:
    made = logged.decision
    return DecisionView(
        now_s - logged.at_s, made.serving, made.standby, str(made.reason), made.message
    )
