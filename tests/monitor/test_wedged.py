"""An engine that makes no tokens is found within 15 s; one that is merely idle never."""

import pytest

from monitor.detectors.wedged import PROBE_IDLE_S, WEDGED_AFTER_S
from monitor.findings import Finding, Kind, Severity
from tests.monitor.fleets import Fleet, an_expectation, keys, probed

WEDGED = Kind.WEDGED_ENGINE


def a_fleet(scrape_s: float, count: int = 2) -> Fleet:
    fleet = Fleet.of(count, an_expectation(scrape_s=scrape_s))
    fleet.watched(60.0)
    assert fleet.found == ()
    return fleet


def until_found(fleet: Fleet, within_s: float, *, prober: bool) -> float:
    began_s = fleet.now_s
    while fleet.now_s - began_s < within_s:
        if any(finding.kind is WEDGED for finding in fleet.look()):
            return fleet.now_s - began_s
        if prober:
            probed(fleet, lambda name: name != "r0")
    raise AssertionError("not found")


def only(findings: tuple[Finding, ...]) -> Finding:
    (finding,) = findings
    return finding


@pytest.mark.parametrize("scrape_s", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("waiting", [0.0, 3.0])
def test_with_a_canary_a_wedged_engine_is_found_within_15_s(
    scrape_s: float, waiting: float
) -> None:
    fleet = a_fleet(scrape_s)
    fleet.replicas[0].moves, fleet.replicas[0].waiting = False, waiting
    assert until_found(fleet, 60.0, prober=True) <= 15.0
    finding = only(fleet.found)
    assert (finding.cause, finding.subject) == ("CanaryUnanswered", "r0")
    assert finding.severity is Severity.CRITICAL
    assert finding.confidence_ratio > 0.95


@pytest.mark.parametrize("scrape_s", [1.0, 2.0, 5.0])
def test_without_a_prober_tokens_alone_decide(scrape_s: float) -> None:
    fleet = a_fleet(scrape_s)
    fleet.replicas[0].moves = False
    took_s = until_found(fleet, 60.0, prober=False)
    assert WEDGED_AFTER_S < took_s <= WEDGED_AFTER_S + 2 * scrape_s
    assert only(fleet.found).cause == "NoTokens"


def test_a_canary_that_answers_clears_the_suspicion() -> None:
    fleet = a_fleet(5.0)
    fleet.replicas[0].moves = False
    for _ in range(10):
        assert fleet.look() == ()
        probed(fleet, lambda _: True)


def test_a_long_prefill_that_a_canary_waits_behind_is_not_wedged() -> None:
    fleet = a_fleet(1.0)
    fleet.replicas[0].moves = False
    for _ in range(7):
        assert fleet.look() == ()
        probed(fleet, lambda name: name != "r0")
    fleet.replicas[0].moves = True
    assert fleet.watched(10.0) == ()


def test_an_answer_from_before_tokens_stopped_clears_nothing() -> None:
    fleet = a_fleet(5.0)
    fleet.replicas[0].running = 0.0
    fleet.watched(PROBE_IDLE_S + 10)
    probed(fleet, lambda _: True)
    fleet.replicas[0].running = 2.0
    fleet.look()
    fleet.replicas[0].moves = False
    assert until_found(fleet, 60.0, prober=True) <= 15.0


def test_an_idle_engine_that_answers_no_probe_is_found() -> None:
    fleet = a_fleet(5.0)
    standby = fleet.replicas[0]
    standby.running, standby.moves, standby.admitted = 0.0, False, False
    assert until_found(fleet, 2 * PROBE_IDLE_S, prober=True) <= PROBE_IDLE_S + 15.0
    assert keys(fleet.found) == {(WEDGED, "CanaryUnanswered", "r0")}


def test_an_idle_engine_that_answers_is_probed_seldom_and_left_alone() -> None:
    fleet = a_fleet(5.0)
    fleet.replicas[0].running, fleet.replicas[0].moves = 0.0, False
    probes = 0
    for _ in range(60):
        assert fleet.look() == ()
        probes += "r0" in fleet.watch.wants_canary
        probed(fleet, lambda _: True)
    assert 6 <= probes <= 10  # in 300 s


def test_a_sleeping_engine_is_not_probed() -> None:
    fleet = a_fleet(5.0)
    fleet.replicas[0].moves = False
    fleet.replicas[0].changes = {"asleep": True}
    for _ in range(30):
        fleet.look()
        assert "r0" not in fleet.watch.wants_canary
    assert keys(fleet.found) == set()


def test_a_replica_that_cannot_be_read_is_missing_and_not_wedged() -> None:
    fleet = a_fleet(5.0)
    fleet.replicas[0].answers = False
    for _ in range(20):
        fleet.look()
        probed(fleet, lambda name: name != "r0")
        assert WEDGED not in {finding.kind for finding in fleet.found}
    assert Kind.MISSING_DATA in {finding.kind for finding in fleet.found}


def test_an_engine_that_moves_again_is_forgiven() -> None:
    fleet = a_fleet(5.0)
    fleet.replicas[0].moves = False
    until_found(fleet, 60.0, prober=True)
    fleet.replicas[0].moves = True
    fleet.watched(30.0)
    assert fleet.found == ()


def test_an_engine_that_says_it_is_dead_is_believed_at_once() -> None:
    fleet = a_fleet(5.0)
    fleet.replicas[1].healthy = False
    assert keys(fleet.look()) == {(WEDGED, "Unhealthy", "r1")}


def test_nan_counters_never_wedge() -> None:
    fleet = a_fleet(5.0)
    fleet.replicas[0].changes = {"generation_tokens_total": float("nan")}
    for _ in range(20):
        assert WEDGED not in {finding.kind for finding in fleet.look()}
