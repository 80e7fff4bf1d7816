"""The rate one replica carries: monotone, zero when impossible, and true of the twin."""

from itertools import pairwise

import pytest

from profiler.errors import Refused
from profiler.slo import Slo
from recommender import Capacity, Station, find_capacity
from recommender.capacity import bound_rps, expected_rps, run_at, sustained_rps, try_rate
from tests.recommender.builders import a_cost, a_slo, a_workload, some_limits

A_STATION = Station(a_cost(), some_limits())


def rate(speed: float = 1.0, slo: Slo | None = None, **limits: int) -> float:
    found = find_capacity(
        Station(a_cost(speed), some_limits(**limits)), a_workload(), slo or a_slo()
    )
    assert found is not None
    return found.rate_rps


def ascends(values: list[float]) -> bool:
    return all(a <= b * 1.0001 for a, b in pairwise(values))


def test_a_faster_gpu_never_carries_less() -> None:
    rates = [rate(speed) for speed in (0.25, 0.5, 1.0, 2.0, 4.0)]
    assert ascends(rates)
    assert rates[-1] > 4 * rates[0]


@pytest.mark.parametrize("bound", ["ttft_s", "itl_s", "e2e_s"])
def test_a_tighter_objective_never_carries_more(bound: str) -> None:
    scale = {"ttft_s": 0.05, "itl_s": 0.012, "e2e_s": 0.5}[bound]
    rates = [rate(slo=Slo(**{bound: scale * times})) for times in (1, 1.5, 2, 4, 10)]
    assert ascends(rates)
    assert rates[-1] > rates[0]


def test_a_stricter_percentile_never_carries_more() -> None:
    rates = [rate(slo=a_slo(percentile=p)) for p in (0.99, 0.95, 0.9, 0.5)]
    assert ascends(rates)


def test_more_sequences_never_carry_less_where_nothing_else_binds() -> None:
    slo = Slo(e2e_s=30.0)
    assert ascends([rate(slo=slo, max_num_seqs=seqs) for seqs in (2, 4, 8, 16)])


@pytest.mark.parametrize("slo", [Slo(ttft_s=0.005), Slo(itl_s=0.009), Slo(e2e_s=0.02)])
def test_what_an_idle_replica_misses_has_no_capacity(slo: Slo) -> None:
    found = find_capacity(A_STATION, a_workload(), slo)
    assert found is not None
    assert found.rate_rps == 0.0
    assert found.binds in {"ttft", "itl", "e2e"}
    assert found.latency.ttft_s > 0  # says what the idle replica reaches


WORKLOADS = {
    "poisson": a_workload(),
    "bursty": a_workload(cv=2.5),
    "long prompts": a_workload(mean_input_tokens=400, mean_output_tokens=4),
    "long answers": a_workload(mean_input_tokens=16, mean_output_tokens=64),
}


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_twin_holds_at_the_capacity_and_fails_beyond_it(name: str) -> None:
    slo, workload = a_slo(), WORKLOADS[name]
    found = find_capacity(A_STATION, workload, slo)
    assert found is not None
    assert try_rate(A_STATION, workload, slo, found.rate_rps) is not None
    assert try_rate(A_STATION, workload, slo, 1.15 * found.rate_rps) is None


@pytest.mark.parametrize("name", WORKLOADS)
def test_no_scheduling_passes_the_closed_form_bound(name: str) -> None:
    workload = WORKLOADS[name]
    found = find_capacity(A_STATION, workload, Slo(e2e_s=600.0))
    assert found is not None
    assert found.rate_rps <= 1.02 * bound_rps(A_STATION, workload)


def test_bursts_cost_capacity() -> None:
    calm = find_capacity(A_STATION, a_workload(cv=0.5), a_slo())
    wild = find_capacity(A_STATION, a_workload(cv=3.0), a_slo())
    assert calm is not None
    assert wild is not None
    assert wild.rate_rps < calm.rate_rps


def test_the_latency_told_is_within_the_objective_and_little_s_law_holds() -> None:
    found = find_capacity(A_STATION, a_workload(), a_slo())
    assert isinstance(found, Capacity)
    assert found.latency.ttft_s <= 0.5
    assert found.latency.itl_s <= 0.05
    assert 0 < found.concurrency <= 16 * 3
    assert found.output_tokens_s == pytest.approx(found.rate_rps * 16, rel=0.1)


def test_a_lost_race_gives_nothing_and_a_won_one_no_less_than_asked() -> None:
    alone = rate()
    arguments = (A_STATION, a_workload(), a_slo())
    assert find_capacity(*arguments, at_least_rps=1.5 * alone) is None
    won = find_capacity(*arguments, at_least_rps=0.5 * alone)
    assert won is not None
    assert won.rate_rps == pytest.approx(alone, rel=0.05)


def test_an_objective_without_a_bound_is_refused() -> None:
    with pytest.raises(Refused, match="give at least one of ttft, itl, e2e"):
        find_capacity(A_STATION, a_workload(), Slo())


def test_a_cache_that_cannot_hold_a_request_is_refused() -> None:
    with pytest.raises(Refused, match="exceeds the KV cache of 32 tokens"):
        find_capacity(Station(a_cost(), some_limits(num_blocks=2)), a_workload(), a_slo())


def test_a_bound_that_sees_no_queue_does_not_let_one_grow_for_ever() -> None:
    """Only the gap between tokens is bounded: the queue breaks nothing, and grows."""
    station = Station(a_cost(), some_limits(max_num_seqs=4))
    found = find_capacity(station, a_workload(), Slo(itl_s=0.5))
    assert found is not None
    assert found.binds == "throughput"
    assert found.rate_rps < sustained_rps(station, a_workload())


def test_a_run_far_above_capacity_is_given_up_and_one_below_is_told_whole() -> None:
    capacity = rate()
    assert try_rate(A_STATION, a_workload(), a_slo(), 3 * capacity) is None
    below = try_rate(A_STATION, a_workload(), a_slo(), 0.5 * capacity)
    assert below is not None
    assert below.score < 1
    whole = run_at(A_STATION, a_workload(), a_slo(), 0.5 * capacity)
    assert whole.score == below.score


def test_data_parallel_schedulers_carry_as_much_as_so_many_engines() -> None:
    two = find_capacity(Station(a_cost(), some_limits(), ranks=2), a_workload(), a_slo())
    assert two is not None
    # a little more: requests go round, so that each scheduler's arrivals are calmer
    assert 1.9 * rate() < two.rate_rps < 2.6 * rate()


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_closed_form_is_near_the_twin(name: str) -> None:
    found = find_capacity(A_STATION, WORKLOADS[name], a_slo())
    assert found is not None
    assert 0.5 < expected_rps(A_STATION, WORKLOADS[name], a_slo()) / found.rate_rps < 2.0


def test_prompts_that_the_cache_holds_already_leave_room_for_more() -> None:
    cold = find_capacity(A_STATION, a_workload(mean_input_tokens=400), a_slo())
    warm = find_capacity(A_STATION, a_workload(mean_input_tokens=400, hit_ratio=0.8), a_slo())
    assert cold is not None
    assert warm is not None
    assert warm.rate_rps > 1.5 * cold.rate_rps
