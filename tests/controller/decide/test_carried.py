"""What a replica carries, learnt from the requests that ended."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decide.carried import (
    LEAST_RATIO,
    MOST_RATIO,
    PLACES,
    Carried,
    Judged,
    learn,
    place_of,
)

ALLOWED = 0.01

judgements = st.lists(
    st.builds(
        lambda load, octave, requests, share: Judged(load, octave, requests, requests * share),
        st.floats(0.0, 10.0),
        st.integers(-4, 4),
        st.floats(0.1, 500.0),
        st.floats(0.0, 1.0),
    ),
    max_size=40,
)


def after(*judged: Judged, every_s: float = 15.0) -> Carried:
    carried = Carried()
    for i, each in enumerate(judged):
        carried = learn(carried, each, ALLOWED, i * every_s)
    return carried


def test_the_twin_is_believed_until_requests_say_otherwise() -> None:
    assert Carried().ratio == 1.0
    assert after(Judged(0.6, 0, 50.0, 0.0)).ratio == pytest.approx(1.0, abs=0.1)


def test_a_load_that_enough_requests_kept_the_objective_at_is_carried() -> None:
    carried = after(*[Judged(1.5, 0, 80.0, 0.0)] * 80)
    assert carried.ratio == pytest.approx(1.5, rel=0.1)


def test_a_load_at_which_too_many_missed_is_not() -> None:
    carried = after(*[Judged(1.5, 0, 80.0, 0.0)] * 80, *[Judged(1.9, 0, 80.0, 20.0)] * 3)
    assert 1.4 < carried.ratio < 1.9
    worse = after(*[Judged(0.9, 0, 80.0, 20.0)] * 20)
    assert worse.ratio < 0.9


def test_misses_at_a_low_load_count_against_every_higher_one() -> None:
    carried = after(*[Judged(1.5, 0, 10.0, 0.0)] * 20, *[Judged(1.1, 0, 80.0, 20.0)] * 20)
    assert carried.ratio < 1.1


def test_what_heavy_requests_say_is_not_held_against_light_ones() -> None:
    heavy = [Judged(1.2, 2, 80.0, 40.0)] * 10
    carried = after(*heavy, *[Judged(1.2, -2, 80.0, 0.0)] * 40)
    assert carried.ratio >= 1.15
    assert learn(carried, heavy[0], ALLOWED, 600.0).ratio < 1.1


def test_misses_spend_the_error_budget_and_time_gives_it_back() -> None:
    spent = after(*[Judged(0.5, 1, 1000.0, 50.0)] * 30)
    assert Carried().spent_ratio(ALLOWED) < 1.0 < spent.spent_ratio(ALLOWED)
    later = learn(spent, Judged(0.5, 1, 1000.0, 0.0), ALLOWED, 4 * 3600.0)
    assert later.spent_ratio(ALLOWED) < 0.5


def test_the_twin_expects_none_to_miss_up_to_what_it_says_and_soon_all_beyond() -> None:
    assert Carried().misses(np.array([0.0, 0.5, 1.0, 1.7, 9.0])).tolist() == [
        0.0,
        0.0,
        0.0,
        1.0,
        1.0,
    ]


@given(judgements)
def test_a_higher_load_is_never_expected_to_miss_less(judged: list[Judged]) -> None:
    misses = after(*judged).misses(np.geomspace(0.01, 20.0, 100))
    assert (np.diff(misses) >= -1e-12).all()
    assert misses[0] >= 0.0
    assert misses[-1] <= 1.0 + 1e-12


def test_misses_of_idle_replicas_have_other_causes_than_load() -> None:
    carried = after(*[Judged(0.3, 0, 80.0, 80.0)] * 10)
    assert carried.out_of_reach
    assert carried.ratio == 1.0


def test_old_requests_count_less_and_less() -> None:
    carried = after(*[Judged(1.5, 0, 80.0, 40.0)] * 10)
    later = learn(carried, Judged(1.5, 0, 4000.0, 0.0), ALLOWED, 6 * 3600.0)
    assert carried.ratio < 1.5 <= later.ratio * 1.1


@given(judgements)
def test_what_is_believed_is_bounded_and_so_is_what_is_remembered(judged: list[Judged]) -> None:
    carried = after(*judged)
    assert LEAST_RATIO <= carried.ratio <= MOST_RATIO
    assert len(carried.tallies) <= 6
    assert carried == after(*judged)


@given(judgements, st.floats(0.0, 10.0), st.floats(1.0, 500.0))
def test_more_misses_never_raise_what_is_believed(
    judged: list[Judged], load: float, requests: float
) -> None:
    kept = after(*judged, Judged(load, 0, requests, 0.0))
    lost = after(*judged, Judged(load, 0, requests, requests))
    assert lost.ratio <= kept.ratio or lost.out_of_reach


@given(st.floats(0.0, 100.0), st.floats(0.0, 100.0))
def test_places_go_up_with_the_load(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert 0 <= place_of(low) <= place_of(high) < PLACES
