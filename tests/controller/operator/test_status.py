"""From a tick's outcome to `.status`: what each condition says, and when its time moves."""

from dataclasses import replace
from typing import Any

import pytest

from controller.api.status import Condition, LLMServiceStatus
from controller.decide import Reason
from controller.loop import Logged, Outcome
from controller.observation import Observation, Phase
from controller.operator.status import refused_status, status_of
from controller.service import Bounds
from monitor.findings import Finding, Kind, Severity
from tests.controller.builders import (
    BLIND,
    a_decision,
    a_demand,
    a_service,
    a_sighting,
    an_observation,
)

THEN, NOW, LATER = "2026-11-21T00:00:00Z", "2026-11-21T00:01:00Z", "2026-11-21T00:02:00Z"
URL = "http://chat.default.svc"
EMPTY = LLMServiceStatus()


def status(
    seen: Observation | None = None,
    *,
    former: LLMServiceStatus = EMPTY,
    now: str = NOW,
    fault: str | None = None,
    **decision: Any,
) -> LLMServiceStatus:
    outcome = Outcome(1.0, seen or an_observation(), a_decision(**decision), fault)
    return status_of(outcome, Logged(1.0, outcome.decision, "d1"), former, now, URL)


def condition(found: LLMServiceStatus, kind: str) -> Condition:
    (one,) = [c for c in found.conditions if c.type == kind]
    return one


def told(found: LLMServiceStatus) -> dict[str, str]:
    return {c.type: c.status for c in found.conditions}


def test_a_sound_service_is_all_true() -> None:
    found = status()
    assert told(found) == {
        **dict.fromkeys(
            ("Ready", "Accepted", "Available", "Placed", "Observed", "SLOAttained", "Healthy"),
            "True",
        ),
        "Predicted": "Unknown",  # no forecast is old enough
    }
    assert (found.replicas, found.desired_replicas, found.endpoint) == (1, 1, URL)
    assert found.slo_attainment_percent == "100"
    assert condition(found, "Ready").reason == "Steady"
    assert "carry the demand" in condition(found, "Ready").message


def test_replicas_are_counted_by_role() -> None:
    found = status(an_observation("SSbspdF"))
    assert found.replicas_by_role is not None
    assert found.replicas_by_role.model_dump() == {
        "serving": 2, "standby": 1, "starting": 2, "draining": 1, "failed": 1,
    }  # fmt: skip


def test_the_selector_counts_serving_pods_for_kubectl_scale() -> None:
    assert status().selector == (
        "serving.whaleflux.io/service=chat,serving.whaleflux.io/role=serving"
    )


def test_nothing_serving_is_not_available_and_not_ready() -> None:
    found = status(an_observation("s", demand=BLIND), reasons=(Reason.NO_DATA,))
    assert (told(found)["Available"], told(found)["Ready"]) == ("False", "False")
    assert condition(found, "Available").reason == "NoReplicaServes"
    assert condition(found, "Ready").reason == "ReplicasStarting"
    assert told(found)["Observed"] == "True"  # nothing serves: no signals are missing


def test_why_a_replica_fails_is_told_in_ready() -> None:
    failed = a_sighting("F0", Phase.FAILED, message="engine exited with 1: out of memory")
    found = status(an_observation(sightings=(failed,)), fault="pods: quota exceeded")
    ready = condition(found, "Ready")
    assert ready.reason == "ReplicasFailing"
    assert ready.message == "0 of 1 replicas serve: engine exited with 1: out of memory"


def test_a_pod_that_waits_for_a_gpu_is_told() -> None:
    """dynamo 14251: stuck while a Pending pod waits for a GPU."""
    waiting = a_sighting("p0", Phase.PENDING, message="Unschedulable: 0/3 nodes have a GPU")
    found = status(an_observation(sightings=(waiting,)))
    assert "0/3 nodes have a GPU" in condition(found, "Ready").message


def test_a_fault_of_the_tick_is_told_where_no_replica_complains() -> None:
    found = status(an_observation(""), fault="pods: quota exceeded")
    assert condition(found, "Available").message == "0 of 1 replicas serve: pods: quota exceeded"


def test_missing_signals_are_a_condition() -> None:
    found = status(an_observation(demand=BLIND), reasons=(Reason.NO_DATA,))
    assert (told(found)["Observed"], told(found)["Ready"]) == ("False", "True")
    assert condition(found, "Observed").reason == "SignalsMissing"
    assert (told(found)["SLOAttained"], found.slo_attainment_percent) == ("Unknown", "")


def test_a_missed_objective_is_a_condition_and_does_not_unready() -> None:
    found = status(an_observation(demand=a_demand(attained=0.5)))
    assert (told(found)["SLOAttained"], told(found)["Ready"]) == ("False", "True")
    assert condition(found, "SLOAttained").reason == "ObjectiveMissed"


def test_scaling_out_stays_ready_above_the_minimum() -> None:
    found = status(an_observation("Ss"), serving=2, reasons=(Reason.DEMAND_RISING,))
    assert told(found)["Ready"] == "True"


def test_below_the_minimum_is_not_ready() -> None:
    service = a_service(bounds=Bounds(2, 4))
    found = status(an_observation("Ss", service=service), serving=2)
    assert (told(found)["Ready"], told(found)["Available"]) == ("False", "True")


def test_zero_wanted_and_zero_there_is_ready() -> None:
    service = a_service(bounds=Bounds(0, 0))
    found = status(an_observation("", service=service), serving=0, standby=0)
    assert (told(found)["Ready"], told(found)["Available"]) == ("True", "True")


def test_a_transition_time_moves_only_with_its_status() -> None:
    first = status(now=THEN)
    assert {c.last_transition_time for c in first.conditions} == {THEN}
    missed = an_observation(demand=a_demand(attained=0.5))
    second = status(missed, former=first, now=NOW, reasons=(Reason.SLO_MISSED,))
    moved = {c.type for c in second.conditions if c.last_transition_time == NOW}
    assert moved == {"SLOAttained"}
    assert condition(second, "Ready").reason == "SloMissed"  # the reason may change alone
    third = status(former=second, now=LATER)
    assert condition(third, "SLOAttained").last_transition_time == LATER
    assert condition(third, "Ready").last_transition_time == THEN


def test_the_generation_that_was_observed_is_told_everywhere() -> None:
    found = status(an_observation(service=a_service(generation=7)))
    assert found.observed_generation == 7
    assert {c.observed_generation for c in found.conditions} == {7}


def test_the_same_outcome_twice_writes_the_same_status() -> None:
    first = status(now=THEN)
    assert status(former=first, now=LATER) == first


def test_the_last_decision_keeps_its_time_while_it_stays() -> None:
    first = status(now=THEN)
    again = status(former=first, now=NOW)
    other = status(former=again, now=LATER, message="2 serving", reasons=(Reason.BACKLOG,))
    times = [found.last_decision.time for found in (first, again, other) if found.last_decision]
    assert times == [THEN, THEN, LATER]


def test_without_a_decision_the_former_one_stays() -> None:
    first = status(now=THEN)
    outcome = Outcome(1.0, an_observation(), a_decision())
    assert status_of(outcome, None, first, NOW, URL).last_decision == first.last_decision


def test_the_configuration_in_force_is_told() -> None:
    found = status().configuration
    assert found is not None
    assert (found.max_num_seqs, found.max_model_len) == (16, 4096)
    assert (found.gpu_memory_utilization_percent, found.requests_per_second_per_replica) == (
        90,
        "4.00",
    )


# -- refused ----------------------------------------------------------------------------


def test_a_refused_spec_that_never_ran_is_not_ready() -> None:
    found = refused_status("gpu: unknown", "InvalidSpec", 3, EMPTY, NOW)
    assert told(found) == {"Accepted": "False", "Ready": "False"}
    assert condition(found, "Accepted").message == "gpu: unknown"
    assert {c.observed_generation for c in found.conditions} == {found.observed_generation} == {3}


def test_what_ran_before_a_refused_spec_stays_ready() -> None:
    found = refused_status("gpu: unknown", "InvalidSpec", 3, status(now=THEN), NOW)
    assert (told(found)["Accepted"], told(found)["Ready"]) == ("False", "True")
    assert condition(found, "Accepted").last_transition_time == NOW
    assert (found.replicas, found.observed_generation) == (1, 3)


def test_refusing_twice_moves_no_time() -> None:
    once = refused_status("gpu: unknown", "InvalidSpec", 3, EMPTY, THEN)
    assert refused_status("gpu: unknown", "InvalidSpec", 3, once, LATER) == once


def test_a_mended_spec_is_accepted_again() -> None:
    refused = refused_status("gpu: unknown", "InvalidSpec", 3, EMPTY, THEN)
    found = status(former=refused)
    assert condition(found, "Accepted").status == "True"
    assert condition(found, "Accepted").last_transition_time == NOW


@pytest.mark.parametrize("found", [status(), refused_status("x", "InvalidSpec", 1, EMPTY, NOW)])
def test_conditions_are_unique_and_survive_a_restart(found: LLMServiceStatus) -> None:
    kinds = [c.type for c in found.conditions]
    assert len(kinds) == len(set(kinds))
    document = found.model_dump_json(by_alias=True)
    assert LLMServiceStatus.model_validate_json(document) == found


def a_finding(**changes: Any) -> Finding:
    fields: dict[str, Any] = {
        "kind": Kind.DEGRADED_REPLICA, "cause": "SlowSteps", "subject": "r1",
        "severity": Severity.WARNING, "confidence_ratio": 0.8, "since_s": 0.0, "evidence": (),
        "message": "r1: steps take 1.40 times as long", "mend": "replace the replica",
    }  # fmt: skip
    return Finding(**{**fields, **changes})


def test_the_worst_finding_is_told_with_its_mend() -> None:
    worst = a_finding(
        kind=Kind.GPU_FAULT, cause="XidError", severity=Severity.CRITICAL, message="XID 79",
        mend="reset the GPU",
    )  # fmt: skip
    found = condition(status(an_observation(findings=(a_finding(), worst))), "Healthy")
    assert (found.status, found.reason) == ("False", "XidError")
    assert found.message == "XID 79: reset the GPU (1 more)"


def test_what_harms_nobody_leaves_a_service_healthy() -> None:
    waste = a_finding(kind=Kind.WASTE, severity=Severity.INFO)
    assert condition(status(an_observation(findings=(waste,))), "Healthy").status == "True"


@pytest.mark.parametrize(
    ("error", "carried", "told_as"),
    [
        (0.1, 1.0, ("True", "WithinError")),
        (0.9, 1.0, ("False", "LoadErratic")),
        (0.1, 2.5, ("False", "CapacityOff")),
        (0.1, 0.4, ("False", "CapacityOff")),
    ],
)
def test_predictions_that_did_not_come_true_are_told(
    error: float, carried: float, told_as: tuple[str, str]
) -> None:
    numbers = replace(a_decision().numbers, prediction_error_ratio=error, carried_ratio=carried)
    found = status(numbers=numbers)
    predicted = condition(found, "Predicted")
    assert (predicted.status, predicted.reason) == told_as
    assert found.prediction_error_percent == f"{100 * error:.0f}"
