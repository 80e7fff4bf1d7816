"""A replica slower than its load explains is found; a wrong profile is no replica's fault."""

from typing import Any

import pytest

from monitor.detectors.degraded import Chart, Window, usual_of_peers
from monitor.findings import Finding, Kind
from tests.monitor.fleets import GAP_S, Fleet, an_expectation, keys
from tests.recommender.builders import a_slo

SLOW = Kind.DEGRADED_REPLICA


def sound(count: int, **fields: Any) -> Fleet:
    fleet = Fleet.of(count, **fields)
    fleet.watched(200.0)
    assert fleet.found == ()
    return fleet


@pytest.mark.parametrize(("factor", "within_s"), [(1.3, 40.0), (1.5, 25.0), (2.0, 25.0)])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_slow_replica_is_found(count: int, factor: float, within_s: float) -> None:
    fleet = sound(count)
    fleet.replicas[0].gap_s = GAP_S * factor
    assert fleet.seconds_until(SLOW) <= within_s
    assert keys(fleet.found) == {(SLOW, "SlowSteps", "r0")}
    slow = evidence(fleet.watched(60.0)[0])["slow_factor"]
    assert slow == pytest.approx(factor, rel=0.05)


def evidence(finding: Finding) -> dict[str, float]:
    return {shown.name: shown.value for shown in finding.evidence}


def test_one_slow_window_is_no_finding() -> None:
    fleet = sound(3)
    fleet.replicas[0].gap_s = 5 * GAP_S
    assert fleet.look() == ()
    fleet.replicas[0].gap_s = GAP_S
    assert fleet.watched(60.0) == ()


def test_one_that_is_slow_from_its_birth_is_found_among_peers() -> None:
    fleet = Fleet.of(4)
    fleet.replicas[2].gap_s = 1.4 * GAP_S
    fleet.watched(120.0)
    assert keys(fleet.found) == {(SLOW, "SlowSteps", "r2")}


@pytest.mark.parametrize(("count", "factor"), [(1, 1.4), (4, 1.4), (4, 0.7)])
def test_a_profile_that_is_wrong_everywhere_is_told_of_the_service(
    count: int, factor: float
) -> None:
    fleet = Fleet.of(count, gap_s=factor * GAP_S)
    fleet.watched(600.0)
    assert keys(fleet.found) == {(SLOW, "ProfileResidual", "")}
    assert evidence(fleet.found[0])["profile_factor"] == pytest.approx(factor, rel=0.05)


def test_a_slow_replica_is_found_though_the_profile_is_wrong() -> None:
    fleet = Fleet.of(4, gap_s=1.4 * GAP_S)
    fleet.watched(200.0)
    fleet.replicas[0].gap_s = 1.4 * 1.4 * GAP_S
    fleet.watched(60.0)
    assert (SLOW, "SlowSteps", "r0") in keys(fleet.found)


def test_a_larger_batch_explains_longer_steps() -> None:
    """Four times the requests, each gap as long as the step cost says of that batch."""
    fleet = sound(3)
    fleet.replicas[0].rate_rps, fleet.replicas[0].gap_s = 25.0, GAP_S * 1.02
    assert fleet.watched(200.0) == ()


def test_its_own_past_is_not_unlearned_while_it_is_slow() -> None:
    fleet = sound(1)
    fleet.replicas[0].gap_s = 1.4 * GAP_S
    fleet.watched(3000.0)
    assert (SLOW, "SlowSteps", "r0") in keys(fleet.found)


def test_nothing_is_learned_in_a_rollout() -> None:
    fleet = sound(1)
    before = fleet.watch.tracks["r0"].chart.past
    fleet.rolling_out = True
    fleet.replicas[0].gap_s = 1.05 * GAP_S
    fleet.watched(300.0)
    assert fleet.watch.tracks["r0"].chart.past == before


def test_a_wide_spread_never_hides_what_misses_the_objective() -> None:
    """Peers keep an ITL of 12 ms; with a spread of 30 % the allowance alone would be 1.1."""
    wide = Chart(windows=50, spread=0.3)
    slow = Window(at_s=0.0, window_s=5.0, gap_s=0.015, residual=0.405)
    unbound, bound = wide, wide
    for _ in range(10):
        unbound = unbound.seen(slow, 0.0, None, quiet=False)
        bound = bound.seen(slow, 0.0, 0.012, quiet=False)
    assert not unbound.alarmed
    assert bound.alarmed


def test_a_slow_replica_that_recovers_is_forgiven() -> None:
    fleet = sound(3)
    fleet.replicas[0].gap_s = 1.5 * GAP_S
    fleet.watched(100.0)
    fleet.replicas[0].gap_s = GAP_S
    assert fleet.watched(100.0) == ()


@pytest.mark.parametrize(
    ("chart", "all_of_them", "usual"),
    [
        (Chart(windows=1, residual=0.4), [0.4], None),
        (Chart(), [0.1], 0.1),
        (Chart(windows=1, residual=0.4), [0.1, 0.4], 0.1),
        (Chart(windows=1, residual=0.4), [-0.3, 0.4], 0.0),  # the twin's word beside one peer's
        (Chart(windows=99, learned=99, past=-0.2, residual=0.4), [-0.3, 0.4], -0.2),  # its past
        (Chart(windows=1, residual=0.4), [0.0, 0.2, 0.4], 0.1),
        (Chart(windows=1, residual=0.0), [0.0, 0.1, 0.2, 0.4], 0.2),
    ],
)
def test_peers_are_the_others(chart: Chart, all_of_them: list[float], usual: float | None) -> None:
    assert usual_of_peers(chart, all_of_them) == (None if usual is None else pytest.approx(usual))


@pytest.mark.parametrize("count", [2, 5])
def test_a_fleet_that_is_faster_than_its_profile_hides_no_slow_replica(count: int) -> None:
    fleet = sound(count, gap_s=0.85 * GAP_S)
    fleet.replicas[0].gap_s = 0.85 * 1.4 * GAP_S
    assert fleet.seconds_until(SLOW) <= 40.0


def test_few_gaps_say_nothing() -> None:
    fleet = Fleet.of(2, an_expectation(slo=a_slo()), rate_rps=0.1, gap_s=10 * GAP_S)
    assert fleet.watched(600.0) == ()


def test_a_past_that_could_not_be_learned_is_not_held_against_it() -> None:
    """Born in a rollout: its steps are 23 % longer than the profile's, and always were."""
    fleet = Fleet.of(1, gap_s=1.23 * GAP_S)
    fleet.rolling_out = True
    assert fleet.watched(300.0) == ()
    fleet.rolling_out = False
    fleet.watched(300.0)
    fleet.replicas[0].gap_s = 1.23 * 1.4 * GAP_S
    assert fleet.seconds_until(SLOW) <= 40.0
