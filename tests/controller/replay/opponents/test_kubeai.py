"""The average, its window of zeros, and the scale-downs in a row of substratusai/kubeai."""

from controller.replay.opponents import KubeAi, KubeAiSettings
from tests.controller.replay.opponents.builders import Driver, each, fleet, known, scrape


def test_a_window_of_zeros_under_reads_for_ten_minutes():
    driver = Driver(KubeAi(), known(), 1)
    counts = []
    for _ in range(60):
        share = 300.0 / driver.serving
        counts.append(driver.tick(scrape(replicas=each([share] * driver.serving))).replicas)
    # after n ticks the mean is 300·n/60, and a replica is worth 100
    assert counts[19] == 1
    assert counts[20] == 2
    assert counts[40] == 3
    assert counts[59] == 3


def test_divides_the_mean_by_the_target():
    settings = KubeAiSettings(target_requests=3.0, time_window_s=30.0)
    driver = Driver(KubeAi(settings), known(), 1)
    for load in (6.0, 9.0, 12.0):
        wish = driver.tick(scrape(replicas=each([load])), ready=False)
    assert wish.replicas == 3  # ceil(9 / 3)


def test_scales_down_after_three_ticks_that_say_so():
    settings = KubeAiSettings(target_requests=10.0, time_window_s=10.0)
    driver = Driver(KubeAi(settings), known(), 4)
    held = [driver.tick(scrape(replicas=each([2.0] * 4))).replicas for _ in range(4)]
    assert held == [4, 4, 4, 1]


def test_skips_the_tick_without_metrics():
    driver = Driver(KubeAi(), known(), 4)
    before = driver.state.inner
    wish = driver.tick(None)
    assert (wish.replicas, wish.reason) == (4, "no metrics found, skipping")
    assert driver.state.inner == before


def test_the_request_path_starts_the_first():
    policy = KubeAi()
    state = policy.start(known(min_replicas=0))
    assert policy.decide(scrape(gateway_waiting=2), fleet(0), state, 0.0)[0].replicas == 1
    assert policy.decide(scrape(), fleet(0), state, 0.0)[0].replicas == 0
