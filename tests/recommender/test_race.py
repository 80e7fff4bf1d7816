"""Who wins: the cheapest for the rate, then the most for the price; prices of nothing too."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.configuration import Configuration
from profiler.errors import Refused
from profiler.layout import Layout
from profiler.slo import Slo
from recommender import Candidate, Offer, Workload, search
from recommender.race import Entrant, rate_to_win
from tests.recommender.builders import a_capacity, a_profile, a_slo, a_workload

SMALL = "meta-llama/Llama-3.2-1B-Instruct"
RELAXED = Slo(ttft_s=5.0, itl_s=0.2)


def a_candidate(rate_rps: float, gpus: int = 1, price: float = 1.0) -> Candidate:
    profile = a_profile(layout=Layout(gpus))
    return Candidate(Configuration(gpus), profile, a_capacity(rate_rps=rate_rps), price)


def an_entrant(gpus: int = 1, price: float = 1.0) -> Entrant:
    return Entrant(Configuration(gpus), a_profile(layout=Layout(gpus)), price, 1.0)


RATES = st.floats(0.1, 50.0)
GPUS = st.sampled_from([1, 2, 4, 8])
PRICES = st.sampled_from([0.0, 0.5, 1.0, 3.0])


@given(RATES, RATES, RATES, GPUS, GPUS, PRICES, PRICES)
def test_what_carries_the_rate_to_win_stands_before_the_leader(
    asked: float, led: float, more: float, g1: int, g2: int, p1: float, p2: float
) -> None:
    leader, workload = a_candidate(led, g1, p1), replace(a_workload(), rate_rps=asked)
    needed = rate_to_win(leader, an_entrant(g2, p2), workload)
    if math.isinf(needed):
        challenger = a_candidate(led * more, g2, p2)
        assert challenger.cost_per_hour(asked) >= leader.cost_per_hour(asked) - 1e-9
        return
    challenger = a_candidate(max(needed, 1e-6) * 1.001, g2, p2)
    assert challenger.standing(asked) <= (
        leader.standing(asked)[0] + 1e-9,
        leader.standing(asked)[1],
    )


def test_fewer_replicas_beat_more_goodput() -> None:
    """One replica of two GPUs carries what three of one GPU do: it is the cheaper."""
    three, one = a_candidate(4.0, 1), a_candidate(10.0, 2)
    assert one.standing(10.0) < three.standing(10.0)
    assert three.rps_per_gpu < one.rps_per_gpu


def test_free_gpus_are_taken_before_paid_ones_and_counted_all_the_same() -> None:
    workload = a_workload()
    offers = (Offer("L4", 1.0), Offer("L40S", 0.0))
    best = search(SMALL, offers, workload, RELAXED).best
    assert best.profile.gpu == "L40S"
    assert best.cost_per_hour(workload.sized_rps) == 0.0
    assert best.gpus == 1


def test_the_cheaper_card_is_taken_where_both_carry_the_rate() -> None:
    workload = a_workload(rate_rps=0.2)
    found = search(SMALL, (Offer("H100-SXM", 4.0), Offer("L4", 0.8)), workload, RELAXED)
    assert found.best.profile.gpu == "L4"
    dear = search(SMALL, (Offer("H100-SXM", 4.0), Offer("L4", 9.0)), workload, RELAXED)
    assert dear.best.profile.gpu == "H100-SXM"


def test_more_is_priced_in_closed_form_than_the_twin_runs() -> None:
    found = search(SMALL, "L4", a_workload(), RELAXED)
    assert found.priced > 2 * found.scored > 0


@pytest.mark.parametrize("price", [-1.0, float("nan"), float("inf")])
def test_a_price_that_is_none_is_refused_by_name(price: float) -> None:
    with pytest.raises(Refused, match="price of L4: give 0 or more an hour"):
        Offer("L4", price)


def test_no_gpu_type_is_refused() -> None:
    with pytest.raises(Refused, match="gpu: give at least one type"):
        search(SMALL, (), a_workload(), a_slo())


def test_a_recorded_trace_is_searched_as_it_came(recorded: Workload) -> None:
    best = search(SMALL, "L4", recorded, RELAXED).best
    assert best.capacity.rate_rps > 0
    assert (best.configuration.max_model_len or 0) >= recorded.longest_tokens
