"""Routing weights: in proportion at the limit, equal latency below it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.configuration import Configuration
from profiler.errors import Refused
from recommender import Candidate, Station, find_capacity, latency_curve, weigh
from recommender.routing import PARTS, Curve
from tests.recommender.builders import a_cost, a_profile, a_slo, a_workload

FAST = Curve("fast", (0.5, 5.0, 10.0), (0.2, 0.4, 1.0))
SLOW = Curve("slow", (0.25, 2.5, 5.0), (0.4, 0.8, 1.0))


@given(st.floats(0.01, 14.9))
def test_all_in_use_have_the_same_latency_and_carry_the_rate_together(rate_rps: float) -> None:
    found = weigh((FAST, SLOW), rate_rps)
    assert sum(found.parts) == PARTS
    carried = FAST.rate_rps(found.score) + SLOW.rate_rps(found.score)
    assert carried >= rate_rps * 0.999
    assert found.score <= 1.0


def test_a_replica_slower_idle_than_the_others_loaded_gets_nothing() -> None:
    assert weigh((FAST, SLOW), 1.0).parts == (PARTS, 0)


def test_at_the_limit_the_shares_are_those_of_the_capacities() -> None:
    assert weigh((FAST, SLOW), 14.999).parts == (667, 333)
    assert weigh((FAST, SLOW), 30.0).parts == (667, 333)


def test_beyond_the_limit_it_says_how_far() -> None:
    assert weigh((FAST, SLOW), 30.0).score == pytest.approx(2.0)


@given(st.floats(0.01, 14.0), st.floats(1.01, 1.5))
def test_more_load_never_lowers_the_latency(rate_rps: float, more: float) -> None:
    assert weigh((FAST, SLOW), rate_rps).score <= weigh((FAST, SLOW), rate_rps * more).score + 1e-9


def test_equal_replicas_get_equal_parts() -> None:
    parts = weigh((FAST, FAST, FAST), 6.0).parts
    assert max(parts) - min(parts) <= 1


@pytest.mark.parametrize("rate_rps", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate_rps: float) -> None:
    with pytest.raises(Refused, match="routing: the rate must be a positive number"):
        weigh((FAST,), rate_rps)


def test_no_replica_is_refused() -> None:
    with pytest.raises(Refused, match="at least one replica"):
        weigh((), 1.0)


def test_a_curve_comes_from_the_twin_and_ends_at_the_capacity() -> None:
    profile, workload, slo = a_profile(), a_workload(), a_slo()
    configuration = Configuration(max_num_seqs=16, max_num_batched_tokens=512, max_model_len=1024)
    capacity = find_capacity(Station.of(profile, configuration), workload, slo)
    assert capacity is not None
    curve = latency_curve("one", Candidate(configuration, profile, capacity), workload, slo)
    assert curve.rates_rps[-1] == pytest.approx(capacity.rate_rps)
    assert list(curve.scores) == sorted(curve.scores)
    assert curve.scores[-1] == pytest.approx(1.0, abs=0.2)


def test_a_faster_card_gets_more_than_a_slower_one() -> None:
    workload, slo = a_workload(), a_slo()
    configuration = Configuration(max_num_seqs=16, max_num_batched_tokens=512, max_model_len=1024)
    curves = []
    for speed in (1.0, 2.0):
        profile = a_profile(cost=a_cost(speed))
        capacity = find_capacity(Station.of(profile, configuration), workload, slo)
        assert capacity is not None
        candidate = Candidate(configuration, profile, capacity)
        curves.append(latency_curve(f"{speed}", candidate, workload, slo))
    both_rps = 0.8 * sum(curve.rates_rps[-1] for curve in curves)
    slow, fast = weigh(curves, both_rps).parts
    assert fast > 1.5 * slow > 0
