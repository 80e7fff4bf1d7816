"""Examples of knative/serving's `pkg/autoscaler/scaling/autoscaler_test.go` and bucketing."""

from dataclasses import replace

import pytest

from controller.replay.opponents import KnativeKpa, KnativeSettings
from controller.replay.opponents.knative import Buckets, KnativeState
from tests.controller.replay.opponents.builders import Driver, each, fleet, known, scrape

TESTS = KnativeSettings(
    container_concurrency_target_default=10.0,
    container_concurrency_target_percentage=100.0,
    max_scale_up_rate=10.0,
    max_scale_down_rate=10.0,
)
"""What its unit tests are run with: 10 requests a pod, threshold 2, rates 10, window 60 s."""

LARGE = known(min_replicas=0, max_replicas=10_000)


def _scale(
    stable: float,
    panic: float,
    ready: int,
    settings: KnativeSettings = TESTS,
    state: KnativeState | None = None,
    now_s: float = 0.0,
) -> tuple[int, KnativeState]:
    policy = KnativeKpa(settings)
    begun = state or KnativeState(LARGE, begun=True)
    count, _, after = policy._scale(stable, panic, ready, begun, now_s)
    return count, after


@pytest.mark.parametrize(
    ("target", "stable", "panic", "ready", "expected"),
    [
        (10.0, 50.0, 10.0, 1, 5),  # StableModeIncreaseWithConcurrencyDefault
        (10.0, 100.0, 10.0, 1, 10),
        (181.0, 21.0, 26.0, 1, 1),  # StableModeUnlimitedTBC
        (10.0, 50.0, 50.0, 5, 5),  # StableModeNoChangeAlreadyScaled
        (10.0, 100.0, 100.0, 8, 10),  # StableModeDecrease, before
        (10.0, 50.0, 50.0, 8, 5),  # and after
        (10.0, 50.0, 100.0, 1, 10),  # PanicModeDoublePodCount
        (10.0, 1000.0, 1001.0, 1, 10),  # RateLimitScaleUp: needs 100, only ×10
        (10.0, 1000.0, 1001.0, 10, 100),
        (10.0, 1.0, 1.0, 100, 10),  # RateLimitScaleDown: needs 1, only ÷10
        (10.0, 1000.0, 888.0, 0, 10),  # UseOnePodAsMinimumIfEndpointsNotFound
        (10.0, 0.0, 0.0, 1, 0),  # StableModeNoTrafficScaleToZero
    ],
)
def test_scales_as_its_unit_tests_do(target, stable, panic, ready, expected):
    settings = replace(TESTS, container_concurrency_target_default=target)
    assert _scale(stable, panic, ready, settings)[0] == expected


def test_a_small_rate_still_grows_by_one():
    settings = replace(TESTS, container_concurrency_target_default=1.0, max_scale_up_rate=1.1)
    assert _scale(3.0, 3.1, 2, settings)[0] == 3
    settings = replace(TESTS, max_scale_down_rate=1.1)
    assert _scale(1.0, 1.0, 100, settings)[0] == 90


def test_panics_stays_and_comes_down_after_the_stable_window():
    # TestAutoscalerPanicThenUnPanicScaleDown
    count, state = _scale(100.0, 1000.0, 10)
    assert (count, state.panic_s) == (100, 0.0)
    count, state = _scale(1.0, 1.0, 10, state=state, now_s=30.0)
    assert count == 100
    count, state = _scale(1.0, 1.0, 10, state=state, now_s=61.0)
    assert (count, state.panic_s) == (1, None)


def test_takes_the_larger_window_in_panic():
    panicking = KnativeState(LARGE, panic_s=-5.0, max_panic_pods=5, begun=True)
    settings = replace(TESTS, container_concurrency_target_default=1.0)
    assert _scale(50.0, 30.0, 5, settings, panicking)[0] == 50
    assert _scale(20.0, 30.0, 5, settings, panicking)[0] == 30


def test_a_confirmed_panic_goes_on():
    # TestAutoscalerExtendPanicWindow, and TestAutoscalerUnpanicAfterSlowIncrease
    settings = replace(TESTS, container_concurrency_target_default=1.0)
    count, state = _scale(11.0, 25.0, 10, settings)
    assert count == 25
    assert _scale(30.0, 80.0, 40, settings, state, 30.0)[1].panic_s == 30.0
    count, slow = _scale(30.0, 41.0, 40, settings, state, 30.0)
    assert (count, slow.panic_s) == (41, 0.0)
    assert _scale(50.0, 56.0, 55, settings, slow, 62.0) == (
        50,
        replace(slow, panic_s=None, max_panic_pods=0),
    )


def test_seven_of_ten_is_the_target():
    # the serving encryption blog's log: concurrency 19.874 at 0.7 · 10 asks for three
    settings = KnativeSettings(container_concurrency_target_default=10.0)
    assert _scale(19.874, 19.874, 2, settings)[0] == 3


def test_a_hole_between_two_buckets_reads_zero_one_at_the_end_does_not():
    buckets = Buckets().record(0, 10.0, 30).record(3, 10.0, 30)
    assert buckets.average(3, 30) == 5.0  # two of four buckets
    assert buckets.average(9, 30) == 5.0  # what is not over is not counted
    assert buckets.average(9, 3) is None


def test_a_gap_of_a_whole_window_begins_anew():
    buckets = Buckets().record(0, 90.0, 30).record(40, 10.0, 30)
    assert buckets.average(40, 30) == 10.0
    assert buckets.average(40, 3) == 10.0


def test_holds_when_the_windows_are_empty():
    driver = Driver(KnativeKpa(), known(), 3)
    assert driver.tick(None).reason == "no data"
    assert driver.tick(scrape(replicas=each([10.0] * 3))).reason == "panic"  # begun over one pod
    for _ in range(29):
        assert driver.tick(None).replicas == 3
    assert driver.tick(None).reason == "no data"


def test_defaults_are_a_hundred_at_seventy_per_cent():
    driver = Driver(KnativeKpa(), known(), 1)
    assert driver.tick(scrape(replicas=each([139.0]))).replicas == 2


def test_the_highest_of_the_delay_counts():
    settings = replace(
        TESTS, scale_down_delay_s=300.0, stable_window_s=2.0, panic_threshold_percentage=10_000.0
    )
    driver = Driver(KnativeKpa(settings), known(), 1)
    assert driver.tick(scrape(replicas=each([40.0]))).replicas == 4
    for _ in range(149):
        assert driver.tick(scrape(replicas=each([0.0] * 4))).replicas == 4
    assert driver.tick(scrape(replicas=each([0.0] * 4))).replicas == 1


def test_requests_of_a_silent_replica_are_extrapolated():
    policy = KnativeKpa(TESTS)
    seen = scrape(replicas=each([40.0]))
    wish, _ = policy.decide(seen, fleet(2), policy.start(known()), 0.0)
    assert wish.replicas == 8
