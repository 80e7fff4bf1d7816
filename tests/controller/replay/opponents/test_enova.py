"""ENOVA's rules with numbers in, and its faults as they are."""

import pytest

from controller.replay.opponents import Enova, EnovaSettings
from controller.replay.policy import ReplicaSample
from tests.controller.replay.opponents.builders import Driver, known, sample, scrape

TOLD = known(max_num_seqs=100)


def _minutes(
    driver: Driver, minutes: int, replicas: tuple[ReplicaSample, ...] | None, **counts: int
) -> list[int]:
    """Tick twice a minute with the same scrape, or without one."""
    wishes = []
    for _ in range(2 * minutes):
        seen = None if replicas is None else scrape(driver.now_s, replicas, **counts)
        wishes.append(driver.tick(seen, ready=False))
    return [wish.replicas for wish in wishes]


def _alike(
    count: int, running: float = 0.0, waiting: float = 0.0, kv: float = 0.0
) -> tuple[ReplicaSample, ...]:
    return tuple(sample(f"r{n}", running, waiting, kv) for n in range(count))


def _driver(serving: int, settings: EnovaSettings | None = None) -> Driver:
    return Driver(Enova(settings or EnovaSettings()), TOLD, serving)


def test_scales_up_by_new_over_successful_requests():
    # 60 pending, a full batch: 200 requests came a minute, 80 succeeded: ceil(2.5 · 2)
    driver = _driver(2)
    counts = _minutes(driver, 5, _alike(2, 95.0, 30.0, 0.95), arrivals=100, finished=40)
    assert counts[:8] == [2] * 8  # five samples a minute apart are four minutes
    assert counts[8] == 5


def test_pending_requests_are_summed_over_the_replicas():
    full = {"arrivals": 100, "finished": 40}
    assert _minutes(_driver(2), 5, _alike(2, 95.0, 24.9, 0.95), **full)[-1] == 2
    assert _minutes(_driver(2), 5, _alike(2, 95.0, 25.0, 0.95), **full)[-1] == 5


def test_queues_without_a_full_batch_or_cache_are_made_up():
    driver = _driver(2)
    counts = _minutes(driver, 5, _alike(2, 89.0, 60.0, 0.89), arrivals=100, finished=40)
    assert counts == [2] * 10
    assert driver.reasons[-1] == "the collected metrics may be made-up"


def test_overflows_when_no_request_succeeded():
    driver = _driver(2)
    counts = _minutes(driver, 5, _alike(2, 95.0, 60.0, 0.95), arrivals=100)
    assert counts == [2] * 10
    assert driver.reasons[-1].startswith("OverflowError")


def test_halves_when_cache_and_batch_are_a_tenth_full():
    assert _minutes(_driver(5), 5, _alike(5, 9.0, 0.0, 0.09))[-1] == 3
    assert _minutes(_driver(5), 5, _alike(5, 11.0, 0.0, 0.09))[-1] == 5
    assert _minutes(_driver(5), 5, _alike(5, 9.0, 0.0, 0.11))[-1] == 5
    assert _minutes(_driver(1), 5, _alike(1))[-1] == 1


def test_an_anomaly_at_the_edge_is_not_recovered():
    # detection has ≤, recovery has <
    driver = _driver(4)
    assert _minutes(driver, 5, _alike(4, 10.0, 0.0, 0.10))[-1] == 4
    assert driver.reasons[-1] == "no recovery"


def test_a_hole_in_the_middle_reads_as_zero():
    settings = EnovaSettings(regularity=0.4)  # as another commit has it; a hole makes a gap
    driver = _driver(4, settings)
    _minutes(driver, 5, _alike(4, 5.0, 0.0, 0.05))
    driver = _driver(4, settings)
    busy, idle = _alike(4, 50.0, 0.0, 0.5), _alike(4, 5.0, 0.0, 0.05)
    _minutes(driver, 6, busy)
    _minutes(driver, 2, None)
    assert _minutes(driver, 1, idle)[-1] == 2  # one idle minute after two that nobody saw


def test_an_outage_at_the_end_leaves_the_last_samples_to_judge():
    driver = _driver(4)
    _minutes(driver, 5, _alike(4, 50.0, 0.0, 0.5))
    assert _minutes(driver, 10, None) == [4] * 20


def test_one_silent_replica_takes_the_sum_of_its_minutes_with_it():
    full = {"arrivals": 100, "finished": 40}
    driver = _driver(2)
    hot = _alike(2, 95.0, 60.0, 0.95)
    _minutes(driver, 4, hot, **full)
    assert _minutes(driver, 1, hot[:1], **full)[-1] == 2


def test_nothing_moves_until_a_new_replica_has_five_samples():
    full = {"arrivals": 100, "finished": 40}
    driver = _driver(2)
    hot = _alike(2, 95.0, 60.0, 0.95)
    assert _minutes(driver, 5, hot, **full)[-1] == 5
    assert driver.reasons[-1] == "collected series are not the replicas"
    driver.serving, driver.starting = 5, 0
    assert set(_minutes(driver, 4, _alike(5, 95.0, 60.0, 0.95), **full)) == {5}
    assert _minutes(driver, 1, _alike(5, 95.0, 60.0, 0.95), **full)[-1] > 5


@pytest.mark.parametrize(("range_s", "expected"), [(10_800.0, 2), (420.0, 1)])
def test_a_removed_replicas_series_blocks_for_the_range_of_the_query(range_s, expected):
    driver = _driver(4, EnovaSettings(query_range_s=range_s))
    assert _minutes(driver, 5, _alike(4))[-1] == 2
    assert _minutes(driver, 10, _alike(2))[-1] == expected


def test_bounds_are_the_services():
    driver = Driver(Enova(), known(max_num_seqs=100, max_replicas=3), 2)
    assert _minutes(driver, 5, _alike(2, 95.0, 60.0, 0.95), arrivals=100, finished=1)[-1] == 3
