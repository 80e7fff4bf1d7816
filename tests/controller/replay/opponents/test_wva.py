"""Examples of the workload-variant autoscaler's guides, V1 and V2, and of the HPA that acts."""

from dataclasses import replace

import pytest

from controller.replay.opponents import WvaV1, WvaV1Settings, WvaV2, WvaV2Settings
from controller.replay.opponents.llmd import AT_ONCE
from controller.replay.opponents.wva_v2 import Analysis, Bounds
from tests.controller.replay.opponents.builders import (
    Driver,
    filled,
    fleet,
    known,
    sample,
    scrape,
)

V1 = WvaV1(WvaV1Settings(behavior=AT_ONCE))
V2 = WvaV2(WvaV2Settings(behavior=AT_ONCE))


@pytest.mark.parametrize(
    ("uses", "waiting", "expected", "why"),
    [
        ([0.65, 0.72], 0.0, 2, "no capacity action needed"),  # spare 0.115 is not under 0.10
        ([0.65, 0.76], 0.0, 3, "KV spare capacity low"),  # spare 0.095 is
        ([0.10, 0.10], 2.5, 3, "queue spare capacity low"),
        ([0.95, 0.95], 0.0, 3, "KV spare capacity low"),  # all saturated: no spare at all
        ([0.10, 0.95], 0.0, 2, "no capacity action needed"),  # one saturated is left out
        ([0.30, 0.30], 0.0, 1, "scale-down safe"),  # 0.6 on one leaves 0.2
        ([0.36, 0.36], 0.0, 2, "no capacity action needed"),  # 0.72 on one leaves 0.08
        ([0.10, 0.10], 1.5, 2, "no capacity action needed"),  # three queued on one leave two
        ([0.10], 0.0, 1, "no capacity action needed"),  # one is never given up
    ],
)
def test_v1_judges_the_average_spare_of_the_unsaturated(uses, waiting, expected, why):
    seen = scrape(replicas=filled(uses, waiting))
    wish = Driver(V1, known(), len(uses)).tick(seen)
    assert (wish.replicas, wish.reason) == (expected, why)


def test_v1_freezes_while_a_replica_starts():
    driver = Driver(V1, known(), 2)
    hot = scrape(replicas=filled([0.9, 0.9]))
    assert [driver.tick(hot, ready=False).replicas for _ in range(9)] == [3] * 9


def test_v1_looks_at_the_peak_of_a_minute():
    driver = Driver(V1, known(), 2)
    driver.tick(scrape(0.0, filled([0.75, 0.75])), ready=False)
    driver.serving, driver.starting = 3, 0
    wish = driver.tick(scrape(15.0, filled([0.2] * 3)))
    wish = driver.tick(scrape(30.0, filled([0.2] * 3)))
    assert wish.replicas == 3  # two of them stood at 0.75 half a minute ago
    driver.now_s = 120.0
    assert driver.tick(scrape(120.0, filled([0.2] * 3))).replicas == 2


def test_v1_keeps_its_word_without_metrics():
    driver = Driver(V1, known(), 2)
    driver.tick(scrape(replicas=filled([0.9, 0.9])))
    assert [driver.tick(None).replicas for _ in range(10)] == [3] * 10


def test_the_charts_hpa_waits_four_minutes():
    driver = Driver(WvaV1(), known(), 2)
    hot = scrape(replicas=filled([0.9, 0.9]))
    assert [driver.tick(hot).replicas for _ in range(17)] == [2] * 16 + [3]


def test_goes_to_zero_ten_minutes_after_the_last_request_and_back():
    driver = Driver(V1, known(min_replicas=0), 1)
    counts = [driver.tick(scrape(driver.now_s, filled([0.0]))).replicas for _ in range(41)]
    assert counts[:40] == [1] * 40
    assert counts[40] == 0
    driver.tick(scrape(driver.now_s, gateway_waiting=1))
    assert driver.tick(scrape(driver.now_s, gateway_waiting=1)).replicas == 1


@pytest.mark.parametrize(
    ("demand", "serving", "starting", "expected"),
    [
        (340.0, 4, 0, 4),  # 340/0.85 is what four carry
        (341.0, 4, 0, 5),
        (500.0, 4, 0, 6),  # 588 over 400: two more
        (500.0, 4, 2, 6),  # two are under way
        (280.0, 4, 0, 4),  # 280/0.70 leaves nothing
        (210.0, 4, 0, 3),
        (0.0, 4, 0, 1),
        (210.0, 3, 1, 4),  # what starts is no spare
    ],
)
def test_v2_turns_required_and_spare_tokens_into_replicas(demand, serving, starting, expected):
    assert V2._targets(Analysis(100, demand), fleet(serving, starting))[0] == expected


def _bound(
    waiting: float, kv: float, bounds: Bounds, lengths: tuple[float, float] = (1000.0, 200.0)
) -> tuple[int | None, Bounds]:
    told = known(max_num_seqs=64)
    in_use = int(kv * told.kv_capacity_tokens)
    return V2._compute_bound(sample(waiting=waiting, kv=kv), in_use, lengths, bounds, told)


def test_v2_learns_the_compute_bound_from_a_full_queue():
    tokens, bounds = _bound(5.0, 0.3, Bounds())
    assert (tokens, bounds.medium) == (30_000, (30_000,))
    tokens, bounds = _bound(9.0, 0.5, bounds)
    assert tokens == 50_000
    assert _bound(0.0, 0.1, bounds)[0] == 40_000  # the mean of both
    assert _bound(0.0, 0.1, bounds, (1000.0, 900.0))[0] != 40_000  # another class of lengths


def test_v2_derives_the_compute_bound_from_the_engines_arguments():
    # min(8192·200/1200, 64) = 64 requests of 1000 + 100 tokens
    assert _bound(0.0, 0.1, Bounds())[0] == 70_400
    # B/(I+O) binds: 8192·100/8100 = 101 against 256
    wide = V2._derived((8000.0, 100.0), known())
    assert wide == int(8192 * 100 / 8100 * 8050)
    assert V2._derived((1000.0, 0.0), known()) is None


def test_v2_counts_tokens_in_use_the_queue_and_what_the_router_holds():
    state = V2.begin(known())
    seen = replace(state.seen, lengths=((0.0, (10_000, 2_000, 10)),))
    one = scrape(replicas=(sample(waiting=3.0, kv=0.5),), gateway_waiting=2)
    analysis, _ = V2._analyze(one, replace(state, seen=seen), 0.0)
    assert analysis.demand == 50_000 + 3 * 1000 + 2 * 1200


def test_v2_keeps_its_word_without_metrics():
    driver = Driver(V2, known(), 2)
    driver.tick(scrape(replicas=filled([0.95, 0.95])))
    counts = [driver.tick(None).replicas for _ in range(6)]
    assert counts == [3] * 6
