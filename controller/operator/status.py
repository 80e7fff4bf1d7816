"""From a tick's outcome to `.status`: conditions that tell the story.

Pure: takes the outcome and the former status, returns the new one. A condition's transition
time moves only when its status does.
"""

from collections.abc import Iterable

from controller.api.llmservice import Switch
from controller.api.status import (
    Condition,
    ConfigurationStatus,
    FallbackStatus,
    LastDecision,
    LLMServiceStatus,
    ReplicasByRole,
)
from controller.configure import InForce
from controller.decide import Numbers
from controller.loop import Logged, Outcome
from controller.observation import COMING, Observation, Phase
from controller.operator import labels
from controller.operator.trouble import Trouble, diagnose
from controller.service import Service
from monitor.findings import Severity, by_severity
from profiler.configuration import Configuration
from profiler.errors import Refused

ACCEPTED, AVAILABLE, OBSERVED, SLO_ATTAINED, READY = (
    "Accepted",
    "Available",
    "Observed",
    "SLOAttained",
    "Ready",
)
PLACED, HEALTHY, PREDICTED = "Placed", "Healthy", "Predicted"
FORECASTS_FAIL_AT = 0.5
"""Mean error of the load's forecasts from which they are no guide."""
TWIN_FAILS_AT = 2.0
"""Factor between what replicas carry and what the twin says from which it is wrong."""


def status_of(
    outcome: Outcome, last: Logged | None, former: LLMServiceStatus, now: str, endpoint: str
) -> LLMServiceStatus:
    """Describe a service that runs; `now` is RFC 3339."""
    seen, decision, service = outcome.seen, outcome.decision, outcome.seen.service
    conditions = _with_times(_conditions(outcome), former.conditions, now, service.generation)
    attained = seen.demand.attained_ratio
    return LLMServiceStatus(
        observed_generation=service.generation,
        replicas=seen.count(Phase.SERVING),
        desired_replicas=decision.serving,
        advised_replicas=decision.advised,
        prediction_error_percent=_percent(decision.numbers.prediction_error_ratio),
        selector=labels.selector(service.name, labels.ROLE_SERVING),
        replicas_by_role=_roles(seen),
        fallbacks=_fallbacks(outcome),
        endpoint=endpoint,
        slo_attainment_percent=_percent(attained),
        configuration=_configuration(service, decision.numbers.capacity_rps),
        last_decision=_last_decision(last, former, now),
        conditions=conditions,
    )


def _fallbacks(outcome: Outcome) -> list[FallbackStatus]:
    """Other GPU types that hold replicas, or shall."""
    seen, wanted = outcome.seen, dict(outcome.decision.on_fallbacks)
    found = [
        FallbackStatus(
            gpu=kind.gpu,
            serving=seen.on(kind.gpu).count(Phase.SERVING),
            desired=wanted.get(kind.gpu, 0),
        )
        for kind in seen.service.fallbacks
    ]
    return [each for each in found if each.serving or each.desired]


def _percent(ratio: float | None) -> str:
    return "" if ratio is None else f"{100 * ratio:.0f}"


def refused_status(
    message: str, reason: str, generation: int, former: LLMServiceStatus, now: str
) -> LLMServiceStatus:
    """Describe a spec that cannot be served; what ran before keeps running."""
    accepted = Condition(
        type=ACCEPTED, status="False", reason=reason, message=message, last_transition_time=now
    )
    ready = next((c for c in former.conditions if c.type == READY), None)
    fresh = [accepted]
    if ready is None or ready.status != "True":
        fresh.append(accepted.model_copy(update={"type": READY}))
    kept = [c for c in former.conditions if c.type not in {f.type for f in fresh}]
    return former.model_copy(
        update={
            "observed_generation": generation,
            "conditions": [*_with_times(fresh, former.conditions, now, generation), *kept],
        }
    )


def _conditions(outcome: Outcome) -> list[Condition]:
    """Every aspect, with Ready as their sum."""
    seen, decision = outcome.seen, outcome.decision
    serving, wanted = seen.count(Phase.SERVING), decision.serving
    trouble = diagnose(_complaint(seen) or outcome.fault or "")
    available = _condition(
        AVAILABLE, serving > 0 or wanted == 0, "Serving", "NoReplicaServes",
        f"{serving} of {wanted} replicas serve" + (f": {trouble.message}" if trouble else ""),
    )  # fmt: skip
    blind = serving > 0 and seen.demand.waiting is None
    observed = _condition(
        OBSERVED, not blind, "SignalsFresh", "SignalsMissing",
        "no fresh signals: scaling holds" if blind else "",
    )  # fmt: skip
    conditions = [
        _condition(ACCEPTED, True, "Resolved", "", "the spec is valid and its model fits"),
        available,
        _placed(trouble),
        observed,
        _slo(seen),
        _healthy(seen),
        _predicted(decision.numbers),
    ]
    ready = serving >= min(wanted, max(seen.service.bounds.low, 1)) and available.status == "True"
    reason = trouble.reason if trouble else "ReplicasStarting"
    reason = str(decision.reason) if ready else reason
    message = decision.message if ready else available.message
    return [_condition(READY, ready, reason, reason, message), *conditions]


def _placed(trouble: Trouble | None) -> Condition:
    """Whether every replica that is asked for runs, or is about to."""
    if trouble is None:
        return _condition(PLACED, True, "AllPlaced", "", "")
    return _condition(PLACED, False, "", trouble.reason, trouble.message)


def _condition(kind: str, holds: bool, good: str, bad: str, message: str) -> Condition:
    return Condition(
        type=kind,
        status="True" if holds else "False",
        reason=good if holds else bad,
        message=message,
        last_transition_time="",
    )


def _slo(seen: Observation) -> Condition:
    attained, percentile = seen.demand.attained_ratio, seen.service.slo.percentile
    if attained is None:
        return Condition(
            type=SLO_ATTAINED, status="Unknown", reason="NoRequests",
            message="no request ended lately", last_transition_time="",
        )  # fmt: skip
    return _condition(
        SLO_ATTAINED, attained >= percentile, "WithinObjective", "ObjectiveMissed",
        f"objective: {percentile:.0%} of requests within the bounds",
    )  # fmt: skip


def _healthy(seen: Observation) -> Condition:
    """Whether the detector finds nothing that harms; the worst of it otherwise."""
    harm = [f for f in by_severity(seen.findings) if f.severity is not Severity.INFO]
    if not harm:
        return _condition(HEALTHY, True, "NothingFound", "", "")
    worst = harm[0]
    more = f" ({len(harm) - 1} more)" if len(harm) > 1 else ""
    mend = f": {worst.mend}" if worst.mend else ""
    return _condition(HEALTHY, False, "", worst.cause, f"{worst.message}{mend}{more}")


def _predicted(numbers: Numbers) -> Condition:
    """Whether what was predicted is what came."""
    error, carried = numbers.prediction_error_ratio, numbers.carried_ratio
    if error is None:
        return Condition(
            type=PREDICTED, status="Unknown", reason="TooLittleSeen",
            message="no forecast is old enough to be judged", last_transition_time="",
        )  # fmt: skip
    if not 1 / TWIN_FAILS_AT < carried < TWIN_FAILS_AT:
        message = "what replicas carry is far from what the profile says: recalibrate it"
        return _condition(PREDICTED, False, "", "CapacityOff", message)
    return _condition(
        PREDICTED, error < FORECASTS_FAIL_AT, "WithinError", "LoadErratic",
        "" if error < FORECASTS_FAIL_AT else "the load is seldom what was forecast: headroom is "
        "wide, and standbys help more than forecasts",
    )  # fmt: skip


def _with_times(
    fresh: Iterable[Condition], former: list[Condition], now: str, generation: int
) -> list[Condition]:
    old = {condition.type: condition for condition in former}
    done = []
    for condition in fresh:
        before = old.get(condition.type)
        same = before is not None and before.status == condition.status
        moment = before.last_transition_time if same and before is not None else now
        update = {"last_transition_time": moment, "observed_generation": generation}
        done.append(condition.model_copy(update=update))
    return done


def _roles(seen: Observation) -> ReplicasByRole:
    return ReplicasByRole(
        serving=seen.count(Phase.SERVING),
        standby=seen.count(Phase.STANDBY),
        starting=seen.count(*COMING),
        draining=seen.count(Phase.DRAINING),
        failed=seen.count(Phase.FAILED),
    )


def _configuration(service: Service, capacity_rps: float) -> ConfigurationStatus:
    c = service.configuration
    return ConfigurationStatus(
        gpu=service.gpu,
        tensor_parallel_size=c.tensor_parallel_size,
        pipeline_parallel_size=c.pipeline_parallel_size,
        data_parallel_size=c.data_parallel_size,
        expert_parallel=_switch(c.enable_expert_parallel),
        kv_cache_dtype=c.kv_cache_dtype,
        quantization=c.quantization,
        max_num_seqs=c.max_num_seqs,
        max_num_batched_tokens=c.max_num_batched_tokens,
        gpu_memory_utilization_percent=round(100 * c.gpu_memory_utilization),
        max_model_len=c.max_model_len or service.profile.max_model_len,
        chunked_prefill=_switch(c.enable_chunked_prefill),
        prefix_caching=_switch(c.enable_prefix_caching),
        requests_per_second_per_replica=f"{capacity_rps:.2f}",
        reason=str(service.origin),
        message=service.why,
    )


def _switch(on: bool) -> Switch:
    return Switch.ENABLED if on else Switch.DISABLED


def in_force(status: LLMServiceStatus) -> InForce | None:
    """Read back what replicas run; None before the first, or where it cannot be."""
    c = status.configuration
    if c is None or not c.gpu:
        return None
    try:
        configuration = Configuration(
            tensor_parallel_size=c.tensor_parallel_size,
            pipeline_parallel_size=c.pipeline_parallel_size,
            data_parallel_size=c.data_parallel_size,
            enable_expert_parallel=c.expert_parallel is Switch.ENABLED,
            kv_cache_dtype=c.kv_cache_dtype,
            quantization=c.quantization,
            max_num_seqs=c.max_num_seqs,
            max_num_batched_tokens=c.max_num_batched_tokens,
            gpu_memory_utilization=c.gpu_memory_utilization_percent / 100,
            max_model_len=c.max_model_len,
            enable_chunked_prefill=c.chunked_prefill is Switch.ENABLED,
            enable_prefix_caching=c.prefix_caching is Switch.ENABLED,
        )
    except Refused:
        return None
    return InForce(c.gpu, configuration)


def _last_decision(last: Logged | None, former: LLMServiceStatus, now: str) -> LastDecision | None:
    if last is None:
        return former.last_decision
    made, old = last.decision, former.last_decision
    same = old is not None and (old.message, old.reason) == (made.message, str(made.reason))
    return LastDecision(
        serving=made.serving,
        standby=made.standby,
        reason=str(made.reason),
        message=made.message,
        time=old.time if same and old is not None else now,
    )


def _complaint(seen: Observation) -> str:
    """Give the first complaint of a replica that is not ready."""
    waiting = (Phase.FAILED, *COMING)
    said = (s.replica.message for s in seen.sightings if s.replica.phase in waiting)
    return next((message for message in said if message), "")
