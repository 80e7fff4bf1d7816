"""Examples of vllm-project/aibrix's `kpa_test.go` and `apa_test.go`, and of its cooldown."""

from dataclasses import replace

import pytest

from controller.replay.opponents import AibrixApa, AibrixKpa, AibrixSettings
from controller.replay.opponents.aibrix import guarded
from tests.controller.replay.opponents.builders import Driver, each, filled, fleet, known, scrape

FREE = known(min_replicas=0, max_replicas=1000)


@pytest.mark.parametrize(
    ("pods", "use", "up_rate", "down_rate", "expected"),
    [
        (2, 45.0, 2.0, 2.0, 3),  # basic_scale_up
        (2, 35.0, 2.0, 2.0, 3),  # scale_up_upto_ceiling
        (2, 90.0, 2.0, 2.0, 4),  # scale_up_upto_max_scale_up
        (2, 90.0, 2.5, 2.0, 5),
        (6, 20.0, 2.0, 2.0, 4),  # basic_scale_down
        (6, 18.0, 2.0, 2.0, 4),
        (6, 10.0, 2.0, 2.0, 3),  # scale_down_upto_max_scale_down
        (6, 5.0, 2.0, 2.5, 2),
        (2, 33.0, 2.0, 2.0, 2),  # within tolerance
        (2, 27.0, 2.0, 2.0, 2),
    ],
)
def test_apa_scales_as_its_unit_tests_do(pods, use, up_rate, down_rate, expected):
    settings = AibrixSettings(max_scale_up_rate=up_rate, max_scale_down_rate=down_rate)
    assert AibrixApa(settings)._scale(use / 30.0, pods) == expected


@pytest.mark.parametrize(
    ("pods", "stable", "panic", "up_rate", "expected"),
    [
        (2, 20.0, 20.0, 2.0, 2),  # stable_mode_basic_scaling
        (2, 100.0, 100.0, 1.5, 3),  # max_scale_up_rate_limit
        (4, 5.0, 5.0, 2.0, 2),  # max_scale_down_rate_limit
        (2, 12.0, 40.0, 2.0, 4),  # in panic
        (1, 0.0, 0.0, 2.0, 0),  # scale_to_zero
    ],
)
def test_kpa_scales_as_its_unit_tests_do(pods, stable, panic, up_rate, expected):
    settings = AibrixSettings(target_value=10.0, max_scale_up_rate=up_rate)
    # two samples whose means over 180 s and 60 s are what is asked for
    window = ((-100.0, 2 * stable - panic), (0.0, panic))
    assert AibrixKpa(settings)._scale(window, pods, FREE, 0.0)[0] == expected


def test_kpa_sums_cache_use_over_the_pods():
    driver = Driver(AibrixKpa(), known(), 2)
    wish = driver.tick(scrape(replicas=filled([0.9, 0.8])))
    assert (wish.replicas, wish.reason) == (4, "stable mode scaling")


def test_kpa_on_averages_is_pinned_to_its_minimum():
    driver = Driver(AibrixKpa(AibrixSettings(aggregate="average")), known(), 8)
    for _ in range(4):
        wish = driver.tick(scrape(replicas=filled([0.45] * driver.serving)))
    assert wish.replicas == 1  # at nine tenths of the target


def test_the_cooldown_takes_the_lowest_on_the_way_down():
    driver = Driver(AibrixApa(), known(), 8)
    driver.state = replace(
        driver.state, inner=replace(driver.state.inner, recommendations=((-200.0, 2),))
    )
    wish = driver.tick(scrape(replicas=filled([0.42] * 8)))  # asks for seven
    assert wish.replicas == 2


def test_pending_replicas_are_idle_upwards_and_full_downwards():
    assert guarded(8, 2.0, fleet(2, 2)) == 4
    assert guarded(8, 3.0, fleet(2, 2)) == 6
    assert guarded(2, 0.5, fleet(2, 2)) == 3
    assert guarded(8, 2.0, fleet(4)) == 8


def test_requests_are_measured_against_the_concurrency_at_capacity():
    driver = Driver(AibrixApa(AibrixSettings("requests", 0.8)), known(), 4)
    assert driver.tick(scrape(replicas=each([60.0] * 4))).replicas == 6


@pytest.mark.parametrize("policy", [AibrixApa(), AibrixKpa()])
def test_holds_when_the_metrics_cannot_be_collected(policy):
    wish = Driver(policy, known(), 3).tick(None)
    assert (wish.replicas, wish.reason) == (3, "failed to collect metrics")
