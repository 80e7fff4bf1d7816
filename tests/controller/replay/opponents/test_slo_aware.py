"""The control law of llm-d's guide, and what its signal is made of."""

from itertools import pairwise

import pytest

from controller.replay.opponents import SloAware
from controller.replay.policy import Known, Scrape
from tests.controller.replay.opponents.builders import Driver, each, fleet, known, scrape


@pytest.mark.parametrize(
    ("saturation", "replicas", "ready", "expected"),
    [
        (0.95, 4, 4, 7),  # 4 + ⌈4 · (0.95/0.55 − 1)⌉
        (2.0, 3, 3, 11),
        (2.0, 6, 3, 11),  # credited: half are under way, 6 + ⌈6 · (2·0.5/0.55 − 1)⌉
        (0.60, 8, 4, 8),  # the credit asks for nothing more, and sheds nothing
        (0.55, 4, 4, 4),  # the band holds
        (0.40, 4, 4, 4),
        (0.30, 40, 40, 30),  # 40 − ⌊40 · 0.25⌋
        (0.30, 3, 3, 3),
        (0.0, 5, 5, 0),
        (0.0, 5, 2, 0),  # down is uncredited
    ],
)
def test_follows_the_formula(saturation, replicas, ready, expected):
    assert SloAware().formula(saturation, replicas, ready) == expected


def _observed(policy: SloAware, told: Known, *seen: tuple[float, Scrape | None]) -> float:
    state, value = policy.begin(told), 0.0
    for now_s, one in seen:
        state, value = policy._observe(one, state, now_s)
    return value


def test_saturation_is_the_worse_latency_over_its_bound():
    policy, told = SloAware(), known(ttft_s=3.0, itl_s=0.1)
    assert _observed(policy, told, (0.0, scrape(ttft_s=(1.2,), itl_s=(0.03,)))) == pytest.approx(
        0.4
    )
    assert _observed(policy, told, (0.0, scrape(ttft_s=(1.2,), itl_s=(0.05,)))) == pytest.approx(
        0.5
    )


def test_is_clamped_before_it_is_averaged_over_45_seconds():
    policy, told = SloAware(), known(ttft_s=1.0)
    spike = _observed(policy, told, (0.0, scrape(ttft_s=(90.0,))))
    assert spike == 2.0
    calm = ((15.0 * n, scrape(15.0 * n)) for n in range(1, 6))
    # the spike stays for a minute in the quantile, then for 45 s in the mean
    assert _observed(policy, told, (0.0, scrape(ttft_s=(90.0,))), *calm) == pytest.approx(2.0 / 3)


def test_reads_an_idle_pool_and_an_outage_as_zero():
    policy = SloAware()
    assert _observed(policy, known(), (0.0, scrape())) == 0.0
    assert _observed(policy, known(), (0.0, None)) == 0.0


def test_a_service_without_a_bound_on_one_latency_follows_the_other():
    told = known(ttft_s=float("inf"), itl_s=0.1)
    assert _observed(SloAware(), told, (0.0, scrape(ttft_s=(9.0,), itl_s=(0.05,)))) == 0.5


def test_the_hpa_bursts_after_30_seconds_and_drains_one_in_two_minutes():
    driver = Driver(SloAware(), known(max_replicas=8), 3)
    up = [driver.tick(scrape(driver.now_s, each([1.0]), ttft_s=(2.0,))).replicas for _ in range(3)]
    assert up == [3, 3, 7]  # max(100 %, 4) in a minute, once the window is over
    counts = [driver.tick(scrape(driver.now_s, each([1.0]))).replicas for _ in range(40)]
    changes = [place for place in range(1, 40) if counts[place] < counts[place - 1]]
    assert [counts[place - 1] - counts[place] for place in changes] == [1] * len(changes)
    assert {later - earlier for earlier, later in pairwise(changes)} == {8}


def test_one_of_ten_is_within_the_hpas_tolerance():
    policy = SloAware()
    seen = scrape(ttft_s=(0.36,))  # 0.36 asks for 10 − ⌊10 · 0.1⌋ = 9
    wish, _ = policy.decide(seen, fleet(10), policy.start(known()), 0.0)
    assert wish.replicas == 10
