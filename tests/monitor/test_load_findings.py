"""Overload, waste, drift, misconfiguration, missing data: what is told, and when it is not."""

import math
from typing import Any

import pytest

from monitor.findings import Kind, Severity
from tests.monitor.fleets import Fleet, an_expectation, keys
from tests.recommender.builders import a_slo, some_limits


def after(duration_s: float, count: int = 2, **fields: Any) -> Fleet:
    expected = fields.pop("expected", None)
    fleet = Fleet.of(count, expected, **fields)
    fleet.watched(duration_s)
    return fleet


# -- overload ---------------------------------------------------------------------------


def test_more_than_capacity_is_overload() -> None:
    fleet = after(60.0, rate_rps=26.0)
    assert keys(fleet.found) == {(Kind.OVERLOAD, "DemandAboveCapacity", "")}
    assert fleet.found[0].mend == "add 1 replica"


def test_a_queue_longer_than_a_first_token_may_take_is_overload() -> None:
    fleet = after(60.0, rate_rps=18.0, waiting=15.0, kv_usage_ratio=0.9)
    assert (Kind.OVERLOAD, "QueueGrows", "") in keys(fleet.found)


def test_a_missed_objective_under_load_is_critical() -> None:
    fleet = after(120.0, rate_rps=18.0, good=False)
    (finding,) = fleet.found
    assert (finding.cause, finding.severity) == ("SloMissed", Severity.CRITICAL)


def test_a_missed_objective_without_load_is_no_overload() -> None:
    assert after(120.0, rate_rps=4.0, good=False).found == ()


def test_a_burst_that_ends_is_no_overload() -> None:
    fleet = after(60.0)
    for replica in fleet.replicas:
        replica.rate_rps = 40.0
    assert fleet.watched(10.0) == ()
    for replica in fleet.replicas:
        replica.rate_rps = 10.0
    assert fleet.watched(60.0) == ()


def test_with_a_replica_unread_a_lower_bound_still_tells_overload_and_never_waste() -> None:
    fleet = after(60.0, count=3, rate_rps=45.0)
    fleet.replicas[0].answers = False
    fleet.watched(60.0)
    assert Kind.OVERLOAD in {finding.kind for finding in fleet.found}
    idle = after(60.0, count=6, rate_rps=0.5)
    idle.replicas[0].answers = False
    idle.watched(5000.0)
    assert Kind.WASTE not in {finding.kind for finding in idle.found}


# -- waste ------------------------------------------------------------------------------


def test_replicas_that_nobody_needs_are_waste() -> None:
    fleet = after(2000.0, count=6, rate_rps=2.0)
    assert keys(fleet.found) == {(Kind.WASTE, "TooManyReplicas", "")}
    assert fleet.found[0].mend == "serve with 4 fewer"  # one carries it, one is to spare


@pytest.mark.parametrize(("count", "rate_rps"), [(2, 1.0), (6, 12.0)])
def test_a_spare_replica_is_no_waste(count: int, rate_rps: float) -> None:
    assert after(3000.0, count=count, rate_rps=rate_rps).found == ()


def test_a_recent_peak_is_remembered() -> None:
    fleet = after(300.0, count=6, rate_rps=16.0)
    for replica in fleet.replicas:
        replica.rate_rps = 2.0
    assert fleet.watched(1500.0) == ()
    assert Kind.WASTE in {finding.kind for finding in fleet.watched(3000.0)}


# -- drift ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "cause", "severity"),
    [
        ({"prompt": 128.0}, "InputLength", Severity.WARNING),
        ({"answer": 40.0}, "OutputLength", Severity.WARNING),
        ({"prompt": 30.0}, "InputLength", Severity.INFO),
    ],
)
def test_lengths_that_changed_are_drift(
    changes: dict[str, Any], cause: str, severity: Severity
) -> None:
    fleet = after(900.0, rate_rps=5.0, **changes)
    (finding,) = (f for f in fleet.found if f.kind is Kind.WORKLOAD_DRIFT)
    assert (finding.cause, finding.severity) == (cause, severity)


def test_a_small_change_is_no_drift_however_many_requests_show_it() -> None:
    assert after(3000.0, rate_rps=15.0, prompt=80.0).found == ()


def test_few_requests_are_no_drift() -> None:
    assert after(600.0, count=1, rate_rps=0.2, prompt=500.0).found == ()


# -- misconfiguration -------------------------------------------------------------------


def test_preemptions_ask_for_a_smaller_batch() -> None:
    expected = an_expectation(limits=some_limits(num_blocks=50))
    small = {"kv_capacity_tokens": 800.0}
    fleet = after(
        300.0, preempted_ratio=0.3, kv_usage_ratio=0.95, running=10.0, expected=expected,
        changes=small,
    )  # fmt: skip
    assert keys(fleet.found) == {(Kind.MISCONFIGURATION, "Preemptions", "")}
    assert "set max_num_seqs to 10 " in fleet.found[0].mend  # 800 tokens hold 10 of 80


def test_a_full_batch_beside_free_cache_asks_for_a_larger_one() -> None:
    fleet = after(300.0, rate_rps=18.0, running=16.0, waiting=4.0, kv_usage_ratio=0.2)
    (finding,) = (f for f in fleet.found if f.kind is Kind.MISCONFIGURATION)
    assert finding.cause == "MaxNumSeqsBound"
    assert finding.mend == "raise max_num_seqs from 16 to 72"  # 0.9 of the cache


def test_a_batch_that_the_objective_does_not_let_grow_is_no_misconfiguration() -> None:
    expected = an_expectation(slo=a_slo(itl_s=0.0099))
    fleet = after(
        300.0, rate_rps=18.0, running=16.0, waiting=4.0, kv_usage_ratio=0.2, expected=expected
    )
    assert Kind.MISCONFIGURATION not in {finding.kind for finding in fleet.found}


def test_a_small_token_budget_is_told_where_a_larger_one_pays() -> None:
    narrow = an_expectation(
        limits=some_limits(max_num_batched_tokens=64, max_num_seqs=64), slo=a_slo(itl_s=0.1)
    )
    fleet = after(300.0, running=4.0, waiting=4.0, expected=narrow)
    (finding,) = (f for f in fleet.found if f.kind is Kind.MISCONFIGURATION)
    assert (finding.cause, finding.mend) == (
        "QueueWithSpareKv",
        "raise max_num_batched_tokens from 64 to 256",
    )
    bound = an_expectation(
        limits=some_limits(max_num_batched_tokens=2048, max_num_seqs=64), slo=a_slo(itl_s=1.0)
    )
    fleet = after(300.0, running=4.0, waiting=4.0, expected=bound)  # computes at its limit
    assert Kind.MISCONFIGURATION not in {finding.kind for finding in fleet.found}


def test_memory_that_full_load_would_not_use_is_told() -> None:
    fleet = after(2000.0, rate_rps=10.0, kv_usage_ratio=0.03)
    assert keys(fleet.found) == {(Kind.MISCONFIGURATION, "IdleMemory", "")}
    assert after(2000.0, rate_rps=10.0, kv_usage_ratio=0.3).found == ()


def test_requests_that_are_too_long_are_told() -> None:
    fleet = after(60.0)
    for tick in range(60):
        fleet.rejected_total = 100.0 + 5.0 * tick  # of 105 that came
        fleet.look()
    assert keys(fleet.found) == {(Kind.MISCONFIGURATION, "RejectedLengths", "")}
    assert fleet.found[0].mend == "raise max_model_len"


# -- missing data -----------------------------------------------------------------------


def test_a_silent_replica_and_a_silent_fleet_are_missing_data() -> None:
    fleet = after(60.0, count=3)
    fleet.replicas[0].answers = False
    fleet.watched(40.0)
    assert keys(fleet.found) == {(Kind.MISSING_DATA, "NoReading", "r0")}
    for replica in fleet.replicas:
        replica.answers = False
    fleet.watched(40.0)
    assert (Kind.MISSING_DATA, "NoReadings", "") in keys(fleet.found)


def test_one_missed_scrape_is_nothing() -> None:
    fleet = after(60.0)
    fleet.replicas[0].answers = False
    assert fleet.look() == ()
    fleet.replicas[0].answers = True
    assert fleet.watched(60.0) == ()


@pytest.mark.parametrize("nonsense", [None, math.nan, -1.0])
def test_signals_that_pages_lack_are_named(nonsense: float | None) -> None:
    fleet = after(60.0)
    fleet.replicas[1].changes = {"waiting": nonsense}
    fleet.watched(60.0)
    (finding,) = (f for f in fleet.found if f.kind is Kind.MISSING_DATA)
    assert (finding.cause, finding.subject) == ("AbsentSignals", "r1")
    assert "waiting" in finding.message
