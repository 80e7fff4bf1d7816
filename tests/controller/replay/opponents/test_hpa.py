"""Examples of the HPA page, its controller's unit tests, and the behaviour's documentation."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.replay.opponents import Hpa, HpaSettings
from controller.replay.opponents.hpa_rules import (
    DEFAULT,
    Behavior,
    Limit,
    Memory,
    Pods,
    Rules,
    behave,
    external_replicas,
    pods_replicas,
)
from tests.controller.replay.opponents.builders import Driver, each, fleet, known, scrape


def _replicas(usage: list[float], target: float, replicas: int, **silent: int) -> int | None:
    return pods_replicas(Pods(tuple(usage), spec_replicas=replicas, **silent), target, 0.1)


@pytest.mark.parametrize(
    ("usage", "target", "replicas", "expected"),
    [
        ([200.0], 100.0, 1, 2),  # "if the current metric value is 200m and the desired 100m"
        ([50.0] * 4, 100.0, 4, 2),  # "... 50m, you'll halve the number of replicas"
        ([20.0, 10.0, 30.0], 15.0, 3, 4),
        ([12.0] * 5, 20.0, 5, 3),
        ([50.0, 10.0, 30.0], 15.0, 3, 6),
        ([109.0], 100.0, 1, 1),  # within the tolerance
        ([110.0, 110.0], 100.0, 2, 2),
        ([111.0, 111.0], 100.0, 2, 3),
    ],
)
def test_multiplies_the_count_by_the_ratio(usage, target, replicas, expected):
    assert _replicas(usage, target, replicas) == expected


@pytest.mark.parametrize(
    ("usage", "missing", "replicas", "expected"),
    [
        ([1900.0], 1, 2, 2),  # up would be 4; the silent pod as idle makes 0.95
        ([600.0], 1, 2, 2),  # down would be 1; as at the target it makes 0.8 of two
        ([1000.0], 1, 2, 1),  # exactly at the target it is idle: the plain metric's `else`
        ([3000.0], 1, 2, 3),  # 1.5 over both
        ([100.0, 100.0], 1, 3, 2),  # 0.4 over three
    ],
)
def test_counts_a_silent_pod_against_any_change(usage, missing, replicas, expected):
    assert _replicas(usage, 1000.0, replicas, missing=missing) == expected


def test_counts_a_pending_pod_as_idle_on_the_way_up_alone():
    assert _replicas([2000.0, 2000.0], 1000.0, 4, unready=2) == 4
    assert _replicas([500.0, 500.0], 1000.0, 4, unready=2) == 1


def test_says_nothing_where_no_pod_gave_the_metric():
    assert _replicas([], 1000.0, 2, missing=2) is None


def test_an_external_average_is_the_value_over_the_target():
    assert external_replicas(5.0, 1.0, 3, 0.1) == 5
    assert external_replicas(11.0, 1.0, 10, 0.1) == 10  # one of ten is within the tolerance
    assert external_replicas(12.0, 1.0, 10, 0.1) == 12


def _walk(behavior: Behavior, wanted: int, count: int, ticks: int, every_s: float) -> list[int]:
    memory, counts = Memory(), []
    for tick in range(ticks):
        wish, memory = behave(
            wanted, count, memory, behavior=behavior, known=known(), now_s=tick * every_s
        )
        count = wish.replicas
        counts.append(count)
    return counts


def test_takes_a_tenth_or_four_pods_a_minute_as_its_documentation_says():
    rules = Rules(0.0, (Limit("Pods", 4, 60.0), Limit("Percent", 10, 60.0)))
    slow = Behavior(up=DEFAULT.up, down=rules)
    # 80 pods: 8 go, then 10 % of 72 is 7.2 and rounded up to 8 ...; under 40, four at a time.
    counts = _walk(slow, wanted=10, count=80, ticks=12, every_s=60.0)
    assert counts == [72, 64, 57, 51, 45, 40, 36, 32, 28, 24, 20, 16]


def test_doubles_or_adds_four_in_fifteen_seconds():
    assert _walk(DEFAULT, wanted=30, count=1, ticks=4, every_s=15.0) == [5, 10, 20, 30]


def test_rates_look_at_what_was_added_in_their_period():
    assert _walk(DEFAULT, wanted=30, count=1, ticks=4, every_s=5.0) == [5, 5, 5, 10]


def test_scale_in_waits_for_the_highest_of_five_minutes():
    counts = _walk(DEFAULT, wanted=1, count=4, ticks=22, every_s=15.0)
    assert counts[:20] == [4] * 20
    assert counts[20] == 1  # all of it in one period, once the first 300 s are over


def test_scale_out_with_a_window_takes_the_least_of_it():
    slow = Behavior(up=Rules(30.0, DEFAULT.up.policies), down=DEFAULT.down)
    assert _walk(slow, wanted=5, count=2, ticks=3, every_s=15.0) == [2, 2, 5]


def test_follows_requests_in_flight_per_pod():
    # 0.8 of 50 in flight at capacity is 40: 4 pods of 60 are worth six
    driver = Driver(Hpa(), known(), 4)
    assert driver.tick(scrape(replicas=each([60.0] * 4))).replicas == 6


def test_holds_and_remembers_nothing_without_a_scrape():
    driver = Driver(Hpa(), known(), 4)
    wish = driver.tick(None)
    assert (wish.replicas, wish.reason) == (4, "FailedGetPodsMetric")
    assert driver.state.inner.memory == Memory()


def test_what_loads_its_weights_counts_as_idle_on_the_way_up():
    policy = Hpa(HpaSettings(target_ratio=None, target_average_value=10.0))
    seen = scrape(replicas=each([18.0, 18.0]))
    wish, _ = policy.decide(seen, fleet(2, 2), policy.start(known()), 0.0)
    assert wish.replicas == 4  # 36 over four pods is 0.9 of the target: no more


def test_brings_a_count_outside_of_the_bounds_inside_without_metrics():
    wish = Driver(Hpa(), known(max_replicas=3), 5).tick(None)
    assert (wish.replicas, wish.reason) == (3, "outside of bounds")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 200), min_size=1, max_size=6), st.floats(0, 200))
def test_more_load_never_asks_for_fewer(loads, more):
    policy = Hpa()

    def asked(load: list[float]) -> int:
        there = fleet(len(load))
        return policy.decide(scrape(replicas=each(load)), there, policy.start(known()), 0.0)[
            0
        ].replicas

    assert asked([loads[0] + more, *loads[1:]]) >= asked(loads)
