"""Examples of ray-project/ray's `test_autoscaling_policy.py` and of its guide."""

import pytest

from controller.replay.opponents import RayServe, RayServeLlm, RayServeLlmSettings, RayServeSettings
from controller.replay.opponents.ray_serve import Delays, Pending, delayed, scaled
from controller.replay.policy import Known, Wish
from tests.controller.replay.opponents.builders import Driver, each, fleet, known, scrape

AT_ONCE = Delays(upscale_delay_s=0.0, downscale_delay_s=0.0)


def _asked(
    policy: RayServe, loads: list[float], serving: int, starting: int = 0, told: Known | None = None
) -> Wish:
    seen = scrape(replicas=each(loads))
    return policy.decide(seen, fleet(serving, starting), policy.start(told or known()), 0.0)[0]


@pytest.mark.parametrize(("ongoing", "expected"), [(20, 4), (100, 20), (10, 2)])
def test_divides_ongoing_requests_by_the_target(ongoing, expected):
    # test_single_replica_receives_all_requests: four replicas, five each
    policy = RayServe(RayServeSettings(target_ongoing_requests=5.0, delays=AT_ONCE))
    assert _asked(policy, [ongoing, 0.0, 0.0, 0.0], 4).replicas == expected


def test_what_starts_late_is_not_asked_for_twice():
    # test_replicas_delayed_startup
    delays = Delays(upscale_delay_s=0.0, downscale_delay_s=100_000.0)
    policy = RayServe(RayServeSettings(target_ongoing_requests=1.0, delays=delays))
    told = known(max_replicas=200)
    assert _asked(policy, [100.0], 1, told=told).replicas == 100
    assert _asked(policy, [100.0], 1, 99, told=told).replicas == 100
    assert _asked(policy, [41.0] * 3, 3, 97, told=told).replicas == 123
    assert _asked(policy, [2.5] * 4, 4, 119, told=told).replicas == 123


def test_two_replicas_at_thirty_requests_a_second_of_100_ms_become_three():
    policy = RayServe(RayServeSettings(target_ongoing_requests=1.0, delays=AT_ONCE))
    assert _asked(policy, [1.5, 1.5], 2).replicas == 3


def test_factors_amplify_the_difference_and_never_stick():
    gentle = Delays(downscaling_factor=0.2)
    counts = [5]
    for _ in range(5):
        counts.append(scaled(0.0, counts[-1], gentle))
    assert counts == [5, 4, 3, 2, 1, 0]
    assert scaled(4.0, 2, Delays(upscaling_factor=2.0)) == 6


def test_delays_run_while_the_decision_points_one_way():
    delays = Delays()
    count, _, pending = delayed(2, 1, delays, None, 0.0)
    assert (count, pending) == (1, Pending(True, 0.0))
    assert delayed(2, 1, delays, pending, 29.9)[0] == 1
    assert delayed(2, 1, delays, pending, 30.0)[0] == 2
    assert delayed(0, 1, delays, pending, 29.9)[2] == Pending(False, 29.9)
    assert delayed(1, 1, delays, pending, 29.9)[2] is None


def test_zero_is_reached_through_one():
    assert delayed(0, 5, AT_ONCE, None, 0.0)[0] == 1
    assert delayed(0, 1, AT_ONCE, None, 0.0)[0] == 0
    late = Delays(0.0, 0.0, downscale_to_zero_delay_s=300.0)
    assert delayed(0, 1, late, None, 0.0)[0] == 1


def test_from_zero_one_comes_at_once():
    policy = RayServe()
    seen = scrape(gateway_waiting=3)
    wish, _ = policy.decide(seen, fleet(0), policy.start(known(min_replicas=0)), 0.0)
    assert (wish.replicas, wish.reason) == (1, "cold start")


def test_an_outage_reads_as_zero_and_drains_after_the_delay():
    driver = Driver(RayServe(), known(), 4)
    driver.tick(scrape(replicas=each([2.0] * 4)))
    counts = [driver.tick(None).replicas for _ in range(70)]
    assert counts[:60] == [4] * 60
    assert counts[-1] == 1


def _llm(p99_s: float | None, load: float, serving: int = 4) -> Wish:
    policy = RayServeLlm(RayServeLlmSettings(delays=AT_ONCE))
    ttft = () if p99_s is None else (p99_s,)
    seen = scrape(replicas=each([load] * serving), ttft_s=ttft)
    return policy.decide(seen, fleet(serving), policy.start(known()), 0.0)[0]


def test_ttft_adds_one_over_its_target():
    assert _llm(2.1, 50.0).replicas == 5
    assert _llm(2.1, 50.0).reason == "scale_up: upscale"


def test_ttft_gives_one_up_only_when_low_and_idle():
    assert _llm(0.5, 0.9).replicas == 3
    assert _llm(0.5, 1.0).replicas == 4
    assert _llm(2.0, 0.0).replicas == 3  # at the target is not over it
    assert _llm(0.5, 0.0, serving=1).replicas == 1


def test_ttft_holds_on_missing_data():
    wish = _llm(None, 0.0)
    assert (wish.replicas, wish.reason) == (4, "no_data: no change")


def test_ttft_waits_out_the_same_delays():
    driver = Driver(RayServeLlm(), known(), 2)
    counts = [
        driver.tick(scrape(driver.now_s, each([9.0] * 2), ttft_s=(5.0,))).replicas for _ in range(4)
    ]
    assert counts == [2, 2, 2, 3]
